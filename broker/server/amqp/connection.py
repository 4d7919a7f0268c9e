"""One AMQP connection, without IO: feed it octets with `receive`, drain its `outbox`.

Owns the connection's life (handshake to close), its channels, and the loop that hands frames to the hot paths or to
the general one. Knows no sockets and awaits nothing but a login. Who drives it (the pump, a test) has the duties of
`server.machine`.

    HEADER -> START -> (login) -> TUNE -> OPEN -> RUNNING -> CLOSING (we sent close) -> DONE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.core.access import TopicVerb, Verb
from broker.core.access_lists import Kind, Operation
from broker.core.broker import Broker
from broker.core.scheduler import SLICE_UNITS
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused
from broker.server.amqp import (  # noqa: F401 - they fill HANDLERS
    handshake,
    methods_basic,
    methods_channel,
    methods_topology,
    releasing,
    room,
)
from broker.server.amqp.blocking import HeldPublishes
from broker.server.amqp.channel import Channel
from broker.server.amqp.pledges import Unparking
from broker.server.amqp.publish import PUBLISH, publish_run
from broker.server.amqp.routes import RouteCache
from broker.server.amqp.settings import AmqpSettings
from broker.server.amqp.settle import ack_run
from broker.server.amqp.state import State
from broker.server.outbox import Outbox
from broker.server.receive_buffer import ReceiveBuffer
from broker.server.unfinished import Begun
from protocol.amqp.errors import (
    ACCESS_REFUSED,
    CHANNEL_ERROR,
    NOT_ALLOWED,
    REPLY_NAMES,
    PeerError,
    is_hard,
)
from protocol.amqp.frames import HEADER, HEARTBEAT, METHOD, OVERHEAD, method_frame, next_frame
from protocol.amqp.methods import method_number

if TYPE_CHECKING:
    from broker.server.amqp.hub import AmqpHub

ACK = b"\x00\x3c\x00\x50"
CHANNEL_OPEN = method_number("channel.open")
TOPOLOGY_CLASSES = frozenset((b"\x00\x28", b"\x00\x32", b"\x00\x5a"))
"""The class ids of exchange, queue and tx."""
TOPOLOGY_UNITS = 25
"""What a method of these classes costs beside its frame, in units: declaring a queue takes as long as 50 messages."""


class Connection:
    """The state of one connection; see the module's text for who calls what."""

    __slots__ = (
        "_closed_by_peer", "_deaf", "assembling_bytes", "begun", "broker", "buffer", "channel_max", "channels",
        "client_properties", "culprit", "current", "drop_at_ms", "durability", "external_name", "face", "finished",
        "frame_max", "heartbeat_s", "held", "hub", "last_received_ms", "last_sent_ms", "login", "mechanism", "outbox",
        "parked", "peer", "promised_seen", "published_count", "received_octets", "regular_size_max", "released",
        "routes", "seen_received", "seen_sent", "sent_octets", "settings", "started_ms", "state", "store", "tls",
        "transport", "unconfirmed", "units", "user", "vhost",
    )  # fmt: skip

    def __init__(
        self, face: AmqpHub, settings: AmqpSettings, peer: tuple[str, int], external_name: str | None = None
    ) -> None:
        self.face = face
        self.hub = hub = face.hub
        self.broker: Broker = hub.broker
        self.durability = hub.durability
        self.store = self.broker.store  # None keeps everything in memory.
        self.promised_seen = 0
        self.settings = settings
        self.peer = peer
        self.external_name = external_name  # From a verified client certificate.
        self.tls = False
        self.state = State.HEADER
        self.vhost: VHost = None  # type: ignore[assignment]  # Set by connection.open, before any channel exists.
        self.user: Any = None
        self.client_properties: dict[str, Any] = {}
        self.mechanism = ""
        self.login: tuple[str, bytes] | None = None
        self.channels: dict[int, Channel] = {}
        self._closed_by_peer: dict[int, int] = {}  # Channel number -> what comes before this octet is ignored.
        self.frame_max = settings.frame_max_unauthenticated_bytes
        self.regular_size_max = 0
        self.channel_max = 0
        self.heartbeat_s = 0
        self.buffer = ReceiveBuffer()
        self.outbox = Outbox(hub.touched)
        self._deaf = False  # After a frame that breaks the framing nothing more is understood.
        self.units = 0
        self.routes = RouteCache()
        self.current: Channel | None = None
        self.culprit = (0, 0)
        self.unconfirmed: list[Channel] = []
        self.held: HeldPublishes | None = None
        self.parked: list[bytes] | None = None  # Replies that wait for the disk, and everything behind them.
        self.transport: Any = None  # The pump; None in tests that take its part.
        self.finished = False
        self.released = False
        self.drop_at_ms: int | None = None
        self.assembling_bytes = 0  # Of messages whose content has not come whole, on all channels.
        self.begun: Begun | None = None  # The same and what is held, once it is so much that it needs room.
        self.published_count = 0
        self.received_octets = self.sent_octets = 0
        self.seen_received = self.seen_sent = 0
        self.started_ms = self.last_received_ms = self.last_sent_ms = hub.now_ms

    # Octets in.

    @property
    def more(self) -> bool:
        """Whether `proceed` has something to do without new octets."""
        buffer = self.buffer
        return buffer.position < len(buffer.data) and not buffer.need and not self.paused and not self.finished

    @property
    def paused(self) -> bool:
        """Nothing may be taken now: a login is under way, a reply waits for the disk, or an alarm holds this peer."""
        return (
            self.login is not None
            or self.parked is not None
            or (self.held is not None and self.held.full)
            or (self.begun is not None and self.begun.waits)
        )

    @property
    def has_said_all(self) -> bool:
        """Whether nothing follows what is in `outbox`: then the pump shuts the socket for writing at once."""
        return self._deaf and self.state is State.CLOSING

    def receive(self, data: bytes) -> None:
        """Octets arrived."""
        self.received_octets += len(data)
        if self.buffer.add(data):
            self.proceed()

    def proceed(self) -> None:
        """Work on what is buffered, until it is used up or a slice's worth of work is done."""
        self.units = SLICE_UNITS
        if self.vhost is not None:
            self.routes.check(self.vhost.epoch, self.hub.access.epoch)
        durability = self.durability
        if durability is not None:
            self.promised_seen = durability.store.promised_count
            if self.published_count and durability.congested and not self.paused:
                self.park([])
        while not self.paused and not self.finished:
            try:
                self._take()
                break
            except (PeerError, Refused) as error:
                self.on_error(error)
        if self.unconfirmed:
            self.send_confirms()
        if self.buffer.need:
            self.buffer.set_aside()

    def _take(self) -> None:
        buffer = self.buffer
        data = buffer.data
        end = len(data)
        while (position := buffer.position) < end and self.units > 0:
            if self.state is State.RUNNING:
                number = data[position + 7 : position + 11]
                if (number == PUBLISH and self.broker.alarm is None) or number == ACK:
                    channel = self.channels.get(int.from_bytes(data[position + 1 : position + 3], "big"))
                    if channel is not None and channel.regular and data[position] == METHOD:
                        if number == ACK:
                            self.current, self.culprit = channel, (60, 80)
                            after = ack_run(channel, data, position, end)
                        else:
                            after = publish_run(channel, data, position, end)
                        buffer.position = after
                        if buffer.need or (after == position and self.units <= 0):
                            return
                        if after > position:
                            continue
            elif self.state is State.HEADER:
                if end - position < 8:
                    buffer.need = 8
                    return
                buffer.position += 8
                handshake.on_protocol_header(self, data[position : position + 8])
                continue
            self.current, self.culprit = None, (0, 0)
            cut = self._cut(data, position)
            if isinstance(cut, int):
                buffer.need = cut
                return
            buffer.position = cut[3]
            self.units -= 5
            self._on_frame(cut[0], cut[1], cut[2])
            if self.paused or self.finished:
                return

    def _cut(self, data: bytes, position: int) -> tuple[int, int, bytes, int] | int:
        """`next_frame`; once a frame has broken the framing, everything behind it is skipped and 0 returned."""
        if self._deaf:
            self.buffer.position = len(data)
            return 0
        try:
            return next_frame(data, position, self.frame_max)
        except PeerError:
            # Nothing behind it can be told apart: read on only to let the close arrive (a reset could destroy it).
            self.buffer.position = len(data)
            self._deaf = True
            raise

    def _on_frame(self, frame_type: int, number: int, payload: bytes) -> None:
        if frame_type == HEARTBEAT:
            return
        if number == 0 or self.state is not State.RUNNING:
            handshake.on_connection_frame(self, frame_type, number, payload)
            return
        channel = self.channels.get(number)
        if channel is None:
            self._on_unopened(frame_type, number, payload)
            return
        self.current = channel
        if frame_type == METHOD:
            if payload[:4] != PUBLISH:
                if payload[:2] in TOPOLOGY_CLASSES:
                    self.units -= TOPOLOGY_UNITS
                # Others must see what the publishes before have done: counts, deliveries, confirms.
                self.send_confirms()
                self.broker.scheduler.dispatch()
            if payload[:2] == b"\x00\x0a":
                raise PeerError(503, "unimplemented method", 10, int.from_bytes(payload[2:4], "big"))
            channel.on_method(payload)
            self.routes.check(self.vhost.epoch, self.hub.access.epoch)
        elif frame_type == HEADER:
            channel.on_header(payload)
        else:
            channel.on_body(payload)

    def park(self, replies: list[bytes]) -> None:
        """Send these replies, and go on reading, once what was done so far is committed."""
        self.parked = replies
        self.waited()

    def wait(self, replies: list[bytes]) -> None:
        """Send these replies, and go on reading, once `waited` was called and what was done by then is committed."""
        self.parked = replies

    def waited(self) -> None:
        """What this connection waited for has come: `unpark` once what was done so far is committed."""
        if self.store is not None:
            self.store.pledge(Unparking(self))
        else:
            self.unpark()

    def unpark(self) -> None:
        """Say what waited, and go on reading."""
        replies, self.parked = self.parked, None
        if self.released or replies is None:
            return
        for reply in replies:
            self.outbox.send(reply)
        if self.transport is not None:
            self.transport.resume()

    def _on_unopened(self, frame_type: int, number: int, payload: bytes) -> None:
        method = int.from_bytes(payload[:4], "big") if frame_type == METHOD else 0
        if method == CHANNEL_OPEN:
            if len(self.channels) >= self.channel_max:
                count = len(self.channels)
                text = (
                    f"number of channels opened ({count}) has reached the negotiated channel_max ({self.channel_max})"
                )
                raise PeerError(NOT_ALLOWED, text)
            self._closed_by_peer.pop(number, None)
            channel = self.channels[number] = Channel(self, number)
            channel.reply("channel.open-ok", b"")
            return
        unread = len(self.buffer.data) - self.buffer.position
        start = self.received_octets - unread - len(payload) - OVERHEAD
        if start >= self._closed_by_peer.get(number, 0):
            # Only what was on its way when the peer closed the channel is ignored (RabbitMQ: rabbit_reader.erl).
            raise PeerError(CHANNEL_ERROR, "expected 'channel.open'", method >> 16, method & 0xFFFF)

    # Errors and the end.

    def on_error(self, error: PeerError | Refused) -> None:
        """Close the channel or the connection, as the reply code says (spec 1.2)."""
        code = error.reply_code
        class_id, method_id = self.culprit
        if isinstance(error, PeerError):
            hard, text = error.hard, error.reply_text
            if error.class_id:
                class_id, method_id = error.class_id, error.method_id
        else:
            hard, text = is_hard(code), f"{REPLY_NAMES[code]} - {error.text}"
        text = text.encode(errors="replace")[:255].decode(errors="ignore")
        if hard or self.current is None:
            self.fail(code, text, class_id, method_id)
        else:
            self.current.fail(text, code, class_id, method_id)

    def fail(self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Close the connection from our side; the peer has `close_timeout_ms` to agree."""
        if self.state in (State.CLOSING, State.DONE):
            self.finish()
            return
        self.release()
        self.state = State.CLOSING
        self.drop_at_ms = self.hub.now_ms + self.settings.close_timeout_ms
        self.outbox.send(method_frame(0, "connection.close", reply_code, reply_text, class_id, method_id))
        if self.transport is not None:
            self.transport.resume()  # Also one that the alarm held has to be read now, for its close-ok.

    def finish(self) -> None:
        """Nothing more comes from us: the socket is to be closed once `outbox` is empty, or the peer takes too long."""
        self.state = State.DONE
        if self.drop_at_ms is None:
            self.drop_at_ms = self.hub.now_ms + self.settings.close_timeout_ms
        self.finished = True
        self.outbox.touch()

    def abort(self) -> None:
        """The peer is gone: let go of everything."""
        self.release()
        self.state = State.DONE
        self.finished = True
        self.outbox.parts.clear()

    async def log_in(self) -> None:
        """Finish a login that has to be checked off the loop."""
        await handshake.log_in(self)

    def release(self, then: Callable[[], None] | None = None) -> None:
        """Release leases, detach consumers and delete exclusive queues; a second call does nothing.

        With many channels this takes several slices; `then` is called after the last.
        """
        if self.released:
            return
        self.released = True
        self.routes.forget()  # They go round in circles.
        self.held = None
        self.parked = None
        self.assembling_bytes = 0
        room.hold(self, 0)
        self.send_confirms()
        self.unconfirmed.clear()
        channels, self.channels = list(self.channels.values()), {}
        for channel in channels:
            channel.closing = True

        def released() -> None:
            if self.vhost is not None:
                self.vhost.drop_owned(self)
            if then is not None:
                then()

        releasing.release(self, channels, released)

    def forget_channel(self, channel: Channel, by_peer: bool = False) -> None:
        """The channel's number may be used again."""
        self.channels.pop(channel.number, None)
        if by_peer:
            self._closed_by_peer[channel.number] = self.received_octets

    # Octets out.

    def send_confirms(self) -> None:
        """Confirm what was published since the last time, one ack a channel."""
        for channel in self.unconfirmed:
            channel.send_confirms()
        self.unconfirmed.clear()

    def drained(self) -> None:
        """The peer takes octets again."""
        self.outbox.congested = False
        for channel in self.channels.values():
            channel.wake_consumers()

    # What channels ask of their connection.

    def now_ms(self) -> int:
        """The clock that never jumps, as of the event that is handled."""
        return self.hub.now_ms

    def new_name(self, prefix: str) -> str:
        """A name nobody can guess: prefix and 22 characters of base64url."""
        return prefix + self.hub.new_token()

    def peer_can(self, capability: str) -> bool:
        """Whether the client announced a capability."""
        capabilities = self.client_properties.get("capabilities")
        return isinstance(capabilities, dict) and capabilities.get(capability) is True

    def require(self, verb: Verb, kind: str, name: str, operation: Operation | None = None) -> None:
        """Raises Refused 403 unless the user may `configure`, `write` or `read` the queue or exchange.

        `operation` is what configuring a queue is to access lists, where it does not create it.
        """
        listed_as: Kind | None = "topic" if kind == "queue" else None
        if not self.hub.access.can(self.user, self.vhost.name, operation or verb, name, listed_as, self.peer[0]):
            raise Refused(
                ACCESS_REFUSED,
                f"{verb} access to {kind} '{name}' in vhost '{self.vhost.name}' refused for user '{self.user.name}'",
            )

    def require_topic(self, verb: TopicVerb, exchange: str, routing_key: str) -> None:
        """Raises Refused 403 unless topic permissions, where there are any, allow the routing key."""
        if not self.hub.access.can_topic(self.user, self.vhost.name, verb, exchange, routing_key):
            raise Refused(
                ACCESS_REFUSED,
                f"{verb} access to topic '{routing_key}' in exchange '{exchange}' in vhost '{self.vhost.name}' "
                f"refused for user '{self.user.name}'",
            )
