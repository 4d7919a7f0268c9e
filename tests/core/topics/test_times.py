"""Offsets by time, against a model that looks at every record; over restarts, before and after marks were kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topic_world import World, batch

from broker.core.topics import times
from broker.core.topics.truncating import truncate

NOW_MS = 1_700_000_000_000
OTHER = ["restart", "crash", "save", "catch up", "a step of it", "delete", "truncate"]
STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4), st.integers(-50, 50)),
    st.tuples(st.sampled_from(OTHER), st.integers(0, 100), st.just(0)),
)


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Marks every few batches, and few of them."""
    monkeypatch.setattr(times, "INTERVAL_BYTES", 200)
    monkeypatch.setattr(times, "MARKS_MAX", 6)
    monkeypatch.setattr(times, "BATCHES_AT_ONCE", 2)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=30), st.lists(st.integers(-60, 60), min_size=1, max_size=6))
def test_against_a_model(steps, asked):
    """The first record at or behind a time, and the one with the largest, whatever was kept or dropped."""
    with World() as world:
        partition = world.partition()
        world.sync()
        written = []  # (offset, time) of every record.
        bases = []
        catching_up = None
        for what, number, ago in steps:
            if what == "append":
                time_ms = NOW_MS + ago
                base = partition.append(batch(number, time_ms), NOW_MS + 1000).base_offset
                bases.append(base)
                written += [(base + delta, time_ms) for delta in range(number)]
                world.sync()
            elif what == "restart":
                catching_up = None
                partition = world.restart(partition)
            elif what == "crash":
                catching_up = None
                world.sync()  # What was cut is gone.
                partition = world.crash(partition)
            elif what == "save":
                world.topics._save(partition)
                world.sync()
            elif what == "catch up":
                list(catching_up or partition.times.catch_up())
            elif what == "a step of it":
                catching_up = catching_up or partition.times.catch_up()
                if next(catching_up, None) is None:
                    catching_up = None
            elif what == "truncate":
                bases = [offset for offset in bases if partition.start_offset <= offset < partition.log.next_offset]
                if bases:
                    offset = bases[number % len(bases)]
                    truncate(world.store, "/", partition, offset)
                    written = [one for one in written if one[0] < offset]
                    bases = [one for one in bases if one < offset]
            else:
                partition.delete_before(min(number, partition.high_watermark))
                world.sync()
        there = [(offset, time_ms) for offset, time_ms in written if offset >= partition.start_offset]
        for ago in asked:
            wanted = next(((time_ms, offset) for offset, time_ms in there if time_ms >= NOW_MS + ago), (-1, -1))
            assert tuple(partition.offset_for(NOW_MS + ago)) == wanted
        latest = max(there, key=lambda one: (one[1], -one[0]), default=(-1, -1))
        assert tuple(partition.offset_for(-3)) == (latest[1], latest[0])


def test_marks_are_kept():
    """After a restart nothing is looked through that was marked before."""
    with World() as world:
        partition = world.partition()
        for number in range(100):
            partition.append(batch(1, NOW_MS + number), NOW_MS + 1000)
        world.sync()
        partition = world.restart(partition)
        reads = []
        log = partition.log
        partition.times._log = Reads(log, reads)
        assert partition.offset_for(NOW_MS + 99).offset == 99
        assert min(reads) > 70  # Six marks at most, so one is that far back.


def test_a_cut_behind_what_is_not_looked_through_yet():
    """What was marked behind that says nothing of what lies before it."""
    with World() as world:
        partition = world.partition()
        partition.append(batch(1, NOW_MS + 50), NOW_MS + 1000)
        world.sync()
        partition = world.crash(partition)
        for _ in range(20):
            partition.append(batch(1, NOW_MS), NOW_MS + 1000)
        world.sync()
        truncate(world.store, "/", partition, 15)
        assert tuple(partition.offset_for(NOW_MS + 10)) == (NOW_MS + 50, 0)


class Reads:
    """A log that notes from where it is read."""

    def __init__(self, log, reads):
        self.log, self.reads = log, reads

    def read(self, offset):
        self.reads.append(offset)
        return self.log.read(offset)

    @property
    def next_offset(self):
        return self.log.next_offset


def test_who_waits_is_woken_for_every_frame():
    """What comes in while a frame is on its way is in the next one, and who waits is told when that is durable too."""
    with World() as world:
        partition = world.partition()
        woken = []

        class Waiter:
            def wake(self, partition):
                woken.append(partition.high_watermark)

        partition.waiters[Waiter()] = None
        partition.append(batch(1, NOW_MS), NOW_MS)
        cut = world.store.cut()
        partition.append(batch(1, NOW_MS), NOW_MS)
        cut.write.run()
        world.store.finish(cut)
        world.store.pledges.committed(cut.frame)
        world.sync()
        assert woken == [1, 2]
