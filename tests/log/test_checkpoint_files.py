"""Which files are there after a checkpoint: those that are in use and no others, however the ones before it ended."""

import random

import pytest
from sim_disk import SimDisk

from broker.log import checkpoint
from broker.log.recovery import open_store
from protocol.kafka.records import render_record
from tests.log.store_world import read_all, run_checkpoint

pytestmark = pytest.mark.usefixtures("small_limits")


class Case:
    """A store with a log of each kind that a checkpoint has something to do with."""

    def __init__(self):
        self.disk = SimDisk(random.Random(1).randrange)
        self.open()
        store = self.store
        self.growing, self.drained, self.dropped = (store.create_log(durable=True) for _ in range(3))
        self.transient, self.passed = (store.create_log(durable=False) for _ in range(2))
        for log in store.logs.values():
            self.append(log, 6)
        self.checkpoint()
        self.append(self.growing, 4)
        for log in (self.drained, self.passed):
            log.settle(0, log.next_offset)
        self.append(self.drained, 1)
        store.drop_log(self.dropped)
        store.flush()

    def open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)

    def append(self, log, count):
        for _ in range(count):
            log.append(render_record(0, bytes(300)), 1, 0)
        self.store.flush()

    def checkpoint(self, fail_at=None, *, done=False):
        return run_checkpoint(self.store, fail_at, done=done)

    def only_what_is_in_use(self):
        store = self.store
        segments = {segment.name for log in store.logs.values() for segment in log.segments}
        assert {name for name in self.disk.files if name.startswith("logs/")} == segments
        assert [name for name in self.disk.files if name.startswith("checkpoint")] == [
            checkpoint.file_name(store.generation)
        ]
        assert [
            name for name in self.disk.files if name.startswith("journal/") and int(name[8:28]) < store.checkpoint_end
        ] == []


def test_what_is_settled_or_dropped_goes_with_the_next():
    """Also what a transient queue had spilled: its disk is given back while it lives."""
    case = Case()
    before = [segment.name for log in (case.drained, case.dropped, case.passed) for segment in log.segments]
    assert set(before) <= set(case.disk.files)
    assert case.checkpoint()
    case.only_what_is_in_use()
    assert not set(before) & set(case.disk.files)
    assert len(read_all(case.transient)) == 6


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("fail_at", range(7))
def test_one_that_is_given_up_forgets_nothing(fail_at, done):
    """At whichever job: what it was to remove, and what it had made, goes with the next that comes to its end."""
    case = Case()
    ended = case.checkpoint(fail_at, done=done)
    assert ended == (fail_at > 5), "all jobs are met"
    case.growing.settle(6, 8)
    case.store.drop_log(case.drained)
    case.checkpoint()
    case.only_what_is_in_use()
    expected = read_all(case.growing)
    assert len(expected) == 8
    case.disk.kill()
    case.open()
    assert read_all(case.store.logs[case.growing.number]) == expected


def test_files_that_were_begun_when_the_disk_was_full():
    """What a copy has made before it failed is in nobody's use; the next checkpoint begins elsewhere."""
    case = Case()
    sync_folder = case.disk.sync_folder

    def full(folder):
        if folder == checkpoint.log_folder(case.growing.uuid):
            raise OSError(28, "no space")
        sync_folder(folder)

    case.disk.sync_folder = full
    with pytest.raises(OSError, match="no space"):
        case.checkpoint()
    case.disk.sync_folder = sync_folder
    case.growing.settle(0, 10)
    case.append(case.growing, 2)
    case.checkpoint()
    case.only_what_is_in_use()
    assert len(read_all(case.growing)) == 2


@pytest.mark.parametrize("fail_at", range(6))
def test_what_a_killed_run_left_goes_with_the_first_of_the_next(fail_at):
    """Whatever job it was killed at."""
    case = Case()
    assert not case.checkpoint(fail_at)
    case.disk.kill()
    case.open()
    case.checkpoint()
    case.only_what_is_in_use()


@pytest.mark.parametrize("when", range(40))
def test_a_log_that_is_dropped_in_the_middle(when, monkeypatch):
    """At any step, also while its batches are copied: nothing of it stays."""
    monkeypatch.setattr(checkpoint, "SLICE_ITEMS", 1)
    case = Case()
    fresh = case.store.create_log(durable=True)
    case.append(fresh, 4)

    def drop():
        for log in (case.growing, fresh):
            case.store.drop_log(log)

    for number, job in enumerate(checkpoint.Checkpoint(case.store).steps()):
        if number == when:
            drop()
        if job is not None:
            job()
        case.store.flush()
    if when > number:
        drop()
    case.checkpoint()
    case.only_what_is_in_use()


def test_an_idle_broker_gives_a_deleted_queues_disk_back():
    """A checkpoint is worth its while as soon as it frees a file, not only when the journal has grown."""
    case = Case()
    case.checkpoint()
    assert not case.store.has_dead_segments
    case.store.drop_log(case.growing)
    assert case.store.has_dead_segments
    case.checkpoint()
    assert not case.store.has_dead_segments
    case.only_what_is_in_use()


def test_a_log_that_had_segments_leaves_no_folder():
    """Neither does it when all of them had gone before it is dropped."""
    case = Case()
    folders = []
    remove_folder = case.disk.remove_folder
    case.disk.remove_folder = lambda folder: (folders.append(folder), remove_folder(folder))
    case.checkpoint()
    case.passed.settle(0, case.passed.next_offset)
    assert not case.passed.segments
    case.store.drop_log(case.passed)
    case.checkpoint()
    assert checkpoint.log_folder(case.passed.uuid) in folders
