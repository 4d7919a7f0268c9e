"""Moving a group: its offsets to the start, the end, an offset, a time, or so many records from where they are.

Only while nobody is in the group, since members know better where they are. The new offsets are committed as those of a
consumer outside group management are (Kafka's kafka-consumer-groups does the same), so a group that is not there yet
can be given a place to begin with. Needs `read` for the group and for the topic, as a commit does.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from broker.core.groups.values import Committed, Committer, GroupDescription, OffsetCommit, State
from broker.core.intervals import Place
from broker.core.topics.partition import Partition
from broker.core.topics.topic import Topic
from broker.server.http.api import HttpError, Listing, Request, Work, require, route_to
from broker.server.http.fields import Pauses, bad, find_offset, flag, number, only, place
from broker.server.http.groups import find_group, not_empty, not_there
from broker.server.http.topics import PARTITIONS_MAX, existing_topic, find_partition, not_internal, promise, was_deleted
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.vhosts.vhost import VHost
    from broker.server.groups import Groups

METADATA = "reset"
COMMITTED_AT_ONCE = 100
"""Offsets, for about 3 ms."""
Move = dict[str, Any]


@route_to("PUT", "groups/*/*/offsets")
def _reset(request: Request, vhost: str, name: str) -> Work:
    """{topic or topics, partitions, to, dry_run} -> {moves: [{topic, partition, from, to, clamped, lag}], dry_run}.

    Without topics all that the group has offsets of. 409 with who is in, unless the group is Empty.
    """
    home, groups = find_group(request, vhost, name, "read")
    body = request.body
    only(body, "a reset", "topic", "topics", "partitions", "to", "dry_run")
    if body.get("to") is None:
        raise bad("to is missing: 'earliest', 'latest', an offset, +N, -N, a time (ISO 8601) or an age like 5m")
    to = place(body["to"], "to", request.hub.scheduler.wall_ms, may_shift=True)
    dry_run = flag(body, "dry_run")
    if not name:
        raise bad("a group has a name")
    error, found = groups.coordinator.describe(name)
    is_there = error is ErrorCode.NONE
    if is_there:
        _require_empty(found)
    committed = dict(groups.coordinator.offsets_of(name))
    topics = _topics(request, home, body, {topic for topic, _ in committed}, is_there, name)
    partitions = _partitions(topics, body.get("partitions"), whole=body.get("topic") is not None)
    if body.get("topic") is None and body.get("topics") is None:
        partitions = [one for one in partitions if (one.topic_name, one.index) in committed]
    moves: list[Move] = []
    pauses = Pauses()
    for partition in partitions:
        old = committed.get((partition.topic_name, partition.index))
        moves.append((yield from _move(partition, to, old)))
        if pauses.is_due():
            yield
    gone = next((one.topic_name for one in partitions if one.gone), None)
    if gone is not None:
        raise was_deleted(gone)
    if not dry_run:
        yield from _commit(home, groups, name, moves)
    return {"moves": Listing(moves), "dry_run": dry_run, "created": not is_there}


def _require_empty(found: GroupDescription) -> None:
    if found.state is not State.EMPTY:
        raise not_empty(found)


def _topics(
    request: Request, home: VHost, body: dict[str, Any], known: set[str], is_there: bool, name: str
) -> list[Topic]:
    """Those that are meant. Raises HttpError 400, 404 and Refused."""
    names = body.get("topics")
    if body.get("topic") is not None:
        if names is not None:
            raise bad("topic or topics, not both")
        names = [body["topic"]]
    if names is None:
        if not is_there:
            raise not_there(home, name)
        names = sorted(known)
        if not names:
            raise bad(f"group '{name}' has no offsets: say which topic is meant")
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise bad("topics is a list of names")
    found = []
    for one in dict.fromkeys(names):
        require(request, home, "read", "topic", one)
        topic = existing_topic(home, one)
        not_internal(topic)
        found.append(topic)
    return found


def _partitions(topics: list[Topic], given: Any, *, whole: bool) -> list[Partition]:
    """All, or those that are named of the one topic. Raises HttpError 400, 404."""
    if given is None:
        return [partition for topic in topics for partition in topic.partitions]
    if not whole or not isinstance(given, list) or not given:
        raise bad("partitions is a list of numbers, beside one topic")
    indexes = sorted({number("" if one is None else one, "a partition", 0, 0, PARTITIONS_MAX) for one in given})
    return [find_partition(topics[0], index) for index in indexes]


def _move(partition: Partition, to: Place, old: Committed | None) -> Generator[None, None, Move]:
    """Where one partition is to go; an offset outside of the log is taken to its end. Raises HttpError 409."""
    if to.kind == "shift":
        if old is None:
            raise HttpError(
                409, "nothing_committed",
                f"nothing is committed for partition {partition.index} of topic '{partition.topic_name}':"
                " there is nothing to move from",
            )  # fmt: skip
        wanted = old.offset + to.value
    else:
        wanted = yield from find_offset(to, partition)
    end = partition.high_watermark
    target = min(max(wanted, partition.start_offset), end)
    return {
        "topic": partition.topic_name,
        "partition": partition.index,
        "from": old.offset if old is not None else None,
        "to": target,
        "clamped": target != wanted,
        "end_offset": end,
        "lag": end - target,
    }


def _commit(home: VHost, groups: Groups, name: str, moves: list[Move]) -> Generator[None, None, None]:
    """Raises HttpError 409 when somebody has joined, 503 when there is no room for more groups or offsets."""
    for start in range(0, len(moves), COMMITTED_AT_ONCE):
        commits = [
            OffsetCommit(one["topic"], one["partition"], one["to"], metadata=METADATA)
            for one in moves[start : start + COMMITTED_AT_ONCE]
        ]
        error, errors = groups.coordinator.commit(name, Committer(), commits, groups.now_ms)
        groups.carry_out()
        promise(home)
        refused = next((code for code in (error, *errors) if code is not ErrorCode.NONE), None)
        if refused is not None:
            done = f"; {start} of {len(moves)} partitions were moved" if start else ""
            _, found = groups.coordinator.describe(name)
            if found.state not in (State.EMPTY, State.DEAD):
                raise HttpError(409, "not_empty", not_empty(found).body["reason"] + done)
            raise HttpError(503, "no_room", f"group '{name}' cannot be kept: {refused.name}{done}")
        yield
