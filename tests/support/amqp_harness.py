"""A broker in memory and clients that speak to it in frames: no sockets, no clock, no client library."""

import itertools
import os
import random
import struct
import weakref
from collections import deque

from pamqp import commands
from sim_disk import SimDisk

from broker.core.access import Access
from broker.core.broker import Broker
from broker.log.recovery import open_store
from broker.server.amqp.connection import Connection
from broker.server.amqp.hub import AmqpHub
from broker.server.amqp.settings import AmqpSettings
from broker.server.auth import Authenticator
from broker.server.durability import Durability
from broker.server.env import Env
from broker.server.hub import Hub
from protocol.amqp import content as wire
from protocol.amqp.frames import PROTOCOL_HEADER, method_frame
from protocol.amqp.methods import DECODERS, NAMES


class InlineWorker:
    """In the place of a thread: a job is done when it is submitted, its result is collected like any other."""

    def __init__(self, _name, _fd):
        self.results = deque()

    def submit(self, job):
        error = None
        try:
            job()
        except OSError as failed:
            error = failed
        self.results.append(error)

    def stop(self):
        pass


class World:
    """One broker; `connect` gives clients. Users: guest (everything), and whoever `allow` adds.

    `disk` has the data of a broker that keeps them; with the same disk another World is that broker's next run.
    """

    def __init__(self, disk=None, wall_ms=1_000_000, **settings):
        self.disk = disk
        # Another run gives other tokens and ids.
        starts = 0 if disk is None else disk.starts if isinstance(disk, SimDisk) else len(disk.names("logs"))
        numbers = random.Random(starts)
        self.now_ns = itertools.count(1_000_000_000, 1000)
        self.env = Env(
            monotonic_ns=lambda: next(self.now_ns),
            time_ns=lambda: wall_ms * 1_000_000,
            random_bytes=numbers.randbytes,
            randrange=random.Random(1).randrange,
            new_worker=InlineWorker,
        )
        self.store = None
        if disk is not None:
            uuids = itertools.count(starts * 1_000_000 + 1)
            self.store = open_store(disk, lambda: next(uuids).to_bytes(16, "big"))
        self.durability = Durability(self.store, self.env) if disk is not None else None
        self.closing = weakref.finalize(self, os.close, self.durability.flusher.fd) if disk is not None else None
        self.broker = Broker(self.env.randrange, store=self.store)
        self.broker.scheduler.wall_ms = wall_ms
        self.broker.restore(0)
        self.broker.add_vhost("/")
        self.access = Access()
        self.authenticator = Authenticator(self.access, clock=self.env.monotonic_s)
        self.hub = Hub(self.broker, self.access, self.authenticator, self.durability, env=self.env)
        self.amqp = AmqpHub(self.hub)
        self.settings = AmqpSettings(**settings)
        self.ports = itertools.count(1000)
        self.allow("guest", ".*", ".*", ".*")

    def allow(self, name, configure, write, read):
        """Create a user whose password is its name."""
        self.access.put_user(name)
        self.authenticator.set_password(name, name)
        self.access.set_permissions(name, "/", configure, write, read)

    def connect(self, **options):
        """An open connection with channel 1 open."""
        client = Client(self)
        client.log_in(**options)
        client.call(1, "channel.open", "")
        return client

    def settle(self):
        """Run until nothing is left to do."""
        self.hub.end_turn()
        while self.busy:
            self.broker.scheduler.run_slice()
            if self.durability is not None:
                self.durability.flusher.collect()
            self.hub.end_turn()

    @property
    def busy(self):
        """Whether something is left to do."""
        store = self.store
        writing = store is not None and (store.dirty or store.synced_frame < store.frame - 1)
        return writing or self.broker.scheduler.busy

    def advance(self, milliseconds):
        """Time passes."""
        self.hub.now_ms += milliseconds
        self.broker.scheduler.wall_ms += milliseconds
        self.broker.tick(self.hub.now_ms)
        for call in self.hub.on_tick:
            call(self.hub.now_ms)
        self.settle()

    def kill(self, **next_run):
        """The process is killed; returns its next run, by default on a clock that stands where this one's began."""
        self.disk.kill()
        return World(self.disk, **next_run)

    def stop(self, **next_run):
        """The process stops in order; returns its next run."""
        self.broker.close_in_order()
        self.closing.detach()
        self.durability.flusher.stop()
        self.store.close()
        self.disk.kill()
        return World(self.disk, **next_run)

    def queue(self, name):
        """The queue behind a name."""
        return self.broker.vhosts["/"].queues[name]


class Client:
    """One connection, seen from the peer."""

    def __init__(self, world):
        self.world = world
        self.machine = Connection(world.amqp, world.settings, ("127.0.0.1", next(world.ports)))
        world.amqp.add(self.machine)

    def feed(self, data):
        """Octets to the broker; runs until all is done."""
        self.machine.receive(data)
        self.world.settle()
        while self.machine.more:
            self.machine.proceed()
            self.world.settle()
        return self

    def raw(self):
        """Octets from the broker since the last time."""
        self.world.settle()
        outbox = self.machine.outbox
        data = b"".join(outbox.parts)
        outbox.parts.clear()
        outbox.size = 0
        return data

    def frames(self):
        """What came since the last time: (method, channel, arguments), or ('header' or 'body', channel, octets)."""
        return parse(self.raw())

    def log_in(self, user="guest", capabilities=None, frame_max=131_072, channel_max=2047, vhost="/", heartbeat=0):
        """The handshake in one write, as a client may do it."""
        properties = {} if capabilities is None else {"capabilities": capabilities}
        response = f"\0{user}\0{user}".encode()
        self.feed(
            PROTOCOL_HEADER
            + method_frame(0, "connection.start-ok", properties, "PLAIN", response, "en_US")
            + method_frame(0, "connection.tune-ok", channel_max, frame_max, heartbeat)
            + method_frame(0, "connection.open", vhost, "", False)
        )
        return self.frames()

    def send(self, channel, name, *values):
        """One method."""
        return self.feed(method_frame(channel, name, *values))

    def fill(self, queue, count, size, **properties):
        """Publish `count` messages of `size` octets, as fast as it goes."""
        one = publish(1, "", queue, b"x" * size, **properties)
        while count:
            some = min(count, max(200_000 // len(one), 1))
            self.feed(one * some)
            count -= some

    def call(self, channel, name, *values):
        """One method; returns all frames that come."""
        self.frames()
        return self.send(channel, name, *values).frames()

    def declare(
        self, name="", channel=1, *, passive=False, durable=False, exclusive=False, auto_delete=False, **arguments
    ):
        """queue.declare; keyword arguments with _ for - are the x-arguments."""
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.call(channel, "queue.declare", 0, name, passive, durable, exclusive, auto_delete, False, table)

    def declare_exchange(
        self, name, kind="direct", *, passive=False, durable=False, auto_delete=False, internal=False, **arguments
    ):
        """exchange.declare; keyword arguments with _ for - are the x-arguments."""
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.call(1, "exchange.declare", 0, name, kind, passive, durable, auto_delete, internal, False, table)

    def bind(self, queue, exchange, routing_key="", arguments=None):
        """queue.bind on channel 1."""
        return self.call(1, "queue.bind", 0, queue, exchange, routing_key, False, arguments or {})

    def publish(self, queue, body=b"x", channel=1, exchange="", mandatory=False, **properties):
        """basic.publish in one write; other keyword arguments are properties, in pamqp's names."""
        return self.feed(publish(channel, exchange, queue, body, mandatory, **properties))

    def consume(self, queue, tag="", channel=1, no_ack=False, exclusive=False, **arguments):
        """basic.consume; returns the frames that come, deliveries included."""
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.call(channel, "basic.consume", 0, queue, tag, False, no_ack, exclusive, False, table)

    def get(self, queue, channel=1, no_ack=False):
        """basic.get: (delivery tag, redelivered, body), None for empty."""
        frames = self.call(channel, "basic.get", 0, queue, no_ack)
        if frames[0][0] == "basic.get-empty":
            return None
        tag, redelivered = frames[0][2][:2]
        return tag, redelivered, b"".join(octets for kind, _, octets in frames if kind == "body")

    def drop(self):
        """The peer is gone."""
        self.machine.abort()
        self.world.amqp.remove(self.machine)
        self.world.settle()


class Transport:
    """Stands where the pump stands, for who looks whether it is closed."""

    pending_bytes = 0
    progress_ms = 0
    closed = False

    def close(self):
        """The connection is ended."""
        self.closed = True

    def flush(self):
        """The test reads the outbox itself."""

    def resume(self):
        """Nothing was paused."""


def publish(channel, exchange, routing_key, body, mandatory=False, octets=None, frame_max=131_072, **properties):
    """The octets of a whole publish; properties as pamqp renders them, or flags and list as octets."""
    method = method_frame(channel, "basic.publish", 0, exchange, routing_key, mandatory, False)
    octets = octets or commands.Basic.Properties(**properties).marshal()
    flags = int.from_bytes(octets[:2], "big")
    return method + wire.encode_content(channel, octets[2:], flags, body, frame_max)


def refusal(frames):
    """(code, text without the code's name) of the channel.close or connection.close among frames."""
    values = next(values for name, _, values in frames if name in ("channel.close", "connection.close"))
    return values[0], values[1].partition(" - ")[2]


def answer(frames):
    """The name of the first method among frames, None where there is none."""
    return frames[0][0] if frames else None


def parse(data):
    """Frames of a byte string, see Client.frames."""
    found = []
    position = 0
    while position < len(data):
        kind, channel, size = struct.unpack_from(">BHI", data, position)
        payload = data[position + 7 : position + 7 + size]
        assert data[position + 7 + size] == 0xCE
        position += size + 8
        if kind == 1:
            number = int.from_bytes(payload[:4], "big")
            found.append((NAMES[number], channel, DECODERS[number](payload)))
        else:
            found.append(({2: "header", 3: "body", 8: "heartbeat"}[kind], channel, payload))
    return found


def deliveries(frames):
    """(consumer tag, delivery tag, redelivered, body) of the deliveries among frames."""
    found = []
    for kind, _, value in frames:
        if kind == "basic.deliver":
            found.append([*value[:3], b""])
        elif kind == "body" and found:
            found[-1][3] += value
    return [tuple(one) for one in found]
