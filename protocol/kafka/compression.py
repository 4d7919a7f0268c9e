"""Compressed batches: what is inside, with a bound on its size, and how to make them. Few things open a batch.

The records of a batch are compressed as one block behind the header. gzip is zlib's; lz4 the frame format; snappy comes
raw (librdkafka) or in blocks behind a header of its own (the Java and Python clients); zstd may not say its size.
A block is one member or frame; what follows it is refused: thousands of tiny ones are made to keep a reader busy.

What is made here every client reads: snappy in blocks of 32 KiB as Java makes it, lz4 with independent blocks and
without a size (KIP-57: Java reads no others).
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
    ZSTD,
    BatchHeader,
    CorruptBatch,
    Octets,
    Offsets,
    Record,
    kept_records,
    read_records,
    with_records,
)

OPENED_BYTES_MAX = 64 << 20
"""A batch whose records are more than this is not opened: a few kilobytes can hold gigabytes."""
PIECE_BYTES = 256 << 10
"""What is opened at once where a batch is only looked at."""
ZSTD_INPUT_BYTES = 512
"""Four octets of zstd are 128 KiB at most (RFC 8878), and its stream has no bound on what it gives."""
CHANGED_BYTES_MAX = 1 << 20
"""Records that are compressed in one step of a loop: 3 to 8 ms at most. Larger ones are left as they are."""
LEVEL_BYTES_MAX = 192 << 10
"""Up to this at the level that is asked for, 1 to 8 ms; what is larger at the fastest."""
ZSTD_LEVEL_MAX = 12
"""Those above take ten times as long for a twentieth less."""
LZ4_LEVEL_FAST = 9
"""Kafka's default, which stands for lz4's fast mode; others are those of its high compression, 12 at most."""
LEVELS = {GZIP: -1, LZ4: LZ4_LEVEL_FAST, ZSTD: 3}
"""Kafka's defaults (KIP-390); snappy has none."""
_FASTEST = {GZIP: 1, LZ4: LZ4_LEVEL_FAST, ZSTD: 1}
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_SIZE = 16
_XERIAL_HEADER = _XERIAL + (1).to_bytes(4, "big") * 2
_XERIAL_BLOCK = 32 << 10
_XERIAL_BLOCKS_MAX = 16384
"""Clients make blocks of 32 KiB; this leaves room for smaller ones."""
_GZIP_WINDOW = 31


class TooLarge(CorruptBatch):
    """A batch that opens to more than is allowed."""


def open_batch(data: Octets, position: int, header: BatchHeader, bytes_max: int = OPENED_BYTES_MAX) -> Iterator[Record]:
    """The records of a batch, compressed or not. Raises CorruptBatch, also for what opens to more than `bytes_max`."""
    return read_records(*plain_batch(data, position, header, bytes_max))


def plain_batch(
    data: Octets, position: int, header: BatchHeader, bytes_max: int = OPENED_BYTES_MAX
) -> tuple[bytes, int, BatchHeader]:
    """The batch without compression: octets, where in them it begins, its header. Raises CorruptBatch."""
    if not header.attributes & COMPRESSION:
        if not isinstance(data, bytes):
            data, position = bytes(data[position : position + header.size]), 0
        return data, position, header
    records = opened(data, position, header, bytes_max)
    plain = header._replace(batch_length=HEADER_SIZE - LENGTH_END + len(records), attributes=0)
    return HEADER.pack(*plain) + records, 0, plain


def opened(data: Octets, position: int, header: BatchHeader, bytes_max: int = OPENED_BYTES_MAX) -> bytes:
    """The octets of a batch's records, not compressed. Raises CorruptBatch, TooLarge among it."""
    block = bytes(memoryview(data)[position + HEADER_SIZE : position + header.size])
    kind = header.attributes & COMPRESSION
    return decompress(kind, block, bytes_max) if kind else block


def without(
    data: Octets,
    position: int,
    header: BatchHeader,
    gone: Offsets,
    kind: int | None = NO_COMPRESSION,
    level: int | None = None,
) -> bytes:
    """A batch less the records whose offsets are in `gone`; offsets and all else stay as they were (KIP-98).

    Compressed as `kind`, None for what it was. Raises CorruptBatch.
    """
    count, records = kept_records(header, opened(data, position, header), gone)
    kind = header.attributes & COMPRESSION if kind is None else kind
    return with_records(header, compress(kind, records, level) if kind else records, count, kind)


def recompressed(data: Octets, header: BatchHeader, kind: int, level: int | None) -> bytes | None:
    """A producer's batch as one of another compression; None where it opens to more than CHANGED_BYTES_MAX.

    Offsets, times, producer and sequence stay; its records were examined. Raises CorruptBatch.
    """
    try:
        records = opened(data, 0, header, CHANGED_BYTES_MAX)
    except TooLarge:
        return None
    if kind == NO_COMPRESSION:
        return with_records(header, records, header.records, NO_COMPRESSION)
    return with_records(header, compress(kind, records, _level(kind, records, level)), header.records, kind)


def packed(kind: int, level: int | None, records: bytes) -> tuple[int, bytes]:
    """Records for a batch of our own: (bits of its attributes, what to put into it); as they are if that is less."""
    if len(records) > CHANGED_BYTES_MAX:
        return NO_COMPRESSION, records
    block = compress(kind, records, _level(kind, records, level))
    return (kind, block) if len(block) < len(records) else (NO_COMPRESSION, records)


def _level(kind: int, records: bytes, level: int | None) -> int | None:
    return level if len(records) <= LEVEL_BYTES_MAX else _FASTEST.get(kind)


def compress(kind: int, records: bytes, level: int | None = None) -> bytes:
    """Records as one block; `level` as Kafka's topics name it, None for its default."""
    if level is None:
        level = LEVELS.get(kind, 0)
    if kind == GZIP:
        deflated = zlib.compressobj(level, wbits=_GZIP_WINDOW)
        return deflated.compress(records) + deflated.flush()
    if kind == SNAPPY:
        return _to_snappy(records)
    if kind == LZ4:
        return _to_lz4(records, level)
    return _to_zstd(records, min(level, ZSTD_LEVEL_MAX))


def _to_snappy(records: bytes) -> bytes:
    import cramjam

    parts = [_XERIAL_HEADER]
    for start in range(0, len(records), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(records[start : start + _XERIAL_BLOCK]))
        parts += (len(block).to_bytes(4, "big"), block)
    return b"".join(parts)


def _to_lz4(records: bytes, level: int) -> bytes:
    import lz4.frame  # type: ignore[import-untyped]  # it comes without types

    level = 0 if level == LZ4_LEVEL_FAST else min(level, 12)
    block: bytes = lz4.frame.compress(
        records, level, block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, store_size=False
    )
    return block


def _to_zstd(records: bytes, level: int) -> bytes:
    import zstandard

    # A new one each time: two threads cannot share one, and 10 µs are little beside what it does.
    block: bytes = zstandard.ZstdCompressor(level=level).compress(records)
    return block


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


def pieces(kind: int, block: bytes, bytes_max: int) -> Iterator[bytes]:
    """What `decompress` gives, opened piece by piece: none is held longer than until the next.

    A piece is 256 KiB, or what 512 octets of zstd are, 16 MiB at most; raw snappy, which never grows more than 21
    times, has only one.
    """
    make = {GZIP: _gzip_pieces, LZ4: _lz4_pieces, ZSTD: _zstd_pieces}.get(kind, _snappy_pieces)
    room = bytes_max
    try:
        for piece in make(block, bytes_max):
            room -= len(piece)
            if room < 0:
                raise _too_large(bytes_max)
            yield piece
    except CorruptBatch:
        raise
    except Exception as error:  # noqa: BLE001 - as in `decompress`
        raise CorruptBatch(f"a compressed batch cannot be opened: {error}") from None


def _gzip_pieces(block: bytes, _: int) -> Iterator[bytes]:
    inflated = zlib.decompressobj(_GZIP_WINDOW)
    while not inflated.eof:
        piece = inflated.decompress(block, PIECE_BYTES)
        block = inflated.unconsumed_tail
        if not piece and not block:
            break
        yield piece
    if not inflated.eof or inflated.unused_data:
        raise CorruptBatch("a gzip block ends early, or is followed by something")


def _lz4_pieces(block: bytes, _: int) -> Iterator[bytes]:
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    while not frame.eof and (block or not frame.needs_input):
        piece: bytes = frame.decompress(block, max_length=PIECE_BYTES)
        block = b""
        yield piece
    if not frame.eof or frame.unused_data:
        raise CorruptBatch("an lz4 frame ends early, or is followed by something")


def _zstd_pieces(block: bytes, bytes_max: int) -> Iterator[bytes]:
    import zstandard

    if zstandard.frame_content_size(block) > bytes_max:
        raise _too_large(bytes_max)
    frame = zstandard.ZstdDecompressor(max_window_size=OPENED_BYTES_MAX).decompressobj()
    position = 0
    while not frame.eof and position < len(block):
        parts, size = [], 0
        while not frame.eof and position < len(block) and size < PIECE_BYTES:
            parts.append(frame.decompress(block[position : position + ZSTD_INPUT_BYTES]))
            position += ZSTD_INPUT_BYTES
            size += len(parts[-1])
        yield b"".join(parts)
    if not frame.eof or frame.unused_data or position < len(block):
        raise CorruptBatch("a zstd frame ends early, or is followed by something")


def _snappy_pieces(block: bytes, bytes_max: int) -> Iterator[bytes]:
    if block.startswith(_XERIAL):
        yield from _xerial_blocks(block, bytes_max)
    else:
        yield _snappy_block(block, bytes_max)


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"a compressed batch opens to more than {bytes_max} octets")


def _gzip(block: bytes, bytes_max: int) -> bytes:
    inflated = zlib.decompressobj(_GZIP_WINDOW)
    plain = inflated.decompress(block, bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    if not inflated.eof or inflated.unused_data:
        raise CorruptBatch("a gzip block ends early, or is followed by something")
    return plain


def _snappy(block: bytes, bytes_max: int) -> bytes:
    if not block.startswith(_XERIAL):
        return _snappy_block(block, bytes_max)
    return b"".join(_xerial_blocks(block, bytes_max))


def _xerial_blocks(block: bytes, bytes_max: int) -> Iterator[bytes]:
    count = 0
    position, room = _XERIAL_HEADER_SIZE, bytes_max
    while position < len(block):
        if count == _XERIAL_BLOCKS_MAX:
            raise CorruptBatch(f"a snappy batch has more than {_XERIAL_BLOCKS_MAX} blocks")
        size = int.from_bytes(block[position : position + 4], "big")
        position += 4
        if not size or position + size > len(block):
            raise CorruptBatch("a snappy block reaches behind its batch")
        plain = _snappy_block(block[position : position + size], room)
        yield plain
        count += 1
        room -= len(plain)
        position += size


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
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    plain: bytes = frame.decompress(block, max_length=bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    if not frame.eof or frame.unused_data:
        raise CorruptBatch("an lz4 frame ends early, or is followed by something")
    return plain


def _zstd(block: bytes, bytes_max: int) -> bytes:
    import zstandard

    if zstandard.frame_content_size(block) > bytes_max:
        raise _too_large(bytes_max)
    # The window is memory as well, and may be larger than what is in the frame.
    frames = zstandard.ZstdDecompressor(max_window_size=OPENED_BYTES_MAX)
    with frames.stream_reader(block, read_across_frames=False) as reader:
        plain = reader.read(bytes_max + 1)
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    return plain
