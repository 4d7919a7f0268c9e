"""The store of a queue by itself: no consumers, no rules, somebody who watches and somebody who is told of trouble."""

import gc
import weakref

import pytest
from sim_disk import SimDisk

import broker.core.queues.backlog
import broker.core.queues.queue_store
from broker.core.message import make_origin
from broker.core.queues.lease_cursor import LeaseCursor
from broker.core.queues.priority_cursor import PriorityCursor
from broker.core.queues.queue import Queue
from broker.core.queues.queue_store import QueueStore
from broker.core.scheduler import Scheduler
from broker.log.recovery import open_store
from protocol.amqp import content as wire

ORIGIN = make_origin(b"", b"q")


class Owner:
    """Remembers what could not be read."""

    def __init__(self):
        self.errors = []

    def unreadable(self, error):
        self.errors.append(error)


class Watcher:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def taken(self, messages):
        self.told.append(("taken", [message[1][-9:-1] for message in messages]))

    def settled(self, offsets):
        self.told.append(("settled", list(offsets)))

    def loaded(self, first, messages, wall_ms):
        self.told.append(("loaded", first, len(messages), wall_ms))

    def purged(self):
        self.told.append(("purged",))

    def knows(self, _offset):
        return True


class SeenQueue(Queue):
    """One that a test can see go."""

    __slots__ = ("__weakref__",)


def message(number, **properties):
    """A persistent message whose body ends in its number."""
    flags, octets = (wire.DELIVERY_MODE, b"\x02")
    if "priority" in properties:
        flags, octets = wire.DELIVERY_MODE | wire.PRIORITY, b"\x02" + bytes([properties["priority"]])
    return ORIGIN, wire.encode_content(1, octets, flags, b"%08d" % number, 131_072)


def numbers(messages):
    """The numbers of messages, as `message` was given them."""
    return [int(content[-9:-1]) for _, content in messages]


@pytest.fixture
def logs():
    """Where logs are made."""
    disk = SimDisk(lambda n: 0)
    return open_store(disk, disk.new_uuid)


@pytest.fixture(params=["memory", "log"])
def made(request, logs):
    """A store, and its owner."""
    owner = Owner()
    log = logs.create_log(durable=True) if request.param == "log" else None
    return QueueStore(owner, Scheduler(), LeaseCursor(), logs, log), owner


def test_messages_come_and_go_in_order(made):
    """Leases begin in order, come back to their places, and end; every count says so."""
    store, _ = made
    store.enqueue([message(number) for number in range(10)])
    assert store.append([message(10), message(11)]) == 10
    messages, offsets = store.take(4)
    assert (numbers(messages), list(offsets)) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert (store.ready_count, store.leased_count, store.front_offset) == (8, 4, 4)
    store.settle([0, 2])
    store.settle_one(3)
    store.release([(1, messages[1])])
    assert (store.ready_count, store.leased_count, store.front_offset) == (9, 0, None)
    assert [offset for offset, _ in store.take_each([1, 5, 11])] == [1, 5, 11]
    assert list(store.take_below(7, 100)[1]) == [4]
    assert list(store.take_below(7, 100)[1]) == [6]
    assert store.purge() == 4
    assert (store.ready_count, store.leased_count) == (0, 5)
    assert (store.enqueued_count, store.settled_count, store.end_offset) == (12, 7, 12)


def test_a_message_that_comes_alone(logs):
    """It is kept first, and then ready or leased, as whoever asked says; not where others are in the way."""
    store = QueueStore(Owner(), Scheduler(), LeaseCursor(), logs, logs.create_log(durable=True))
    assert store.append_alone(message(0)) == 0
    store.pass_by(0)
    assert (store.ready_count, store.leased_count) == (0, 1)
    logs.flush()
    assert store.append_alone(message(1)) == 1
    store.let_in(1, message(1))
    logs.flush()
    assert store.append_alone(message(2)) == -1
    assert (store.ready_count, store.leased_count, store.enqueued_count) == (1, 1, 2)
    store.enqueue([message(2), message(3)])
    assert list(store.take(5)[1]) == [1, 2, 3]
    assert QueueStore(Owner(), Scheduler(), LeaseCursor(), None, None).append_alone(message(0)) == -1


def test_who_watches_is_told(made):
    """Of each lease that begins and each that ends, also of single ones, and of a purge."""
    store, _ = made
    watcher = Watcher()
    store.enqueue([message(number) for number in range(4)])
    store.settle_one(store.take(1)[1][0])
    assert watcher.told == []
    store.watch(watcher)
    store.take(1)
    store.take_each([3])
    store.settle_one(1)
    store.settle([3])
    store.purge()
    assert watcher.told == [
        ("taken", [b"00000001"]), ("taken", [b"00000003"]), ("settled", [1]), ("settled", [3]), ("purged",),
    ]  # fmt: skip


def test_a_head_that_is_full(made, monkeypatch):
    """What does not fit in memory is in a log, though the queue had none, and comes back in order."""
    for module in (broker.core.queues.backlog, broker.core.queues.queue_store):
        monkeypatch.setattr(module, "HEAD_BYTES_MAX", 10_000)
    store, _ = made
    for start in range(0, 200, 40):
        store.enqueue([message(number) for number in range(start, start + 40)])
    assert store.log is not None
    assert 0 < store.unloaded_count < 200 == store.ready_count
    assert store.unloaded_range == (200 - store.unloaded_count, 200)
    found = []
    while store.ready_count:
        messages, offsets = store.take(30)
        found += numbers(messages)
        store.settle(offsets)
    assert found == list(range(200))


def test_a_log_that_cannot_be_read(logs, monkeypatch):
    """The store is broken, its owner knows why, and it goes on when somebody says so."""
    monkeypatch.setattr(broker.core.queues.backlog, "HEAD_BYTES_MAX", 0)
    owner = Owner()
    store = QueueStore(owner, Scheduler(), LeaseCursor(), logs, logs.create_log(durable=True))
    store.enqueue([message(0)])
    assert owner.errors == []
    error = OSError(24, "out of handles")
    with monkeypatch.context() as patch:

        def fail(*_args, **_options):
            raise error

        patch.setattr(type(store.log), "read", fail)
        assert list(store.take(1)[0]) == []
        assert (store.broken, owner.errors) == (True, [error])
        assert list(store.take(1)[0]) == []
        assert owner.errors == [error]
    store.broken = False
    assert numbers(store.take(1)[0]) == [0]


def test_priorities(logs):
    """By priority, what comes first is known when all is in memory."""
    log = logs.create_log(durable=True)
    store = QueueStore(Owner(), Scheduler(), PriorityCursor(9), logs, log)
    store.append([message(0, priority=1), message(1, priority=7)])
    logs.flush()
    again = QueueStore(Owner(), Scheduler(), PriorityCursor(9), logs, log)
    again.recover(clean=True)
    assert again.must_load_all
    assert again.is_low(is_served=False)
    assert numbers(again.take(1)[0]) == [1]
    assert not again.must_load_all


def test_a_deleted_queue_needs_no_collector(logs):
    """The store lets go of its queue when that is deleted: many come and go."""
    queue = SeenQueue("q", "/", Scheduler(), store=logs, log=logs.create_log(durable=True), durable=True)
    queue.enqueue([message(0), message(1)])
    offsets = queue.store.take(1)[1]
    queue.close()
    logs.flush()
    queue.settle(offsets)
    queue.settle_one(1)
    assert not logs.dirty  # The log is gone, and nobody writes of it.
    found = weakref.ref(queue)
    gc.disable()
    try:
        del queue
        assert found() is None
    finally:
        gc.enable()
