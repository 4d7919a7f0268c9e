"""The store against its model (`store_world`): by hypothesis, which shrinks what it finds, and by many seeds, fast."""

import os
import random

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from broker.log import checkpoint, extents, rewriting, sealing
from broker.log.errors import StorageError
from tests.log.store_world import World

SEEDS = int(os.environ.get("JACKALOPE_STORE_SEEDS", "150"))
picks = st.integers(0, 2**16)
sizes = (0, 10, 300, 1500)
keys = (b"a", b"b", b"queue/x")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """Small enough for everything to happen: full segments, logs too large to be carried, extents to be split."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 700)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 2000)
    monkeypatch.setattr(rewriting, "FILES_MAX", 2)
    monkeypatch.setattr(rewriting, "WRITE_BYTES", 700)
    monkeypatch.setattr(extents, "EXTENT_BYTES_MAX", 1200)


class StoreMachine(RuleBasedStateMachine):
    """Anything a broker may do, in any order."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed):
        self.world = World(seed)

    @rule()
    def create_log(self):
        self.world.create_log()

    @rule(pick=picks, count=st.integers(1, 5), size=st.sampled_from(sizes), volatile=st.booleans())
    def append(self, **chosen):
        self.world.append(**chosen)

    @rule(pick=picks, size=st.sampled_from(sizes), pass_by=st.booleans())
    def append_alone(self, **chosen):
        self.world.append_alone(**chosen)

    @rule(pick=picks, where=picks)
    def settle_one(self, **chosen):
        self.world.settle_one(**chosen)

    @rule(pick=picks, count=st.integers(1, 5), returned=st.integers(0, 2))
    def skip(self, **chosen):
        self.world.skip(**chosen)

    @rule(pick=picks, where=picks, width=st.integers(1, 4))
    def settle(self, **chosen):
        self.world.settle(**chosen)

    @rule(pick=picks)
    def settle_all(self, pick):
        self.world.settle_all(pick)

    @rule(pick=picks, where=picks)
    def keep(self, **chosen):
        self.world.keep(**chosen)

    @rule(pick=picks, where=picks, count=st.integers(1, 9))
    def note_return(self, **chosen):
        self.world.note_return(**chosen)

    @rule(source=picks, into=picks, where=picks)
    def move(self, **chosen):
        self.world.move(**chosen)

    @rule(pick=picks)
    def drop_log(self, pick):
        self.world.drop_log(pick)

    @rule(pick=picks, where=picks)
    def truncate(self, **chosen):
        self.world.truncate(**chosen)

    @rule(key=st.sampled_from(keys), value=st.none() | st.binary(max_size=20))
    def put(self, **chosen):
        self.world.put(**chosen)

    @rule()
    def write(self):
        self.world.begin_write()

    @rule()
    def go_on_writing(self):
        self.world.go_on_writing()

    @rule()
    def begin_checkpoint(self):
        self.world.begin_checkpoint()

    @rule(count=st.integers(1, 8))
    def go_on_with_checkpoint(self, count):
        self.world.go_on_with_checkpoint(count)

    @rule(power=st.booleans(), after=st.none() | st.integers(0, 12), again=st.none() | st.integers(0, 9))
    def crash(self, **chosen):
        self.world.crash(**chosen)

    @rule()
    def stop_in_order(self):
        self.world.stop_in_order()

    @rule()
    def it_reads_back(self):
        self.world.it_reads_back()

    @invariant()
    def it_reads_back_at_every_moment(self):
        if hasattr(self, "world") and self.world.is_watched:
            self.world.it_reads_back()


def test_the_store_comes_back_as_it_was_after_some_frame():
    """Whatever is done to it and however it ends."""
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=40, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def simulate(seed, steps=250, *, compacts=False, seals=False, **of_world):
    """One run of a broker's life, the same for the same seed; returns its world."""
    chance = random.Random(f"life {seed}")
    world = World(seed, compacts=compacts, **of_world)
    more, less = (4, 0.2) if compacts or seals else (1, 1)  # So that there are files of which something is left.
    pick = lambda: chance.randrange(1 << 16)  # noqa: E731 - a name for what each action is given
    actions = [
        (2, world.create_log),
        (
            25 if seals else 25 * more,
            lambda: world.append(pick(), chance.randint(1, 5), chance.choice(sizes), chance.random() < 0.2),
        ),
        (12, lambda: world.append_alone(pick(), chance.choice(sizes), pass_by=chance.random() < 0.3)),
        (12, lambda: world.settle_one(pick(), pick())),
        (4, lambda: world.skip(pick(), chance.randint(1, 5), chance.randint(0, 2))),
        (12, lambda: world.settle(pick(), pick(), chance.randint(1, 4))),
        (less, lambda: world.settle_all(pick())),
        (0 if compacts else 3, lambda: world.keep(pick(), pick())),  # A queue keeps, a topic is compacted; never both.
        (4, lambda: world.note_return(pick(), pick(), chance.randint(1, 9))),
        (8, lambda: world.move(pick(), pick(), pick())),
        (0.5 * less, lambda: world.drop_log(pick())),
        (2, lambda: world.truncate(pick(), pick())),
        (20 * seals, lambda: world.append(pick(), 5, 1500, False)),
        (15 * seals, lambda: world.settle(pick(), pick(), 10)),
        (0.5 * seals, lambda: world.change_layout(pick())),
        (4 * seals, world.give_up),
        (4, lambda: world.put(chance.choice(keys), chance.choice((None, bytes(pick() % 20))))),
        (20 + 40 * seals, world.begin_write),
        (30 + 80 * seals, world.go_on_writing),
        (6 * more, world.begin_checkpoint),
        (20 * more + 60 * seals, lambda: world.go_on_with_checkpoint(chance.randint(1, 8))),
        (4, lambda: world.crash(chance.random() < 0.7, *(chance.choice((None, chance.randint(0, 12))) for _ in "12"))),
        (0.5, world.stop_in_order),
    ]
    weights = [weight for weight, _ in actions]
    for _, action in chance.choices(actions, weights, k=steps):
        action()
        if world.is_watched or chance.random() < 0.05:
            world.it_reads_back()
    return world


@pytest.mark.parametrize("seeds", range(0, SEEDS, 10))
def test_many_lives(seeds):
    """Ten lives each, of many crashes."""
    refused = sum(simulate(seed).refused for seed in range(seeds, seeds + 10))
    assert refused > 5, "no lost file was missed"


@pytest.mark.parametrize("seeds", range(0, SEEDS // 3, 10))
def test_many_lives_of_compacted_logs(seeds, monkeypatch):
    """Segments that are written anew without what is settled hold what they held, whatever is cut off meanwhile."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 1)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 1500)
    worlds = [simulate(seed, 500, compacts=True) for seed in range(seeds, seeds + 10)]
    assert sum(world.refused for world in worlds) > 5, "no lost file was missed"
    assert sum(len(world.rewritten) for world in worlds) > 2, "no segment was written anew"


@pytest.mark.parametrize("seeds", range(0, SEEDS, 30))
def test_many_lives_of_sealed_files(seeds, monkeypatch):
    """Batches that stay in the journal's files are there, and nothing else, whatever is cut off meanwhile."""
    monkeypatch.setattr(sealing, "STAY_BYTES_MIN", 600)
    monkeypatch.setattr(sealing, "RUN_BYTES_MIN", 300)
    monkeypatch.setattr(sealing, "WASTE_MAX", 0.4)
    monkeypatch.setattr(sealing, "WASTE_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SLICE_ITEMS", 1)
    worlds = [simulate(seed, 600, seals=True, sync=seed % 4 > 0) for seed in range(seeds, seeds + 30)]
    assert sum(world.refused for world in worlds) > 5, "no lost file was missed"
    assert sum(len(world.indexed) for world in worlds) > 10, "no file was sealed"
    assert any(edition > 1 for world in worlds for _, edition in world.indexed), "no index was written anew"
    assert any(world.emptied for world in worlds), "no file was emptied"


@pytest.mark.parametrize("seeds", range(0, SEEDS // 3, 10))
def test_many_lives_without_syncs(seeds):
    """With `flush: os` no crash leaves what a start refuses, or anything but some frame's state."""
    for seed in range(seeds, seeds + 10):
        simulate(seed, sync=False)


def test_a_disk_that_lies_is_found_out():
    """The same lives on a disk whose sync does nothing: something promised is gone, or the store says it is damaged."""

    def live():
        for seed in range(20):
            simulate(seed, lies=True)

    with pytest.raises((AssertionError, StorageError)):
        live()
