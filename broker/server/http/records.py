"""Records of topics over HTTP, out by offset or time and in by key: slow, for people and scripts, by the same rules.

A request gives or takes RECORDS_MAX records at most and works in short steps. What is read is below the high watermark;
nothing is consumed, and no group moves. What is produced goes through the partition's own checks as a batch of a client
would, and is answered when it is durable.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from broker.core.intervals import Place
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.core.topics.topic import Topic
from broker.server.http.api import HttpError, Listing, Request, Work, route_to
from broker.server.http.fields import STRING, Pauses, bad, find_offset, moment, number, octets_of, only, place, shown
from broker.server.http.topics import PARTITIONS_MAX, find_partition, find_topic, not_internal, promise, was_deleted
from protocol.kafka.compression import open_batch
from protocol.kafka.errors import ErrorCode
from protocol.kafka.partitioner import partition_for_key
from protocol.kafka.records import LOG_APPEND_TIME, BatchHeader, CorruptBatch, Record, encode_batch, render_record

RECORDS_MAX = 1000
SHOWN_BYTES_MAX = 1 << 20
"""Octets of keys, values and headers in an answer; one record may be more."""
OPENED_BYTES_MAX = 4 << 20
"""A batch that opens to more is named and passed over: opening it would hold the loop."""
LOOKED_AT_ONCE = 32
BATCH_BYTES = 64 << 10
KEY_BYTES_MAX = 16 << 10
"""A longer key is not hashed here, which takes 50 ns an octet; its partition has to be named."""
HEADERS_MAX = 5000
"""Of all records of a request: they are rendered in one step."""
TIMESTAMP_MAX = 1 << 53
OUTSIDE_OFFSETS = 70
"""Octets of a batch's header and of what surrounds a record, about."""


# Out.


@route_to("GET", "topics/*/*/records")
def _read(request: Request, vhost: str, name: str) -> Work:
    """?partition&from=PLACE (or time=TIME)&count&truncate -> {items, next, start_offset, high_watermark}.

    The next request goes on from `next`.
    """
    _, topic = find_topic(request, vhost, name, "read")
    query = request.query
    partition = find_partition(topic, number(query.get("partition"), "partition", 0, 0, PARTITIONS_MAX))
    count = number(query.get("count"), "count", 100, 1, RECORDS_MAX)
    truncate = number(query["truncate"], "truncate", 0) if "truncate" in query else None
    if "from" in query and "time" in query:
        raise bad("from or time, not both")
    now_ms = request.hub.scheduler.wall_ms
    if "time" in query:
        wanted = Place("time", moment(query["time"], "time", now_ms))
    else:
        wanted = place(query.get("from", "earliest"), "from", now_ms)
    start = yield from find_offset(wanted, partition)
    if start > partition.high_watermark:
        raise bad(f"offset {start} is behind the end of partition {partition.index}, {partition.high_watermark}")
    reader = _Reader(partition, max(start, partition.start_offset), count, truncate)
    yield from reader.run()
    return {
        "items": Listing(reader.items),
        "next": reader.onward,
        "start_offset": partition.start_offset,
        "high_watermark": partition.high_watermark,
    }


class _Reader:
    """One request's look into a partition; `onward` is where the next goes on."""

    def __init__(self, partition: Partition, start: int, count: int, truncate: int | None) -> None:
        self.items: list[dict[str, Any]] = []
        self.onward = start
        self._partition = partition
        self._count = count
        self._truncate = truncate
        self._size = 0
        self._pauses = Pauses()

    def run(self) -> Generator[None, None, None]:
        """Raises HttpError 404 when the topic goes meanwhile, Corrupt and OSError."""
        partition = self._partition
        self._check()
        end = partition.high_watermark
        for header, data, position in partition.batches(self.onward) if self.onward < end else ():
            if header.base_offset >= end:
                break
            try:
                yield from self._take(header, open_batch(data, position, header, OPENED_BYTES_MAX))
            except CorruptBatch as error:
                self._pass_over(header, str(error))
            if self._is_full():
                return
            self.onward = min(header.next_offset, end)
        self.onward = max(self.onward, end)

    def _check(self) -> None:
        if self._partition.gone:
            raise was_deleted(self._partition.topic_name)

    def _is_full(self) -> bool:
        return len(self.items) >= self._count or self._size >= SHOWN_BYTES_MAX

    def _take(self, header: BatchHeader, records: Any) -> Generator[None, None, None]:
        for looked, record in enumerate(records):
            if not looked % LOOKED_AT_ONCE and self._pauses.is_due():
                yield
                self._check()
            if record.offset >= self.onward:
                if self._is_full():
                    return
                if header.attributes & LOG_APPEND_TIME:
                    record = record._replace(timestamp_ms=header.max_timestamp_ms)
                self._show(record)

    def _show(self, record: Record) -> None:
        self.items.append(_view(self._partition.index, record, self._truncate))
        self._size += OUTSIDE_OFFSETS + len(record.key or b"") + min(
            len(record.value or b""), SHOWN_BYTES_MAX if self._truncate is None else self._truncate
        ) + sum(len(name) + len(value or b"") for name, value in record.headers)  # fmt: skip
        self.onward = record.offset + 1

    def _pass_over(self, header: BatchHeader, why: str) -> None:
        """Say of a batch that it cannot be shown."""
        offset = max(header.base_offset, self.onward)
        self.items.append({
            "partition": self._partition.index, "offset": offset, "timestamp": header.max_timestamp_ms,
            "unreadable": why, "records": header.next_offset - offset,
        })  # fmt: skip
        self.onward = header.next_offset


def _view(partition: int, record: Record, truncate: int | None) -> dict[str, Any]:
    key, key_encoding = shown(record.key)
    value, value_encoding = shown(record.value, truncate)
    headers = []
    for name, octets in record.headers:
        text, encoding = shown(octets)
        headers.append({"name": name.decode("utf-8", "backslashreplace"), "value": text, "encoding": encoding})
    return {
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": key,
        "key_encoding": key_encoding,
        "value": value,
        "value_encoding": value_encoding,
        "value_bytes": len(record.value) if record.value is not None else None,
        "headers": headers,
    }


# In.

FIELDS = ("key", "key_encoding", "value", "value_encoding", "headers", "partition", "timestamp")


class _Asked:
    """One record of a request: whose partition it belongs to, and what is in it."""

    __slots__ = ("headers", "key", "partition", "timestamp_ms", "value")

    def __init__(self, given: Any, standard: int | None, now_ms: int) -> None:
        """Raises HttpError 400."""
        if not isinstance(given, dict):
            raise bad("a record is an object")
        only(given, "a record", *FIELDS)
        self.key = octets_of(given.get("key"), given.get("key_encoding", STRING), "key")
        self.value = octets_of(given.get("value"), given.get("value_encoding", STRING), "value")
        self.headers = _headers(given.get("headers") or [])
        self.partition = given.get("partition", standard)
        if self.partition is not None:
            self.partition = number(self.partition, "partition", 0, 0, PARTITIONS_MAX)
        self.timestamp_ms = number(given.get("timestamp"), "timestamp", now_ms, 0, TIMESTAMP_MAX)

    def size(self) -> int:
        """About what it takes in a batch."""
        return OUTSIDE_OFFSETS + len(self.key or b"") + len(self.value or b"") + sum(
            len(name) + len(value or b"") for name, value in self.headers
        )  # fmt: skip


def _headers(given: Any) -> tuple[tuple[bytes, bytes | None], ...]:
    """From {name: value} or [{name, value, encoding}]. Raises HttpError 400."""
    if isinstance(given, dict):
        given = [{"name": name, "value": value} for name, value in given.items()]
    if not isinstance(given, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in given
    ):
        raise bad("headers is an object of names and values, or a list of {name, value, encoding}")
    return tuple(
        (one["name"].encode(), octets_of(one.get("value"), one.get("encoding", STRING), "a header")) for one in given
    )


@route_to("POST", "topics/*/*/records")
def _produce(request: Request, vhost: str, name: str) -> Work:
    """{records: [{key, value, headers, partition, timestamp, ..._encoding}], partition} -> {offsets: [...]}.

    In the order of the records: {partition, offset}, or {partition, error} for one that its partition did not take.
    """
    home, topic = find_topic(request, vhost, name, "write")
    not_internal(topic)
    if request.hub.broker.alarm is not None:
        raise HttpError(503, "blocked", request.hub.broker.alarm)
    body = request.body
    only(body, "a request", "records", "partition")
    given = body.get("records")
    if not isinstance(given, list) or not 1 <= len(given) <= RECORDS_MAX:
        raise bad(f"records is a list of 1 to {RECORDS_MAX} records")
    now_ms = request.hub.scheduler.wall_ms
    keyless = request.hub.env.randrange(len(topic.partitions))  # One for all, as producers do (KIP-480).
    pauses = Pauses()
    asked: list[tuple[int, _Asked]] = []
    headers_count = 0
    for one in given:
        record = _Asked(one, body.get("partition"), now_ms)
        headers_count += len(record.headers)
        if headers_count > HEADERS_MAX:
            raise bad(f"the records of a request have {HEADERS_MAX} headers at most")
        asked.append((_partition_of(topic, record, keyless), record))
        if pauses.is_due():
            yield
    results = yield from _append(topic, asked, now_ms, pauses)
    promise(home)
    refusals = [one["error"] for one in results if "error" in one]
    if len(refusals) == len(results):
        raise bad(refusals[0])
    return {"offsets": results}


def _partition_of(topic: Topic, record: _Asked, keyless: int) -> int:
    """Raises HttpError 400, 404."""
    if record.partition is not None:
        return find_partition(topic, record.partition).index
    if record.key is None:
        return keyless
    if len(record.key) > KEY_BYTES_MAX and len(topic.partitions) > 1:
        raise bad(f"a key of {len(record.key)} octets needs a partition; only those up to {KEY_BYTES_MAX} are hashed")
    return partition_for_key(record.key, len(topic.partitions))


def _append(
    topic: Topic, asked: list[tuple[int, _Asked]], now_ms: int, pauses: Pauses
) -> Generator[None, None, list[dict[str, Any]]]:
    """In batches. What of each record became: {partition, offset} or {partition, error}. Raises HttpError 404."""
    results: list[dict[str, Any]] = [{"partition": index} for index, _ in asked]
    runs: dict[int, list[int]] = {}
    for at, (index, _) in enumerate(asked):
        runs.setdefault(index, []).append(at)
    for index, places in runs.items():
        partition = topic.partitions[index]
        bytes_max = min(BATCH_BYTES, partition.config.max_message_bytes)
        while places:
            size = count = 0
            while count < len(places) and (not count or size + asked[places[count]][1].size() <= bytes_max):
                size += asked[places[count]][1].size()
                count += 1
            some, places = places[:count], places[count:]
            if pauses.is_due():
                yield
            if topic.gone:
                raise was_deleted(topic.name)
            try:
                first = partition.append(_batch([asked[at][1] for at in some]), now_ms).base_offset
            except TopicRefused as refused:
                for at in some:
                    results[at]["error"] = refused.text or ErrorCode(refused.code).name
            else:
                for offset, at in enumerate(some, first):
                    results[at]["offset"] = offset
    return results


def _batch(records: list[_Asked]) -> bytes:
    """As a producer without an id sends it."""
    base_ms = records[0].timestamp_ms
    rendered = [
        render_record(delta, one.value, one.key, one.headers, one.timestamp_ms - base_ms)
        for delta, one in enumerate(records)
    ]
    return encode_batch(
        0, len(records) - 1, len(records), b"".join(rendered), leader_epoch=-1, base_timestamp_ms=base_ms,
        max_timestamp_ms=max(one.timestamp_ms for one in records),
    )  # fmt: skip
