"""Consumer groups over HTTP: who is in, what a rebalance waits for and why it began, how far behind. Paths of our own.

A group is shown to who monitors, and to who may describe it, as over Kafka's protocol; deleting it, or offsets of it,
needs `delete`. Assignments are opaque to the broker and are shown where they are
those of consumers. Ages are in seconds and of the broker's clock.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from broker.core.access_lists import Operation
from broker.core.groups.values import CONSUMER, GroupDescription, MemberDescription, State
from broker.core.vhosts.vhost import VHost
from broker.server.http.api import HttpError, Listing, Request, Work, find_vhost, require, route_to, visible_vhosts
from broker.server.http.fields import Pauses, bad
from broker.server.http.topics import AT_ONCE, may_see, promise, topics_of
from protocol.kafka.errors import ErrorCode
from protocol.kafka.group_records import ASSIGNMENT_VERSION_MAX, Assignment, read_versioned
from protocol.kafka.schema import MalformedRequest

if TYPE_CHECKING:
    from broker.server.groups import Groups

ASSIGNMENT_BYTES_MAX = 64 << 10
"""A longer assignment is not read: 10,000 partitions are 40 kB."""
ASSIGNED_MAX = 20_000
"""Partitions that are shown as somebody's; what is assigned beyond that is made up."""
TEXT_MAX = 1000
"""Characters shown of what clients say of themselves."""

Owners = dict[tuple[str, int], str]


def find_group(request: Request, vhost: str, name: str, operation: Operation = "describe") -> tuple[VHost, Groups]:
    """The vhost, and the groups of which `name` is to be one, for who may. Raises HttpError 404, 409 and Refused."""
    home = find_vhost(request, vhost)
    if operation != "describe" or not may_see(request, home, name, operation, kind="group"):
        require(request, home, operation, "group", name)
    topics_of(home)
    return home, request.hub.groups_of(home.name)


def not_there(vhost: VHost, name: str) -> HttpError:
    """404 for a group."""
    return HttpError(404, "Object Not Found", f"no group '{name}' in vhost '{vhost.name}'")


def describe(home: VHost, groups: Groups, name: str) -> GroupDescription:
    """Raises HttpError 404."""
    error, found = groups.coordinator.describe(name)
    if error is not ErrorCode.NONE:
        raise not_there(home, name)
    return found


def not_empty(found: GroupDescription) -> HttpError:
    """409: what cannot be done while somebody is in, and who that is."""
    who = [f"{one.member_id} (client {one.client_id}, {one.client_host})" for one in found.members[:3]]
    more = f" and {len(found.members) - 3} more" if len(found.members) > 3 else ""
    inside = f": {', '.join(who)}{more}" if who else ""
    return HttpError(409, "not_empty", f"group '{found.group_id}' is {found.state.value}, not Empty{inside}")


# The list.


@route_to("GET", "groups")
@route_to("GET", "groups/*")
def _list(request: Request, vhost: str | None = None) -> Listing:
    homes = [find_vhost(request, vhost)] if vhost is not None else list(visible_vhosts(request))
    places = [(home, request.hub.groups_of(home.name)) for home in homes if home.topics is not None]

    def rows() -> Iterator[dict[str, Any] | None]:
        for home, groups in places:
            for group_id in groups.coordinator.ids():
                error, found = groups.coordinator.describe(group_id)
                is_shown = error is ErrorCode.NONE and may_see(request, home, group_id, "describe", kind="group")
                yield _row(home, groups, found) if is_shown else None

    return Listing(rows())


def _row(home: VHost, groups: Groups, found: GroupDescription) -> dict[str, Any]:
    offsets = groups.coordinator.offsets_of(found.group_id)
    lags = [] if len(offsets) > AT_ONCE else [_lag(home, *place, one.offset)[1] for place, one in offsets]
    return {
        "name": found.group_id,
        "vhost": home.name,
        "state": found.state.value,
        "members": len(found.members),
        "awaited": sum(one.awaited for one in found.members) + found.pending_count,
        "generation": found.generation,
        "protocol_type": found.protocol_type,
        "protocol": found.protocol,
        "rebalances": found.rebalance_count,
        "topics": len({topic for (topic, _), _ in offsets}),
        "lag": sum(lag or 0 for lag in lags) if lags or not offsets else None,
    }


def _lag(home: VHost, topic_name: str, index: int, offset: int | None) -> tuple[int | None, int | None]:
    """(end, how far behind it), None for what is not known."""
    topic = topics_of(home).get(topic_name)
    if topic is None or index >= len(topic.partitions):
        return None, None
    end = topic.partitions[index].high_watermark
    return end, None if offset is None else max(end - offset, 0)


# One group.


@route_to("GET", "groups/*/*")
def _show(request: Request, vhost: str, name: str) -> Work:
    home, groups = find_group(request, vhost, name)
    found = describe(home, groups, name)
    now_ms = groups.now_ms
    members: list[dict[str, Any]] = []
    owners: Owners = {}
    pauses = Pauses()
    for one in found.members:
        members.append(_member(found, one, owners, now_ms))
        if pauses.is_due():
            yield
    offsets = yield from _offsets(home, groups, name, owners, now_ms)
    lags = [row["lag"] for row in offsets if row["lag"] is not None]
    return {
        "name": name,
        "vhost": home.name,
        "state": found.state.value,
        "state_for_s": _age_s(now_ms, found.since_ms),
        "protocol_type": found.protocol_type,
        "protocol": found.protocol,
        "generation": found.generation,
        "leader": found.leader,
        "lag": sum(lags),
        "rebalances": found.rebalance_count,
        "rebalance": _rebalance(found, now_ms),
        "members": Listing(members),
        "offsets": Listing(offsets),
    }


def _age_s(now_ms: int, then_ms: int) -> float:
    return round(max(now_ms - then_ms, 0) / 1000, 1)


def _rebalance(found: GroupDescription, now_ms: int) -> dict[str, Any] | None:
    """The last one: why it began, and while it is under way whom it waits for and until when."""
    awaited = [one.member_id for one in found.members if one.awaited]
    under_way = found.state in (State.PREPARING_REBALANCE, State.COMPLETING_REBALANCE)
    if not found.rebalance_count and not awaited:
        return None
    is_waiting = under_way or bool(awaited)
    return {
        "under_way": under_way,
        "reason": found.reason[:TEXT_MAX],
        "began_s_ago": _age_s(now_ms, found.rebalance_began_ms) if found.rebalance_count else None,
        "waits_for": awaited,
        "waits_for_ids_given_out": found.pending_count if under_way else 0,
        "gives_up_in_s": (
            round(max(found.deadline_ms - now_ms, 0) / 1000, 1)
            if is_waiting and found.deadline_ms is not None
            else None
        ),
    }


def _member(found: GroupDescription, one: MemberDescription, owners: Owners, now_ms: int) -> dict[str, Any]:
    assignment = _assignment(found, one) if len(owners) < ASSIGNED_MAX else None
    for share in assignment or ():
        for index in share["partitions"]:
            owners[share["topic"], index] = one.member_id
    return {
        "id": one.member_id,
        "instance_id": one.instance_id,
        "client_id": one.client_id[:TEXT_MAX],
        "host": one.client_host[:TEXT_MAX],
        "leader": one.member_id == found.leader,
        "awaited": one.awaited,
        "heard_s_ago": _age_s(now_ms, one.seen_ms),
        "assignment": assignment,
        "assignment_bytes": len(one.assignment),
    }


def _assignment(found: GroupDescription, one: MemberDescription) -> list[dict[str, Any]] | None:
    """By topic; None where it is not that of a consumer, or cannot be read."""
    if not one.assignment:
        return []
    if found.protocol_type != CONSUMER or len(one.assignment) > ASSIGNMENT_BYTES_MAX:
        return None
    try:
        read = read_versioned(Assignment, one.assignment, ASSIGNMENT_VERSION_MAX)
    except MalformedRequest:
        return None
    return [{"topic": share.topic, "partitions": sorted(share.partitions)} for share in read.assigned_partitions]


def _offsets(
    home: VHost, groups: Groups, name: str, owners: Owners, now_ms: int
) -> Generator[None, None, list[dict[str, Any]]]:
    """What is committed and how far that is behind, also of what members have and nothing is committed for.

    Told when it is durable, as over Kafka's protocol: nobody goes by an offset that a crash may take back.
    """
    promise(home)
    committed = dict(groups.coordinator.offsets_of(name))
    yield
    indexes: dict[str, set[int]] = {}
    for topic, index in (*committed, *owners):
        indexes.setdefault(topic, set()).add(index)
    yield
    rows = []
    pauses = Pauses()
    for topic in sorted(indexes):
        for index in sorted(indexes[topic]):
            if pauses.is_due():
                yield
            one = committed.get((topic, index))
            end, lag = _lag(home, topic, index, one.offset if one is not None else None)
            rows.append({
                "topic": topic,
                "partition": index,
                "offset": one.offset if one is not None else None,
                "end_offset": end,
                "lag": lag,
                "committed_s_ago": _age_s(now_ms, one.committed_ms) if one is not None else None,
                "metadata": one.metadata[:TEXT_MAX] if one is not None else None,
                "member": owners.get((topic, index)),
            })  # fmt: skip
    return rows


# Deletions.


@route_to("DELETE", "groups/*/*")
def _delete(request: Request, vhost: str, name: str) -> None:
    """The group goes, with its offsets; 409 while somebody is in."""
    home, groups = find_group(request, vhost, name, "delete")
    found = describe(home, groups, name)
    error = groups.coordinator.delete(name, groups.now_ms)
    groups.carry_out()
    if error is ErrorCode.NON_EMPTY_GROUP:
        raise not_empty(found)
    promise(home)


@route_to("DELETE", "groups/*/*/offsets")
def _delete_offsets(request: Request, vhost: str, name: str) -> Work:
    """?topics=A,B (or topic=T) -> {deleted}: what is committed of these topics goes; 409 while a member subscribes."""
    home, groups = find_group(request, vhost, name, "delete")
    describe(home, groups, name)
    topics = {one for one in request.query.get("topics", request.query.get("topic", "")).split(",") if one}
    if not topics:
        raise bad("topics is missing: names, separated by commas")
    places = [place for place, _ in groups.coordinator.offsets_of(name) if place[0] in topics]
    missing = sorted(topics - {topic for topic, _ in places})
    if missing:
        raise HttpError(404, "Object Not Found", f"group '{name}' has no offsets of topic '{missing[0]}'")
    deleted = 0
    for start in range(0, len(places), AT_ONCE):
        error, errors = groups.coordinator.delete_offsets(name, places[start : start + AT_ONCE])
        groups.carry_out()
        if error is ErrorCode.NON_EMPTY_GROUP:
            raise not_empty(describe(home, groups, name))
        refused = [code for code in errors if code is not ErrorCode.NONE]
        if refused:
            raise HttpError(409, "subscribed", f"a member of group '{name}' subscribes to {', '.join(sorted(topics))}")
        deleted += len(errors)
        promise(home)
        yield
    return {"deleted": deleted}
