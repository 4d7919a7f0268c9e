"""Who is told what, and when, of the frames of a store on a disk that forgets."""

import random

import pytest
from sim_disk import SimDisk

from broker.log.pledges import Pledge
from broker.log.recovery import open_store


class Noted(Pledge):
    """Puts its name into a list."""

    __slots__ = ("name", "told")

    def __init__(self, name, told):
        self.name, self.told = name, told

    def kept(self, committed):
        self.told.append((self.name, committed))


class Patient(Noted):
    """Nobody waits for it."""

    __slots__ = ()
    is_urgent = False


@pytest.fixture
def store():
    """An empty one, with nothing left to write."""
    disk = SimDisk(random.Random(1).randrange)
    store = open_store(disk, disk.new_uuid)
    store.flush()
    return store


def finish(store, cut):
    """The frame is on the disk, and those who wait are told."""
    cut.write.run()
    store.finish(cut)
    return store.pledges.committed(store.synced_frame)


def test_what_is_done_later_waits_for_a_later_frame(store):
    """In the order in which the pledges were given, whoever gave them."""
    told = []
    store.put(b"1", b"")
    store.pledge(Noted("first", told))
    store.pledge(Patient("beside", told))
    cut = store.cut()
    store.put(b"2", b"")
    store.pledge_all(Noted("second", told))
    assert told == []
    assert finish(store, cut) == 1
    assert told == [("first", True), ("beside", True)]
    assert finish(store, store.cut()) == 1
    assert told[2:] == [("second", True)]
    assert store.pledges.urgent_count == 0


def test_who_waits_for_all_waits_for_what_is_on_its_way(store):
    """And for nothing, where there is nothing."""
    told = []
    store.pledge_all(Noted("nothing", told))
    assert told == [("nothing", True)]
    store.put(b"1", b"")
    cut = store.cut()
    store.pledge_all(Noted("flying", told))
    assert told == [("nothing", True)]
    finish(store, cut)
    assert told[1:] == [("flying", True)]


def test_an_empty_frame_that_somebody_waits_for(store):
    """A pledge over it comes before those that are given for all afterwards, though nothing was written."""
    told = []
    store.put(b"1", b"")
    cut = store.cut()
    store.pledge(Noted("empty", told))
    store.pledge_all(Noted("all", told))
    finish(store, cut)
    assert told == []
    assert store.pledges.urgent_frame == store.frame
    assert store.cut() is None
    store.pledges.committed(store.synced_frame)
    assert told == [("empty", True), ("all", True)]


def test_a_pledge_may_give_another(store):
    """What is told may do something that has to be committed in turn."""
    told = []

    class Chained(Noted):
        __slots__ = ()

        def kept(self, committed):
            super().kept(committed)
            store.put(b"2", b"")
            store.pledge(Noted("then", told))

    store.put(b"1", b"")
    store.pledge(Chained("first", told))
    finish(store, store.cut())
    assert told == [("first", True)]
    finish(store, store.cut())
    assert told == [("first", True), ("then", True)]


def test_a_disk_that_fails_breaks_all(store):
    """Nobody is told that what cannot be durable is."""
    told = []
    store.put(b"1", b"")
    store.pledge(Noted("first", told))
    store.cut()
    store.put(b"2", b"")
    store.pledge(Patient("second", told))
    store.pledges.failed()
    assert told == [("first", False), ("second", False)]
    assert (store.pledges.urgent_count, store.pledges.last_frame) == (0, 0)
