"""Hot path. What a partition takes from producers, and how its log lays it out: by the topic's configuration.

Budget: 10 µs per batch, and 0.15 µs per uncompressed record in it (a tenth where records of one length follow each
other); held by `jackalope bench kafka`. Pure. Rules of Kafka's LogValidator; codes as in `ErrorCode`.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import NamedTuple, NoReturn

from broker.core.topics.config import TopicConfig
from broker.core.topics.errors import RecordsRefused, TopicRefused
from broker.log.ackset import AckSet
from broker.log.extents import Batch
from broker.log.log import Layout
from protocol.kafka.compression import TooLarge, packed, recompressed, without
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import (
    COMPRESSION,
    LOG_APPEND_TIME,
    MAGIC,
    ZSTD,
    BatchHeader,
    CorruptBatch,
    check_batch,
    is_as_summed,
    parse_header,
)
from protocol.kafka.walk import Facts, examine, visit

MAGIC_POSITION = 16
NO_KEY = "Compacted topic cannot accept message without key."
PACKED_RECORDS_MAX, PACKED_BYTES_MAX = 512, 64 << 10
"""Of a batch that is compressed here: 64 records compress twice as well as 8, 512 hardly better than 64."""


def layout_of(config: TopicConfig) -> Layout:
    """How the log of such a topic makes its batches and files."""
    kind, level = config.compression, config.compression_level
    layout = Layout(segment_bytes=config.segment_bytes)
    if kind:
        pack = partial(packed, kind, level)
        layout = layout._replace(open_records_max=PACKED_RECORDS_MAX, open_bytes_max=PACKED_BYTES_MAX, pack=pack)
    return layout._replace(reduce=partial(_reduced, kind, level)) if config.compact else layout


def _reduced(kind: int | None, level: int | None, batch: Batch, settled: AckSet) -> bytes:
    return without(batch.data, batch.position, batch.header, settled, kind, level)


class Examined(NamedTuple):
    """A batch that may be stored, as far as that does not depend on the partition."""

    header: BatchHeader
    facts: Facts


def examined(data: memoryview, config: TopicConfig) -> Generator[int, None, Examined]:
    """Look at a producer's batch, header and records, in steps that yield units of work. Raises TopicRefused."""
    header = _checked_header(data, config)
    try:
        facts = yield from examine(data, 0, header)
    except TooLarge as error:
        # Producers split what is too large, and give up what is no record (KIP-126).
        raise TopicRefused(ErrorCode.MESSAGE_TOO_LARGE, str(error)) from None
    except CorruptBatch as error:
        raise TopicRefused(ErrorCode.INVALID_RECORD, str(error)) from None
    return Examined(header, facts)


def _checked_header(data: memoryview, config: TopicConfig) -> BatchHeader:
    """The header of a batch that is what was sent (rules of Kafka's LogValidator; codes as in `ErrorCode`)."""
    if len(data) > MAGIC_POSITION and data[MAGIC_POSITION] != MAGIC:
        _refuse_format(data[MAGIC_POSITION])
    if len(data) > config.max_message_bytes:
        raise TopicRefused(ErrorCode.MESSAGE_TOO_LARGE, f"{len(data)} octets are more than {config.max_message_bytes}")
    try:
        header = parse_header(data)
        if header.size < len(data):
            raise TopicRefused(ErrorCode.INVALID_RECORD, "more than one batch for a partition")
        check_batch(data, 0, header, placed=False)
    except CorruptBatch as error:
        # Damage on the way is worth another try, a producer's miscount is not: Kafka checks the sum first.
        code = ErrorCode.INVALID_RECORD if is_as_summed(data) else ErrorCode.CORRUPT_MESSAGE
        raise TopicRefused(code, str(error)) from None
    if header.base_offset:  # UnifiedLog.analyzeAndValidateRecords
        raise TopicRefused(ErrorCode.INVALID_RECORD, f"the base offset is {header.base_offset}, not 0")
    attributes = header.attributes
    if attributes & LOG_APPEND_TIME:
        raise TopicRefused(ErrorCode.INVALID_TIMESTAMP, "Producer should not set timestamp type to LogAppendTime.")
    if attributes & ~COMPRESSION:
        # Control and transactional batches nobody began, a delete horizon, which is the log's (KIP-534), and what has
        # no meaning yet: whoever gives it one would read it from here.
        raise TopicRefused(ErrorCode.INVALID_RECORD, f"attributes {attributes:#x} are not a producer's to set")
    # Without a producer the sequence says nothing: aiokafka's ordinary producer writes 0 there.
    if header.base_sequence < -1 or header.producer_id < -1 or header.producer_id >= 0 > header.base_sequence:
        raise TopicRefused(ErrorCode.INVALID_RECORD, f"producer {header.producer_id} without a sequence")
    if header.records != header.last_offset_delta + 1 or not header.records:
        raise TopicRefused(
            ErrorCode.INVALID_RECORD, f"{header.records} records for {header.last_offset_delta + 1} offsets"
        )
    if attributes & COMPRESSION > ZSTD:
        raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "no such compression")
    return header


def _refuse_format(magic: int) -> NoReturn:
    """Raises TopicRefused: old formats are known, and not taken (`ProduceRequest.validateRecords`).

    Of others Kafka takes the octet for damage (`ByteBufferLogInputStream.nextBatchSize`), before it asks for sizes.
    """
    if magic < MAGIC:
        raise TopicRefused(ErrorCode.INVALID_RECORD, f"message format v{magic} is not taken")
    signed = magic - 256 if magic > 127 else magic
    raise TopicRefused(ErrorCode.CORRUPT_MESSAGE, f"Invalid magic found in record: {signed}")


def check_facts(facts: Facts, config: TopicConfig, now_ms: int) -> None:
    """What a topic asks of records. Raises TopicRefused.

    One time far in the future would keep its segment for ever (KIP-937); it is the records' own that count, whatever
    the header says.
    """
    if config.compact and facts.lacks_key:
        raise RecordsRefused(ErrorCode.INVALID_RECORD, NO_KEY)
    if config.log_append_time:
        return
    if facts.largest_ms > now_ms + config.timestamp_after_max_ms:
        raise RecordsRefused(ErrorCode.INVALID_TIMESTAMP, f"timestamp {facts.largest_ms} is in the future")
    if facts.least_ms < now_ms - config.timestamp_before_max_ms:
        raise RecordsRefused(ErrorCode.INVALID_TIMESTAMP, f"timestamp {facts.least_ms} is too old")


class BadRecord(NamedTuple):
    """A record that is not taken: how far into its batch it is, and why."""

    delta: int
    code: ErrorCode
    text: str


def bad_records(
    data: memoryview, header: BatchHeader, config: TopicConfig, now_ms: int, most: int
) -> Generator[int, None, list[BadRecord]]:
    """Those of a batch that `check_facts` has refused, `most` at most, in steps that yield units of work.

    A record has one reason: that it lacks a key comes first (`LogValidator.validateRecord`).
    """
    found: list[BadRecord] = []
    least, largest = now_ms - config.timestamp_before_max_ms, now_ms + config.timestamp_after_max_ms

    def note(delta: int, time_ms: int, has_key: bool) -> bool:
        if config.compact and not has_key:
            found.append(BadRecord(delta, ErrorCode.INVALID_RECORD, NO_KEY))
        elif not config.log_append_time and not least <= time_ms <= largest:
            text = f"Timestamp {time_ms} of message with offset {delta} is out of range. "
            text += f"The timestamp should be within [{least}, {largest}]"
            found.append(BadRecord(delta, ErrorCode.INVALID_TIMESTAMP, text))
        return len(found) < most

    yield from visit(data, 0, header, note)
    return found


def in_topics_compression(data: memoryview, header: BatchHeader, config: TopicConfig) -> tuple[memoryview, BatchHeader]:
    """The batch in the topic's compression, unless it is so large that this would take too long."""
    assert config.compression is not None
    try:
        octets = recompressed(data, header, config.compression, config.compression_level)
    except CorruptBatch as error:
        raise TopicRefused(ErrorCode.CORRUPT_MESSAGE, str(error)) from None
    if octets is None:
        return data, header
    if len(octets) > config.max_message_bytes:
        raise TopicRefused(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"{len(octets)} octets, in the topic's compression, are more than {config.max_message_bytes}",
        )
    return memoryview(bytearray(octets)), parse_header(octets)
