"""What a queue has been told: its arguments, its policy and its operator policy, as one set of rules (RabbitMQ).

| key of a policy | argument | two of them |
|---|---|---|
| message-ttl, expires, max-length, max-length-bytes, delivery-limit, consumer-timeout | x-... | the lower |
| delayed-retry-min, delayed-retry-max | x-... | the lower |
| retain (an interval such as 7D), retain-bytes | x-... | the lower |
| overflow, dead-letter-exchange, dead-letter-routing-key, dead-letter-strategy, kafka-topic | x-... | the argument |

An operator policy lowers numbers likewise, and sets what the others leave open. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.core.intervals import interval_ms

NUMBERS = ("message-ttl", "expires", "max-length", "max-length-bytes", "delivery-limit", "consumer-timeout",
           "delayed-retry-min", "delayed-retry-max", "retain-bytes")  # fmt: skip
INTERVALS = ("retain",)
TEXTS = ("overflow", "dead-letter-exchange", "dead-letter-routing-key", "dead-letter-strategy", "delayed-retry-type",
         "kafka-topic")  # fmt: skip
QUORUM_DELIVERY_LIMIT = 20
"""RabbitMQ 4.0's default: a message that nobody can process must not go round for ever."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force. None: no such rule. Times in milliseconds."""

    message_ttl_ms: int | None = None
    expires_ms: int | None = None
    length_max: int | None = None
    length_bytes_max: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    at_least_once: bool = False
    """A dead letter stays until all queues behind the exchange have taken it (with `reject-publish` only; RabbitMQ)."""
    delivery_limit: int | None = None
    """How often a message may come back; None for ever."""
    counts_deliveries: bool = False
    """Whether consumers are told `x-delivery-count`."""
    consumer_timeout_ms: int | None = None
    priority_max: int = 0
    retry_min_ms: int = 0
    """How long a message that comes back waits, times how often it did (RabbitMQ 4.3's delayed retry); 0 is not."""
    retry_max_ms: int = 0
    retain_ms: int | None = None
    """How long, and how much of it, the log keeps what was delivered."""
    retain_bytes: int | None = None
    kafka_topic: bool = False
    """Whether Kafka's clients may read the queue as a topic."""

    @property
    def retains(self) -> bool:
        """Whether the queue keeps what it delivered; one with priorities does not."""
        return (self.retain_ms is not None or self.retain_bytes is not None) and not self.priority_max

    @property
    def limited(self) -> bool:
        """Whether the queue's length is."""
        return self.length_max is not None or self.length_bytes_max is not None

    @property
    def rejects(self) -> bool:
        """Whether a full queue refuses what is published."""
        return self.limited and self.overflow != "drop-head"

    @property
    def plain(self) -> bool:
        """Whether messages simply come and go."""
        return not (
            self.limited
            or self.message_ttl_ms is not None
            or self.dead_letter_exchange is not None
            or self.counts_deliveries
            or self.priority_max
            or self.retry_min_ms
        )


def rules_of(
    arguments: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    operator_policy: Mapping[str, Any] | None = None,
) -> Rules:
    """The rules of a queue with these checked arguments under these policy definitions."""
    policy, operator_policy = policy or {}, operator_policy or {}
    numbers = {key: _lowest(key, arguments, policy, operator_policy) for key in NUMBERS}
    texts = {key: arguments.get("x-" + key, policy.get(key, operator_policy.get(key))) for key in TEXTS}
    retain = _shortest("retain", arguments, policy, operator_policy)
    limit = numbers["delivery-limit"]
    quorum = arguments.get("x-queue-type") == "quorum"
    if limit is None and quorum:
        limit = QUORUM_DELIVERY_LIMIT
    retry_min = (numbers["delayed-retry-min"] or 0) if texts["delayed-retry-type"] not in (None, "disabled") else 0
    overflow = texts["overflow"] or "drop-head"
    exchange = texts["dead-letter-exchange"]
    surely = texts["dead-letter-strategy"] == "at-least-once" and overflow == "reject-publish"
    return Rules(
        message_ttl_ms=numbers["message-ttl"],
        expires_ms=numbers["expires"],
        length_max=numbers["max-length"],
        length_bytes_max=numbers["max-length-bytes"],
        overflow=overflow,
        dead_letter_exchange=exchange,
        at_least_once=surely and exchange is not None,
        dead_letter_routing_key=texts["dead-letter-routing-key"],
        delivery_limit=None if limit is None or limit < 0 else limit,
        counts_deliveries=quorum or limit is not None or bool(retry_min),
        consumer_timeout_ms=numbers["consumer-timeout"],
        priority_max=arguments.get("x-max-priority", 0),
        retry_min_ms=retry_min,
        retry_max_ms=max(numbers["delayed-retry-max"] or 0, retry_min),
        retain_ms=interval_ms(retain) if retain is not None else None,
        retain_bytes=numbers["retain-bytes"],
        kafka_topic=texts["kafka-topic"] is True,
    )


def effective_definition(policy: Mapping[str, Any], operator_policy: Mapping[str, Any]) -> dict[str, Any]:
    """What a policy and an operator policy say together, as the management API shows it."""

    def both(key: str) -> Any:
        if key in NUMBERS:
            return _lowest(key, {}, policy, operator_policy)
        if key in INTERVALS:
            return _shortest(key, {}, policy, operator_policy)
        return policy.get(key, operator_policy.get(key))

    return {key: both(key) for key in {**operator_policy, **policy}}


def _shortest(key: str, arguments: Mapping[str, Any], *definitions: Mapping[str, Any]) -> str | None:
    """The shortest interval that is asked for, as it is written."""
    asked = [arguments.get("x-" + key), *(one.get(key) for one in definitions)]
    return min((text for text in asked if text is not None), key=lambda text: interval_ms(text) or 0, default=None)


def _lowest(key: str, arguments: Mapping[str, Any], *definitions: Mapping[str, Any]) -> int | None:
    """The lowest number that is asked for; -1 (unlimited) only when nothing else is."""
    asked = [
        value for value in (arguments.get("x-" + key), *(one.get(key) for one in definitions)) if value is not None
    ]
    return min((value for value in asked if value >= 0), default=asked[0] if asked else None)
