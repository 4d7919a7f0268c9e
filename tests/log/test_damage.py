"""Damaged files of a real directory: cut at every octet, one bit flipped in every octet. Never wrong contents.

What may be missing is the end of the journal, which looks the same torn and damaged; everything else is found out.
"""

import contextlib
import itertools
import os

import pytest

from broker.log import checkpoint, journal, sealing
from broker.log.disk import RealDisk
from broker.log.errors import Corrupt
from broker.log.recovery import open_store
from protocol.kafka.records import parse_header, render_record
from tests.log.store_world import run_checkpoint, seen

pytestmark = pytest.mark.usefixtures("no_syncs")

BATCH_RECORDS = 4


class Directory:
    """A data directory whose files are put back, damaged, again and again."""

    def __init__(self, root):
        self.root = root
        self.uuids = itertools.count(1)
        self.originals = {}

    def open(self):
        return open_store(RealDisk(self.root), lambda: next(self.uuids).to_bytes(16, "big"))

    def close(self):
        """As the end of a process does it, also of one that has refused to start: no file is open any more.

        The numbers of files are theirs until they are collected, so those get another file.
        """
        with open(os.devnull, "rb") as null:
            for handle in os.listdir("/proc/self/fd"):
                with contextlib.suppress(FileNotFoundError):  # What has listed them.
                    name = os.readlink(f"/proc/self/fd/{handle}")
                    if name == f"{self.root}/lock":
                        os.close(int(handle))
                    elif name.startswith(str(self.root)):
                        os.dup2(null.fileno(), int(handle), inheritable=False)

    def keep(self):
        """Remember every file as it is now."""
        self.originals = {
            str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()
        }

    def restore(self, name, octets):
        """All files as they were, but one, always the same."""
        for path in self.root.rglob("*.*"):
            if str(path.relative_to(self.root)) not in self.originals:
                path.unlink()
        for other, original in {**self.originals, name: octets}.items():
            path = self.root / other
            # Others are only cut and removed by recovery, so a size tells whether one is as it was.
            if other in (name, journal.BEGUN) or not path.exists() or path.stat().st_size != len(original):
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(original)

    def contents(self):
        """What a store finds, read to its end: (logs, catalog). Raises Corrupt."""
        try:
            return contents(self.open())
        finally:
            self.close()


def contents(store):
    model = seen(store)
    return model.logs, model.catalog


def append(log, values):
    log.append(b"".join(render_record(delta, value) for delta, value in enumerate(values)), len(values), 0)


def flips(octets):
    """(position, the octets with one bit flipped there); the bit wanders, so all of a number's are met."""
    for position in range(len(octets)):
        damaged = bytearray(octets)
        damaged[position] ^= 1 << (position * 5 + position // 8) % 8
        yield position, bytes(damaged)


@pytest.fixture
def journaled(tmp_path):
    """(directory, its journal's name, [(end of a frame in that file, what is there from then on)])."""
    directory = Directory(tmp_path / "data")
    store = directory.open()
    logs = [store.create_log(durable=True) for _ in range(2)]
    states = []

    def flush():
        # The frame of the run's beginning stands before the first of these.
        store.flush()
        states.append((store.journal.end, contents(store)))

    states.append((store.journal.end, ({}, {})))
    flush()
    for number in range(2):
        for log in logs:
            append(log, [b"%d.%d.%d" % (log.number, number, index) for index in range(2)])
        store.put(b"key%d" % number, b"value%d" % number)
        flush()
    logs[0].settle(1, 2)
    append(logs[1], [b"moved"])
    store.delete(b"key0")
    store.put(b"key1", b"other")
    flush()
    directory.close()
    directory.keep()
    return directory, journal.file_name(0), states


def test_a_journal_cut_anywhere_opens_with_the_whole_frames_before(journaled):
    directory, name, states = journaled
    original = directory.originals[name]
    assert states[-1][0] == len(original)
    handles = len(os.listdir("/proc/self/fd"))
    for size in range(len(original) + 1):
        directory.restore(name, original[:size])
        expected = [state for end, state in states if end <= size]
        if expected:
            assert directory.contents() == expected[-1], f"cut at {size}"
        else:
            # The frame of the run's beginning: it was synced before anything was promised.
            with pytest.raises(Corrupt, match="it was synced before the broker went on"):
                directory.contents()
            assert (directory.root / name).read_bytes() == original[:size], "evidence was changed"
    assert len(os.listdir("/proc/self/fd")) <= handles


def test_a_journal_cut_anywhere_in_its_reserved_room(journaled):
    """What was not written reads as zeros: the whole frames are there, and zeros alone are no torn tail."""
    directory, name, states = journaled
    original = directory.originals[name]
    for size in range(len(original) + 1):
        directory.restore(name, original[:size] + bytes(len(original) - size + 1000))
        # A frame that ends in zeros is whole without them.
        whole = [one for one in states if not original[size : one[0]].strip(b"\0")]
        if not whole:
            with pytest.raises(Corrupt, match="synced before"):
                directory.contents()
            continue
        before, expected = whole[-1]
        try:
            store = directory.open()
            assert contents(store) == expected, f"cut at {size}"
            assert store.recovered.cut_bytes == len(original[before:size].rstrip(b"\0"))
        finally:
            directory.close()


def test_a_flipped_bit_in_the_journal_is_refused_or_in_the_last_frame(journaled):
    """Every frame but the last is vouched for by one behind it, written when it had been synced."""
    directory, name, states = journaled
    original = directory.originals[name]
    last = states[-2][0]
    for position, damaged in flips(original):
        directory.restore(name, damaged)
        if position < last:
            with pytest.raises(Corrupt, match="synced before"):
                directory.contents()
            assert (directory.root / name).read_bytes() == damaged, "evidence was changed"
        else:
            assert directory.contents() == states[-2][1], f"bit at {position}"


@pytest.fixture
def checkpointed(tmp_path, monkeypatch):
    """(directory with a checkpoint, a segment, a carried log and a journal behind; what is in it)."""
    return with_checkpoint(tmp_path, monkeypatch)


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """The same with a sealed file instead of the segment."""
    monkeypatch.setattr(sealing, "STAY_BYTES_MIN", 400)
    monkeypatch.setattr(sealing, "RUN_BYTES_MIN", 0)
    monkeypatch.setattr(sealing, "WASTE_MAX", 9)
    return with_checkpoint(tmp_path, monkeypatch)


def with_checkpoint(tmp_path, monkeypatch):
    """(directory with a checkpoint, a segment, a carried log and a journal behind; what is in it)."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 400)
    directory = Directory(tmp_path / "data")
    store = directory.open()
    large, small = (store.create_log(durable=True) for _ in range(2))
    for number in range(4):
        append(large, [b"large %d.%d" % (number, index) for index in range(BATCH_RECORDS)])
    append(small, [b"small %d" % index for index in range(3)])
    store.put(b"key", b"value")
    store.flush()
    # A gap inside of the segment: the second batch is settled and copied nowhere.
    large.settle(BATCH_RECORDS, 2 * BATCH_RECORDS)
    large.settle(1, 2)
    store.flush()
    run_checkpoint(store)
    append(small, [b"behind"])
    store.flush()
    expected = contents(store)
    directory.close()
    directory.keep()
    return directory, expected


def only(directory, start):
    [name] = [name for name in directory.originals if name.startswith(start)]
    return name


def ends(original):
    """(size, the file cut short there), for each."""
    return ((size, original[:size]) for size in range(len(original)))


def each_is_refused(directory, name, damages):
    """A start refuses the file with each of the damages, and changes nothing."""
    for position, damaged in damages:
        directory.restore(name, damaged)
        with pytest.raises(Corrupt):
            directory.contents()
        assert (directory.root / name).read_bytes() == damaged, f"evidence at {position} was changed"


def test_a_damaged_checkpoint_is_refused(checkpointed):
    """A bit anywhere, and an end anywhere; nothing of it may look like a torn tail."""
    directory, expected = checkpointed
    name = only(directory, "checkpoint-")
    original = directory.originals[name]
    assert directory.contents() == expected
    each_is_refused(directory, name, itertools.chain(flips(original), ends(original)))


def test_a_segment_that_is_too_short_is_refused(checkpointed):
    """Wherever it ends."""
    directory, expected = checkpointed
    name = only(directory, "logs/")
    original = directory.originals[name]
    each_is_refused(directory, name, ends(original))
    directory.restore(name, original + b"behind what the checkpoint promised")
    assert directory.contents() == expected


@pytest.mark.parametrize("start", ["journal/00000000000000000000.journal", "journal/00000000000000000000-00001.index"])
def test_a_sealed_file_or_an_index_that_is_too_short_is_refused(sealed, start):
    """Wherever it ends."""
    directory, expected = sealed
    name = only(directory, start)
    assert directory.contents() == expected
    each_is_refused(directory, name, ends(directory.originals[name]))


def test_a_flipped_bit_in_an_index_is_refused(sealed):
    """Anywhere in it; nothing is changed."""
    directory, _ = sealed
    name = only(directory, "journal/00000000000000000000-00001.index")
    each_is_refused(directory, name, flips(directory.originals[name]))


def test_a_flipped_bit_in_a_sealed_file_is_told_or_harmless(sealed):
    """No record comes back changed or at another offset, or not at all without an error."""
    directory, expected = sealed
    name = only(directory, "journal/00000000000000000000.journal")
    for position, damaged in flips(directory.originals[name]):
        directory.restore(name, damaged)
        try:
            assert is_told(directory, expected), f"bit at {position}"
        except Corrupt:
            continue


def is_told(directory, expected):
    """Whether all is there as it was, but for what lies in the gaps that were noted. Raises Corrupt."""
    try:
        store = directory.open()
        logs, catalog = contents(store)
        gaps = {log.number: [range(gap.first, gap.end) for gap in log.gaps] for log in store.logs.values()}
    finally:
        directory.close()
    left = {
        number: {offset: one for offset, one in records.items() if not any(offset in gap for gap in gaps[number])}
        for number, records in expected[0].items()
    }
    return (logs, catalog) == (left, expected[1])


def unnoticed_flips(checkpointed, *, in_base_offsets):
    """The octets of the segment at which a flip gives other contents, and nobody is told."""
    directory, expected = checkpointed
    name = only(directory, "logs/")
    original = directory.originals[name]
    numbers = set()
    at = 0
    while at < len(original):
        numbers.update(range(at, at + 8))
        at += parse_header(original, at).size
    unnoticed = []
    for position, damaged in flips(original):
        if (position in numbers) == in_base_offsets:
            directory.restore(name, damaged)
            try:
                if not is_told(directory, expected):
                    unnoticed.append(position)
            except Corrupt:
                continue
    return unnoticed


def test_a_flipped_bit_in_a_segment_is_refused_or_harmless(checkpointed):
    """No record comes back changed, or not at all without an error. Leader epochs are harmless."""
    assert unnoticed_flips(checkpointed, in_base_offsets=False) == []


def test_a_flipped_bit_in_the_base_offset_of_a_batch_in_a_segment_is_refused(checkpointed):
    """No record comes back at another offset: there it counts as settled, or settles another."""
    assert unnoticed_flips(checkpointed, in_base_offsets=True) == []
