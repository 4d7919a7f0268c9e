"""What may stand in `arguments` of queue.declare, and when two declarations are equivalent.

A table of checks with RabbitMQ's error texts (all 406). Pure. Values are Python values of `protocol.amqp.fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

NAME_BYTES_MAX = 255
"""A name or routing key stands in a short string on the wire."""
Check = Callable[[Any, Mapping[str, Any]], str | None]
"""(value, all arguments) -> what is wrong with it, in RabbitMQ's words; None when nothing is."""


def type_name(value: Any) -> str:
    """The field type as RabbitMQ's texts call it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if -(2**31) <= value < 2**31 else "long"
    names: dict[type, str] = {str: "longstr", bytes: "binary", float: "double", dict: "table", list: "array"}
    return names.get(type(value), "void" if value is None else type(value).__name__.lower())


def _integer(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f'"expected integer, got {type_name(value)}"'
    return None


def _not_negative(value: Any, _: Mapping[str, Any]) -> str | None:
    return _integer(value) or (f"{{value_negative,{value}}}" if value < 0 else None)


def _duration(value: Any, arguments: Mapping[str, Any]) -> str | None:
    wrong = _not_negative(value, arguments)
    # RabbitMQ's timers end at 2^32 - 1 ms, fifty days.
    return wrong or (f"{{value_too_big,{value}}}" if value >= 2**32 else None)


def _positive_duration(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _duration(value, arguments) or ("{value_zero,0}" if value == 0 else None)


def _max_priority(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _not_negative(value, arguments) or (f"{{max_value_exceeded,{value}}}" if value > 255 else None)


def _boolean(value: Any, _: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{type_name(value)}}}"


def _string(value: Any, _: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, str) else f"{{unacceptable_type,{type_name(value)}}}"


def is_name(text: str) -> bool:
    """Whether it may be the name of an exchange or a routing key: 255 octets of UTF-8 at most."""
    return len(text) <= NAME_BYTES_MAX and len(text.encode()) <= NAME_BYTES_MAX


def _name(value: Any, arguments: Mapping[str, Any]) -> str | None:
    # RabbitMQ takes longer ones, and fails at the first dead letter.
    return _string(value, arguments) or (None if is_name(value) else f"{{longer_than,{NAME_BYTES_MAX}}}")


def _one_of(wrong: str, *allowed: str) -> Check:
    def check(value: Any, _: Mapping[str, Any]) -> str | None:
        return None if value in allowed else wrong.format(value)

    return check


def _dead_letter_key(value: Any, arguments: Mapping[str, Any]) -> str | None:
    if "x-dead-letter-exchange" not in arguments:
        return "routing_key_but_no_dlx_defined"
    return _name(value, arguments)


CHECKS: dict[str, Check] = {
    "x-queue-type": _one_of("\"unsupported queue type '{}'\"", "classic", "quorum", "stream"),
    "x-message-ttl": _duration,
    "x-expires": _positive_duration,
    "x-max-length": _not_negative,
    "x-max-length-bytes": _not_negative,
    "x-max-in-memory-length": _not_negative,
    "x-max-in-memory-bytes": _not_negative,
    "x-max-priority": _max_priority,
    "x-overflow": _one_of("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"),
    "x-dead-letter-exchange": _name,
    "x-dead-letter-routing-key": _dead_letter_key,
    "x-dead-letter-strategy": _one_of("invalid_dlx_strategy", "at-most-once", "at-least-once"),
    "x-delivery-limit": lambda value, _: _integer(value),
    "x-single-active-consumer": _boolean,
    "x-queue-mode": _one_of("\"unsupported queue mode '{}'\"", "default", "lazy"),
    "x-queue-version": lambda value, _: _integer(value),
    "x-consumer-timeout": _not_negative,
    "x-delayed-retry-type": _one_of("invalid_delayed_retry_type", "disabled", "all", "failed", "returned"),
    "x-delayed-retry-min": _duration,
    "x-delayed-retry-max": _duration,
    "x-max-age": _string,
    "x-stream-max-segment-size-bytes": _not_negative,
    "x-queue-leader-locator": _string,
}
"""Known arguments; they also decide equivalence. Everything else is kept and ignored, as in RabbitMQ."""

NOT_IN_QUORUM = ("x-max-priority", "x-queue-mode")


def _refuse(text: str) -> Refused:
    return Refused(PRECONDITION_FAILED, text)


def check_queue(
    name: str, vhost: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
) -> None:
    """Raises Refused 406 for arguments that a queue cannot have."""
    place = f"for queue '{name}' in vhost '{vhost}'"
    for key, check in CHECKS.items():
        if key in arguments:
            wrong = check(arguments[key], arguments)
            if wrong is not None:
                raise _refuse(f"invalid arg '{key}' {place}: {wrong}")
    queue_type = arguments.get("x-queue-type")
    if queue_type in ("quorum", "stream"):
        if not durable:
            raise _refuse(f"invalid property 'non-durable' {place}")
        if exclusive:
            raise _refuse(f"invalid property 'exclusive-owner' {place}")
        if auto_delete and queue_type == "stream":
            raise _refuse(f"invalid property 'auto-delete' {place}")
        for key in NOT_IN_QUORUM:
            if key in arguments:
                raise _refuse(f"invalid arg '{key}' {place} of queue type rabbit_{queue_type}_queue")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"'{str(value).lower()}' of type 'bool'"
    return f"'{value}' of type '{type_name(value)}'"


def check_equivalent(kind: str, name: str, vhost: str, received: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raises Refused 406 at the first known argument that differs; an integer's width does not matter."""
    known = CHECKS if kind == "queue" else ("alternate-exchange",)
    for key in known:
        new, old = received.get(key), current.get(key)
        if key == "x-queue-type":
            new, old = new or "classic", old or "classic"
        if new != old or isinstance(new, bool) != isinstance(old, bool):
            if new is None or old is None:
                got = "none" if new is None else f"the value {_shown(new)}"
                has = "none" if old is None else f"the value {_shown(old)}"
            else:
                # RabbitMQ names the types only where one of the two is missing.
                got, has = (f"'{str(one).lower() if isinstance(one, bool) else one}'" for one in (new, old))
            raise _refuse(
                f"inequivalent arg '{key}' for {kind} '{name}' in vhost '{vhost}': received {got} but current is {has}"
            )


def check_property(kind: str, name: str, vhost: str, prop: str, received: Any, current: Any) -> None:
    """Raises Refused 406 when a declared property (durable, auto_delete, type, internal) differs."""
    if received != current:
        new, old = (str(value).lower() if isinstance(value, bool) else value for value in (received, current))
        raise _refuse(
            f"inequivalent arg '{prop}' for {kind} '{name}' in vhost '{vhost}': received '{new}' but current is '{old}'"
        )
