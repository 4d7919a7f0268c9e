"""Hot path. RecordBatch v2, the one format of journal, segments and topics (Kafka: message format v2, KIP-98).

Budget: 2 µs per batch to encode or to check, 1.5 µs per record to read back; held by `jackalope bench log`.
Pure: octets in, values out. A batch is 61 octets of header, then records. *base offset* and *leader epoch* lie outside
of the checksum (CRC-32C over everything from the attributes on), so that a log can place a producer's batch verbatim.

Offsets of the records may have gaps; `last_offset_delta` says how far the batch reaches, whatever is left of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from crc32c import crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE = HEADER.size
LENGTH_END = 12
"""`batch length` counts what follows it: everything but base offset and itself."""
CRC_START = 21
"""Where the checksummed part begins: at the attributes."""
MAGIC = 2
_SUMMED = struct.Struct(">hiqqqhii")
_FRONT = struct.Struct(">qiibI")
_LONE_SIZE = HEADER_SIZE - LENGTH_END
SEQUENCE_MAX = 2**31 - 1
COMPRESSION, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 0x07, 0x08, 0x10, 0x20, 0x40
"""Bits of the attributes."""
NO_COMPRESSION, GZIP, SNAPPY, LZ4, ZSTD = range(5)
Octets = bytes | bytearray | memoryview
_MAX_TIMESTAMP, _SEQUENCE = 35, 53
"""Where the largest timestamp and the base sequence stand in a header."""


class CorruptBatch(ValueError):
    """Octets that are no batch, or not the batch that was written. The message says where and why."""


class Offsets(Protocol):
    """Some offsets."""

    def __contains__(self, offset: int, /) -> bool: ...


class BatchHeader(NamedTuple):
    """The 61 octets in front of the records; `batch_length` as on the wire, see `size`."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def size(self) -> int:
        """Octets of the whole batch."""
        return self.batch_length + LENGTH_END

    @property
    def next_offset(self) -> int:
        """The first offset behind the batch."""
        return self.base_offset + self.last_offset_delta + 1


class Record(NamedTuple):
    """One record; `headers` are (key, value) pairs, a value may be None."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


def varint(value: int) -> bytes:
    """A signed integer, zigzag, seven bits an octet, least significant first."""
    rest = value << 1 if value >= 0 else ((-value) << 1) - 1
    if rest < 0x80:
        return bytes((rest,))
    octets = bytearray()
    while rest >= 0x80:
        octets.append(rest & 0x7F | 0x80)
        rest >>= 7
    octets.append(rest)
    return bytes(octets)


VARINTS = (
    *[bytes((number << 1,)) for number in range(1 << 6)],
    *[bytes((number << 1 & 0x7E | 0x80, number >> 6)) for number in range(1 << 6, 1 << 13)],
)
"""What `varint` makes of the numbers up to 8191, those of one octet and of two."""


def read_varint(data: Octets, position: int) -> tuple[int, int]:
    """(value, position behind it). Raises CorruptBatch when it does not end within ten octets or the data."""
    shift = rest = 0
    for index in range(position, min(position + 10, len(data))):
        octet = data[index]
        rest |= (octet & 0x7F) << shift
        if octet < 0x80:
            return (rest >> 1) ^ -(rest & 1), index + 1
        shift += 7
    raise CorruptBatch(f"a varint at {position} does not end")


def encode_batch(
    base_offset: int,
    last_offset_delta: int,
    count: int,
    records: bytes,
    *,
    leader_epoch: int,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    attributes: int = 0,
) -> bytes:
    """A batch of records that are rendered, and as compressed as `attributes` say, already; no producer.

    The base sequence, which means nothing without a producer, repeats the base offset, so that the checksum covers it.
    """
    guard = base_offset & SEQUENCE_MAX
    summed = _SUMMED.pack(attributes, last_offset_delta, base_timestamp_ms, max_timestamp_ms, -1, -1, guard, count)
    front = _FRONT.pack(
        base_offset, HEADER_SIZE - LENGTH_END + len(records), leader_epoch, MAGIC, crc32c(records, crc32c(summed))
    )
    return b"".join((front, summed, records))


def encode_one(offset: int, record: bytes, leader_epoch: int, timestamp_ms: int) -> bytes:
    """A batch of one record, with the offset delta 0: the same as `encode_batch` makes, for less."""
    summed = _SUMMED.pack(0, 0, timestamp_ms, timestamp_ms, -1, -1, offset & SEQUENCE_MAX, 1) + record
    return _FRONT.pack(offset, _LONE_SIZE + len(record), leader_epoch, MAGIC, crc32c(summed)) + summed


def with_records(header: BatchHeader, records: bytes, count: int, compression: int) -> bytes:
    """A batch with other records, `count` of them, that are compressed already; all else stays as it was."""
    attributes = header.attributes & ~COMPRESSION | compression
    summed = _SUMMED.pack(attributes, *header[6:12], count)
    front = _FRONT.pack(
        header.base_offset,
        HEADER_SIZE - LENGTH_END + len(records),
        header.leader_epoch,
        MAGIC,
        crc32c(records, crc32c(summed)),
    )
    return b"".join((front, summed, records))


def kept_records(header: BatchHeader, records: bytes, gone: Offsets) -> tuple[int, bytes]:
    """(How many, octets) of a batch's records, not compressed, whose offsets are not in `gone`: as they stood.

    Raises CorruptBatch where they are not what the header says.
    """
    parts = []
    at, base = 0, header.base_offset
    for _ in range(header.records):
        start = at
        length, at = read_varint(records, at)
        end = at + length
        if length < 0 or end > len(records):
            raise CorruptBatch(f"a record at {at} reaches behind the batch")
        _, after_time = read_varint(records, at + 1)
        delta, _ = read_varint(records, after_time)
        if base + delta not in gone:
            parts.append(records[start:end])
        at = end
    if at != len(records):
        raise CorruptBatch(f"{len(records) - at} octets follow the last record")
    return len(parts), b"".join(parts)


_PLACE = struct.Struct(">qii")


def place_batch(octets: bytearray | memoryview, base_offset: int, leader_epoch: int) -> None:
    """Give a producer's batch its offset and epoch, in place: both lie outside of the checksum."""
    _PLACE.pack_into(octets, 0, base_offset, len(octets) - LENGTH_END, leader_epoch)


def stamp_batch(octets: bytearray | memoryview, timestamp_ms: int) -> None:
    """Give a batch LogAppendTime, in place: attribute bit 3, its largest time, and a new checksum (KIP-32)."""
    attributes = int.from_bytes(octets[CRC_START : CRC_START + 2], "big") | LOG_APPEND_TIME
    octets[CRC_START : CRC_START + 2] = attributes.to_bytes(2, "big")
    octets[_MAX_TIMESTAMP : _MAX_TIMESTAMP + 8] = timestamp_ms.to_bytes(8, "big", signed=True)
    octets[CRC_START - 4 : CRC_START] = crc32c(memoryview(octets)[CRC_START:]).to_bytes(4, "big")


def set_max_timestamp(octets: bytearray | memoryview, timestamp_ms: int) -> None:
    """Let a batch say what the largest time of its records is, in place, with a new checksum (as LogValidator does)."""
    octets[_MAX_TIMESTAMP : _MAX_TIMESTAMP + 8] = timestamp_ms.to_bytes(8, "big", signed=True)
    octets[CRC_START - 4 : CRC_START] = crc32c(memoryview(octets)[CRC_START:]).to_bytes(4, "big")


def clear_sequence(octets: bytearray | memoryview) -> None:
    """Give a batch without a producer no sequence (-1), in place, and a new checksum: a log guards offsets with it."""
    octets[_SEQUENCE : _SEQUENCE + 4] = b"\xff\xff\xff\xff"
    octets[CRC_START - 4 : CRC_START] = crc32c(memoryview(octets)[CRC_START:]).to_bytes(4, "big")


def render_record(
    delta: int,
    value: bytes | None,
    key: bytes | None = None,
    headers: tuple[tuple[bytes, bytes | None], ...] = (),
    timestamp_delta_ms: int = 0,
) -> bytes:
    """One record, the plain way; `delta` is its offset less the batch's."""
    parts = [b"\x00", varint(timestamp_delta_ms), varint(delta), _octets(key), _octets(value), varint(len(headers))]
    for name, content in headers:
        parts += (_octets(name), _octets(content))
    octets = b"".join(parts)
    return varint(len(octets)) + octets


def _octets(value: bytes | None) -> bytes:
    return b"\x01" if value is None else varint(len(value)) + value


def parse_header(data: Octets, position: int = 0) -> BatchHeader:
    """The header of the batch at `position`, its records not looked at. Raises CorruptBatch unless it can be one."""
    if len(data) - position < HEADER_SIZE:
        raise CorruptBatch(f"{len(data) - position} octets are less than a batch header")
    header = BatchHeader._make(HEADER.unpack_from(data, position))
    if header.magic != MAGIC:
        raise CorruptBatch(f"magic {header.magic} is not 2")
    if header.batch_length < HEADER_SIZE - LENGTH_END:
        raise CorruptBatch(f"batch length {header.batch_length} is less than a header")
    if header.last_offset_delta < 0 or header.records < 0 or header.records > header.last_offset_delta + 1:
        raise CorruptBatch(f"{header.records} records do not fit {header.last_offset_delta + 1} offsets")
    return header


def is_as_summed(data: Octets) -> bool:
    """Whether `data` begins with octets that its length and its checksum cover, whatever they say."""
    if len(data) < HEADER_SIZE:
        return False
    header = BatchHeader._make(HEADER.unpack_from(data))
    if not HEADER_SIZE <= header.size <= len(data):
        return False
    return crc32c(memoryview(data)[CRC_START : header.size]) == header.crc


def check_batch(data: Octets, position: int, header: BatchHeader, *, placed: bool = True) -> None:
    """Raises CorruptBatch unless all octets of the batch are there and are those that were summed.

    `placed`: a log has given the batch its offset (a batch without a producer may repeat it, see `encode_batch`).
    """
    end = position + header.size
    if end > len(data):
        raise CorruptBatch(f"the batch at offset {header.base_offset} ends {end - len(data)} octets behind the data")
    if crc32c(memoryview(data)[position + CRC_START : end]) != header.crc:
        raise CorruptBatch(f"the checksum of the batch at offset {header.base_offset} does not match")
    if placed and header.producer_id == -1 and header.base_sequence not in (-1, header.base_offset & SEQUENCE_MAX):
        raise CorruptBatch(f"a batch claims offset {header.base_offset}, which is not where it was written")


def _read_octets(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    length, position = read_varint(data, position)
    if length < 0:
        return None, position
    if position + length > end:
        raise CorruptBatch(f"{length} octets at {position} reach behind the batch")
    return data[position : position + length], position + length


def read_records(data: bytes, position: int, header: BatchHeader) -> Iterator[Record]:
    """The records of an uncompressed batch, in order. Raises CorruptBatch where they are not what the header says."""
    try:
        yield from _read_records(data, position, header)
    except IndexError:
        raise CorruptBatch(f"a record of the batch at offset {header.base_offset} reaches behind it") from None


def _read_records(data: bytes, position: int, header: BatchHeader) -> Iterator[Record]:
    end = position + header.size
    at = position + HEADER_SIZE
    base_offset, base_timestamp_ms, last = header.base_offset, header.base_timestamp_ms, header.last_offset_delta
    limit = len(data)
    for _ in range(header.records):
        # Most of these numbers take one octet or two: a call for each would double the cost of all.
        length, at = read_varint(data, at)
        record_end = at + length
        if length < LEAST_RECORD or record_end > end or record_end > limit:
            raise CorruptBatch(f"a record at {at} reaches behind the batch")
        at += 1
        octet = data[at]
        if octet < 0x80:
            timestamp_delta, at = (octet >> 1) ^ -(octet & 1), at + 1
        else:
            timestamp_delta, at = read_varint(data, at)
        offset_delta = data[at]
        if offset_delta < 0x80:
            offset_delta, at = (offset_delta >> 1) ^ -(offset_delta & 1), at + 1
        else:
            offset_delta, at = read_varint(data, at)
        if at < record_end and data[at] == NULL:
            key, at = None, at + 1
        else:
            key, at = _read_octets(data, at, record_end)
        value, at = _read_octets(data, at, record_end)
        headers: tuple[tuple[bytes, bytes | None], ...] = ()
        if at < record_end and not data[at]:
            at += 1
        else:
            headers, at = _read_headers(data, at, record_end)
        if at != record_end or not 0 <= offset_delta <= last:
            raise CorruptBatch(f"a record ends at {at} instead of {record_end}, at offset delta {offset_delta}")
        yield _new_record(
            Record, (base_offset + offset_delta, base_timestamp_ms + timestamp_delta, key, value, headers)
        )
    if at != end:
        raise CorruptBatch(f"{end - at} octets follow the last record")


_new_record = tuple.__new__
"""Of a NamedTuple, at half the price."""
NULL = 0x01
"""A length of -1."""
LEAST_RECORD = 6


def _read_headers(data: bytes, at: int, end: int) -> tuple[tuple[tuple[bytes, bytes | None], ...], int]:
    count, at = read_varint(data, at)
    headers: list[tuple[bytes, bytes | None]] = []
    for _ in range(count):
        name, at = _read_octets(data, at, end)
        content, at = _read_octets(data, at, end)
        headers.append((name or b"", content))
    return tuple(headers), at
