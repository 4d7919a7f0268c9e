"""What queue.declare says of a stream, as configuration of a topic, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.core import arguments as checks
from broker.core.intervals import UNIT_S, interval_ms
from broker.core.topics.topic import Topic
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

QUEUE_TYPE, PARTITIONS, MAX_AGE = "x-queue-type", "x-partitions", "x-max-age"
MAX_BYTES, SEGMENT_BYTES = "x-max-length-bytes", "x-stream-max-segment-size-bytes"
SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX = 1 << 20, 2**31 - 1
"""What Kafka's `segment.bytes` takes, and less makes no sense; a wish outside of it becomes the nearest."""
UNLIMITED = "-1"


def is_stream(arguments: Mapping[str, Any]) -> bool:
    """Whether a queue with these arguments is a stream."""
    return arguments.get(QUEUE_TYPE) == "stream"


def partitions_of(arguments: Mapping[str, Any]) -> int:
    """How many partitions are wanted."""
    return int(arguments.get(PARTITIONS, 1))


def overrides_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The topic's configuration. A stream keeps everything unless it is told otherwise (RabbitMQ)."""
    age = arguments.get(MAX_AGE)
    overrides = {
        "retention.ms": UNLIMITED if age is None else str(interval_ms(age)),
        "retention.bytes": str(arguments.get(MAX_BYTES, UNLIMITED)),
    }
    if SEGMENT_BYTES in arguments:
        overrides["segment.bytes"] = str(_segment_bytes(arguments[SEGMENT_BYTES]))
    return overrides


def _segment_bytes(wished: int) -> int:
    return min(max(wished, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)


def arguments_of(topic: Topic) -> dict[str, Any]:
    """As if it had been declared: whoever made the topic."""
    overrides = topic.overrides
    arguments: dict[str, Any] = {QUEUE_TYPE: "stream"}
    if len(topic.partitions) != 1:
        arguments[PARTITIONS] = len(topic.partitions)
    retention_ms, size = int(overrides.get("retention.ms", UNLIMITED)), int(overrides.get("retention.bytes", UNLIMITED))
    if retention_ms >= 0:
        arguments[MAX_AGE] = _age(retention_ms)
    if size >= 0:
        arguments[MAX_BYTES] = size
    if "segment.bytes" in overrides:
        arguments[SEGMENT_BYTES] = int(overrides["segment.bytes"])
    return arguments


def _age(milliseconds: int) -> str:
    seconds = milliseconds // 1000
    for unit, size in UNIT_S.items():
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def check_equivalent(topic: Topic, vhost: str, received: Mapping[str, Any]) -> None:
    """Raises Refused 406 where a declaration says something else than the topic is.

    What it does not say is not compared: consumers need not know how many partitions somebody gave a topic.
    """
    said = {key: received[key] for key in (MAX_AGE, MAX_BYTES, SEGMENT_BYTES, PARTITIONS) if key in received}
    current = {PARTITIONS: 1, **arguments_of(topic)}
    if MAX_AGE in said:
        said[MAX_AGE] = _age(interval_ms(said[MAX_AGE]) or 0)
    if SEGMENT_BYTES in said:
        said[SEGMENT_BYTES] = _segment_bytes(said[SEGMENT_BYTES])
    if QUEUE_TYPE in received:
        said[QUEUE_TYPE] = received[QUEUE_TYPE]
    known = {key: current[key] for key in (*said, QUEUE_TYPE) if key in current}
    checks.check_equivalent("queue", topic.name, vhost, said, known)


def check(arguments: Mapping[str, Any], place: str) -> None:
    """Raises Refused 406 for what a stream cannot be told."""
    age = arguments.get(MAX_AGE)
    if age is not None and interval_ms(age) is None:
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{MAX_AGE}' {place}: {{error,invalid_max_age}}")
    count = arguments.get(PARTITIONS, 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{PARTITIONS}' {place}: not a number from 1 on")
