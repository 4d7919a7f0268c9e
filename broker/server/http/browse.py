"""Browsing queues and topics, counting and replaying dead letters over HTTP; paths of our own, since no peer has them.

A request looks at LOOK_MAX messages at most, for LOOK_S, and says where the next one is to go on: a scan of a long
queue is many short requests, none of which holds the loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from broker.core.browsing import READY, Seen
from broker.core.queues.queue import Queue
from broker.core.streams.letters import Letters, split_place, without_place
from broker.core.vhosts.redelivery import RETAINED, retained
from broker.core.vhosts.replay import Filter, MayWrite, Source, browse, kind_of_death, replay
from broker.core.vhosts.vhost import VHost
from broker.log.errors import StorageError
from broker.server.http.api import HttpError, Request, find_queue, find_vhost, require, route_to
from broker.server.http.fields import NUMBER_MAX, bad, number
from broker.server.http.messages import message_view
from protocol.amqp import content as wire
from protocol.kafka.records import CorruptBatch

LOOK_MAX = 1000
LOOK_S = 0.004
MOVED_MAX = 400
SHOWN_BYTES_MAX = 4 << 20
STATES = f"state is '{RETAINED}', of a queue, or not given"


def read_filter(given: dict[str, Any]) -> Filter:
    """Which messages a request means. Raises HttpError 400."""
    headers = given.get("headers") or {}
    if isinstance(headers, str):
        headers = dict(one.partition("=")[::2] for one in headers.split(","))
    if not isinstance(headers, dict):
        raise bad("headers is an object of names and values")
    texts = {name: given.get(name) for name in ("body", "queue", "reason")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise bad("body, queue and reason are strings")
    return Filter(
        headers={str(name): str(value) for name, value in headers.items()},
        body=(texts["body"] or "").encode(),
        queue=texts["queue"],
        reason=texts["reason"],
    )


class Look:
    """What one request looks at; `onward` is where the next is to go on, None when all was seen."""

    def __init__(self) -> None:
        self._deadline = time.perf_counter() + LOOK_S
        self.onward: int | None = None
        self.found: list[Seen] = []
        """All of it before anything is done with it: what is replayed may come back to the same queue."""

    def is_enough(self, count: int) -> bool:
        """Whether a request has done its part, having looked at `count`."""
        return count >= LOOK_MAX or (count > 0 and time.perf_counter() > self._deadline)

    def __iter__(self) -> Iterator[Seen]:
        self._deadline += LOOK_S
        for count, seen in enumerate(self.found):
            if self.is_enough(count):
                self.onward = seen.offset
                return
            yield seen

    def stop_before(self, seen: Seen) -> None:
        """The answer is full."""
        self.onward = seen.offset


@contextmanager
def reading() -> Iterator[None]:
    """What a queue's log cannot give is HttpError 500."""
    try:
        yield
    except (StorageError, CorruptBatch, OSError) as error:
        raise HttpError(500, "storage", str(error)) from None


def _look(source: LookedInto, start: int) -> Look:
    """At what is not settled. Raises HttpError 500."""
    look = Look()
    with reading():
        for seen in source.seen(start):
            if look.is_enough(len(look.found)):
                look.onward = seen.offset
                break
            look.found.append(seen)
    return look


def look_back(queue: Queue, start: int, end: int) -> Look:
    """At what the queue keeps of what it delivered, in [start, end). Raises HttpError 500."""
    look = Look()
    with reading():
        for stretch in retained(queue, start):
            look.found += [seen for seen in stretch.messages if seen.offset < end]
            if stretch.end >= end:
                break
            if look.is_enough(len(look.found) or 1):
                look.onward = stretch.end
                break
    return look


class LookedInto(Protocol):
    """What is looked into, as requests name its places: a queue, or a topic."""

    @property
    def lies_in(self) -> Source:
        """What replays settle it in."""
        ...

    def seen(self, start: int) -> Iterator[Seen]:
        """What is not settled, from a place on. Lazy. Raises Corrupt, CorruptBatch and OSError."""
        ...

    def retained(self, start: int) -> Look:
        """At what it keeps of what it delivered. Raises HttpError 400 where nothing ever does, 500."""
        ...

    def where(self, seen: Seen) -> dict[str, int]:
        """The fields that say where something lies."""
        ...

    def until(self, given: Any) -> int | list[int]:
        """How far a replay goes that began before, or begins now (None). Raises HttpError 400."""
        ...

    def before(self, until: Any, look: Look) -> Iterator[Seen]:
        """Of what was seen that which lies before `until`, as it is to be sent on."""
        ...


class _OfQueue:
    """A queue."""

    def __init__(self, queue: Queue, request: Request) -> None:
        self.lies_in = queue.store
        self._queue = queue
        self._request = request

    def seen(self, start: int) -> Iterator[Seen]:
        leased = {
            offset: message
            for connection in self._request.hub.amqp.connections
            for channel in connection.channels.values()
            for holder, offset, message in channel.unacked.values()
            if holder.queue is self._queue
        }
        return browse(self._queue, start, leased, LOOK_MAX)

    def retained(self, start: int) -> Look:
        return look_back(self._queue, start, self.lies_in.end_offset)

    def where(self, seen: Seen) -> dict[str, int]:
        return {"offset": seen.offset}

    def until(self, given: Any) -> int:
        return min(number(given, "until", NUMBER_MAX), self.lies_in.end_offset)

    def before(self, until: int, look: Look) -> Iterator[Seen]:
        for seen in look:
            if seen.offset >= until:
                return
            yield seen


class _OfTopic:
    """A topic: places are partitions and offsets, and ends are a list with one for each partition."""

    def __init__(self, letters: Letters) -> None:
        self.lies_in = letters

    def seen(self, start: int) -> Iterator[Seen]:
        return self.lies_in.browse(start)

    def retained(self, start: int) -> Look:
        del start
        raise bad(STATES)

    def where(self, seen: Seen) -> dict[str, int]:
        partition, offset = split_place(seen.offset)
        return {"partition": partition, "offset": offset}

    def until(self, given: Any) -> list[int]:
        ends = self.lies_in.ends
        if given is None:
            return ends
        if not isinstance(given, list) or len(given) > len(ends):
            raise bad("until is a list with an offset for each partition")
        numbers = [number(one, "until", 0) for one in given]
        return [*map(min, numbers, ends), *[0] * (len(ends) - len(numbers))]

    def before(self, until: list[int], look: Look) -> Iterator[Seen]:
        for seen in look:
            partition, offset = split_place(seen.offset)
            if offset < until[partition]:
                yield seen._replace(message=without_place(seen.message))


def _find(request: Request, vhost: str, name: str) -> tuple[VHost, LookedInto]:
    """A queue or topic that whoever asks may read. Raises HttpError 404, Refused."""
    home = find_vhost(request, vhost)
    stream = home.streams.get(name)
    if stream is None:
        return home, _OfQueue(find_queue(request, vhost, name)[1], request)
    require(request, home, "read", "queue", name)
    return home, _OfTopic(Letters(stream, home.scheduler))


def write_permission(request: Request, home: VHost) -> MayWrite:
    """Whether who asks may publish through an exchange with a routing key, asked for each: as for basic.publish."""
    access, user, host = request.hub.access, request.user, request.host

    def may_write(exchange: str, key: str) -> bool:
        if not exchange and access.listed(user, home.name, "write", key, "topic", host) is False:
            return False
        return access.can(user, home.name, "write", exchange, None) and access.can_topic(
            user, home.name, "write", exchange, key
        )

    return may_write


@route_to("GET", "queues/*/*/browse")
def _browse(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """?from=OFFSET&count=N&body=TEXT&headers=A=B,C=D&queue=FIRST_DEATH&reason=R&state=S -> {items, next}.

    What is not settled; with the state `retained` what is, and is kept.
    """
    _, source = _find(request, vhost, name)
    query = request.query
    count = min(number(query.get("count"), "count", 100, 1), MOVED_MAX)
    truncate = number(query.get("truncate"), "truncate", 50_000)
    meant = read_filter(dict(query))
    start = number(query.get("from"), "from", 0)
    if query.get("state") not in (None, RETAINED):
        raise bad(STATES)
    look = source.retained(start) if "state" in query else _look(source, start)
    items: list[dict[str, Any]] = []
    size = 0
    for seen in look:
        if meant(seen.message):
            if len(items) >= count or size > SHOWN_BYTES_MAX:
                look.stop_before(seen)
                break
            view = message_view(seen.message, "auto", truncate)
            size += min(view["payload_bytes"], truncate)
            items.append({**source.where(seen), "state": seen.state, **view})
    return {"items": items, "next": look.onward}


@route_to("GET", "queues/*/*/deaths")
def _deaths(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """?from=OFFSET -> {groups: [{source, reason, age, messages}], seen, next}: what there is of dead letters."""
    home, source = _find(request, vhost, name)
    look = _look(source, number(request.query.get("from"), "from", 0))
    groups: dict[tuple[str, str, str], int] = {}
    count = 0
    last, kind = b"", None
    for seen in look:
        count += 1
        header = wire.header_payload(seen.message[1])
        if header != last:  # Else it died like the one before.
            last, kind = header, kind_of_death(seen.message, home.scheduler.wall_ms)
        if kind is not None:
            groups[kind] = groups.get(kind, 0) + 1
    rows = [
        {"source": source, "reason": reason, "age": age, "messages": many}
        for (source, reason, age), many in groups.items()
    ]
    return {"groups": rows, "seen": count, "next": look.onward}


@route_to("POST", "queues/*/*/replay")
def _replay(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """{from, until, count, to: queue or exchange, body, headers, queue, reason} -> {moved, left, next, until}.

    What comes in after the first request, perhaps because it has died again, is behind `until`: an offset, or for a
    topic one for each partition.
    """
    home, source = _find(request, vhost, name)
    body = request.body
    to = body.get("to", "queue")
    if to not in ("queue", "exchange"):
        raise bad("to is 'queue' or 'exchange'")
    require(request, home, "write", "queue", name)
    count = min(number(body.get("count"), "count", 100, 1), MOVED_MAX)
    until = source.until(body.get("until"))
    meant = read_filter(body)
    may_write = write_permission(request, home)
    look = _look(source, number(body.get("from"), "from", 0))
    moved = 0
    left: dict[str, int] = {}
    for seen in source.before(until, look):
        if seen.state != READY or not meant(seen.message):
            continue
        if moved >= count:
            look.stop_before(seen)
            break
        outcome = replay(home, name, source.lies_in, seen, may_write, to_exchange=to == "exchange")
        if outcome.moved:
            moved += 1
        else:
            left[outcome.reason] = left.get(outcome.reason, 0) + 1
    return {"moved": moved, "left": left, "next": look.onward, "until": until}
