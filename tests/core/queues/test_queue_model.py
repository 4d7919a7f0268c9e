"""The queue against a naive model: offsets in order, each message once, prefetch kept, returns at their places."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from broker.core.queues.queue import Queue
from broker.core.scheduler import Scheduler


class Taker:
    """A consumer that remembers what it got."""

    exclusive = False
    shares_capacity = False

    def __init__(self, queue, number, prefetch, priority, no_ack):
        self.queue = queue
        self.tag = str(number)
        self.prefetch = prefetch
        self.priority = priority
        self.no_ack = no_ack
        self.in_flight = 0
        self.got = []

    def capacity(self):
        return 1000 if self.no_ack else self.prefetch - self.in_flight

    def deliver(self, messages, offsets):
        assert len(messages) <= self.capacity()
        for message, offset in zip(messages, offsets, strict=True):
            self.got.append((offset, message))
        if not self.no_ack:
            self.in_flight += len(messages)

    def settled(self, count):
        self.in_flight -= count
        self.queue.wake()

    def cancelled(self):
        raise AssertionError("nobody deletes this queue")


class QueueMachine(RuleBasedStateMachine):
    """Random use of one queue; `ready` is the model: offset -> redelivered."""

    consumers = Bundle("consumers")

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler()
        self.queue = Queue("q", "/", self.scheduler)
        self.next = 0
        self.ready = {}
        self.attached = []
        self.count = 0

    def settle(self):
        """Dispatch until nothing moves, then compare what was handed out with the model."""
        while self.scheduler.busy:
            self.scheduler.run_slice()
        for taker in self.attached:
            for offset, message in taker.got[getattr(taker, "seen", 0) :]:
                assert self.ready.pop(offset) == message[0][0]
                assert message[1] == b"%d" % offset
            taker.seen = len(taker.got)

    @rule(count=st.integers(1, 600))
    def enqueue(self, count):
        """Messages come in; their content is their offset."""
        messages = [(b"\x00rest", b"%d" % (self.next + index)) for index in range(count)]
        self.ready.update({self.next + index: 0 for index in range(count)})
        self.next += count
        self.queue.enqueue(messages)
        self.settle()

    @rule(target=consumers, prefetch=st.integers(1, 300), priority=st.integers(0, 2), no_ack=st.booleans())
    def attach(self, prefetch, priority, no_ack):
        """A consumer comes."""
        self.count += 1
        taker = Taker(self.queue, self.count, prefetch, priority, no_ack)
        self.attached.append(taker)
        self.queue.add_consumer(taker)
        self.settle()
        return taker

    @rule(taker=consumes(consumers))
    def detach(self, taker):
        """A consumer goes, and gives back what it has not acknowledged."""
        self.queue.remove_consumer(taker, 0)
        self.give_back(taker, len(taker.got))
        self.attached.remove(taker)
        self.settle()

    @rule(taker=consumers, count=st.integers(1, 50))
    def acknowledge(self, taker, count):
        """The oldest deliveries of a consumer are acknowledged."""
        if not taker.no_ack:
            ended = min(count, taker.in_flight)
            start = len(taker.got) - taker.in_flight
            offsets = [offset for offset, _ in taker.got[start : start + ended]]
            del taker.got[: start + ended]
            taker.seen = len(taker.got)
            self.queue.settle(offsets)
            taker.settled(ended)
            self.settle()

    @rule(taker=consumers, count=st.integers(1, 50))
    def reject(self, taker, count):
        """The newest deliveries of a consumer go back."""
        self.give_back(taker, count)
        self.settle()

    def give_back(self, taker, count):
        if taker.no_ack or not taker.in_flight:
            return
        count = min(count, taker.in_flight)
        leases = [(taker, offset, message) for offset, message in taker.got[-count:]]
        del taker.got[-count:]
        taker.seen = len(taker.got)
        self.ready.update({offset: 1 for _, offset, _ in leases})
        self.queue.release(leases)
        taker.settled(count)

    @precondition(lambda self: self.ready)
    @rule()
    def get(self):
        """basic.get gives the oldest that is ready, and it is acknowledged."""
        message, offset = self.queue.get()
        assert offset == min(self.ready)
        assert self.ready.pop(offset) == message[0][0]
        self.queue.settle((offset,))
        self.settle()

    @rule()
    def purge(self):
        """Purge drops what is ready and nothing else."""
        assert self.queue.purge() == len(self.ready)
        self.ready.clear()

    @invariant()
    def counts_agree(self):
        """Ready and leased are what the model says; nobody has capacity while something is ready."""
        assert self.queue.ready_count == len(self.ready)
        assert self.queue.store.leased_count == sum(taker.in_flight for taker in self.attached)
        if self.ready:
            assert all(taker.capacity() <= 0 for taker in self.attached)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def attach(queue, *specs):
    """Consumers of (prefetch, priority)."""
    takers = [Taker(queue, number, prefetch, priority, False) for number, (prefetch, priority) in enumerate(specs)]
    for taker in takers:
        queue.add_consumer(taker)
    return takers


def test_round_robin_is_one_message_each_in_registration_order():
    """A, B, C, A, B, C, ...; an unfinished round goes on where it stopped."""
    scheduler = Scheduler()
    queue = Queue("q", "/", scheduler)
    takers = attach(queue, (100, 0), (100, 0), (100, 0))
    for count in (4, 7, 1):
        queue.enqueue([(b"\x00", b"")] * count)
        scheduler.run_slice()
    assert [[offset for offset, _ in taker.got] for taker in takers] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_priority_serves_the_highest_until_it_is_full():
    """The higher consumer gets everything up to its prefetch, then the lower ones."""
    scheduler = Scheduler()
    queue = Queue("q", "/", scheduler)
    low, high = attach(queue, (100, 0), (3, 5))
    queue.enqueue([(b"\x00", b"")] * 5)
    while scheduler.busy:
        scheduler.run_slice()
    assert [offset for offset, _ in high.got] == [0, 1, 2]
    assert [offset for offset, _ in low.got] == [3, 4]
