"""Sealed files: what stays where the journal has written it, how the disk follows, and what is found again."""

import errno
import random

import pytest
from sim_disk import SimDisk

from broker.log import checkpoint, moving, sealing
from broker.log.errors import Corrupt
from broker.log.recovery import open_store
from broker.log.sealed import SealedFile
from broker.log.segment import Segment
from protocol.kafka.records import render_record
from tests.log.store_world import COMPACTED, read_all, run_checkpoint

RUN = 40_000
"""Octets of a message here, a run of its own."""


class Case:
    """A store on a simulated disk, and what its logs hold."""

    def __init__(self):
        self.disk = SimDisk(random.Random(1).randrange)
        self.open()

    def open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)

    def restart(self):
        self.store.flush()
        self.disk.power_cut()
        self.open()
        return [self.store.logs[number] for number in sorted(self.store.logs)]

    def logs(self, count):
        return [self.store.create_log(durable=True) for _ in range(count)]

    def append(self, log, count, size=RUN):
        for number in range(count):
            log.append(render_record(0, b"%08d" % number + bytes(size)), 1, 0)
            self.store.flush()

    def checkpoint(self, fail_at=None, *, done=False):
        return run_checkpoint(self.store, fail_at, done=done)

    @property
    def size(self):
        """What is on the disk but the newest file of the journal."""
        newest = max(name for name in self.disk.files if name.endswith(".journal"))
        return sum(len(inode.data) for name, inode in self.disk.files.items() if name != newest)

    def kept(self):
        return sum(one.size for log in self.store.logs.values() for one in log.extents)


def kinds(log):
    return [type(one.source) for one in log.extents]


def names(case, end):
    return [name for name in case.disk.files if name.endswith(end)]


def test_large_runs_stay_and_nothing_is_written_twice():
    """Two logs that are most of a file; a third has too little, and is carried."""
    case = Case()
    one, two, three = case.logs(3)
    for _ in range(10):
        case.append(one, 1)
        case.append(two, 1)
        case.append(three, 1, size=500)
    before = [read_all(log) for log in (one, two, three)]
    case.checkpoint()
    assert kinds(one) == kinds(two) == [SealedFile] * 10
    assert SealedFile not in kinds(three)
    assert not names(case, ".log")
    assert [read_all(log) for log in (one, two, three)] == before
    assert [read_all(log) for log in case.restart()] == before
    case.checkpoint()
    assert len(names(case, ".index")) == 1, "what is in it did not change"
    assert [read_all(log) for log in case.restart()] == before


@pytest.mark.parametrize(
    ("runs", "size", "others"), [(6, RUN, 0), (40, 10_000, 0), (10, RUN, 400_000)], ids=["little", "small", "others"]
)
def test_what_does_not_stay(runs, size, others):
    """A log that has little in the file, or much in small runs; or a file that is full of other things."""
    case = Case()
    (log,) = case.logs(1)
    case.append(log, runs, size)
    if others:
        case.store.put(b"key", bytes(others))
    case.store.flush()
    case.checkpoint()
    assert set(kinds(log)) == {Segment}
    assert not names(case, ".index")
    assert len(names(case, ".journal")) == 1


def test_it_goes_when_all_of_it_is_settled():
    """Also after a restart, and the broker is told that a checkpoint is worth it."""
    case = Case()
    one, two = case.logs(2)
    case.append(one, 10)
    case.append(two, 10)
    case.checkpoint()
    one.settle(0, 10)
    case.store.flush()
    assert not case.store.has_dead_segments
    _, two = case.restart()
    two.settle(0, 9)
    case.store.flush()
    assert not case.store.has_dead_segments
    two.settle(9, 10)
    case.store.flush()
    assert case.store.has_dead_segments
    case.checkpoint()
    assert case.size < 1000
    assert not names(case, ".index")


def test_the_reserved_room_is_given_back():
    """The file has what was written, and no room for more."""
    case = Case()
    (log,) = case.logs(1)
    case.append(log, 10)
    case.checkpoint()
    (file,) = case.store.sealed.values()
    assert len(case.disk.files[file.name].data) == file.size < 11 * RUN


def test_the_disk_follows_what_is_kept(monkeypatch):
    """Some of many logs are consumed, others are not: what is left is moved, a checkpoint at a time, to where it is
    together, and a file that is emptied goes."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", RUN)  # They go as a whole.
    case = Case()
    logs = case.logs(4)
    chance = random.Random(7)
    for _ in range(12):
        for log in logs:
            case.append(log, 8)
        for log in logs[1:]:
            log.settle(log.settled.floor, chance.randint(log.settled.floor, log.next_offset))
        case.store.flush()
        before = [read_all(log) for log in logs]
        case.checkpoint()
        assert case.size < 1.35 * case.kept()
        assert [read_all(log) for log in logs] == before
    assert any(Segment in kinds(log) for log in logs)
    assert any(SealedFile in kinds(log) for log in logs)
    assert [read_all(log) for log in case.restart()] == before


def test_one_checkpoint_empties_so_much(monkeypatch):
    """A bounded share of what is written, even when all of it is waste."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    monkeypatch.setattr(sealing, "EMPTY_BYTES_MAX", 3 * RUN)
    case = Case()
    one, two = case.logs(2)
    for _ in range(5):
        case.append(one, 9)
        case.append(two, 9)
        case.checkpoint()
    for start in range(0, 45, 9):
        one.settle(start, start + 8)
        two.settle(start, start + 8)
    before = [read_all(one), read_all(two)]
    left = []
    for _ in range(5):
        case.checkpoint()
        left.append(len(case.store.sealed))
    assert left == [3, 1, 0, 0, 0]
    assert [read_all(one), read_all(two)] == before
    assert [read_all(log) for log in case.restart()] == before


def test_what_was_truncated_does_not_come_back():
    """The index is written anew: what was cut, and settled before that, has its offsets again."""
    case = Case()
    (log,) = case.logs(1)
    case.append(log, 20)
    case.checkpoint()
    log.settle(12, 20)
    case.store.flush()
    case.checkpoint()
    log.truncate(10)
    case.append(log, 10, size=RUN + 1)
    before = read_all(log)
    assert case.restart()[0].next_offset == 20
    case.checkpoint()
    case.checkpoint()
    (log,) = case.restart()
    assert read_all(log) == before


def test_a_topic_becomes_a_compacted_one():
    """Its batches are moved, since only segments are written anew; the index does not have them any more."""
    case = Case()
    one, two = case.logs(2)
    case.append(one, 10)
    case.append(two, 10)
    case.checkpoint()
    one.layout = COMPACTED
    case.append(one, 10)
    before = [read_all(one), read_all(two)]
    case.checkpoint()
    assert set(kinds(one)) == {Segment}
    assert SealedFile in kinds(two)
    logs = case.restart()
    assert SealedFile not in kinds(logs[0])
    assert [log.live_count for log in logs] == [20, 10]
    assert [read_all(log) for log in logs] == before


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("fail_at", range(8))
def test_one_that_is_given_up_forgets_nothing(fail_at, done, crashes, monkeypatch):
    """At whichever job, also when it counts already: a file is sealed, another emptied, the index of a third is written
    anew. Then it all goes with the next checkpoint that comes to its end, or a crash finds what the last one left."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    case = Case()
    one, two, three = case.logs(3)
    case.append(one, 10)
    case.checkpoint()
    case.append(two, 10)
    case.append(three, 10)
    case.checkpoint()
    one.settle(0, 8)
    three.truncate(8)
    case.append(two, 10)
    case.append(three, 2, size=RUN + 1)
    before = [read_all(log) for log in (one, two, three)]
    ended = case.checkpoint(fail_at, done=done)
    assert ended == (fail_at > 6), "all jobs are met"
    assert [read_all(log) for log in (one, two, three)] == before
    if not crashes:
        case.checkpoint()
        assert [read_all(log) for log in (one, two, three)] == before
        files = list(case.store.sealed.values())
        assert len(files) == 2
        assert names(case, ".index") == sorted(name for file in files for name in file.index_names)
        assert len(names(case, ".journal")) == 3
    else:
        steps = checkpoint.Checkpoint(case.store).steps()
        for number, job in enumerate(steps):
            if number == fail_at + 3:
                steps.close()
                break
            if job is not None:
                job()
            case.store.flush()
    assert [read_all(log) for log in case.restart()] == before


def after_restart(case, logs):
    """Whether the logs hold what they held."""
    before = [read_all(log) for log in logs]
    numbers = [log.number for log in logs]
    case.restart()
    return [read_all(case.store.logs[number]) for number in numbers] == before


def test_one_that_was_emptied_and_given_up_may_be_kept(monkeypatch):
    """Of a file that the next checkpoint does not empty after all the index says what is left."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    case = Case()
    one, two, three = case.logs(3)
    case.append(one, 10)
    case.append(two, 10)
    case.checkpoint()
    one.settle(0, 7)
    two.settle(0, 9)
    case.append(one, 3)
    assert not case.checkpoint(4)
    case.append(three, 70)
    case.checkpoint()
    assert after_restart(case, [one, two, three])


def test_a_log_is_truncated_while_its_batches_are_planned(monkeypatch):
    """At any pause: another segment is the last one then, and what stays lies behind it."""
    monkeypatch.setattr(checkpoint, "SLICE_ITEMS", 1)
    for pause in range(14):
        case = Case()
        log, other = case.logs(2)
        for count in (3, 10, 3):
            case.append(log, count)
            case.checkpoint()
        case.append(log, 3)
        for number, job in enumerate(checkpoint.Checkpoint(case.store).steps()):
            if job is not None:
                job()
            if number == pause:
                log.truncate(13)
            case.store.flush()
        assert after_restart(case, [log, other]), f"truncated at pause {pause}"


def test_what_was_settled_in_a_sealed_file_is_in_the_way_of_segments():
    """Since it is told from what is nowhere by nothing but the settled offsets, and those that are kept change."""
    case = Case()
    log, other = case.logs(2)
    case.append(log, 3)
    case.checkpoint()
    case.append(log, 10)
    case.append(other, 10)
    case.checkpoint()
    log.settle(0, 1)
    log.settle(3, 13)
    case.append(log, 3)
    case.checkpoint()
    log.keep_from(log.settled.floor)
    case.store.flush()
    case.checkpoint()
    assert after_restart(case, [log, other])


@pytest.mark.parametrize("settled", [8, 9])
def test_a_segment_without_batches_is_in_the_way(settled, monkeypatch):
    """One that is not settled for an offset that only memory has."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    case = Case()
    log, other = case.logs(2)
    case.append(log, 10)
    case.checkpoint()
    case.append(log, 3)
    case.checkpoint()
    log.skip(1)
    case.append(log, 3)
    case.checkpoint()
    log.settle(10, 13)
    log.settle(14, 17)
    log.settle(0, settled)
    if settled < 9:
        case.append(log, 3)
    case.store.flush()
    case.checkpoint()
    assert after_restart(case, [log, other])


def flip(case, extent):
    """Damage a batch for good."""
    inode = case.disk.files[extent.source.name]
    inode.data[extent.position + 300] ^= 1
    inode.synced = bytes(inode.data)


def test_a_batch_that_is_damaged_as_a_whole_is_in_the_way():
    """And its file stays, since it may be put back from a copy; the octets of nobody else are lost."""
    case = Case()
    log, other = case.logs(2)
    case.append(log, 3)
    case.checkpoint()
    case.append(log, 1, size=300_000)
    case.append(other, 10)
    case.checkpoint()
    place = log.extents[-1]
    flip(case, place)
    assert sorted(read_all(log)) == [0, 1, 2]
    case.append(log, 3)
    other.settle(0, 10)
    for _ in range(3):
        case.store.flush()
        case.checkpoint()
    assert place.source.name in case.disk.files
    assert after_restart(case, [log, other])
    flip(case, place)
    (log, _) = case.restart()
    assert sorted(read_all(log)) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_file_that_cannot_be_emptied_stays(code, monkeypatch):
    """The checkpoint goes on without that: nobody needs it."""
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    case = Case()
    one, two, three = case.logs(3)
    for log in (one, two, three):
        case.append(log, 10)
    case.checkpoint()
    (file,) = case.store.sealed.values()
    for log in (one, two):
        log.settle(0, 9)
    three.settle(0, 8)
    case.append(two, 2)
    before = [read_all(log) for log in (one, two, three)]
    read = moving.Readers.read

    def fail(readers, piece):
        if piece.source is file and two.number not in failed:
            failed.append(two.number)
            raise OSError(code, "no")
        return read(readers, piece)

    failed = []
    with monkeypatch.context() as patch:
        patch.setattr(moving.Readers, "read", fail)
        assert case.checkpoint()
    assert failed
    assert file.base in case.store.sealed
    assert [read_all(log) for log in (one, two, three)] == before
    case.checkpoint()
    assert (file.base in case.store.sealed) == (code == errno.EIO), "only what may work is tried again"
    assert after_restart(case, [one, two, three])


def test_a_topic_that_becomes_compacted_is_moved_a_part_at_a_time(monkeypatch):
    """As much as one checkpoint moves."""
    monkeypatch.setattr(sealing, "EMPTY_BYTES_MAX", 12 * RUN)
    case = Case()
    (log,) = case.logs(1)
    for _ in range(4):
        case.append(log, 10)
        case.checkpoint()
    log.layout = COMPACTED
    left = []
    for _ in range(4):
        case.checkpoint()
        left.append(kinds(log).count(SealedFile))
        assert after_restart(case, [log])
        log = case.store.logs[log.number]
        log.layout = COMPACTED
    assert left == [20, 0, 0, 0]


@pytest.mark.parametrize("end", [".journal", ".index"])
def test_a_file_that_is_gone_is_missed(end):
    """A start says which, and changes nothing."""
    case = Case()
    (log,) = case.logs(1)
    case.append(log, 10)
    case.checkpoint()
    case.store.flush()
    case.disk.power_cut()
    name = min(names(case, end))
    del case.disk.files[name]
    before = sorted(case.disk.files)
    with pytest.raises(Corrupt, match=name):
        case.open()
    assert sorted(case.disk.files) == before


def test_damage_is_a_gap():
    """What lies around a batch that cannot be read is read."""
    case = Case()
    (log,) = case.logs(1)
    case.append(log, 10)
    case.checkpoint()
    place = log.extents[4]
    flip(case, place)
    (log,) = case.restart()
    assert sorted(read_all(log)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [(gap.first, gap.end, gap.place) for gap in log.lost] == [(4, 5, place.source.name)]


def test_a_damaged_file_of_a_compacted_log_stays_and_asks_for_nothing():
    """Else an idle broker would make one checkpoint after another."""
    case = Case()
    log, other = case.logs(2)
    case.append(log, 10)
    case.append(other, 10)
    case.checkpoint()
    flip(case, log.extents[4])
    assert len(read_all(log)) == 9
    log.layout, log.has_waste = COMPACTED, True
    case.store.flush()
    case.checkpoint()
    assert kinds(log).count(SealedFile) == 9
    assert not case.store.has_dead_segments
