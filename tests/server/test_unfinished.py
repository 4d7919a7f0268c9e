"""Room for what has begun to come: past the limit in order, and nobody holds it who does not go on.

Kafka bounds what is read and not worked on by `queued.max.request.bytes` (kafka.network.RequestChannel); RabbitMQ stops
reading publishers when memory is short (rabbit_alarm).
"""

import struct

import pytest
from amqp_harness import World
from kafka_wire import batch
from kafka_world import KafkaWorld, made

from broker.server.unfinished import LARGE_BYTES, STALLED_MS, Begun, Unfinished
from protocol.amqp.frames import method_frame

KIB = 1 << 10
LIMIT = 512 * KIB


class Peer:
    """Somebody who sends something large."""

    def __init__(self, room):
        self.begun = Begun(room, self.on_room, self.turn_out, lambda: self.is_held_up)
        self.is_held_up = self.is_out = False
        self.rooms = 0

    def on_room(self):
        self.rooms += 1

    def turn_out(self):
        self.is_out = True
        self.begun.let_go()


class Clock:
    """What the time is."""

    now_ms = 0

    def __call__(self):
        return self.now_ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def room(clock):
    return Unfinished(100, clock)


def peers(room, *octets):
    """Peers who hold so much each."""
    made = [Peer(room) for _ in octets]
    for peer, count in zip(made, octets, strict=True):
        peer.begun.holds(count)
    return made


def test_past_the_limit_only_the_first_goes_on(room):
    """It is finished, then the next one has room, in the order in which they began."""
    first, second, third = peers(room, 60, 60, 60)
    assert [peer.begun.waits for peer in (first, second, third)] == [False, True, True]
    assert first.begun.may_hold(1000)
    first.begun.let_go()
    assert [peer.rooms for peer in (second, third)] == [1, 0]
    second.begun.let_go()
    assert third.rooms == 1
    third.begun.let_go()
    assert (room.octets, room.begun) == (0, {})


def test_a_promise_is_not_kept_for_who_waits(room):
    """What it wants counts when it has it."""
    _, second = peers(room, 80, 10)
    assert not second.begun.may_hold(40)
    assert room.octets == 90


def test_who_sends_nothing_goes_when_others_wait(room, clock):
    """The one that has sent nothing for longest; one octet a while is nothing."""
    liar, dripper = peers(room, 30, 30)
    clock.now_ms = STALLED_MS + 10
    dripper.begun.has_come(1)
    assert room.in_the_way() is None
    [honest] = peers(room, 70)
    assert honest.begun.waits
    found = room.in_the_way()
    assert found is liar.begun
    found.turn_out()
    assert room.in_the_way() is None
    assert honest.rooms == 1


def test_a_dripper_goes_as_well(room, clock):
    """What it sends is too little to count; who sends much stays."""
    dripper, busy, waiting = peers(room, 40, 60, 10)
    assert waiting.begun.waits
    for _ in range(4):
        clock.now_ms += STALLED_MS // 2
        dripper.begun.has_come(10)
        busy.begun.has_come(20_000)
    assert room.in_the_way() is dripper.begun
    dripper.begun.let_go()
    clock.now_ms += STALLED_MS // 2
    assert room.in_the_way() is None


def test_who_is_held_up_by_the_broker_is_not_to_blame(room, clock):
    """It is not read because of the disk, or an alarm."""
    held_up, _ = peers(room, 90, 20)
    held_up.is_held_up = True
    clock.now_ms = 10 * STALLED_MS
    assert room.in_the_way() is None


def test_when_memory_is_short(room):
    """One after the other, however little is held here."""
    first, second = peers(room, 10, 10)
    room.set_short(True)
    assert first.begun.may_hold(20)
    assert not second.begun.may_hold(20)
    room.set_short(False)
    assert second.rooms == 1


# Kafka.


def produce(client, octets):
    """A request of about so many octets."""
    topic = made("Produce", "topic_data")
    data = topic.SPECS["partition_data"].of(index=0, records=batch([bytes(octets)], timestamp_ms=0))
    return client.frame("Produce", 9, acks=-1, timeout_ms=1000, topic_data=[topic(name="t", partition_data=[data])])


class KafkaPeer:
    """Sends as the pump does: into the place that the connection offers, and nothing while that is paused."""

    def __init__(self, world, octets, tls=False):
        self.client = world.client()
        self.machine = self.client.machine
        self.machine.tls = tls
        self.left = memoryview(produce(self.client, octets))
        self.is_closed = False

    def send(self, count=1 << 30):
        """Up to so many octets, as long as they are taken; returns how many were."""
        before = len(self.left)
        while count > 0 and self.left and not self.machine.paused and not self.machine.finished:
            target = self.machine.buffer.target
            size = min(count, len(self.left), len(target) if target is not None else 16 * KIB)
            piece, self.left = self.left[:size], self.left[size:]
            count -= size
            if target is None:
                self.machine.receive(bytes(piece))
            else:
                target[:size] = piece
                self.machine.received(size)
        return before - len(self.left)


@pytest.fixture
def kafka():
    """A broker with a topic of one partition."""
    world = KafkaWorld()
    world.hub.unfinished.bytes_max = LIMIT
    world.broker.vhosts["/"].topics.create("t", 1, {})
    return world


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_requests_that_are_not_finished(kafka, tls):
    """Twenty connections with all but the end of a request each hold no more than the limit and one request; then each
    is finished in its turn, and answered."""
    size = 200 * KIB
    everybody = [KafkaPeer(kafka, size, tls) for _ in range(20)]
    for peer in everybody:
        peer.send(size)
    buffers = [peer.machine.buffer for peer in everybody]
    kept = sum(len(buffer._large) + sum(map(len, buffer._pieces)) for buffer in buffers)
    assert kept <= LIMIT + 20 * LARGE_BYTES + size
    assert kafka.hub.unfinished.octets >= LIMIT - 2 * size
    answered = 0
    for peer in everybody:
        while peer.left:
            assert peer.send(), "nothing is taken of it"
        [answer] = peer.client.answers()
        assert answer.responses[0].partition_responses[0].error_code == 0
        answered += 1
    assert answered == 20
    assert kafka.hub.unfinished.octets == 0


def test_liars_do_not_hold_the_room(kafka):
    """They have sent nearly all and stop; who comes then is served when they have been turned out."""
    liars = [KafkaPeer(kafka, 300 * KIB) for _ in range(3)]
    for peer in liars:
        peer.send(299 * KIB)
    honest = KafkaPeer(kafka, 200 * KIB)
    honest.send()
    assert honest.left
    for _ in range(len(liars)):
        kafka.hub.now_ms += STALLED_MS
        found = kafka.hub.unfinished.in_the_way()
        if found is not None:
            found.turn_out()
        honest.send()
    assert len(honest.client.answers()) == 1
    assert any(peer.machine.finished for peer in liars)
    assert not honest.machine.finished


def test_small_requests_need_no_room(kafka):
    """They are answered while large ones wait."""
    peers_ = [KafkaPeer(kafka, 300 * KIB) for _ in range(4)]
    for peer in peers_:
        peer.send(299 * KIB)
    assert kafka.hub.unfinished.waiting_count
    small = KafkaPeer(kafka, 1000)
    small.send()
    assert len(small.client.answers()) == 1


def test_requests_that_wait_for_the_alarm_to_end(kafka):
    """They are whole, and held: that counts, too, so that not everybody may send one."""
    kafka.hub.set_alarm("memory", active=True)
    everybody = [KafkaPeer(kafka, 200 * KIB) for _ in range(10)]
    for peer in everybody:
        peer.send()
    assert sum(not peer.left for peer in everybody) == 1
    kafka.hub.set_alarm("memory", active=False)
    for call in kafka.hub.on_tick:
        call(kafka.hub.now_ms)
    for peer in everybody:
        peer.send()
        assert len(peer.client.answers()) == 1
    assert kafka.hub.unfinished.octets == 0


def test_who_goes_gives_its_room_back(kafka):
    """In the middle of its request."""
    first, second = KafkaPeer(kafka, 600 * KIB), KafkaPeer(kafka, 200 * KIB)
    first.send(599 * KIB)
    second.send()
    assert second.left
    first.machine.abort()
    second.send()
    assert len(second.client.answers()) == 1


# AMQP.


def half_a_message(client, channel, size, count):
    """basic.publish, its header, and so many octets of the body."""
    begun = method_frame(channel, "basic.publish", 0, "", "q", False, False)
    frames = begun + content_header(channel, size)
    for _ in range(0, count, 64 * KIB):
        frames += frame(3, channel, bytes(64 * KIB))
    client.feed(frames)


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def content_header(channel, size):
    return frame(2, channel, struct.pack(">HHQH", 60, 0, size, 0))


def test_contents_that_are_not_finished():
    """AMQP's unfinished messages take the same room: who began first is read on, the others are not until then."""
    world = World()
    world.hub.unfinished.bytes_max = LIMIT
    first, second = world.connect(), world.connect()
    first.declare("q")
    half_a_message(first, 1, 1024 * KIB, 448 * KIB)
    half_a_message(second, 1, 256 * KIB, 192 * KIB)
    assert (first.machine.paused, second.machine.paused) == (False, True)
    assert world.hub.unfinished.octets == 576 * KIB
    for _ in range(9):
        first.feed(frame(3, 1, bytes(64 * KIB)))
    assert not second.machine.paused
    second.feed(frame(3, 1, bytes(64 * KIB)))
    assert world.hub.unfinished.octets == 0
    assert first.declare("q", passive=True)[0][2][1] == 2


def test_a_channel_that_is_closed_gives_its_room_back():
    """Its half message will never be whole."""
    world = World()
    client = world.connect()
    half_a_message(client, 1, 1024 * KIB, 128 * KIB)
    assert world.hub.unfinished.octets == 128 * KIB
    client.machine.abort()
    assert world.hub.unfinished.octets == 0
