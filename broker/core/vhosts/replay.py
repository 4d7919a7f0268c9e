"""Looking into a queue without taking anything, and sending dead letters back to where they came from.

`browse` goes through everything that is not settled, by offset: ready in memory, ready in the log, and what is with
somebody. `replay` moves messages out of a queue within one turn, so each is moved once, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import merge, nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from broker.core.browsing import DYING, READY, RETRYING, UNACKNOWLEDGED, Seen
from broker.core.message import Incoming, Message, make_origin
from broker.core.queues.x_death import read_deaths
from broker.core.sink import Sink
from broker.core.vhosts.publishing import deliver, find_for_nobody
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import with_entries, without_entry

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost

DEATH_HEADERS = (
    "x-death",
    *(f"x-{which}-death-{name}" for which in ("first", "last") for name in ("exchange", "queue", "reason")),
    *(f"x-death-{name}" for name in ("group", "partition", "offset")),
    "x-delivery-count",
)
REPLAYED_FROM = "x-replayed-from"
_HEADERS = frozenset({"headers"})


MayWrite = Callable[[str, str], bool]


def browse(queue: Queue, start: int, leased: Mapping[int, Message], most: int) -> Iterator[Seen]:
    """Up to about `most` messages of the queue from offset `start` on, by offset. Lazy. Raises Corrupt and OSError.

    `leased` is what is with consumers, by offset: their channels know.
    """
    ready = (Seen(offset, READY, message) for offset, message in queue.store.ready_messages(start))
    held = (Seen(offset, UNACKNOWLEDGED, leased[offset]) for offset in sorted(leased) if offset >= start)
    yield from merge(ready, held, _waiting(queue, start, most), key=lambda seen: seen.offset)
    if queue.store.unloaded_count:
        for first, messages, _ in queue.store.scan(start):
            for offset, message in enumerate(messages, first):
                if offset >= start:
                    yield Seen(offset, READY, message)


def _waiting(queue: Queue, start: int, most: int) -> Iterator[Seen]:
    """What is leased by the queue itself."""
    found: list[tuple[int, str, Message | None]] = []
    if queue.limits is not None:
        found += [(offset, RETRYING, message) for offset, message in queue.limits.retries if offset >= start]
    if queue.at_least_once is not None:
        found += [(offset, DYING, message) for offset, message, _ in queue.at_least_once.letters() if offset >= start]
    found = nsmallest(most, found, key=itemgetter(0))
    read = dict(queue.store.read_each([offset for offset, _, message in found if message is None]))
    for offset, state, held in found:
        message = held or read.get(offset)
        if message is not None:
            yield Seen(offset, state, message)


class Outcome(NamedTuple):
    """What became of one message that was to be replayed."""

    moved: bool
    reason: str
    """Why not: "gone" (somebody took it), "no origin", "refused" (the origin is full), "not permitted"."""


class Source(Protocol):
    """Where dead letters lie: the store of a queue, or a topic (`streams.letters`)."""

    def take_each(self, offsets: Sequence[int]) -> Sequence[object]:
        """Those of them that are ready are held by whoever asks."""
        ...

    def settle(self, offsets: Sequence[int]) -> None:
        """They are gone."""


def replay(home: VHost, name: str, source: Source, seen: Seen, may_write: MayWrite, *, to_exchange: bool) -> Outcome:
    """Send one ready dead letter back to the queue where it died first, or to the exchange that it came through then.

    `may_write(exchange, routing key)` says whether whoever asks may publish there. The message arrives as if it had
    never died, with a header that says where it was; what was delivered of it counts no more.
    """
    deaths = read_deaths(seen.message[1])
    first = deaths[-1] if deaths else None
    if first is None:
        return Outcome(False, "no origin")
    exchange = str(first.get("exchange", ""))
    key = next((one for one in first.get("routing-keys") or () if isinstance(one, str)), "")
    died_in = str(first.get("queue", ""))
    is_direct = not to_exchange or not exchange
    if not (may_write("", died_in) if is_direct else may_write(exchange, key)):
        return Outcome(False, "not permitted")
    message = _revived(seen.message, exchange, key, name)
    letter = Incoming(exchange, key, message, home.scheduler.wall_ms)
    if is_direct:
        targets: Sequence[Sink] = [target for target in [home.target(died_in)] if target is not None]
    else:
        targets = find_for_nobody(home, letter)
    accepting = [target for target in targets if target.accepts(message)]
    if not accepting or not source.take_each((seen.offset,)):
        letter.forget()
        return Outcome(False, "gone" if accepting else "refused" if targets else "no origin")
    deliver(None, accepting, message, letter)
    source.settle((seen.offset,))
    return Outcome(True, "")


def _revived(message: Message, exchange: str, key: str, where: str) -> Message:
    """Without its deaths, under its first exchange and routing key, as a client would have published it."""
    content = message[1]
    table = wire.property_octets(content, "headers")
    for name in DEATH_HEADERS:
        table = without_entry(table, name)
    changes = {"headers": with_entries(table, {REPLAYED_FROM: where})}
    return make_origin(exchange.encode(), key.encode()), wire.with_properties(content, changes, 1)


AGES = ((60, "under a minute"), (3600, "under an hour"), (86_400, "under a day"), (7 * 86_400, "under a week"))


def kind_of_death(message: Message, wall_ms: int) -> tuple[str, str, str] | None:
    """(source: the queue of the first death, its reason, age of the last one in words); None for a living message."""
    deaths = read_deaths(message[1])
    if not deaths:
        return None
    time_s = deaths[0].get("time")
    age_s = wall_ms / 1000 - time_s if isinstance(time_s, int) else 0
    age = next((text for limit, text in AGES if age_s < limit), "older")
    return str(deaths[-1].get("queue", "")), str(deaths[-1].get("reason", "")), age


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
