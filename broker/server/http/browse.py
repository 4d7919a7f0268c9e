"""Browsing queues and replaying dead letters over HTTP; paths of our own, since no peer has them.

A request looks at LOOK_MAX messages at most and says where the next one is to go on: a scan of a long queue is many
short requests, none of which holds the loop.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from broker.core.message import Message
from broker.core.queue import Queue
from broker.core.replay import READY, Filter, Seen, browse, replay
from broker.core.vhost import VHost
from broker.log.errors import StorageError
from broker.server.http.api import HttpError, Request, find_vhost, require, route_to
from broker.server.http.messages import message_view

LOOK_MAX = 1000
MOVED_MAX = 400
SHOWN_BYTES_MAX = 4 << 20


def _number(text: Any, name: str, default: int) -> int:
    try:
        return max(int(text), 0) if text is not None else default
    except (TypeError, ValueError):
        raise HttpError(400, "bad_request", f"{name} is not an integer") from None


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


def _look(request: Request, queue: Queue, start: int) -> tuple[list[Seen], int | None]:
    """(at most LOOK_MAX messages from offset `start` on, where to go on or None)."""
    try:
        found = list(islice(browse(queue, start, _leased(request, queue)), LOOK_MAX + 1))
    except (StorageError, OSError) as error:
        raise HttpError(500, "storage", str(error)) from None
    return found[:LOOK_MAX], found[LOOK_MAX].offset if len(found) > LOOK_MAX else None


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
    count = min(_number(query.get("count"), "count", 100), MOVED_MAX)
    truncate = _number(query.get("truncate"), "truncate", 50_000)
    meant = _filter(dict(query))
    found, onward = _look(request, queue, _number(query.get("from"), "from", 0))
    items: list[dict[str, Any]] = []
    size = 0
    for seen in found:
        if meant(seen.message):
            if len(items) >= count or size > SHOWN_BYTES_MAX:
                onward = seen.offset
                break
            view = message_view(seen.message, "auto", truncate)
            size += min(view["payload_bytes"], truncate)
            items.append({"offset": seen.offset, "state": seen.state, **view})
    return {"items": items, "next": onward}


@route_to("POST", "queues/*/*/replay")
def _replay(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """{from, count, to: queue or exchange, body, headers, queue, reason} -> {moved, left, next}."""
    home, queue = _find(request, vhost, name)
    body = request.body
    to = body.get("to", "queue")
    if to not in ("queue", "exchange"):
        raise HttpError(400, "bad_request", "to is 'queue' or 'exchange'")
    require(request, home, "write", "queue", name)
    count = min(_number(body.get("count"), "count", 100), MOVED_MAX)
    meant = _filter(body)
    found, onward = _look(request, queue, _number(body.get("from"), "from", 0))
    moved = 0
    left: dict[str, int] = {}
    for seen in found:
        if seen.state != READY or not meant(seen.message):
            continue
        if moved >= count:
            onward = seen.offset
            break
        outcome = replay(home, queue, seen, to_exchange=to == "exchange")
        if outcome.moved:
            moved += 1
        else:
            left[outcome.reason] = left.get(outcome.reason, 0) + 1
    return {"moved": moved, "left": left, "next": onward}
