"""A log that is cut back while its frames and checkpoints are on their way (KIP-101: a follower drops what a leader of
a later epoch does not have)."""

import os
import random

import pytest
from replica_lives import Life
from sim_disk import SimDisk

from broker.log import checkpoint, extents, sealing
from broker.log.recovery import open_store
from protocol.kafka.records import render_record
from tests.log.store_world import run_checkpoint

LIVES = int(os.environ.get("JACKALOPE_TRUNCATION_LIVES", "60"))


class Run:
    """A store with one log; `restart` is its next run, after a power cut."""

    def __init__(self, disk=None):
        self.disk = disk or SimDisk(random.Random(1).randrange)
        self.store = open_store(self.disk, self.disk.new_uuid)
        if not self.store.logs:
            self.store.create_log(durable=True)
            self.store.flush()
        [self.log] = self.store.logs.values()

    def append(self, *values):
        for value in values:
            self.log.append(render_record(0, value), 1, 0)

    def offsets(self):
        return [header.base_offset for header, _, _ in self.log.read(0)]

    def checkpoint(self):
        run_checkpoint(self.store)

    def restart(self):
        self.disk.power_cut()
        return Run(self.disk)


def test_a_frame_on_its_way_does_not_count_what_was_cut_meanwhile():
    """Offsets 3 to 5 are cut while their frame is written; others take their places, which are in memory only."""
    run = Run()
    run.append(*[b"old"] * 6)
    cut = run.store.cut()
    cut.write.write()
    run.log.truncate(3)
    run.append(*[b"new"] * 5)
    cut.write.flush()
    run.store.finish(cut)
    assert (run.log.next_offset, run.log.synced_offset) == (8, 3)
    run.store.flush()
    assert run.log.synced_offset == 8
    run = run.restart()
    assert run.log.next_offset == 8
    assert run.offsets()[:3] == [0, 1, 2]
    assert run.log.truncated_to is None


@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("how", ["settled", "truncated"])
def test_what_a_checkpoint_was_to_carry_goes_meanwhile(how, step, monkeypatch):
    """Whenever that happens, its file has no empty append, and the next runs find the log as it was."""
    run = Run()
    run.append(*[b"x"] * 3)
    run.store.flush()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
        run.checkpoint()  # Into a segment.
    run.append(*[b"x"] * 2)
    run.store.flush()
    for number, job in enumerate(checkpoint.Checkpoint(run.store).steps(), 1):
        if job:
            job()
        run.store.flush()
        if number == step:
            run.log.settle(3, 5) if how == "settled" else run.log.truncate(3)
            run.append(b"y")
            run.store.flush()
    expected = [0, 1, 2, 5] if how == "settled" else [0, 1, 2, 3]
    for _ in range(3):
        run = run.restart()
        assert all(one.size for one in run.log.extents)
        assert run.offsets() == expected
        run.append(b"y")
        expected.append(expected[-1] + 1)
        run.store.flush()
        run.checkpoint()
        assert run.offsets() == expected


@pytest.mark.parametrize("is_settled", [False, True])
def test_what_a_segment_has_behind_a_cut_may_be_anything(is_settled, monkeypatch):
    """A checkpoint that was cut off while it wrote there leaves old octets beside new ones, sector by sector; whether
    the batch before the cut is there, or was settled and left out."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    run = Run()
    for value in (b"a", b"b", b"c"):
        run.append(value)
        run.store.flush()
    if is_settled:
        run.log.settle(1, 2)
    run.checkpoint()
    run.log.truncate(2)
    run.append(b"y")
    run.store.flush()
    [segment] = run.log.segments
    inode = run.disk.files[segment.name]
    assert segment.size < len(inode.data)
    inode.data[segment.size :] = b"\xff" * (len(inode.data) - segment.size)
    inode.synced = bytes(inode.data)
    for _ in range(2):
        run = run.restart()
        assert run.offsets() == ([0, 2] if is_settled else [0, 1, 2])
        run.checkpoint()


@pytest.mark.parametrize("seeds", range(0, LIVES, 20))
def test_many_lives_of_replicas(seeds, monkeypatch):
    """Twenty each (`make truncation`: 5,000 in all), of many crashes, checkpoints and truncations anywhere."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 700)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 2000)
    monkeypatch.setattr(extents, "EXTENT_BYTES_MAX", 1200)
    seals = seeds % 40 > 0
    if seals:
        monkeypatch.setattr(sealing, "STAY_BYTES_MIN", 400)
        monkeypatch.setattr(sealing, "RUN_BYTES_MIN", 60)
        monkeypatch.setattr(sealing, "WASTE_MAX", 1.0)
        monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    lives = [Life(seed).run() for seed in range(seeds, seeds + 20)]
    assert sum(life.crashes for life in lives) > 40
    assert sum(life.truncations for life in lives) > 100
    assert sum(life.deep for life in lives) > (0 if seals else 10), "no segment was cut"
