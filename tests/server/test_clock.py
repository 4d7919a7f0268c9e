"""One clock, read when an event is handled: ages and timeouts are never short, and wake-ups come when they are due.

Sources: RabbitMQ's TTL guide ("messages ... will not be delivered after"; `rabbit_classic_queue`/`rabbit_amqqueue`
compare in milliseconds), AMQP 0-9-1 basic properties (expiration), Kafka's SystemTimer (reads its clock for each wait).
"""

import random

import pytest
import trio
import trio.testing
from amqp_harness import Client, Transport, World
from sim_disk import SimDisk

from broker.core.groups.values import JoinRequest, SyncRequest
from broker.server.clock import JITTER_MS, STANDSTILL_MS, Clock
from broker.server.ticker import TICK_MS, Ticker

START_NS = 1_700_000_000_000_400_000
MS = 1_000_000


class Time:
    """What the operating system would say, in ns; `real` counts from the start."""

    def __init__(self, hub):
        self.monotonic = 5_000 * MS + 900_000
        self.set_ahead = START_NS
        self.clock = Clock(hub, lambda: self.monotonic, lambda: self.monotonic + self.set_ahead)
        hub.read_clock = self.clock.read

    def pass_ns(self, nanoseconds):
        """So much time passes, and the clock is read."""
        self.monotonic += nanoseconds
        self.clock.read()


class Asker:
    """Who has sent a join or a sync."""

    def __init__(self):
        self.answers = []

    def reply(self, result, *, after_save):
        """The answer."""
        self.answers.append(result)


@pytest.fixture
def world():
    """A broker with a disk in memory."""
    return World(SimDisk(random.Random(1).randrange))


def test_both_times_move_alike(world):
    """By what the monotonic clock says."""
    time = Time(world.hub)
    before = world.hub.now_ms, world.hub.scheduler.wall_ms
    assert before[1] == (START_NS + time.monotonic) // MS
    time.pass_ns(700 * MS)
    assert (world.hub.now_ms, world.hub.scheduler.now_ms) == (before[0] + 700,) * 2
    assert world.hub.scheduler.wall_ms == before[1] + 700


def test_timeouts_do_not_count_a_standstill_and_ages_do(world):
    """After SIGSTOP or a pause of the machine, a session goes on about where it was."""
    time = Time(world.hub)
    before = world.hub.now_ms, world.hub.scheduler.wall_ms
    time.pass_ns(60_000 * MS)
    assert world.hub.now_ms == before[0] + STANDSTILL_MS
    assert world.hub.scheduler.wall_ms == before[1] + 60_000


def test_a_standstill_expels_nobody_from_a_group(world):
    """KIP-62's session timeout is for members that are silent, not for a broker that was deaf."""
    time = Time(world.hub)
    groups = world.hub.groups_of("/")

    def ticks(count):
        for _ in range(count):
            time.pass_ns(TICK_MS * MS)
            groups.tick()

    asker = Asker()
    join = JoinRequest(protocols=(("range", b""),), session_timeout_ms=6000, rebalance_timeout_ms=10_000)
    groups.coordinator.join("g", asker, join, groups.now_ms)
    groups.carry_out()
    ticks(3_100 // TICK_MS)
    (joined,) = asker.answers
    sync = SyncRequest(member_id=joined.member_id, generation=joined.generation, assignments={joined.member_id: b""})
    groups.coordinator.sync("g", Asker(), sync, groups.now_ms)
    groups.carry_out()
    ticks(4_000 // TICK_MS)
    time.pass_ns(3_600_000 * MS)
    groups.tick()
    assert len(groups.coordinator.describe("g")[1].members) == 1
    ticks(2_000 // TICK_MS)
    assert not groups.coordinator.describe("g")[1].members


def test_a_standstill_is_no_missed_heartbeat(world):
    """AMQP 0-9-1 4.2.7: a peer is gone that has sent nothing, not one that nobody listened to."""
    time = Time(world.hub)
    client = Client(world)
    client.log_in(heartbeat=1)
    transport = client.machine.transport = Transport()

    def passes(milliseconds):
        time.pass_ns(milliseconds * MS)
        world.amqp._watch(client.machine, world.hub.now_ms)

    for _ in range(4):
        passes(250)
    passes(3_600_000)
    assert not transport.closed
    for _ in range(8):
        passes(250)
    assert transport.closed


def test_the_wall_clock_may_be_set_and_ages_follow_it(world):
    """With a tick; what only looks like it, since two clocks are not read at once, changes nothing."""
    time = Time(world.hub)
    before = world.hub.now_ms, world.hub.scheduler.wall_ms
    time.set_ahead += JITTER_MS * MS
    time.clock.set()
    assert (world.hub.now_ms, world.hub.scheduler.wall_ms) == before
    time.set_ahead += 3_600_000 * MS
    time.clock.set()
    assert world.hub.now_ms == before[0]
    assert abs(world.hub.scheduler.wall_ms - before[1] - 3_600_000) <= JITTER_MS


@pytest.mark.parametrize("kind", ["ttl", "expiration", "delay"])
@pytest.mark.parametrize("phase_ns", [0, 1, 499_999, 999_999])
def test_no_age_is_short_by_a_part_of_a_millisecond(world, kind, phase_ns):
    """Whole milliseconds are rounded down, at both ends; what is due is looked for when it would be handed out."""
    time = Time(world.hub)
    client = world.connect()
    client.declare("q", **({"x_message_ttl": 10} if kind == "ttl" else {}))
    client.declare_exchange("later", "x-delayed-message", x_delayed_type="fanout")
    client.bind("q", "later")
    time.pass_ns(phase_ns)
    if kind == "delay":
        client.publish("q", b"m", exchange="later", headers={"x-delay": 10})
    else:
        client.publish("q", b"m", **({"expiration": "10"} if kind == "expiration" else {}))
    time.pass_ns(10 * MS - 1)
    world.broker.tick(world.hub.now_ms)
    world.settle()
    assert world.queue("q").ready_count == (0 if kind == "delay" else 1)
    time.pass_ns(2 * MS)
    world.broker.tick(world.hub.now_ms)
    world.settle()
    assert world.queue("q").ready_count == (1 if kind == "delay" else 0)


def test_x_expires_is_not_short(world):
    """Nor is the time without use."""
    time = Time(world.hub)
    client = world.connect()
    time.pass_ns(999_999)
    client.declare("q", x_expires=10)
    time.pass_ns(10 * MS - 1)
    world.broker.tick(world.hub.now_ms)
    assert "q" in world.broker.vhosts["/"].queues
    time.pass_ns(2 * MS)
    world.broker.tick(world.hub.now_ms)
    assert "q" not in world.broker.vhosts["/"].queues


# The ticker sleeps until something is due.


class Run:
    """A ticker at work on a clock that jumps to whatever somebody waits for."""

    def __init__(self, world):
        self.world = world
        self.began = trio.current_time()
        clock = Clock(world.hub, lambda: round(trio.current_time() * 1e9), lambda: round(trio.current_time() * 1e9))
        world.hub.read_clock = clock.read
        self.ticker = Ticker(world.hub, 2**40, 0, set_clock=clock.set)

    async def passed_until(self, happened):
        """How long it takes, in ms."""
        while not happened():
            await trio.sleep(0.001)
        return (trio.current_time() - self.began) * 1000


def ticking(world, scenario):
    """Run an async function of a Run beside its ticker."""

    async def main():
        run = Run(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.ticker.run)
            await trio.sleep(0.005)
            world.hub.read_clock()
            run.began = trio.current_time()
            await scenario(run)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("wait_ms", [3, 20, 130])
def test_what_falls_due_between_two_ticks_is_not_late(world, wait_ms):
    """An expiration, x-expires and a timer of Kafka's (a fetch that waits), all asked for while the ticker sleeps."""
    assert TICK_MS > 20
    client = world.connect()
    client.declare("q")

    async def scenario(run):
        client.publish("q", b"m", expiration=str(wait_ms))
        client.declare("short", x_expires=wait_ms)
        fired = []
        world.hub.on_tick.append(lambda now_ms: now_ms >= due_ms and fired.append(now_ms))
        due_ms = world.hub.now_ms + wait_ms
        world.hub.next_dues.append(lambda: None if fired else due_ms)
        world.hub.hasten(due_ms)
        gone = await run.passed_until(lambda: not world.queue("q").ready_count)
        assert wait_ms <= gone <= wait_ms + 4
        gone = await run.passed_until(lambda: "short" not in world.broker.vhosts["/"].queues)
        assert wait_ms <= gone <= wait_ms + 5
        gone = await run.passed_until(lambda: fired)
        assert wait_ms <= gone <= wait_ms + 5

    ticking(world, scenario)


def test_an_idle_broker_ticks_and_no_more(world):
    """What is far away wakes nobody."""
    client = world.connect()
    client.declare("q", x_message_ttl=3_600_000)
    client.publish("q", b"m")
    client.drop()
    ticks = []
    world.hub.on_tick.append(ticks.append)

    async def scenario(run):
        await trio.sleep(10)

    ticking(world, scenario)
    assert len(ticks) <= 10_000 // TICK_MS + 2
