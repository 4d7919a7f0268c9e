"""One Kafka connection, without IO: requests in, answers out in the order of the requests.

Owns the framing, the order of answers and back-pressure. What a request means is `handlers`' business. A request is
worked on as soon as it is there, also while answers before it wait (for the disk, for data, for a group): they are
sent in order all the same, and `SLOTS_MAX` bounds how many wait. Who drives it has the duties of `server.machine`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from broker.server.kafka.handlers import CHANGES, NEEDS_TURN, NO_ANSWER, SERVED, Steps, handler_of
from broker.server.kafka.owed import Debt
from broker.server.kafka.reading import is_long, read_on
from broker.server.kafka.sasl import certified, log_in, on_token
from broker.server.kafka.slot import Slot
from broker.server.outbox import Outbox
from broker.server.receive_buffer import ReceiveBuffer
from broker.server.unfinished import LARGE_BYTES, Begun
from protocol.kafka.headers import (
    RequestHeader,
    UnsupportedVersion,
    read_request,
    unsupported_version_response,
)
from protocol.kafka.schema import MalformedRequest

if TYPE_CHECKING:
    from broker.server.kafka.hub import KafkaHub
    from broker.server.machine import Octets

log = logging.getLogger("jackalope.kafka")

SLOTS_MAX = 64
"""Answers that may be owed to one peer; a producer has five requests in flight, a consumer one or two."""
OUT_BYTES_MAX = 1 << 20
"""With more than this to be sent next, files included, no further request is worked on: an answer may be 50 MB."""
SLICE_REQUESTS = 16
SLICE_BYTES = 1 << 20
SIZE_OCTETS = 4
LARGE_BYTES_FIRST = 64 << 10
"""Room for the beginning of such a request, from a peer that has not sent a larger one yet."""
LEAST_REQUEST_BYTES = 8


class KafkaConnection:
    """See the module."""

    __slots__ = (
        "_begun", "_external_name", "_is_last", "buffer", "client_id", "client_software", "debt", "exchange",
        "expects_token", "finished", "has_logged_in", "hub", "last_heard_ms", "local", "login", "mechanism", "number",
        "on_close", "outbox", "peer", "pledged_count", "postponed", "received_octets", "requests_count", "sent_octets",
        "slots", "started_ms", "tls", "transport", "user", "working",
    )  # fmt: skip

    def __init__(self, hub: KafkaHub, peer: tuple[str, int], local: tuple[str, int]) -> None:
        self.hub = hub
        self.number = next(hub.numbers)
        """No other connection of this run has it; the first has 1."""
        self.peer = peer
        self.local = local  # What the client dialled.
        self.user = hub.anonymous(peer[0])  # None until it has logged in, where that is needed.
        self.mechanism: str | None = None  # Of SASL, once agreed on.
        self.exchange: Any = None  # Of SCRAM, between the first message and the final one.
        self.expects_token = False  # The next frame is a token of it, and no request.
        self.has_logged_in = False
        self.client_id = ""
        self.client_software = ""
        self._external_name: str | None = None
        self.tls = False
        self.login: Any = None
        self.slots: deque[Slot] = deque()
        self.debt = Debt(hub.owed, self)
        """The octets of its answers, also of those that do not have their turn yet."""
        self.postponed: tuple[Slot, Any] | None = None
        """A request that waits, and all behind it: for the disk to catch up, or for an alarm to end."""
        self.pledged_count = 0
        """How many of its requests are done, and answered once that is durable, or written in steps."""
        self._is_last = False
        """It takes no more requests."""
        self.working = False
        """Whether a request is being answered in slices; all behind it wait."""
        self.on_close: dict[object, Callable[[], None]] = {}
        """Called when the peer is gone, by who keeps something for this connection."""
        self.transport: Any = None
        self.outbox = Outbox(hub.hub.touched)
        self.finished = False
        self.received_octets = self.sent_octets = self.requests_count = 0
        self.started_ms = self.last_heard_ms = hub.now_ms
        self.buffer = ReceiveBuffer(LARGE_BYTES_FIRST)
        self._begun: Begun | None = None
        """What it holds of large requests: those that are not whole, and those that wait."""

    @property
    def external_name(self) -> str | None:
        """The name in the peer's verified certificate, set when TLS is established: it is the user, without SASL."""
        return self._external_name

    @external_name.setter
    def external_name(self, name: str | None) -> None:
        self._external_name = name
        if name is not None:
            self.user = certified(self, name)

    # Octets in.

    @property
    def more(self) -> bool:
        """Whether `proceed` has something to do without new octets."""
        buffer = self.buffer
        return buffer.position < len(buffer.data) and not buffer.need and not self.paused and not self.finished

    @property
    def paused(self) -> bool:
        """Nothing may be taken now: enough is owed, or unsent, or there is no room for what may come."""
        return (
            self.postponed is not None
            or self.working
            or self._is_last
            or len(self.slots) >= SLOTS_MAX
            or self.outbox.size > OUT_BYTES_MAX
            or self.debt.is_too_much
            or self.login is not None
            or (self._begun is not None and self._begun.waits)
        )

    @property
    def has_said_all(self) -> bool:
        """Kafka's brokers close without a word."""
        return False

    def receive(self, data: bytes) -> None:
        """Octets arrived."""
        self.received_octets += len(data)
        self.last_heard_ms = self.hub.now_ms
        buffer = self.buffer
        need = buffer.need
        is_whole = buffer.add(data)
        if need > LARGE_BYTES:
            self._comes(len(data)).holds(buffer.have)
        if is_whole:
            self.proceed()

    def received(self, count: int) -> None:
        """Octets of a large request arrived."""
        self.received_octets += count
        self.last_heard_ms = self.hub.now_ms
        begun = self._comes(count)
        if self.buffer.added(count):
            self.proceed()
        else:
            self.buffer.grow(begun.may_hold)

    def _comes(self, octets: int) -> Begun:
        if self._begun is None:
            self._begun = Begun(self.hub.hub.unfinished, self._on_room, self._turn_out, lambda: self.paused)
        self._begun.has_come(octets)
        return self._begun

    def _on_room(self) -> None:
        """There is room for the large request that comes."""
        buffer = self.buffer
        if buffer.need > LARGE_BYTES and not self.tls and buffer.target is None:
            buffer.grow(self._comes(0).may_hold)
        self._resume()

    def _turn_out(self) -> None:
        self.hub.turn_out(self, "others wait for the room that its request takes")

    def _maybe_let_go(self) -> None:
        """If no large request of this peer comes or waits any more, it holds no room."""
        if self._begun is not None and not self.working and self.postponed is None and self.buffer.need <= LARGE_BYTES:
            begun, self._begun = self._begun, None
            begun.let_go()

    def proceed(self) -> None:
        """Work on what is buffered, until it is used up or a slice's worth of work is done."""
        buffer = self.buffer
        requests, octets = SLICE_REQUESTS, SLICE_BYTES
        while requests > 0 and octets > 0 and not self.paused and not self.finished:
            size = self._next_size()
            if not size:
                break
            start = buffer.position + SIZE_OCTETS
            buffer.position = start + size
            requests -= 1
            octets -= size
            self._on_request(memoryview(buffer.data)[start : start + size])
        if buffer.need > LARGE_BYTES and not self.tls:
            buffer.begin_large()
            buffer.grow(self._comes(0).may_hold)
        elif buffer.need:
            buffer.set_aside()
        elif buffer.position < len(buffer.data):
            return
        else:
            buffer.clear()
        self._maybe_let_go()

    def _next_size(self) -> int:
        """Octets of the request that is complete in the buffer; 0 when there is none (then `need` may say more)."""
        buffer = self.buffer
        data, position = buffer.data, buffer.position
        have = len(data) - position
        if have < SIZE_OCTETS:
            buffer.need = SIZE_OCTETS if have else 0
            return 0
        size = int.from_bytes(data[position : position + SIZE_OCTETS], "big", signed=True)
        limit = self.hub.request_bytes_max(self)
        if not LEAST_REQUEST_BYTES <= size <= limit:
            self.end(f"a request of {size} octets, at most {limit} are taken")
            return 0
        if have < SIZE_OCTETS + size:
            buffer.need = SIZE_OCTETS + size
            return 0
        return size

    def _on_request(self, data: memoryview) -> None:
        self.requests_count += 1
        if self.user is None or self.requests_count == 1:
            self.hub.heard(self)
        if self.expects_token:
            slot = Slot(self, RequestHeader(0, 0, 0, None))
            self.slots.append(slot)
            on_token(self, slot, bytes(data))
            return
        if is_long(data):
            self.working = True
            self.hub.hub.scheduler.add_job(read_on(self, data))
            return
        try:
            header, request = read_request(data, SERVED)
        except (UnsupportedVersion, MalformedRequest) as error:
            self.not_read(error)
        else:
            self.on_read(header, request)

    def not_read(self, error: UnsupportedVersion | MalformedRequest) -> None:
        """A request says nothing that is served, or nothing at all."""
        if isinstance(error, MalformedRequest):
            self.end(f"malformed: {error}")
            return
        response = unsupported_version_response(error)
        if response is None:
            self.end(str(error))
        else:
            self._slot_of(response)

    def on_read(self, header: RequestHeader, request: Any) -> None:
        """A request is there, whole."""
        if not self.hub.may_ask(self, header.api_key):
            self.end(f"request {header.api_key} before authentication")
            return
        if header.api_key not in SERVED:
            self.end(f"request {header.api_key} is not served")
            return
        if header.client_id:
            self.client_id = header.client_id
        slot = Slot(self, header)
        self.slots.append(slot)
        self._handle(slot, request)

    def _handle(self, slot: Slot, request: Any) -> None:
        response = handler_of(slot.header.api_key)(self, slot, request)
        if type(response) is GeneratorType:
            self._take_steps(slot, response)
        else:
            self._answer(slot, response)

    def _take_steps(self, slot: Slot, steps: Steps) -> None:
        """The first step now; if that is not all, the rest as a job of the scheduler."""
        try:
            units = next(steps)
        except StopIteration as done:
            self._answer(slot, done.value)
        else:
            self.working = slot.is_long = True
            if units == NEEDS_TURN:
                self.hub.long_requests.add(self, self._take_more(slot, steps, has_turn=True))
            else:
                self.hub.hub.scheduler.add_job(self._take_more(slot, steps, has_turn=False))

    def _take_more(self, slot: Slot, steps: Steps, *, has_turn: bool) -> Iterator[int]:
        """One step an iteration. A bug ends this connection, since what a job raises would end the broker."""
        try:
            yield from self._rest(slot, steps, has_turn=has_turn)
        except Exception:  # noqa: BLE001 - see end_by_bug
            self.end_by_bug()

    def _rest(self, slot: Slot, steps: Steps, *, has_turn: bool) -> Iterator[int]:
        """A peer that is gone wants no answer; but what it has asked to be changed is, as Kafka's controller does."""
        while not self.finished or slot.header.api_key in CHANGES:
            try:
                units = next(steps)
            except StopIteration as done:
                if done.value is None or done.value is NO_ANSWER:
                    self._answer(slot, done.value)
                else:  # Still `working`: what is asked behind it may be as long.
                    yield from slot.answer_in_steps(done.value)
                self.working = False
                self.go_on()
                return
            if units == NEEDS_TURN:
                if not has_turn:
                    self.hub.long_requests.add(self, self._take_more(slot, steps, has_turn=True))
                    return
                units = 0
            yield units
        steps.close()

    def _answer(self, slot: Slot, response: Any) -> None:
        if response is NO_ANSWER:
            slot.answered = True
            self.answers_came()
        elif response is not None:
            slot.answer(response)

    def _slot_of(self, parts: Octets) -> None:
        slot = Slot(self, RequestHeader(0, 0, 0, None))
        self.slots.append(slot)
        slot.answer_raw(parts)

    # Octets out.

    def answers_came(self) -> None:
        """Put in the outbox whatever has its turn."""
        slots, outbox = self.slots, self.outbox
        count = len(slots)
        while slots and slots[0].answered:
            slot = slots.popleft()
            self.debt.unsent += slot.memory_size
            outbox.put(slot.parts)
        if outbox.parts:
            outbox.touch()
        self._maybe_end()
        if len(slots) < count:
            self.debt.go_on()
        if len(slots) < SLOTS_MAX <= count:
            self._resume()

    def wrote(self, octets: int, in_memory: int) -> None:
        """So many octets of the outbox have gone, and so many of these were in memory."""
        self.debt.wrote(octets, in_memory)

    def drained(self) -> None:
        """The peer takes octets again."""
        self.outbox.congested = False

    def hold(self, slot: Slot, request: Any) -> None:
        """Come back to this request, and take no other, when `release` is called."""
        self.postponed = slot, request

    def release(self) -> None:
        """The request that was postponed may go on."""
        if self.postponed is not None and not self.finished:
            slot, request = self.postponed
            self.postponed = None
            self._handle(slot, request)
            self.go_on()

    def go_on(self) -> None:
        """What has held back the requests behind it is over, or a stop."""
        self._maybe_let_go()
        self._maybe_end()
        self._resume()

    def _resume(self) -> None:
        if self.transport is not None:
            self.transport.resume()

    # The end.

    def end(self, why: str) -> None:
        """Close: what this peer says is not understood, or not taken."""
        self.hub.log_closed(self, why)
        self.slots.clear()
        self.postponed = None
        self.finished = True
        self.outbox.touch()

    def end_when_done(self) -> None:
        """Take no more requests; close when what was done is answered. Who waits for something to happen is not."""
        self._is_last = True
        self._maybe_end()

    def _maybe_end(self) -> None:
        if self._is_last and not self.pledged_count and not self.working:
            self.slots.clear()
            self.postponed = None
            self.finished = True
            self.outbox.touch()

    def end_by_bug(self) -> None:
        """Close, within an `except`: what is raised further up would end the broker."""
        self.hub.log_lines.bug(log, "connection ended by a bug: peer=%s:%s", *self.peer[:2])
        self.end("a bug")

    def abort(self) -> None:
        """The peer is gone: let go of everything."""
        self.finished = True
        self.outbox.parts.clear()
        self.slots.clear()
        self.debt.close()
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.let_go()
        self.buffer.drop_large()
        callbacks, self.on_close = self.on_close, {}
        for forget in callbacks.values():
            forget()

    async def log_in(self) -> None:
        """Finish a login that has to be checked off the loop."""
        await log_in(self)
