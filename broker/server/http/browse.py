"""Browsing queues, counting and replaying dead letters over HTTP; paths of our own, since no peer has them.

A request looks at LOOK_MAX messages at most, for LOOK_S, and says where the next one is to go on: a scan of a long
queue is many short requests, none of which holds the loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.replay import READY, Filter, Seen, browse, kind_of_death, replay
from broker.core.vhost import VHost
from broker.log.errors import StorageError
from broker.server.http.api import HttpError, Request, find_vhost, require, route_to
from broker.server.http.messages import message_view
from protocol.amqp import content as wire

LOOK_MAX = 1000
LOOK_S = 0.004
MOVED_MAX = 400
SHOWN_BYTES_MAX = 4 << 20
OFFSET_MAX = (1 << 63) - 1


def _number(given: Any, name: str, default: int, least: int = 0) -> int:
    try:
        number = int(given) if given is not None and not isinstance(given, (bool, float)) else default
    except (TypeError, ValueError):
        number = least - 1
    if isinstance(given, (bool, float)) or not least <= number <= OFFSET_MAX:
        raise HttpError(400, "bad_request", f"{name} is an integer from {least} on")
    return number


def _filter(given: dict[str, Any]) -> Filter:
    headers = given.get("headers") or {}
    if isinstance(headers, str):
        headers = dict(one.partition("=")[::2] for one in headers.split(","))
    if not isinstance(headers, dict):
        raise HttpError(400, "bad_request", "headers is an object of names and values")
    texts = {name: given.get(name) for name in ("body", "queue", "reason")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise HttpError(400, "bad_request", "body, queue and reason are strings")
    return Filter(
        headers={str(name): str(value) for name, value in headers.items()},
        body=(texts["body"] or "").encode(),
        queue=texts["queue"],
        reason=texts["reason"],
    )


def _leased(request: Request, queue: Queue) -> dict[int, Message]:
    """What is with consumers of AMQP, by offset."""
    return {
        offset: message
        for connection in request.hub.connections
        for channel in connection.channels.values()
        for holder, offset, message in channel.unacked.values()
        if holder.queue is queue
    }


class _Look:
    """What one request looks at; `onward` is where the next is to go on, None when all was seen."""

    def __init__(self, request: Request, queue: Queue, start: int) -> None:
        self._deadline = time.perf_counter() + LOOK_S
        self.onward: int | None = None
        self._found: list[Seen] = []
        try:
            # All of it before anything is done with it: what is replayed may come back to the same queue.
            for seen in browse(queue, start, _leased(request, queue), LOOK_MAX):
                if self._is_enough(len(self._found)):
                    self.onward = seen.offset
                    break
                self._found.append(seen)
        except (StorageError, OSError) as error:
            raise HttpError(500, "storage", str(error)) from None

    def _is_enough(self, count: int) -> bool:
        return count == LOOK_MAX or (count > 0 and time.perf_counter() > self._deadline)

    def __iter__(self) -> Iterator[Seen]:
        self._deadline += LOOK_S
        for count, seen in enumerate(self._found):
            if self._is_enough(count):
                self.onward = seen.offset
                return
            yield seen

    def stop_before(self, seen: Seen) -> None:
        """The answer is full."""
        self.onward = seen.offset


def _find(request: Request, vhost: str, name: str) -> tuple[VHost, Queue]:
    home = find_vhost(request, vhost)
    require(request, home, "read", "queue", name)
    queue = home.queue(name)
    if queue.owner is not None:
        queue.check_access(request)
    return home, queue


@route_to("GET", "queues/*/*/browse")
def _browse(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """?from=OFFSET&count=N&body=TEXT&headers=A=B,C=D&queue=FIRST_DEATH&reason=R -> {items, next}."""
    _, queue = _find(request, vhost, name)
    query = request.query
    count = min(_number(query.get("count"), "count", 100, 1), MOVED_MAX)
    truncate = _number(query.get("truncate"), "truncate", 50_000)
    meant = _filter(dict(query))
    look = _Look(request, queue, _number(query.get("from"), "from", 0))
    items: list[dict[str, Any]] = []
    size = 0
    for seen in look:
        if meant(seen.message):
            if len(items) >= count or size > SHOWN_BYTES_MAX:
                look.stop_before(seen)
                break
            view = message_view(seen.message, "auto", truncate)
            size += min(view["payload_bytes"], truncate)
            items.append({"offset": seen.offset, "state": seen.state, **view})
    return {"items": items, "next": look.onward}


@route_to("GET", "queues/*/*/deaths")
def _deaths(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """?from=OFFSET -> {groups: [{source, reason, age, messages}], seen, next}: what there is of dead letters."""
    _, queue = _find(request, vhost, name)
    look = _Look(request, queue, _number(request.query.get("from"), "from", 0))
    groups: dict[tuple[str, str, str], int] = {}
    count = 0
    last, kind = b"", None
    for seen in look:
        count += 1
        header = wire.header_payload(seen.message[1])
        if header != last:  # Else it died like the one before.
            last, kind = header, kind_of_death(seen.message, queue.scheduler.wall_ms)
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

    What comes in after the first request, perhaps because it has died again, is behind `until`.
    """
    home, queue = _find(request, vhost, name)
    body = request.body
    to = body.get("to", "queue")
    if to not in ("queue", "exchange"):
        raise HttpError(400, "bad_request", "to is 'queue' or 'exchange'")
    require(request, home, "write", "queue", name)
    count = min(_number(body.get("count"), "count", 100, 1), MOVED_MAX)
    until = min(_number(body.get("until"), "until", OFFSET_MAX), queue.end_offset)
    meant = _filter(body)
    access, user = request.hub.access, request.user

    def may_write(exchange: str, key: str) -> bool:
        return access.can(user, home.name, "write", exchange) and access.can_topic(
            user, home.name, "write", exchange, key
        )

    look = _Look(request, queue, _number(body.get("from"), "from", 0))
    moved = 0
    left: dict[str, int] = {}
    for seen in look:
        if seen.offset >= until:
            break
        if seen.state != READY or not meant(seen.message):
            continue
        if moved >= count:
            look.stop_before(seen)
            break
        outcome = replay(home, queue, seen, may_write, to_exchange=to == "exchange")
        if outcome.moved:
            moved += 1
        else:
            left[outcome.reason] = left.get(outcome.reason, 0) + 1
    return {"moved": moved, "left": left, "next": look.onward, "until": until}
