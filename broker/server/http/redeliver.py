"""Replaying what a queue has kept of what it delivered, over HTTP; a path of our own, since no peer has it.

As in `browse`, a request looks at some messages only and says where the next is to go on.
"""

from __future__ import annotations

from typing import Any

from broker.core.intervals import place_of
from broker.core.queue import Queue
from broker.core.redelivery import Into, offset_of, redeliver
from broker.core.vhost import VHost
from broker.errors import Refused
from broker.server.http.api import Request, find_queue, require, route_to
from broker.server.http.browse import MOVED_MAX, look_back, read_filter, reading, write_permission
from broker.server.http.fields import bad, flag, number
from protocol.amqp.errors import ACCESS_REFUSED, PRECONDITION_FAILED

ROUTING_KEY_BYTES_MAX = 255


@route_to("POST", "queues/*/*/redeliver")
def _redeliver(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """{from, to, count, into, routing_key, headers, body, dry_run} -> {copied, left, from, next, to}.

    `from` and `to` (not included) are offsets, times or intervals ago; those of the answer are offsets, and the next
    request is to give them: from `next` to `to`. `into` is an exchange; none is the queue itself. Nothing is copied
    while the broker is `blocked`.
    """
    home, queue = find_queue(request, vhost, name)
    body = request.body
    if not queue.rules.retains:
        text = (
            f"queue '{name}' in vhost '{home.name}' keeps nothing that it delivered: it has no x-retain or "
            "x-retain-bytes, and no policy with retain or retain-bytes"
        )
        raise Refused(PRECONDITION_FAILED, text)
    dry_run = flag(body, "dry_run")
    into = _into(request, home, queue)
    may_write = write_permission(request, home)
    count = min(number(body.get("count"), "count", 100, 1), MOVED_MAX)
    meant = read_filter(body)
    start, end = _range(queue, body)
    answer: dict[str, Any] = {"copied": 0, "left": {}, "from": start, "next": start, "to": end}
    if request.hub.broker.alarm is not None and not dry_run:
        return {**answer, "blocked": request.hub.broker.alarm}
    look = look_back(queue, start, end)
    copied = 0
    left: dict[str, int] = {}
    for seen in look:
        if not meant(seen.message):
            continue
        if copied >= count:
            look.stop_before(seen)
            break
        why_not = "" if dry_run else redeliver(home, queue, seen, into, may_write)
        if why_not:
            left[why_not] = left.get(why_not, 0) + 1
        else:
            copied += 1
    return {**answer, "copied": copied, "left": left, "next": look.onward}


def _range(queue: Queue, body: dict[str, Any]) -> tuple[int, int]:
    """Offsets [start, end), of what there is now."""
    wall_ms = queue.scheduler.wall_ms
    try:
        places = [place_of(given, wall_ms) for given in (body.get("from", 0), body.get("to", queue.end_offset))]
    except ValueError as error:
        raise bad(str(error)) from None
    with reading():
        start, end = (offset_of(queue, place) for place in places)
    return start, end


def _into(request: Request, home: VHost, queue: Queue) -> Into:
    """Where copies go, if whoever asks may write there. Raises HttpError, Refused."""
    exchange, key = request.body.get("into"), request.body.get("routing_key")
    if not all(one is None or isinstance(one, str) for one in (exchange, key)):
        raise bad("into and routing_key are strings")
    if exchange is None:
        if key is not None:
            raise bad("a routing_key needs an exchange to go into")
        require(request, home, "write", "queue", queue.name)
        return Into(None, None)
    if key is not None and len(key.encode()) > ROUTING_KEY_BYTES_MAX:
        raise bad(f"routing key longer than {ROUTING_KEY_BYTES_MAX} bytes")
    exchange = "" if exchange == "amq.default" else exchange
    require(request, home, "write", "exchange", exchange)
    if exchange and home.exchange(exchange).internal:
        raise Refused(ACCESS_REFUSED, f"cannot publish to internal exchange '{exchange}' in vhost '{home.name}'")
    return Into(exchange, key)
