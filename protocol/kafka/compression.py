"""What is inside a compressed batch, with a bound on its size. Batches are stored as they come; few things open them.

The records of a batch are compressed as one block behind the header. gzip is zlib's; lz4 the frame format; snappy comes
raw (librdkafka) or in blocks behind a header of its own (the Java and Python clients); zstd may not say its size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from protocol.kafka.records import (
    COMPRESSION,
    GZIP,
    HEADER,
    HEADER_SIZE,
    LENGTH_END,
    LZ4,
    NO_COMPRESSION,
    SNAPPY,
    BatchHeader,
    CorruptBatch,
    Octets,
    Record,
    read_records,
)

OPENED_BYTES_MAX = 64 << 20
"""A batch whose records are more than this is not opened: a few kilobytes can hold gigabytes."""
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_SIZE = 16
_GZIP_WINDOW = 31


def open_batch(data: Octets, position: int, header: BatchHeader, bytes_max: int = OPENED_BYTES_MAX) -> Iterator[Record]:
    """The records of a batch, compressed or not. Raises CorruptBatch, also for what opens to more than `bytes_max`."""
    kind = header.attributes & COMPRESSION
    if kind == NO_COMPRESSION:
        if not isinstance(data, bytes):
            data, position = bytes(data[position : position + header.size]), 0
        return read_records(data, position, header)
    block = bytes(memoryview(data)[position + HEADER_SIZE : position + header.size])
    records = decompress(kind, block, bytes_max)
    plain = header._replace(batch_length=HEADER_SIZE - LENGTH_END + len(records), attributes=0)
    return read_records(HEADER.pack(*plain) + records, 0, plain)


def decompress(kind: int, block: bytes, bytes_max: int) -> bytes:
    """The block, opened. Raises CorruptBatch when it is none, or more than `bytes_max` octets."""
    try:
        if kind == GZIP:
            return _gzip(block, bytes_max)
        if kind == SNAPPY:
            return _snappy(block, bytes_max)
        if kind == LZ4:
            return _lz4(block, bytes_max)
        return _zstd(block, bytes_max)
    except CorruptBatch:
        raise
    except Exception as error:  # noqa: BLE001 - four libraries, a dozen kinds of errors, one meaning
        raise CorruptBatch(f"a compressed batch cannot be opened: {error}") from None


def _too_large(bytes_max: int) -> CorruptBatch:
    return CorruptBatch(f"a compressed batch opens to more than {bytes_max} octets")


def _gzip(block: bytes, bytes_max: int) -> bytes:
    opened = zlib.decompressobj(_GZIP_WINDOW)
    plain = opened.decompress(block, bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    if not opened.eof:
        raise CorruptBatch("a gzip block ends early")
    return plain


def _snappy(block: bytes, bytes_max: int) -> bytes:
    if not block.startswith(_XERIAL):
        return _snappy_block(block, bytes_max)
    parts: list[bytes] = []
    position, room = _XERIAL_HEADER_SIZE, bytes_max
    while position < len(block):
        size = int.from_bytes(block[position : position + 4], "big")
        position += 4
        if not size or position + size > len(block):
            raise CorruptBatch("a snappy block reaches behind its batch")
        parts.append(_snappy_block(block[position : position + size], room))
        room -= len(parts[-1])
        position += size
    return b"".join(parts)


def _snappy_block(block: bytes, bytes_max: int) -> bytes:
    import cramjam

    size = shift = 0
    for octet in block[:5]:  # It begins with its opened size, as an unsigned varint.
        size |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            break
    if size > bytes_max:
        raise _too_large(bytes_max)
    return bytes(cramjam.snappy.decompress_raw(block))


def _lz4(block: bytes, bytes_max: int) -> bytes:
    import lz4.frame  # type: ignore[import-untyped]  # it comes without types

    opened = lz4.frame.LZ4FrameDecompressor()
    plain: bytes = opened.decompress(block, max_length=bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    if not opened.eof:
        raise CorruptBatch("an lz4 frame ends early")
    return plain


def _zstd(block: bytes, bytes_max: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(block) > bytes_max:
        raise _too_large(bytes_max)
    with zstandard.ZstdDecompressor(max_window_size=bytes_max).stream_reader(block, read_across_frames=False) as reader:
        plain = reader.read(bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    return plain
