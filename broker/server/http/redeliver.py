"""Replaying what a queue has kept of what it delivered, over HTTP; a path of our own, since no peer has it.

As in `browse`, a request looks at some messages only and says where the next is to go on.
"""

from __future__ import annotations

import json
import re
from typing import Any

from broker.core.intervals import place_of
from broker.core.queues.queue import Queue
from broker.core.vhosts.redelivery import Into, offset_of, redeliver
from broker.core.vhosts.replay import Filter, MayWrite
from broker.core.vhosts.replays import REPLAYS_MAX, Replay
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused
from broker.server.http.api import HttpError, Request, find_queue, require, route_to
from broker.server.http.browse import MOVED_MAX, Look, look_back, read_filter, reading, write_permission
from broker.server.http.fields import bad, flag, number
from protocol.amqp.errors import ACCESS_REFUSED, PRECONDITION_FAILED

ROUTING_KEY_BYTES_MAX = 255
ASKED = ("from", "to", "into", "routing_key", "headers", "body", "most")
ASKED_BYTES_MAX = 4096
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@route_to("POST", "queues/*/*/redeliver")
def _redeliver(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """{from, to, count, into, routing_key, headers, body, dry_run} -> {copied, left, from, next, to}.

    `from` and `to` (not included) are offsets, times or intervals ago; those of the answer are offsets, and the next
    request is to give them: from `next` to `to`. `into` is an exchange; none is the queue itself. Nothing is copied
    while the broker is `blocked`.

    With an `id` the broker keeps how far the replay is, together with the copies (`core.vhosts.replays`): whoever asks
    again says the same, or {id, resume, count}, and nothing is copied twice. `most` is then how many it copies in all;
    the answer has also what it has done in all, `total` and `total_left`.
    """
    home, queue = find_queue(request, vhost, name)
    if not queue.rules.retains:
        text = (
            f"queue '{name}' in vhost '{home.name}' keeps nothing that it delivered: it has no x-retain or "
            "x-retain-bytes, and no policy with retain or retain-bytes"
        )
        raise Refused(PRECONDITION_FAILED, text)
    given = request.body
    dry_run = flag(given, "dry_run")
    count = min(number(given.get("count"), "count", 100, 1), MOVED_MAX)
    replay_id = _id_of(given)
    known = None if replay_id is None else _known(home, queue, replay_id, given)
    body = given if known is None else json.loads(known.asked)
    into = _into(request, home, queue, body)
    meant = read_filter(body)
    most = number(body.get("most"), "most", 0)
    start, end = _range(queue, body) if known is None else (known.next, known.end)
    is_blocked = request.hub.broker.alarm is not None and not dry_run
    if replay_id is not None and known is None and not is_blocked:
        known = Replay(_asked(given), start, end, start)
        home.replays.begin(queue, replay_id, known)
    if known is not None and most:
        count = min(count, most - known.copied)
    answer: dict[str, Any] = {"copied": 0, "left": {}, "from": start, "next": start, "to": end}
    if is_blocked:
        answer["blocked"] = request.hub.broker.alarm
    elif known is not None and known.finished:
        answer["next"] = None
    elif count > 0:
        look = look_back(queue, start, end)
        step = _Step(home, queue, into, write_permission(request, home), is_dry=dry_run)
        step.copy(look, meant, count)
        answer |= {"copied": step.copied, "left": step.left, "next": look.onward}
        if known is not None:
            _note(known, step, look.onward)
            home.replays.reached(queue)
    if known is not None:
        answer |= {"id": replay_id, "total": known.copied, "total_left": known.left}
    return answer


@route_to("GET", "queues/*/*/replays")
def _replays(request: Request, vhost: str, name: str) -> list[dict[str, Any]]:
    """The latest that had an id: how far each is, and what was asked for."""
    home, queue = find_queue(request, vhost, name)
    return [
        {"id": replay_id, "copied": one.copied, "left": one.left, "from": one.start, "next": one.next, "to": one.end,
         "finished": one.finished, "asked": json.loads(one.asked)}
        for replay_id, one in home.replays.of(queue).items()
    ]  # fmt: skip


class _Step:
    """What one request copies."""

    def __init__(self, home: VHost, queue: Queue, into: Into, may_write: MayWrite, *, is_dry: bool) -> None:
        self._home = home
        self._queue = queue
        self._into = into
        self._may_write = may_write
        self._is_dry = is_dry
        self.copied = 0
        self.left: dict[str, int] = {}

    def copy(self, look: Look, meant: Filter, count: int) -> None:
        """Up to `count` of what is looked at and meant."""
        for seen in look:
            if not meant(seen.message):
                continue
            if self.copied >= count:
                look.stop_before(seen)
                break
            why_not = "" if self._is_dry else redeliver(self._home, self._queue, seen, self._into, self._may_write)
            if why_not:
                self.left[why_not] = self.left.get(why_not, 0) + 1
            else:
                self.copied += 1


def _note(known: Replay, step: _Step, onward: int | None) -> None:
    known.copied += step.copied
    for why, many in step.left.items():
        known.left[why] = known.left.get(why, 0) + many
    known.finished = onward is None
    known.next = known.end if onward is None else onward


def _id_of(given: dict[str, Any]) -> str | None:
    replay_id = given.get("id")
    if replay_id is None:
        if "resume" in given or "most" in given:
            raise bad("resume and most are of a replay with an id")
        return None
    if not isinstance(replay_id, str) or not _ID.fullmatch(replay_id):
        raise bad("id is 1 to 64 letters, digits, dots, dashes or underscores")
    if flag(given, "dry_run"):
        raise bad("a dry run has no id: nothing is to be kept of it")
    return replay_id


def _known(home: VHost, queue: Queue, replay_id: str, given: dict[str, Any]) -> Replay | None:
    """The replay of this id, if there is one. Raises HttpError where the request is not for it."""
    found = home.replays.of(queue).get(replay_id)
    if flag(given, "resume"):
        if found is None:
            text = f"queue '{queue.name}' knows no replay '{replay_id}', only its latest {REPLAYS_MAX} are known"
            raise HttpError(404, "Object Not Found", text)
    elif found is not None and found.asked != _asked(given):
        raise HttpError(409, "conflict", f"replay '{replay_id}' asks for something else: {found.asked}")
    return found


def _asked(given: dict[str, Any]) -> str:
    """What makes a replay this one and no other."""
    text = json.dumps({name: given[name] for name in ASKED if given.get(name) is not None})
    if len(text) > ASKED_BYTES_MAX:
        raise bad(f"what a replay with an id asks for is kept, so it has up to {ASKED_BYTES_MAX} bytes as JSON")
    return text


def _range(queue: Queue, body: dict[str, Any]) -> tuple[int, int]:
    """Offsets [start, end), of what there is now."""
    wall_ms = queue.scheduler.wall_ms
    try:
        places = [place_of(given, wall_ms) for given in (body.get("from", 0), body.get("to", queue.store.end_offset))]
    except ValueError as error:
        raise bad(str(error)) from None
    with reading():
        start, end = (offset_of(queue, place) for place in places)
    return start, end


def _into(request: Request, home: VHost, queue: Queue, body: dict[str, Any]) -> Into:
    """Where copies go, if whoever asks may write there. Raises HttpError, Refused."""
    exchange, key = body.get("into"), body.get("routing_key")
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
