"""The few Kafka requests that the bench makes itself, over a blocking socket or rendered for a load loop.

Owns: topics created and deleted, end offsets, a coordinator found; fetches and offset commits; what a fetch brought,
counted without looking into a record. It is the bench's own on purpose: a fault of the broker's codec must not be
hidden by the same fault here. All versions used are without compact fields. Must not know: scenarios.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CLIENT_ID = b"jackalope-bench"
PRODUCE, FETCH, LIST_OFFSETS, OFFSET_COMMIT, FIND_COORDINATOR, API_VERSIONS = 0, 1, 2, 8, 10, 18
CREATE_TOPICS, DELETE_TOPICS = 19, 20
CALL_TIMEOUT_S = 20.0
SETTLE_TIMEOUT_S = 20.0
RETRY_S = 0.05
ANSWER_BYTES_MAX = 1 << 20
# Leader or coordinator not there yet, or still loading: asked again by every client.
NOT_YET = {3, 5, 6, 14, 15, 16}
NONE = 0
BATCH_HEADER_BYTES = 61


class KafkaError(ConnectionError):
    """The broker answered an error code, or something that is no answer."""


def string(text: str | None) -> bytes:
    """An int16 length and UTF-8, -1 for null."""
    if text is None:
        return b"\xff\xff"
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def request(key: int, version: int, body: bytes, correlation_id: int = 1) -> bytes:
    """A whole request with header version 1."""
    head = struct.pack(">hhih", key, version, correlation_id, len(CLIENT_ID)) + CLIENT_ID
    return struct.pack(">i", len(head) + len(body)) + head + body


def connect(host: str, port: int, congestion: str = "") -> socket.socket:
    """A blocking connection. Raises OSError."""
    connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if congestion:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection.settimeout(CALL_TIMEOUT_S)
        connection.connect((host, port))
    except BaseException:
        connection.close()
        raise
    return connection


class Admin:
    """One connection and its calls, each waiting for the answer. Raises OSError and KafkaError from every call."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = connect(host, port)

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()

    def call(self, key: int, version: int, body: bytes) -> bytes:
        """The answer behind its correlation id."""
        self._socket.sendall(request(key, version, body))
        (size,) = struct.unpack(">i", self._read(4))
        if not 4 <= size <= ANSWER_BYTES_MAX:
            raise KafkaError(f"an answer of {size} bytes to request {key}")
        return self._read(size)[4:]

    def _read(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise KafkaError("the broker dropped the connection")
        return data

    def create_topic(self, name: str, partitions: int, configuration: Mapping[str, str] | None = None) -> None:
        """One copy of each partition; returns when each of them has a leader that answers."""
        wanted = struct.pack(">i", 1) + string(name) + struct.pack(">ihi", partitions, 1, 0)
        pairs = (configuration or {}).items()
        wanted += struct.pack(">i", len(pairs)) + b"".join(string(key) + string(value) for key, value in pairs)
        answer = self.call(CREATE_TOPICS, 4, wanted + struct.pack(">i?", 10_000, False))
        at = 8 + 2 + len(name.encode())
        _check("CreateTopics", struct.unpack_from(">h", answer, at)[0])
        self.end_offsets(name, partitions)

    def delete_topic(self, name: str) -> None:
        """And all its records."""
        answer = self.call(DELETE_TOPICS, 3, struct.pack(">i", 1) + string(name) + struct.pack(">i", 10_000))
        _check("DeleteTopics", struct.unpack_from(">h", answer, len(answer) - 2)[0])

    def end_offsets(self, topic: str, partitions: int) -> list[int]:
        """By partition, in order."""
        parts = b"".join(struct.pack(">iq", number, -1) for number in range(partitions))
        body = struct.pack(">ii", -1, 1) + string(topic) + struct.pack(">i", partitions) + parts
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            answer = self.call(LIST_OFFSETS, 1, body)
            rows = list(struct.iter_unpack(">ihqq", answer[4 + 2 + len(topic.encode()) + 4 :]))
            errors = {row[1] for row in rows} - {NONE}
            if not errors and len(rows) == partitions:
                return [row[3] for row in sorted(rows)]
            _retry_or_raise("ListOffsets", errors, deadline_s)

    def find_coordinator(self, group: str) -> None:
        """Ask until the group has one. There is one broker, so it is no news where."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while error := struct.unpack_from(">h", self.call(FIND_COORDINATOR, 0, string(group)))[0]:
            _retry_or_raise("FindCoordinator", {error}, deadline_s)

    def api_versions(self) -> dict[int, tuple[int, int]]:
        """What the broker says it speaks: lowest and highest version by key."""
        answer = self.call(API_VERSIONS, 0, b"")
        _check("ApiVersions", struct.unpack_from(">h", answer)[0])
        return {key: (low, high) for key, low, high in struct.iter_unpack(">hhh", answer[6:])}


def _check(what: str, error: int) -> None:
    if error:
        raise KafkaError(f"{what} was answered with error {error}")


def _retry_or_raise(what: str, errors: set[int], deadline_s: float) -> None:
    if not errors or not errors <= NOT_YET or time.monotonic() > deadline_s:
        raise KafkaError(f"{what} was answered with errors {sorted(errors)}")
    time.sleep(RETRY_S)


class FetchRequest:
    """A fetch of one partition, rendered once; only its offset changes. Without a session, as librdkafka does it."""

    __slots__ = ("_at", "_data")

    def __init__(self, topic: str, *, max_wait_ms: int = 500, partition_bytes_max: int = 1 << 20) -> None:
        head = struct.pack(">iiiibii", -1, max_wait_ms, 1, 50 << 20, 0, 0, -1) + struct.pack(">i", 1) + string(topic)
        before = head + struct.pack(">iii", 1, 0, -1)
        body = before + struct.pack(">qqi", 0, -1, partition_bytes_max) + struct.pack(">i", 0) + string("")
        self._data = bytearray(request(FETCH, 11, body))
        self._at = len(self._data) - len(body) + len(before)

    def at(self, offset: int) -> bytearray:
        """The request for records from `offset` on; good until the next call."""
        struct.pack_into(">q", self._data, self._at, offset)
        return self._data


def commit_request(group: str, topic: str, offset: int) -> bytes:
    """OffsetCommit of partition 0 by a consumer that takes no part in its group's rebalances."""
    head = string(group) + struct.pack(">i", -1) + string("") + struct.pack(">q", -1)
    return request(
        OFFSET_COMMIT, 2, head + struct.pack(">i", 1) + string(topic) + struct.pack(">iiq", 1, 0, offset) + string("")
    )


@dataclass(frozen=True, slots=True)
class Fetched:
    """Of one answer: where the next fetch begins, how many records came, and the octets of their batches."""

    next_offset: int
    count: int
    records: memoryview


class FetchAnswers:
    """Reads answers to fetches of one partition of `topic`: fixed places up to the batches, then batch headers."""

    __slots__ = ("_error_at", "_records_at")

    def __init__(self, topic: str) -> None:
        self._error_at = 4 + 4 + 2 + 4 + 4 + 2 + len(topic.encode()) + 4 + 4
        # Error, high watermark, last stable and first offset, no aborted transactions, preferred replica.
        self._records_at = self._error_at + 2 + 8 + 8 + 8 + 4 + 4

    def read(self, answer: memoryview, wanted: int) -> Fetched:
        """`answer` is without its length; `wanted` the offset asked for. Raises KafkaError when records are missing."""
        if len(answer) < self._records_at + 4:
            raise KafkaError(f"a fetch was answered with {len(answer)} bytes")
        _check("Fetch", struct.unpack_from(">h", answer, self._error_at)[0])
        (size,) = struct.unpack_from(">i", answer, self._records_at)
        records = answer[self._records_at + 4 : self._records_at + 4 + max(size, 0)]
        following = wanted
        for base, count in batches(records):
            if base > following:
                raise KafkaError(f"a batch at offset {base} where {following} was due")
            following = max(following, base + count)
        return Fetched(following, following - wanted, records)


def batches(records: memoryview) -> Iterator[tuple[int, int]]:
    """Base offset and number of records of each whole batch; the last one of an answer may be cut off."""
    at = 0
    while at + BATCH_HEADER_BYTES <= len(records):
        base, size = struct.unpack_from(">qi", records, at)
        if at + 12 + size > len(records):
            return
        yield base, struct.unpack_from(">i", records, at + 23)[0] + 1
        at += 12 + size


@contextlib.contextmanager
def idle_connections(host: str, port: int, count: int) -> Iterator[None]:
    """So many connections on each of which ApiVersions was answered."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(Admin(host, port))) for _ in range(count)]
        for admin in opened:
            admin.api_versions()
        yield
