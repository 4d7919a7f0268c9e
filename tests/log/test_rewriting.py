"""Segments of which little is left are written anew: what is in them stays, the disk is given back."""

import random

import pytest
from sim_disk import SimDisk

from broker.log import checkpoint, rewriting
from broker.log.recovery import open_store
from protocol.kafka.records import render_record
from tests.log.store_world import COMPACTED, read_all

pytestmark = pytest.mark.usefixtures("small_limits")


class Case:
    """A log of batches of four records, of which one is left, in several segments."""

    def __init__(self):
        self.disk = SimDisk(random.Random(1).randrange)
        self.open()
        self.log = self.store.create_log(durable=True)
        self.log.layout = COMPACTED
        self.append(24)
        self.checkpoint()
        self.settle(0, 96)

    def open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)

    def restart(self):
        self.disk.kill()
        self.open()
        (self.log,) = self.store.logs.values()
        self.log.layout = COMPACTED

    def append(self, count):
        for _ in range(count):
            self.log.append(b"".join(render_record(delta, bytes(60)) for delta in range(4)), 4, 0)
            self.store.flush()  # A run of one frame is moved as one.

    def settle(self, first, end):
        """All but every fourth."""
        for offset in range(first, end, 4):
            self.log.settle(offset, offset + 3)
        self.log.has_waste = True
        self.store.flush()

    def checkpoint(self, *, between=None, fail_at=None):
        """Run one; `between(number of jobs done)` is called after each job."""
        steps = checkpoint.Checkpoint(self.store).steps()
        done = 0
        for job in steps:
            if job is not None:
                if done == fail_at:
                    steps.close()
                    return False
                job()
                done += 1
                if between is not None:
                    between(done)
            self.store.flush()
        return True

    @property
    def segments(self):
        return [name for name in self.disk.files if name.startswith("logs/")]

    def size(self):
        return sum(self.disk.file_size(name) for name in self.segments)

    def only_what_is_in_use(self):
        used = sorted(segment.name for log in self.store.logs.values() for segment in log.segments)
        assert sorted(self.segments) == used
        assert self.size() == sum(segment.size for log in self.store.logs.values() for segment in log.segments)


def test_the_disk_follows_what_is_left():
    """A quarter of the records takes about a third of the disk, in fewer files; offsets and values stay."""
    case = Case()
    before, size, files = read_all(case.log), case.size(), len(case.segments)
    assert sorted(before) == list(range(3, 96, 4))
    case.checkpoint()
    assert read_all(case.log) == before
    assert case.size() < 0.45 * size
    assert len(case.segments) < files
    case.only_what_is_in_use()
    case.restart()
    assert read_all(case.log) == before
    assert case.log.next_offset == 96


def test_what_has_nothing_to_win_is_left_alone():
    """The same files again, also after a restart, which remembers what they were written without."""
    case = Case()
    case.checkpoint()
    names = case.segments
    for _ in range(2):
        case.log.has_waste = True
        case.checkpoint()
        assert case.segments == names
        case.restart()


def test_it_goes_on_growing_and_is_written_anew_again():
    """The last segment takes what comes next, and again most of what is left goes."""
    case = Case()
    for start in (96, 144, 192):
        case.append(12)
        case.checkpoint()
        case.settle(start, start + 48)
        case.checkpoint()
        case.only_what_is_in_use()
        assert sorted(read_all(case.log)) == list(range(3, start + 48, 4))
    for offset in range(3, 240, 4):
        if offset % 16 != 3:
            case.log.settle(offset, offset + 1)
    case.log.has_waste = True
    case.store.flush()
    case.checkpoint()
    case.only_what_is_in_use()
    case.restart()
    assert sorted(read_all(case.log)) == list(range(3, 240, 16))
    assert any(segment.edition > 1 for segment in case.log.segments)


def test_many_small_ones_become_one(monkeypatch):
    """Even where nothing of them is settled any more."""
    monkeypatch.setattr(rewriting, "FILES_MAX", 2)
    case = Case()
    case.checkpoint()
    case.log.has_waste = True
    case.checkpoint()
    before = len(case.segments)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 5000)
    case.log.has_waste = True
    case.checkpoint()
    assert len(case.segments) == 1 < before
    assert sorted(read_all(case.log)) == list(range(3, 96, 4))


@pytest.mark.parametrize("fail_at", range(8))
def test_a_checkpoint_that_is_given_up(fail_at):
    """At whichever job: all is there, for who reads on and after a kill, and the next one gives the disk back."""
    case = Case()
    before = read_all(case.log)
    case.checkpoint(fail_at=fail_at)
    assert read_all(case.log) == before
    case.log.settle(95, 96)
    case.store.flush()
    del before[95]
    case.checkpoint()
    case.only_what_is_in_use()
    assert read_all(case.log) == before
    case.restart()
    assert read_all(case.log) == before


@pytest.mark.parametrize("fail_at", range(8))
def test_a_kill_in_the_middle(fail_at):
    """Whatever was made and not named is removed by the next run; what was named is there."""
    case = Case()
    before = read_all(case.log)
    case.checkpoint(fail_at=fail_at)
    case.restart()
    assert read_all(case.log) == before
    case.log.has_waste = True
    case.checkpoint()
    case.only_what_is_in_use()
    assert read_all(case.log) == before


def test_a_log_that_is_cut_meanwhile():
    """What was written anew is dropped when the log was truncated below its end before it was taken into use."""
    case = Case()
    before = {offset: value for offset, value in read_all(case.log).items() if offset < 8}

    def cut(done):
        if done == 2:  # The first new file is made, and not yet read.
            assert any("-" in name for name in case.segments)
            case.log.truncate(8)

    case.checkpoint(between=cut)
    assert read_all(case.log) == before
    case.log.has_waste = True
    case.checkpoint()
    case.only_what_is_in_use()
    case.restart()
    assert read_all(case.log) == before


def test_a_log_that_is_dropped_meanwhile():
    """Its folder goes, with what was made in it."""
    case = Case()
    case.checkpoint(between=lambda done: done == 2 and case.store.drop_log(case.log))
    case.checkpoint()
    assert case.segments == []


def test_a_full_disk():
    """Without room for new files the checkpoint goes on with the old ones."""
    case = Case()
    before, names = read_all(case.log), case.segments
    opened = case.disk.open

    def full(name, *, create=False):
        if create and name.startswith("logs/"):
            raise OSError(28, "no space")
        return opened(name, create=create)

    case.disk.open = full
    assert case.checkpoint()
    case.disk.open = opened
    assert case.segments == names
    assert read_all(case.log) == before


def test_a_segment_that_is_damaged():
    """It stays as it is, for somebody to look at; what of it can be read is read, and the rest is known as a gap."""
    case = Case()
    names = case.segments
    before = read_all(case.log)
    case.disk.files[names[0]].data[100] ^= 1
    assert case.checkpoint()
    assert names[0] in case.segments
    found = read_all(case.log)
    [gap] = case.log.gaps
    assert "checksum" in gap.what
    assert found == {offset: value for offset, value in before.items() if not gap.first <= offset < gap.end}
    assert len(found) < len(before)


def test_who_is_in_the_middle_reads_on():
    """A reader that began in an old segment gets the rest from the new one, nothing twice and nothing not."""
    case = Case()
    expected = sorted(read_all(case.log))
    batches = case.log.read(0)
    first = next(batches)
    case.checkpoint()
    rest = [batch.header.base_offset for batch in batches]
    assert [first.header.base_offset, *rest] == [offset - 3 for offset in expected]


def test_one_checkpoint_does_not_do_all(monkeypatch):
    """What it reads for this is bounded; the next one goes on."""
    monkeypatch.setattr(rewriting, "REWRITE_BYTES_MAX", 1)
    case = Case()
    sizes = [case.size()]
    while case.log.has_waste:
        case.checkpoint()
        sizes.append(case.size())
    assert len(sizes) > 2
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(read_all(case.log)) == list(range(3, 96, 4))
