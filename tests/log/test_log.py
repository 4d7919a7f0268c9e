"""A log by itself: what is written of messages that a restart drops, and what it costs to know them."""

import random

import pytest
from sim_disk import SimDisk
from steps import lines_of

from broker.log import entries, frames
from broker.log.recovery import open_store
from protocol.kafka.records import encode_batch, encode_one, render_record
from tests.log.store_world import run_checkpoint


@pytest.fixture
def disk():
    """One that forgets what was not synced."""
    return SimDisk(random.Random(1).randrange)


def open_on(disk):
    return open_store(disk, disk.new_uuid)


def append(log, **how):
    return log.append(render_record(0, b"x"), 1, 0, **how)


def written(disk, start):
    """(kind, value) of every entry in the files whose names begin so."""
    found = []
    for name in sorted(name for name in disk.files if name.startswith(start)):
        base = int(name.removeprefix("journal/").removesuffix(".journal")) if start == "journal" else 0
        file = disk.open(name)
        for frame in frames.scan(file.read, base, file.size()):
            found += entries.read_entries(frame.payload)
    return found


def test_a_return_of_what_a_restart_drops_is_written_nowhere(disk):
    """Its offset is given out again, and the next message would begin with its count."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    kept = append(log)
    for offset in (log.skip(1), append(log, volatile=True), kept):
        log.note_return(offset, 2)
    store.flush()
    assert [value for kind, value in written(disk, "journal") if kind == entries.RETURN] == [(log.number, kept, 2)]
    run_checkpoint(store)
    assert [value for kind, value in written(disk, "checkpoint") if kind == entries.RETURN] == [(log.number, kept, 2)]
    disk.kill()
    assert open_on(disk).logs[log.number].returns == {kept: 2}


def test_a_return_of_nothing_is_not_inherited(disk):
    """Such as an older version wrote: behind the end of the log, in the same run or in one before."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    append(log)
    store._catalog_entries += [entries.returned(log.number, log.next_offset, 7)]
    store.flush()
    disk.kill()
    store = open_on(disk)
    log = store.logs[log.number]
    assert log.returns == {}
    append(log)
    store.flush()
    disk.kill()
    assert open_on(disk).logs[log.number].returns == {}


def test_persistent_and_transient_ones_in_turns(disk):
    """A transient one costs the same however many are alive, and one bit of memory and of a checkpoint."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    count = 400_000

    def add(first, end):
        for offset in range(first, end, 2):
            log._add_volatile(offset, offset + 1)

    log.next_offset = 2
    log.settle(0, 2)
    early = lines_of(add, 0, 10_000)
    add(10_000, count - 10_000)
    assert lines_of(add, count - 10_000, count) < 1.5 * early
    assert len(log.volatile.chunks) <= count // 4096 + 1
    log.next_offset = count
    store.flush()
    run_checkpoint(store)
    [state] = [value for kind, value in written(disk, "checkpoint") if kind == entries.STATE]
    assert state.settled.count(0, count) == count // 2 + 1
    assert sum(len(inode.data) for name, inode in disk.files.items() if name.startswith("check")) < count // 4


def test_what_is_settled_is_not_remembered_as_volatile(disk):
    """A queue that keeps up needs no memory for what has passed, and neither does one with a stuck head for long."""
    log = open_on(disk).create_log(durable=True)
    for offset in range(0, 4_000_000, 2000):
        log.next_offset = offset + 1000
        log.skip(1)
        log.settle(0, offset + 1500)
    assert len(log.volatile.chunks) <= 64


def extend(log, values, at_ms=0):
    """Records that share a batch with those before where they may."""
    joined = log.open_count(at_ms)
    log.extend(b"".join(render_record(delta, value) for delta, value in enumerate(values, joined)), len(values), at_ms,
               joined)  # fmt: skip


def shape(log):
    """(first offset, number of records) of each batch."""
    return [(batch.header.base_offset, batch.header.records) for batch in log.read(0)]


def test_a_batch_is_gone_on_with_within_a_frame(disk):
    """By who comes at the same time, until it is read, cut, full, or something else comes between."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    for value in (b"0", b"1"):
        extend(log, [value])
    extend(log, [b"2"], at_ms=50)
    assert shape(log) == [(0, 2), (2, 1)]
    extend(log, [b"3"], at_ms=50)
    append(log)
    log.skip(1)
    extend(log, [b"5"], at_ms=50)
    log.skip(1)
    extend(log, [b"7", b"8"], at_ms=50)
    store.flush()
    extend(log, [b"9"], at_ms=50)
    assert shape(log) == [(0, 2), (2, 1), (3, 1), (4, 1), (6, 1), (8, 2), (10, 1)]


def test_a_batch_does_not_grow_for_ever(disk):
    """Neither in records nor in octets."""
    store = open_on(disk)
    many, large = store.create_log(durable=True), store.create_log(durable=True)
    for _ in range(1500):
        extend(many, [b"x"])
        extend(large, [bytes(1000)])
    assert {count for _, count in shape(many)[:-1]} == {64}
    assert max(batch.header.size for batch in large.read(0)) < 18_000


def test_what_is_settled_before_its_frame_is_written_nowhere(disk):
    """Also of a batch that may still grow."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    store.flush()
    start = store.journal.end
    extend(log, [b"x" * 5000])
    log.settle(0, 1)
    store.flush()
    assert store.journal.end - start < 200
    assert log.live_count == 0


def alone(log, value=b"x"):
    log.render = lambda raw: render_record(0, raw)
    return log.append_alone(value, 5)


def test_what_came_alone_is_rendered_when_its_frame_is_cut(disk):
    """Not before: settled by then, it is written nowhere; else it is a batch as any other would be."""
    store = open_on(disk)
    log, other = store.create_log(durable=True), store.create_log(durable=True)
    store.flush()
    gone = alone(log)
    log.settle_one(gone)
    assert store.cut() is None
    kept = alone(log), alone(other)
    assert kept == (1, 0)
    store.flush()
    found = [value for kind, value in written(disk, "journal") if kind == entries.APPEND]
    assert [one.number for one in found] == [log.number, other.number]
    disk.kill()
    logs = open_on(disk).logs
    assert [[batch.header.base_offset for batch in one.read(0)] for one in logs.values()] == [[1], [0]]


def test_a_return_of_what_came_alone_stands_behind_it(disk):
    """In the same frame: before it, recovery would take it for one of nothing."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    log.note_return(alone(log), 3)
    store.flush()
    disk.kill()
    assert open_on(disk).logs[log.number].returns == {0: 3}


def test_what_comes_behind_goes_on_with_its_batch(disk):
    """One batch in the frame, with both."""
    store = open_on(disk)
    log = store.create_log(durable=True)
    alone(log)
    joined = log.open_count(5)
    log.extend(render_record(joined, b"y"), 1, 5, joined)
    store.flush()
    batches = list(log.read(0))
    assert [(batch.header.base_offset, batch.header.records) for batch in batches] == [(0, 2)]


def test_single_settlements_of_all_logs_are_one_entry(disk):
    """Unless a log has more to say; a log that is gone meanwhile does not matter."""
    store = open_on(disk)
    logs = [store.create_log(durable=True) for _ in range(4)]
    for log in logs:
        append(log), append(log)
    store.flush()
    for log in logs:
        log.settle_one(1)
    store.drop_log(logs[3])
    logs[2].note_return(0, 1)
    logs[2].settle_one(0)
    store.flush()
    each = [value for kind, value in written(disk, "journal") if kind == entries.SETTLE_EACH]
    assert each == [tuple((log.number, 1) for log in logs)]
    disk.kill()
    found = open_on(disk).logs
    assert [(0 in log.settled, 1 in log.settled) for log in found.values()] == [
        (False, True),
        (False, True),
        (True, True),
    ]


def test_one_record_makes_the_same_batch_either_way():
    """The short way to a batch of one, beside the general one."""
    record = render_record(0, b"value", b"key")
    for offset in (0, 7, 1 << 40):
        long = encode_batch(offset, 0, 1, record, leader_epoch=3, base_timestamp_ms=9, max_timestamp_ms=9)
        assert encode_one(offset, record, 3, 9) == long
