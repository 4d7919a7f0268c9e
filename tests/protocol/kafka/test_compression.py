"""Compressed batches: what is made is opened again, by others as well, and nothing hostile takes memory or time."""

import gzip
import resource
import struct
import subprocess
import sys

import cramjam
import lz4.frame
import pytest
import zstandard
from aiokafka.record.default_records import DefaultRecordBatch
from kafka.record.default_records import DefaultRecordBatch as KafkaPythonBatch
from steps import lines_of

from protocol.kafka.compression import (
    CHANGED_BYTES_MAX,
    TooLarge,
    compress,
    decompress,
    open_batch,
    packed,
    recompressed,
    without,
)
from protocol.kafka.records import (
    GZIP,
    LZ4,
    NO_COMPRESSION,
    SNAPPY,
    ZSTD,
    CorruptBatch,
    check_batch,
    encode_batch,
    parse_header,
    render_record,
)

KINDS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
LEVELS = {GZIP: (-1, 1, 9), SNAPPY: (None,), LZ4: (1, 9, 12, 17), ZSTD: (-131072, -5, 3, 12, 22)}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
MIB = 1 << 20
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)


def event(number):
    return b'{"event":"order.created","id":%d,"customer":"c-%d","currency":"EUR"}' % (number, number * 7919 % 1000)


def plain_batch(count=50, **of_batch):
    """A batch of events, each with a key, a header, and a time of its own."""
    records = b"".join(
        render_record(delta, event(delta), b"k%d" % delta, ((b"n", b"%d" % delta),), delta) for delta in range(count)
    )
    octets = encode_batch(
        1000,
        count - 1,
        count,
        records,
        leader_epoch=3,
        base_timestamp_ms=5000,
        max_timestamp_ms=5000 + count,
        **of_batch,
    )
    return octets, parse_header(octets)


def read(octets):
    header = parse_header(octets)
    check_batch(octets, 0, header)
    return list(open_batch(octets, 0, header))


@kinds
def test_what_is_made_is_opened(kind):
    """At every level that a topic may name, whatever the size."""
    for level in LEVELS[kind]:
        for size in (0, 1, 100, 70_000, 300_000):
            records = (b"".join(map(event, range(5000))))[:size]
            block = compress(kind, records, level)
            assert decompress(kind, block, size) == records
            if size > 1000 and level != -131072:  # Which hardly tries.
                assert len(block) < size / 2


def test_a_window_larger_than_what_is_in_it():
    """Clients that stream do not say the size, and ask for a window of megabytes whatever it is."""
    block = unsized_zstd(1000)
    assert zstandard.get_frame_parameters(block).window_size > MIB
    assert decompress(ZSTD, block, MIB) == bytes(1000)


@pytest.mark.parametrize(
    ("reader", "kind"),
    [(DefaultRecordBatch, kind) for kind in KINDS.values()]
    + [(KafkaPythonBatch, kind) for kind in KINDS.values() if kind != SNAPPY],  # For which it wants another library.
)
def test_clients_open_it(reader, kind):
    """Two Python clients read what was compressed here, and check its checksum."""
    octets, header = plain_batch()
    batch = reader(recompressed(octets, header, kind, None))
    assert batch.validate_crc()
    assert [(one.offset, one.key, bytes(one.value)) for one in batch] == [
        (1000 + n, b"k%d" % n, event(n)) for n in range(50)
    ]


@kinds
@pytest.mark.parametrize("before", [NO_COMPRESSION, *KINDS.values()])
def test_a_batch_in_another_compression(kind, before):
    """Everything but the compression stays: header and records."""
    octets, header = plain_batch()
    if before:
        octets = recompressed(octets, header, before, None)
        header = parse_header(octets)
    changed = recompressed(octets, header, kind, None)
    after = parse_header(changed)
    assert after.attributes == kind
    assert after._replace(batch_length=0, crc=0, attributes=0) == header._replace(batch_length=0, crc=0, attributes=0)
    assert read(changed) == read(octets)
    assert recompressed(changed, after, NO_COMPRESSION, None) == plain_batch()[0]


def test_other_bits_of_the_attributes_stay():
    """LogAppendTime, for one, stands beside the compression."""
    octets, header = plain_batch(attributes=0x08)
    assert parse_header(recompressed(octets, header, ZSTD, None)).attributes == 0x08 | ZSTD


@pytest.mark.parametrize("kind", [NO_COMPRESSION, *KINDS.values(), None])
def test_a_batch_without_some(kind):
    """Those that stay stand at their offsets, octet for octet, with a gap where the others were."""
    octets, header = plain_batch()
    gone = {1000, 1007, 1049}
    kept = without(octets, 0, header, gone, kind)
    assert read(kept) == [record for record in read(octets) if record.offset not in gone]
    assert parse_header(kept).last_offset_delta == 49
    assert parse_header(kept).attributes == (kind or NO_COMPRESSION)


def test_what_compression_does_not_make_smaller_stays_as_it_is():
    """And so does what is too large to be compressed on the loop."""
    assert packed(GZIP, None, b"x") == (NO_COMPRESSION, b"x")
    large = bytes(CHANGED_BYTES_MAX + 1)
    assert packed(ZSTD, None, large) == (NO_COMPRESSION, large)
    kind, block = packed(ZSTD, 22, large[1:])
    assert kind == ZSTD
    assert decompress(ZSTD, block, CHANGED_BYTES_MAX) == large[1:]


def test_a_batch_that_opens_to_much_is_not_recompressed():
    """It would hold the loop; it is stored as it came."""
    records = render_record(0, bytes(2 * CHANGED_BYTES_MAX))
    block = compress(GZIP, records)
    octets = encode_batch(0, 0, 1, block, leader_epoch=0, base_timestamp_ms=0, max_timestamp_ms=0, attributes=GZIP)
    assert recompressed(octets, parse_header(octets), ZSTD, None) is None


def unsized_zstd(size):
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(bytes(size)) + compressor.flush()


def varint(number):
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*octets, number))


def in_xerial(*blocks):
    return XERIAL + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)


BOMBS = {
    "gzip": (GZIP, lambda size: gzip.compress(bytes(size))),
    "snappy": (SNAPPY, lambda size: bytes(cramjam.snappy.compress_raw(bytes(size)))),
    "snappy, in blocks": (SNAPPY, lambda size: in_xerial(
        *[bytes(cramjam.snappy.compress_raw(bytes(size // 64)))] * 64)),
    "lz4": (LZ4, lambda size: lz4.frame.compress(bytes(size))),
    "lz4, size not said": (LZ4, lambda size: lz4.frame.compress(bytes(size), store_size=False)),
    "zstd": (ZSTD, lambda size: zstandard.compress(bytes(size))),
    "zstd, size not said": (ZSTD, unsized_zstd),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_opens_to_too_much(bomb):
    """It is an error, found before the memory is taken that it asks for."""
    kind, make = BOMBS[bomb]
    block = make(128 * MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge):
        decompress(kind, block, 8 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_bomb_in_a_process_that_may_not_grow():
    """64 MiB, the bound for whoever reads a batch, are all that is taken, whatever is inside: in 400 MB of address
    space, libraries and all, every kind is refused and none fails for want of memory."""
    program = (
        "import resource, sys, gzip, cramjam, lz4.frame, zstandard\n"
        "from protocol.kafka.compression import OPENED_BYTES_MAX, TooLarge, decompress\n"
        "blocks = [(int(line.split()[0]), bytes.fromhex(line.split()[1])) for line in sys.stdin]\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)\n"
        "for kind, block in blocks:\n"
        "    try:\n"
        "        decompress(kind, block, OPENED_BYTES_MAX)\n"
        "    except TooLarge:\n"
        "        print('refused')\n"
    )
    names = [name for name in BOMBS if not name.startswith("snappy")]  # Theirs are megabytes.
    lines = "\n".join(f"{BOMBS[name][0]} {BOMBS[name][1](128 * MIB).hex()}" for name in names)
    done = subprocess.run([sys.executable, "-c", program], input=lines, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused"] * len(names), done.stderr


HOSTILE = {
    "gzip, many members": (GZIP, lambda: gzip.compress(b"") * 50_000),
    "gzip, half": (GZIP, lambda: gzip.compress(bytes(1000))[:-9]),
    "gzip, no more than its head": (GZIP, lambda: gzip.compress(b"")[:10]),
    "snappy, a lying size": (SNAPPY, lambda: varint(60 * MIB) + b"\x00a"),
    "snappy, a size that does not end": (SNAPPY, lambda: b"\xff" * 40),
    "snappy, nothing": (SNAPPY, lambda: b""),
    "snappy, a lying block": (SNAPPY, lambda: in_xerial(varint(60 * MIB) + b"\x00a")),
    "snappy, a block behind the end": (SNAPPY, lambda: XERIAL + b"\x7f\xff\xff\xff" + bytes(100)),
    "snappy, a negative block": (SNAPPY, lambda: XERIAL + b"\xff\xff\xff\xff" + bytes(100)),
    "snappy, an empty block": (SNAPPY, lambda: XERIAL + bytes(400_000)),
    "snappy, many blocks": (SNAPPY, lambda: in_xerial(*[bytes(cramjam.snappy.compress_raw(b"a"))] * 150_000)),
    "snappy, a cut block": (SNAPPY, lambda: XERIAL + b"\x00\x00"),
    "lz4, many frames": (LZ4, lambda: lz4.frame.compress(b"") * 50_000),
    "lz4, half": (LZ4, lambda: lz4.frame.compress(bytes(1000))[:-5]),
    "lz4, a lying size": (LZ4, lambda: lz4.frame.compress(bytes(1000), store_size=True)[:6] + b"\x7f" * 20),
    "zstd, no frame": (ZSTD, lambda: b"\x28\xb5\x2f\xfd"),
    "zstd, a window of gigabytes": (ZSTD, lambda: b"\x28\xb5\x2f\xfd\x00\xff" + bytes(50)),
    "zstd, something else": (ZSTD, lambda: b"nothing of the kind"),
}  # fmt: skip


LINES_MAX = {"snappy, many blocks": 400_000}
"""Of Python, for what is no batch: some ten, except where a limited number of blocks is opened first."""


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_none(what):
    """One kind of error, soon, and no more memory than the bound."""
    kind, make = HOSTILE[what]
    block = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def refused():
        with pytest.raises(CorruptBatch):
            decompress(kind, block, 64 * MIB)

    assert lines_of(refused) < LINES_MAX.get(what, 1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
