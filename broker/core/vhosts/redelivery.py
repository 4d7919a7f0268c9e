"""What a queue has kept of what it delivered (`core.vhosts.retaining`): looking at it, and delivering it once more.

`retained` goes through it by offset. `redeliver` appends a *copy*, to the queue itself or through an exchange, with the
headers `x-replayed-from` (the queue) and `x-replayed-offset`: what was settled stays settled, and a copy is a message
like any other, kept in its turn. Who replays a range fixes its end before the first copy, and so meets none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from broker.core.browsing import Seen
from broker.core.intervals import Place
from broker.core.message import Incoming, make_origin, origin_names, with_headers
from broker.core.queues.records import FRAME_MAX_BYTES
from broker.core.vhosts.publishing import deliver, find_for_nobody
from broker.core.vhosts.replay import REPLAYED_FROM, MayWrite
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost

RETAINED = "retained"
REPLAYED_OFFSET = "x-replayed-offset"
HEADER_BYTES_MAX = FRAME_MAX_BYTES - 8
"""What a header frame holds; it is never split."""
COPIED, NOT_PERMITTED, REFUSED, UNROUTABLE, MALFORMED = "", "not permitted", "refused", "unroutable", "bad headers"


class Kept(NamedTuple):
    """A stretch of a queue's log up to `end`: of its messages, those that were delivered and are kept."""

    end: int
    messages: list[Seen]


def retained(queue: Queue, start: int) -> Iterator[Kept]:
    """What the queue keeps from offset `start` on, batch by batch. Lazy. Raises Corrupt and OSError.

    Messages that are not persistent may be among those of a log, and are not kept.
    """
    if queue.rules.retains:
        for end, messages in queue.store.scan_kept(start):
            yield Kept(end, [Seen(offset, RETAINED, message) for offset, message in messages])


def offset_of(queue: Queue, place: Place) -> int:
    """Where an offset or a time is in what the queue keeps. Raises Corrupt and OSError."""
    if place.kind == "offset":
        return min(place.value, queue.store.end_offset)
    log = queue.store.log
    header = log.first_since(place.value) if log is not None else None
    return header.base_offset if header is not None else queue.store.end_offset


class Into(NamedTuple):
    """Where copies go: into the queue itself (None), or through an exchange, "" being the default one; with another
    routing key than they had, unless that is None."""

    exchange: str | None
    routing_key: str | None


def redeliver(home: VHost, queue: Queue, seen: Seen, into: Into, may_write: MayWrite) -> str:
    """Append a copy of one message; returns COPIED, or why there is none.

    `may_write(exchange, routing key)` says whether whoever asks may publish there.
    """
    origin, content = seen.message
    try:
        content = with_headers(content, {REPLAYED_FROM: queue.name, REPLAYED_OFFSET: Long(seen.offset)})
    except PeerError:
        return MALFORMED
    if len(wire.header_payload(content)) > HEADER_BYTES_MAX:
        return MALFORMED
    if into.exchange is None:
        return COPIED if queue.enqueue_one((origin, content)) else REFUSED
    key = origin_names(origin)[1] if into.routing_key is None else into.routing_key
    if not may_write(into.exchange, key):
        return NOT_PERMITTED
    message = make_origin(into.exchange.encode(), key.encode()), content
    letter = Incoming(into.exchange, key, message, home.scheduler.wall_ms)
    targets = find_for_nobody(home, letter)
    taken, _ = deliver(home.exchanges.get(into.exchange), targets, message, letter)
    return COPIED if taken else REFUSED if targets else UNROUTABLE
