"""What may stand in `arguments` of queue.declare, and when two declarations are equivalent.

A table of checks with RabbitMQ's error texts (all 406). Pure. Values are Python values of `protocol.amqp.fields`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from broker.core.intervals import interval_ms
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

NAME_BYTES_MAX = 255
"""A name or routing key stands in a short string on the wire."""
TIME_MS_MAX = 10 * 365 * 86_400_000
"""RabbitMQ's: ten years."""
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
    return _not_negative(value, arguments) or (f"{{value_too_large,{value}}}" if value > TIME_MS_MAX else None)


def _positive_duration(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _duration(value, arguments) or ("{value_zero,0}" if value == 0 else None)


def _positive(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _not_negative(value, arguments) or ("{value_zero,0}" if value == 0 else None)


def _interval(value: Any, arguments: Mapping[str, Any]) -> str | None:
    # As `x-max-age` of a stream has it.
    return _string(value, arguments) or (None if interval_ms(value) else "{error,invalid_interval}")


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
    def check(value: Any, arguments: Mapping[str, Any]) -> str | None:
        return _string(value, arguments) or (None if value in allowed else wrong.format(value))

    return check


def _dead_letter_key(value: Any, arguments: Mapping[str, Any]) -> str | None:
    if "x-dead-letter-exchange" not in arguments:
        return "routing_key_but_no_dlx_defined"
    return _name(value, arguments)


def _queue_version(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _not_negative(value, arguments) or (None if value in (1, 2) else f"\"unsupported queue version '{value}'\"")


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
    "x-queue-version": _queue_version,
    "x-consumer-timeout": _not_negative,
    "x-delayed-retry-type": _one_of("invalid_delayed_retry_type", "disabled", "all", "failed", "returned"),
    "x-delayed-retry-min": _duration,
    "x-delayed-retry-max": _duration,
    "x-quorum-initial-group-size": _positive,
    "x-retain": _interval,
    "x-retain-bytes": _positive,
    "x-kafka-topic": _boolean,
    "x-max-age": _string,
    "x-stream-max-segment-size-bytes": _not_negative,
    "x-partitions": lambda value, _: _integer(value),
    "x-queue-leader-locator": _one_of(
        "invalid_queue_locator_arg", "client-local", "balanced", "random", "least-leaders"
    ),
}
"""Known arguments; they also decide equivalence. Everything else is kept and ignored, as in RabbitMQ."""

IN_STREAMS_ALONE = ("x-max-age", "x-stream-max-segment-size-bytes", "x-partitions")
NOT_IN_QUORUM = (*IN_STREAMS_ALONE, "x-max-priority", "x-queue-mode", "x-queue-version")
NOT_IN_STREAMS = (
    "x-max-priority", "x-queue-mode", "x-queue-version", "x-message-ttl", "x-expires", "x-max-length", "x-overflow",
    "x-delivery-limit", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy",
    "x-single-active-consumer", "x-retain", "x-retain-bytes", "x-kafka-topic",
)  # fmt: skip
NOT_IN = {"classic": IN_STREAMS_ALONE, "quorum": NOT_IN_QUORUM, "stream": NOT_IN_STREAMS}
"""Arguments that a type of queue does not have."""
RETAINING = ("x-retain", "x-retain-bytes")


def _refuse(text: str) -> Refused:
    return Refused(PRECONDITION_FAILED, text)


def check_queue(
    name: str, vhost: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
) -> None:
    """Raises Refused 406 for arguments that a queue cannot have."""
    for wrong in queue_problems(name, vhost, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete):
        raise wrong


def queue_problems(
    name: str, vhost: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
) -> Iterator[Refused]:
    """Every reason why no queue can have these arguments."""
    place = f"for queue '{name}' in vhost '{vhost}'"
    for key, check in CHECKS.items():
        if key in arguments:
            wrong = check(arguments[key], arguments)
            if wrong is not None:
                yield _refuse(f"invalid arg '{key}' {place}: {wrong}")
    queue_type = arguments.get("x-queue-type", "classic")
    if not isinstance(queue_type, str) or queue_type not in NOT_IN:
        return
    if queue_type != "classic":
        for has, prop in ((auto_delete, "auto-delete"), (exclusive, "exclusive-owner"), (not durable, "non-durable")):
            if has:
                yield _refuse(f"invalid property '{prop}' {place}")
    for key in NOT_IN[queue_type]:
        if key in arguments:
            yield not_of_type(key, place, queue_type)
    yield from _log_problems(place, arguments, durable=durable, exclusive=exclusive)


def not_of_type(key: str, place: str, queue_type: str) -> Refused:
    """The refusal of an argument that this type of queue does not know."""
    return _refuse(f"invalid arg '{key}' {place} of queue type rabbit_{queue_type}_queue")


def _log_problems(place: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool) -> Iterator[Refused]:
    """What only the log of a queue that a restart finds could do."""
    for key in _needs_log(arguments):
        if not durable:
            yield _refuse(f"invalid property 'non-durable' {place}: '{key}' needs a durable queue")
        if exclusive:
            yield _refuse(f"invalid property 'exclusive-owner' {place}: '{key}' needs a queue that a restart finds")
        if key in RETAINING and arguments.get("x-max-priority"):
            yield _refuse(f"invalid arg '{key}' {place}: not together with 'x-max-priority'")


def check_log(name: str, vhost: str, arguments: Mapping[str, Any], *, kept: bool) -> None:
    """Raises Refused 406 for arguments that ask something of a log, unless anything is `kept` at all."""
    for key in _needs_log(arguments) if not kept else ():
        raise _refuse(f"invalid arg '{key}' for queue '{name}' in vhost '{vhost}': it needs a data directory")


def _needs_log(arguments: Mapping[str, Any]) -> list[str]:
    return [key for key in (*RETAINING, "x-kafka-topic") if arguments.get(key, False) is not False]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"'{str(value).lower()}' of type 'bool'"
    return f"'{value}' of type '{type_name(value)}'"


def _class_of(value: Any) -> type:
    """Integers of any width are one class, floats another (RabbitMQ: rabbit_misc.erl, type_class)."""
    return next((one for one in (bool, int, float, Decimal) if isinstance(value, one)), object)


def check_equivalent(kind: str, name: str, vhost: str, received: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raises Refused 406 at the first known argument that differs; an integer's width does not matter."""
    known = CHECKS if kind == "queue" else ("alternate-exchange",)
    for key in known:
        new, old = received.get(key), current.get(key)
        if new is old is None:
            continue  # Most are in neither, and clients declare again whenever they start.
        if key == "x-queue-type":
            new, old = new or "classic", old or "classic"
        if new != old or _class_of(new) != _class_of(old):
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
