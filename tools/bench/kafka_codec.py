"""`jackalope bench kafka-codec`: what Kafka's messages cost to read and to write, beside the budgets of the codec.

Owns: the samples, sized as a busy client's are. Each figure is the best of REPEATS runs, in microseconds of one
thread for a whole frame, header included; where `kio` is installed (an independent codec) its time for the message
alone stands beside.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from protocol.kafka.apis import APIS, fetch, join_group, metadata, produce
from protocol.kafka.headers import RequestHeader, read_request, write_request, write_response

REPEATS = 7
SECONDS_EACH = 0.05
PARTITIONS = 100
BATCHES, BATCH_BYTES = 4, 16_384
MEMBERS = 10
CLIENT = "bench"
KIO_NAMES = {0: "produce", 1: "fetch", 3: "metadata", 11: "join_group"}


class Sample(NamedTuple):
    """One message; `is_read` says which way it goes."""

    name: str
    api_key: int
    version: int
    message: Any
    is_read: bool
    budget_us: float


class Figure(NamedTuple):
    """One row; `kio_us` is None where kio is not installed."""

    name: str
    us: float
    budget_us: float
    kio_us: float | None

    def as_json(self) -> dict[str, Any]:
        """A JSON line."""
        row = {"type": "figure", "name": self.name, "us": round(self.us, 2), "budget_us": self.budget_us,
               "met": self.us <= self.budget_us}  # fmt: skip
        if self.kio_us is not None:
            row |= {"kio_us": round(self.kio_us, 2), "kio_ratio": round(self.kio_us / self.us, 2)}
        return row


def measure() -> Iterator[Figure]:
    """The figures, one by one."""
    for sample in _samples():
        work = _reading(sample) if sample.is_read else _writing(sample)
        theirs = _kio(sample)
        yield Figure(sample.name, _timed(work), sample.budget_us, None if theirs is None else _timed(theirs))


def _timed(work: Callable[[], object]) -> float:
    """Microseconds of a call, the best of the repeats: whatever is above it was somebody else's work."""
    work()
    began = time.perf_counter()
    work()
    calls = max(3, int(SECONDS_EACH / max(time.perf_counter() - began, 1e-7)))
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - began) / calls * 1e6)
    return min(found)


def _reading(sample: Sample) -> Callable[[], object]:
    frame = memoryview(write_request(_header(sample), sample.message))[4:]
    return lambda: read_request(frame)


def _writing(sample: Sample) -> Callable[[], object]:
    header = _header(sample)
    return lambda: write_response(header, sample.message)


def _header(sample: Sample) -> RequestHeader:
    return RequestHeader(sample.api_key, sample.version, 7, CLIENT)


def _kio(sample: Sample) -> Callable[[], object] | None:
    """The same with kio; for a message to write, from kio's own objects."""
    try:
        from kio.serial import entity_reader, entity_writer
    except ImportError:
        return None
    kind = "request" if sample.is_read else "response"
    module = importlib.import_module(f"kio.schema.{KIO_NAMES[sample.api_key]}.v{sample.version}.{kind}")
    cls = getattr(module, APIS[sample.api_key].name + kind.title())
    octets = _body(sample)
    read = entity_reader(cls)
    if sample.is_read:
        return lambda: read(octets, 0)
    value, _ = read(octets, 0)
    write = entity_writer(cls)
    return lambda: write(io.BytesIO(), value)


def _body(sample: Sample) -> bytes:
    """The message without what stands in front of it: size, header, tags of the header."""
    header = _header(sample)
    if sample.is_read:
        return write_request(header, sample.message)[4 + 10 + len(CLIENT) + 1 :]
    return b"".join(write_response(header, sample.message))[4 + 4 + 1 :]


def _samples() -> list[Sample]:
    return [
        Sample(f"fetch request v12, {PARTITIONS} partitions", 1, 12, _fetch_request(), True, 20),
        Sample(f"fetch response v12, {PARTITIONS} partitions", 1, 12, _fetch_response(), False, 55),
        Sample(f"produce request v9, {BATCHES} x 16 KiB", 0, 9, _produce_request(), True, 6),
        Sample(f"metadata response v12, {PARTITIONS} partitions", 3, 12, _metadata_response(), False, 150),
        Sample(f"join response v9, {MEMBERS} members", 11, 9, _join_response(), False, 10),
    ]


def _fetch_request() -> fetch.FetchRequest:
    partitions = [
        fetch.FetchPartition(partition=number, current_leader_epoch=1, fetch_offset=number, partition_max_bytes=1 << 20)
        for number in range(PARTITIONS)
    ]
    return fetch.FetchRequest(
        max_wait_ms=500, min_bytes=1, topics=[fetch.FetchTopic(topic="orders", partitions=partitions)]
    )


def _fetch_response() -> fetch.FetchResponse:
    batch = memoryview(bytes(BATCH_BYTES))
    partitions = [
        fetch.PartitionData(
            partition_index=number,
            high_watermark=1000,
            last_stable_offset=1000,
            log_start_offset=0,
            records=[batch] if number < BATCHES else [],
        )
        for number in range(PARTITIONS)
    ]
    topic = fetch.FetchableTopicResponse(topic="orders", partitions=partitions)
    return fetch.FetchResponse(session_id=1, responses=[topic])


def _produce_request() -> produce.ProduceRequest:
    batch = bytes(BATCH_BYTES)
    partitions = [produce.PartitionProduceData(index=number, records=batch) for number in range(BATCHES)]
    topic = produce.TopicProduceData(name="orders", partition_data=partitions)
    return produce.ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[topic])


def _metadata_response() -> metadata.MetadataResponse:
    partitions = [
        metadata.MetadataResponsePartition(
            partition_index=number, leader_id=1, leader_epoch=1, replica_nodes=[1], isr_nodes=[1], offline_replicas=[]
        )
        for number in range(PARTITIONS)
    ]
    topic = metadata.MetadataResponseTopic(name="orders", topic_id=bytes(range(16)), partitions=partitions)
    broker = metadata.MetadataResponseBroker(node_id=1, host="127.0.0.1", port=9092)
    return metadata.MetadataResponse(brokers=[broker], cluster_id="bench", controller_id=1, topics=[topic])


def _join_response() -> join_group.JoinGroupResponse:
    members = [
        join_group.JoinGroupResponseMember(member_id=f"consumer-{number}-0123456789", metadata=bytes(100))
        for number in range(MEMBERS)
    ]
    return join_group.JoinGroupResponse(
        generation_id=3, protocol_type="consumer", protocol_name="range", leader="consumer-0-0123456789",
        member_id="consumer-0-0123456789", members=members,
    )  # fmt: skip
