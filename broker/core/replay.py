"""Looking into a queue without taking anything, and sending dead letters back to where they came from.

`browse` goes through everything that is not settled, by offset: ready in memory, ready in the log, and what is with
somebody. `replay` moves messages out of a queue within one turn, so each is moved once, whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.core.deaths import read_deaths
from broker.core.message import Incoming, Message, make_origin
from broker.core.routing import route
from broker.errors import Refused
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import with_entries, without_entry

if TYPE_CHECKING:
    from broker.core.queue import Queue
    from broker.core.vhost import VHost

READY, UNACKNOWLEDGED = "ready", "unacknowledged"
DEATH_HEADERS = (
    "x-death",
    *(f"x-{which}-death-{name}" for which in ("first", "last") for name in ("exchange", "queue", "reason")),
    "x-delivery-count",
)
REPLAYED_FROM = "x-replayed-from"
_HEADERS = frozenset({"headers"})


class Seen(NamedTuple):
    """One message as `browse` found it."""

    offset: int
    state: str
    message: Message


def browse(queue: Queue, start: int, leased: Mapping[int, Message]) -> Iterator[Seen]:
    """Everything in the queue from offset `start` on, in order of offsets; lazy. Raises Corrupt and OSError.

    `leased` is what is with consumers, by offset: their channels know.
    """
    ready = sorted(queue.cursor.ready_messages()) if not queue.cursor.windowed else queue.cursor.ready_messages()
    sources = [
        (Seen(offset, READY, message) for offset, message in ready if offset >= start),
        (Seen(offset, UNACKNOWLEDGED, leased[offset]) for offset in sorted(leased) if offset >= start),
    ]
    yield from merge(*sources, key=lambda seen: seen.offset)
    if queue.backlog is not None and queue.cursor.unloaded_count:
        for first, messages, _ in queue.backlog.scan(start):
            for offset, message in enumerate(messages, first):
                if offset >= start:
                    yield Seen(offset, READY, message)


class Outcome(NamedTuple):
    """What became of one message that was to be replayed."""

    moved: bool
    reason: str
    """Why not: "gone" (somebody took it), "no origin", "refused" (the origin is full)."""


def replay(home: VHost, queue: Queue, seen: Seen, *, to_exchange: bool) -> Outcome:
    """Send one ready dead letter back to the queue where it died first, or to the exchange that it came through then.

    It arrives as if it had never died, with a header that says where it was; what was delivered of it counts no more.
    """
    deaths = read_deaths(seen.message[1])
    first = deaths[-1] if deaths else None
    if first is None:
        return Outcome(False, "no origin")
    exchange = str(first.get("exchange", ""))
    key = next((one for one in first.get("routing-keys") or () if isinstance(one, str)), "")
    message = _revived(seen.message, exchange, key, queue.name)
    letter = Incoming(exchange, key, message, home.scheduler.wall_ms)
    targets = _targets(home, str(first.get("queue", "")), letter, to_exchange=to_exchange)
    accepting = [target for target in targets if target.accepts()]
    if not accepting or not queue.take_each((seen.offset,)):
        letter.forget()
        return Outcome(False, "gone" if accepting else "refused" if targets else "no origin")
    for target in accepting:
        target.enqueue_one(message)
    queue.settle((seen.offset,))
    return Outcome(True, "")


def _targets(home: VHost, queue: str, letter: Incoming, *, to_exchange: bool) -> tuple[Queue, ...]:
    if not to_exchange or not letter.exchange:
        found = home.queues.get(queue)
        return (found,) if found is not None else ()
    source = home.exchanges.get(letter.exchange)
    if source is None:
        return ()
    try:
        return route(home.exchanges, source, letter)
    except (PeerError, Refused):
        return ()


def _revived(message: Message, exchange: str, key: str, where: str) -> Message:
    """Without its deaths, under its first exchange and routing key, as a client would have published it."""
    content = message[1]
    table = wire.property_octets(content, "headers")
    for name in DEATH_HEADERS:
        table = without_entry(table, name)
    changes = {"headers": with_entries(table, {REPLAYED_FROM: where})}
    return make_origin(exchange.encode(), key.encode()), wire.with_properties(content, changes, 1)


class Filter:
    """Which messages are meant: by where and why they died first, by headers, by octets of the body."""

    __slots__ = ("_body", "_headers", "_queue", "_reason")

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        queue: str | None = None,
        reason: str | None = None,
    ) -> None:
        self._headers = dict(headers or {})
        self._body = body
        self._queue = queue
        self._reason = reason

    def __call__(self, message: Message) -> bool:
        content = message[1]
        if self._body and self._body not in wire.body(content):
            return False
        if not self._headers and self._queue is None and self._reason is None:
            return True
        headers = _headers_of(content)
        if self._queue is not None and headers.get("x-first-death-queue") != self._queue:
            return False
        if self._reason is not None and headers.get("x-first-death-reason") != self._reason:
            return False
        return all(name in headers and str(headers[name]) == value for name, value in self._headers.items())


def _headers_of(content: bytes) -> Mapping[str, Any]:
    try:
        return wire.parse_properties(wire.header_payload(content), _HEADERS).get("headers") or {}
    except PeerError:
        return {}
