"""What is done when in a turn: the orders that `Hub.end_turn`, `Scheduler.run_slice` and the ticker state."""

from types import SimpleNamespace

import pytest

from broker.core.access import Access
from broker.core.broker import Broker
from broker.core.scheduler import FREE_SLICE, SLICE_UNITS, Scheduler
from broker.server.auth import Authenticator
from broker.server.env import Env
from broker.server.hub import Hub
from broker.server.outbox import Outbox
from broker.server.ticker import SWEEP_TICKS, TICK_MS, Ticker


class Queue:
    """One that notes when it hands out."""

    dirty = False

    def __init__(self, happened, units=1):
        self.happened = happened
        self.units = units

    def dispatch(self):
        self.happened.append("queue")
        return self.units


class Due:
    """Something that notes when it is woken."""

    def __init__(self, happened):
        self.happened = happened

    def tick(self):
        self.happened.append("due")


class Garbage:
    """Something that notes when it is freed."""

    def __init__(self, happened):
        self.happened = happened

    def __del__(self):
        self.happened.append("garbage")


class Durability:
    """One that notes when a frame may go."""

    def __init__(self, happened):
        self.on_synced = []
        self.flusher = SimpleNamespace(tick=lambda _: happened.append("flusher's tick"), full=True)
        self.turn_ended = lambda: happened.append("frame")
        self.turn_ended_among_others = lambda: happened.append("frame, if enough wait for it")


@pytest.fixture
def happened():
    """What was done, in order."""
    return []


@pytest.fixture
def hub(happened):
    """With a queue that is marked, and a connection that was written to."""
    env, access = Env(), Access()
    broker = Broker(env.randrange)
    hub = Hub(broker, access, Authenticator(access, clock=env.monotonic_s), Durability(happened), env=env)
    touch(hub, happened)
    return hub


def touch(hub, happened):
    """Something is written to a connection, and something comes into a queue."""
    outbox = Outbox(hub.touched)
    outbox.writer = SimpleNamespace(flush=lambda: happened.append("send"))
    outbox.touch()
    hub.scheduler.mark(Queue(happened))


@pytest.mark.parametrize(("gather", "frame"), [(False, "frame"), (True, "frame, if enough wait for it")])
def test_end_of_a_turn(hub, happened, gather, frame):
    """Queues hand out, their frame goes, connections send: what a queue hands out is in the frame and in the send."""
    hub.end_turn(gather=gather)
    assert happened == ["queue", frame, "send"]
    assert hub.touched == []


def test_slice():
    """Queues before jobs before garbage, and nothing once the units are used up."""
    happened = []
    scheduler = Scheduler()

    def job(name):
        for _ in range(2):
            happened.append(name)
            yield SLICE_UNITS // 2

    scheduler.discard([Garbage(happened), *range(FREE_SLICE)])
    scheduler.add_job(job("long job"))
    scheduler.add_job(job("short job"))
    scheduler.mark(Queue(happened, SLICE_UNITS))
    scheduler.run_slice()
    assert happened == ["queue"]
    scheduler.run_slice()
    assert happened == ["queue", "long job", "short job"]
    while scheduler.busy:
        scheduler.run_slice()
    assert happened == ["queue", "long job", "short job", "long job", "short job", "garbage"]


def test_turn_of_the_clock(hub, happened):
    """Who is due comes before the sweep, and both before the end of the turn; the flusher's tick is each tick's."""
    times = iter(range(hub.now_ms + TICK_MS, hub.now_ms + 100 * TICK_MS, TICK_MS))

    def set_clock():
        hub.now_ms = next(times)

    face = SimpleNamespace(sweep=lambda: happened.append("sweep"))
    hub.faces.append(face)
    hub.on_tick.append(lambda _: happened.append("face"))
    ticker = Ticker(hub, memory_watermark_bytes=1 << 60, disk_free_bytes_min=0, set_clock=set_clock)
    for n in range(1, SWEEP_TICKS + 1):
        happened.clear()
        hub.scheduler.timers.ask(Due(happened), hub.now_ms + TICK_MS)
        if n > 1:
            touch(hub, happened)
        assert ticker._turn()
        swept = ["sweep"] if n == SWEEP_TICKS else []
        assert happened == ["due", "face", "flusher's tick", *swept, "queue", "frame", "send"]
