"""Logs that other brokers have as well: what a follower appends, what of a frame followers get, what may be settled."""

import random

import pytest
from sim_disk import SimDisk

from broker.log import checkpoint
from broker.log.errors import OutOfPlace, Uncommitted
from broker.log.recovery import open_store
from protocol.kafka.records import CorruptBatch, encode_batch, render_record
from tests.log.store_world import run_checkpoint


class Port:
    """Says how much of a log is committed."""

    def __init__(self, high_watermark=0):
        self.high_watermark = high_watermark


@pytest.fixture
def disk():
    """One that forgets what was not synced."""
    return SimDisk(random.Random(1).randrange)


def opened(disk):
    """(the store, its only log)."""
    store = open_store(disk, disk.new_uuid)
    logs = list(store.logs.values()) or [store.create_log(durable=True)]
    return store, logs[0]


def batch(first, count, epoch, value=b"v"):
    """A batch as another broker has placed it."""
    records = b"".join(render_record(delta, value) for delta in range(count))
    return encode_batch(first, count - 1, count, records, leader_epoch=epoch, base_timestamp_ms=0, max_timestamp_ms=0)


def shape(log):
    """What a log has: (first offset, end, epoch) of each batch."""
    return [(one.base_offset, one.next_offset, one.leader_epoch) for one, _, _ in log.read(0)]


def test_a_follower_has_what_its_leader_has(disk):
    """Batches come verbatim, several at once or one: with their offsets and epochs, whatever the epoch of this run."""
    store, log = opened(disk)
    log.append_replica(batch(0, 2, 4) + batch(2, 1, 6))
    assert [one.octets for one in log.pending] == [batch(0, 2, 4), batch(2, 1, 6)]
    log.append_replica(memoryview(batch(3, 3, 6)))
    assert log.next_offset == 6
    store.flush()
    for _ in range(2):
        assert shape(log) == [(0, 2, 4), (2, 3, 6), (3, 6, 6)]
        assert log.epochs.starts == [(4, 0), (6, 2)]
        assert b"".join(bytes(one.data[one.position :][: one.header.size]) for one in log.read(0)) == (
            batch(0, 2, 4) + batch(2, 1, 6) + batch(3, 3, 6)
        )
        disk.power_cut()
        store, log = opened(disk)


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (batch(4, 1, 9), OutOfPlace),
        (batch(2, 1, 9), OutOfPlace),
        (batch(3, 1, 9) + batch(5, 1, 9), OutOfPlace),
        (batch(3, 1, 9)[:-1], CorruptBatch),
        (batch(3, 1, 9)[:20], CorruptBatch),
        (batch(3, 1, 9) + b"\0", CorruptBatch),
    ],
    ids=["a gap", "again", "a gap behind the first", "cut off", "no header", "more than batches"],
)
def test_what_is_out_of_place_changes_nothing(disk, octets, error):
    store, log = opened(disk)
    log.append_replica(batch(0, 3, 4))
    store.flush()
    with pytest.raises(error):
        log.append_replica(octets)
    assert (log.next_offset, log.epochs.starts, log.pending, store.dirty) == (3, [(4, 0)], [], False)


@pytest.mark.parametrize("how", ["batch", "alone"])
def test_what_is_settled_before_its_frame_is_written_all_the_same(disk, how):
    """Else the epoch that begins with it would begin later after a restart than it does on the leader."""
    store, log = opened(disk)
    log.append(render_record(0, b"a"), 1, 0)
    store.flush()
    disk.kill()
    store, log = opened(disk)
    log.replica = Port(2)  # A follower is told how far its leader is.
    log.render = lambda raw: render_record(0, raw)
    if how == "batch":
        log.append(render_record(0, b"b"), 1, 0)
    else:
        log.append_alone(b"b", 0)
    log.settle_one(1)
    store.flush()
    log.append(render_record(0, b"c"), 1, 0)
    store.flush()
    expected = [(1, 0), (2, 1)]
    assert log.epochs.starts == expected
    disk.power_cut()
    store, log = opened(disk)
    assert log.epochs.starts == expected
    assert log.epochs.end_of(1, log.next_offset) == (1, 1)
    assert (1 in log.settled, 0 in log.settled) == (True, False)


def test_only_what_is_committed_is_settled(disk):
    """A settlement of what a truncation takes away would be one of whatever comes there next."""
    store, log = opened(disk)
    log.replica = Port(2)
    log.append_replica(batch(0, 4, 1))
    store.flush()
    assert (log.high_watermark, log.synced_offset) == (2, 4)
    for settle in (lambda: log.settle(1, 3), lambda: log.settle_one(2)):
        with pytest.raises(Uncommitted, match="the high watermark is 2"):
            settle()
        assert log.settled.count(0, 4) == 0
    log.settle(0, 2)
    log.replica = None
    log.settle(2, 4)
    assert log.settled.floor == 4


def test_a_frame_hands_out_what_it_has_of_replicated_logs(disk):
    """Batches, ranges and returns of one frame each; nothing of other logs, nothing twice, nothing of what is gone."""
    store, log = opened(disk)
    log.replica = Port()
    log.render = lambda raw: render_record(0, raw)
    other, gone = store.create_log(durable=True), store.create_log(durable=True)
    gone.replica = Port()
    other.append(render_record(0, b"x"), 1, 0)
    gone.append(render_record(0, b"x"), 1, 0)
    log.append(render_record(0, b"a"), 1, 0)
    log.extend(render_record(0, b"b") + render_record(1, b"c"), 2, 0, log.open_count(0))
    store.drop_log(gone)
    [one] = cut(store).shipped
    assert (one.log, one.first, one.end, one.settled, one.returns) == (log, 0, 3, [], {})
    assert b"".join(one.octets) == b"".join(bytes(data[at : at + head.size]) for head, data, at in log.read(0))

    log.replica.high_watermark = 3
    log.settle_one(2)
    log.settle(0, 1)
    log.note_return(1, 4)
    other.settle_one(0)
    assert cut(store).shipped == [(log, 3, 3, [], [(0, 1), (2, 3)], {1: 4})]

    log.append_alone(b"d", 0)
    [one] = cut(store).shipped
    [header, data, at] = next(log.read(3))
    assert one == (log, 3, 4, [data[at : at + header.size]], [], {})

    other.append(render_record(0, b"x"), 1, 0)
    assert cut(store).shipped == []


def cut(store):
    """Cut a frame and bring it to the disk."""
    frame = store.cut()
    frame.write.run()
    store.finish(frame)
    return frame


def test_what_follows_from_a_shipment_is_the_same_log(disk):
    """A follower that appends and settles what frames hand out reads as its leader does."""
    leader_store, leader = opened(disk)
    leader.replica = Port()
    follower_disk = SimDisk(random.Random(2).randrange)
    store, follower = opened(follower_disk)
    follower.replica = Port(1 << 40)
    pick = random.Random(3)
    for _ in range(60):
        if pick.random() < 0.3:
            leader.begin_epoch(leader.leader_epoch + 1)
        for _ in range(pick.randrange(4)):
            leader.append(render_record(0, b"%d" % leader.next_offset), 1, 0)
        if leader.high_watermark and pick.random() < 0.7:
            leader.settle_one(pick.randrange(leader.high_watermark))
        if not leader_store.dirty:
            continue
        for one in cut(leader_store).shipped:
            assert one.first == follower.next_offset
            follower.append_replica(b"".join(one.octets))
            for first, end in one.settled:
                follower.settle(first, end)
        store.flush()
        leader.replica.high_watermark = follower.synced_offset
    follower_disk.power_cut()
    store, follower = opened(follower_disk)
    assert shape(follower) == shape(leader)
    assert follower.epochs.starts == leader.epochs.starts
    ends = [log.settled.count(0, leader.next_offset) for log in (leader, follower)]
    assert ends[0] == ends[1] > 0


@pytest.mark.parametrize("when", ["before", "in", "after"])
def test_a_log_that_comes_back_has_its_own_files(disk, when, monkeypatch):
    """Dropped, and made again with its uuid while the old files still wait for a checkpoint, or for the end of one."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    store, log = opened(disk)
    uuid = log.uuid
    for first in range(3):
        log.append_replica(batch(first, 1, 1, b"old"))
    store.flush()
    run_checkpoint(store)
    [old] = [segment.name for segment in log.segments]
    store.drop_log(log)

    def again():
        found = store.create_log(durable=True, uuid=uuid)
        found.append_replica(batch(0, 1, 1, b"new"))
        store.flush()
        assert store.by_uuid[uuid] is found
        return found

    if when == "before":
        log = again()
        run_checkpoint(store)
    else:
        for number, job in enumerate(checkpoint.Checkpoint(store).steps()):
            if job:
                job()
            store.flush()
            if when == "in" and number == 2:
                log = again()
        if when == "after":
            assert old not in disk.files
            log = again()
    for _ in range(3):
        run_checkpoint(store)
        assert [segment.name in disk.files for segment in log.segments] == [True]
        assert [bytes(one.data).count(b"new") for one in log.read(0)] == [1]
        disk.power_cut()
        store, log = opened(disk)
        assert store.by_uuid == {uuid: log}
        assert shape(log) == [(0, 1, 1)]


def test_a_log_that_comes_back_leaves_no_old_files(disk, monkeypatch):
    """Those of its files that it has no use for go with the checkpoint that would have removed the folder."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 1)
    store, log = opened(disk)
    for first in range(3):
        log.append_replica(batch(first, 1, 1))
        store.flush()
    run_checkpoint(store)
    run_checkpoint(store)
    assert len(log.segments) > 1
    store.drop_log(log)
    log = store.create_log(durable=True, uuid=log.uuid)
    log.append_replica(batch(0, 1, 2))
    store.flush()
    run_checkpoint(store)
    assert [name for name in disk.files if name.startswith("logs/")] == [segment.name for segment in log.segments]


@pytest.mark.parametrize("step", range(7))
def test_a_log_that_comes_back_and_goes_again_leaves_nothing(disk, step, monkeypatch):
    """Whenever in a checkpoint that is: the next one removes its folder at the latest."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    store, log = opened(disk)
    log.append_replica(batch(0, 1, 1))
    store.flush()
    run_checkpoint(store)
    store.drop_log(log)
    log = store.create_log(durable=True, uuid=log.uuid)
    store.flush()
    for number, job in enumerate(checkpoint.Checkpoint(store).steps()):
        if job:
            job()
        if number == step:
            store.drop_log(log)
        store.flush()
    assert store.by_uuid == {}
    run_checkpoint(store)
    assert [name for name in (*disk.files, *disk.folders) if name.startswith("logs/")] == []


def test_many_logs_of_one_frame_are_read_of_one_piece(disk):
    """While it is written its parts are joined once, however many read of it."""
    store, log = opened(disk)
    other = store.create_log(durable=True)
    for one in (log, other):
        one.append_replica(batch(0, 1, 1))
    frame = store.cut()
    journal = store.journal
    pieces = []
    read = journal.read
    for one in (log, other):
        [extent] = one.extents
        assert read(extent.position, extent.size) == batch(0, 1, 1)
        pieces.append(journal._flying_payload)
    assert pieces[0] is pieces[1] is not None
    frame.write.run()
    store.finish(frame)
    assert journal._flying_payload is None
    assert shape(other) == [(0, 1, 1)]
