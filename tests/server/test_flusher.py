"""The flusher on a disk whose handles are counted."""

import errno
import random

import pytest
from amqp_harness import InlineWorker
from sim_disk import SimDisk, SimFile

from broker.log.checkpoint import Checkpoint
from broker.log.pledges import Pledge
from broker.log.recovery import open_store
from broker.server.flusher import IDLE_BYTES_MAX, IDLE_MS, RETRY_MS, Flusher
from protocol.kafka.records import render_record


class CountedFile(SimFile):
    """A handle that is one of a few."""

    def close(self):
        self._disk.open_count -= 1


class CountedDisk(SimDisk):
    """Opens `handles_max` files at a time; more are EMFILE."""

    def __init__(self, pick):
        super().__init__(pick)
        self.open_count = 0
        self.handles_max = 1000

    def open(self, name, *, create=False):
        if self.open_count >= self.handles_max:
            raise OSError(errno.EMFILE, "Too many open files", name)
        inode = super().open(name, create=create)._inode
        self.open_count += 1
        return CountedFile(self, inode)


class Told(Pledge):
    """Somebody waits."""

    __slots__ = ()

    def kept(self, committed):
        assert committed


@pytest.fixture
def disk():
    """One with enough handles, to begin with."""
    return CountedDisk(random.Random(1).randrange)


@pytest.fixture
def spaces():
    """What was said about space, in order."""
    return []


@pytest.fixture
def flusher(disk, spaces):
    """A flusher over a store with two segments, one of which is open for reading."""
    store = open_store(disk, disk.new_uuid)

    def never(error):
        raise error

    flusher = Flusher(store, lambda _frame: None, never, spaces.append, InlineWorker)
    logs = [store.create_log(durable=True) for _ in range(2)]
    for log in logs:
        log.append(render_record(0, b"x" * 70_000), 1, 0)
    store.flush()
    for job in Checkpoint(store).steps():
        if job is not None:
            job()
        store.flush()
    for log in logs:
        assert len(list(log.read(0))) == 1
    return flusher


def write_to_a_new_file(flusher):
    """Let the next frame begin a file, and collect what came of it."""
    store = flusher.store
    store.journal.rotate()
    store.put(b"k", b"v")
    frame = store.frame
    store.pledge(Told())
    flusher.turn_ended()
    flusher.collect()
    return frame


def test_handles_of_segments_are_given_back_for_the_journal(flusher, disk, spaces):
    """The broker's own readers never keep the journal from a file; nobody hears of a shortage that it could end."""
    disk.handles_max = disk.open_count
    frame = write_to_a_new_file(flusher)
    assert flusher.store.synced_frame >= frame
    assert (flusher.full, spaces) == (False, [])


def test_handles_that_others_have_are_waited_for(flusher, disk, spaces):
    """Nothing to give back: publishers are told, and the frame is written once a handle is there."""
    flusher.store.handles.close_all()
    disk.handles_max = disk.open_count
    frame = write_to_a_new_file(flusher)
    assert (flusher.full, spaces, flusher.store.synced_frame < frame) == (True, [False], True)
    disk.handles_max += 1
    [log, _] = list(flusher.store.logs.values())[:2]
    assert len(list(log.read(0))) == 1  # A reader was quicker, and has what had become free.
    flusher.tick(RETRY_MS)
    flusher.collect()
    assert flusher.store.synced_frame >= frame
    assert (flusher.full, spaces) == (False, [False, True])


@pytest.mark.parametrize(("octets", "is_idle"), [(100, True), (IDLE_BYTES_MAX // 20, False)])
def test_disk_is_given_back_although_something_is_written_now_and_then(flusher, disk, octets, is_idle):
    """A group that commits, a heartbeat of a sensor: who writes little is idle. Who writes much has no time for it."""
    [log, _] = flusher.store.logs.values()
    log.settle(0, log.next_offset)
    flusher.store.flush()
    segments = {name for name in disk.files if name.startswith("logs/")}
    for _ in range(3 * IDLE_MS // 50):
        flusher.store.put(b"k", b"v" * octets)
        flusher.tick(50)
        flusher.collect()
    assert ({name for name in disk.files if name.startswith("logs/")} < segments) == is_idle
