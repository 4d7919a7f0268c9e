"""Topics over HTTP: what there is of them and what comes into them; create, change, delete. Paths of our own.

Who monitors sees every topic, others those that they may describe (as in Kafka's metadata). A request needs what the
same one over Kafka's protocol needs: create, alter, alter configs, delete; delete-records `write` as well.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from broker.core.access_lists import Kind, Operation
from broker.core.topics import rates
from broker.core.topics.config import KEYS, check_overrides
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.core.topics.rates import Flow
from broker.core.topics.registry import Topics
from broker.core.topics.topic import Topic
from broker.core.vhosts.vhost import VHost
from broker.server.http.api import (
    CREATED,
    MONITORING,
    Created,
    HttpError,
    Listing,
    Request,
    Work,
    find_vhost,
    require,
    route_to,
    visible_vhosts,
)
from broker.server.http.fields import bad, first_at, moment, number, only
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.groups import Groups

AT_ONCE = 500
"""Partitions or groups that are looked at between pauses: under a millisecond."""
PARTITIONS_MAX = (1 << 31) - 1


def topics_of(vhost: VHost) -> Topics:
    """Raises HttpError 409 where there can be none."""
    if vhost.topics is None:
        raise HttpError(409, "no_storage", "topics need a data directory, and this broker keeps everything in memory")
    return vhost.topics


def may_see(request: Request, vhost: VHost, name: str, *operations: Operation, kind: Kind = "topic") -> bool:
    """Whether a topic or group is shown to who asks."""
    can, user = request.hub.access.can, request.user
    return bool(user.tags & MONITORING) or any(
        can(user, vhost.name, one, name, kind, request.host) for one in operations
    )


def find_topic(request: Request, vhost: str, name: str, *operations: Operation) -> tuple[VHost, Topic]:
    """The topic, for who may do all of this with it, or see it where nothing is named. Raises HttpError, Refused."""
    home = find_vhost(request, vhost)
    for one in operations:
        require(request, home, one, "topic", name)
    if not operations and not may_see(request, home, name, "describe"):
        require(request, home, "read", "topic", name)
    return home, existing_topic(home, name)


def existing_topic(home: VHost, name: str) -> Topic:
    """Raises HttpError 404."""
    topic = topics_of(home).get(name)
    if topic is None:
        raise HttpError(404, "Object Not Found", f"no topic '{name}' in vhost '{home.name}'")
    return topic


def was_deleted(name: str) -> HttpError:
    """404 for a topic that has gone since the request came."""
    return HttpError(404, "Object Not Found", f"topic '{name}' was deleted")


def find_partition(topic: Topic, index: int) -> Partition:
    """Raises HttpError 404."""
    if index >= len(topic.partitions):
        count = len(topic.partitions)
        reason = f"topic '{topic.name}' has no partition {index}, only 0 to {count - 1}"
        raise HttpError(404, "Object Not Found", reason)
    return topic.partitions[index]


def not_internal(topic: Topic) -> None:
    """Raises HttpError 400 for a topic that only the broker writes to."""
    if topic.internal:
        raise bad(f"topic '{topic.name}' is the broker's own")


def promise(vhost: VHost) -> None:
    """What was done is answered when it is durable."""
    if vhost.store is not None:
        vhost.store.promised_count += 1


# What there is.


def _flows(partitions: Sequence[Partition], of: Any) -> Generator[None, None, list[Flow]]:
    flows: list[Flow] = []
    for start in range(0, len(partitions), AT_ONCE):
        flows += map(of, partitions[start : start + AT_ONCE])
        yield
    return flows


def _summary(
    request: Request, vhost: VHost, topic: Topic
) -> Generator[None, None, tuple[dict[str, Any], list[Flow], list[float | None]]]:
    """(a topic as a row of a list, what came into its partitions lately, the share of each)."""
    partitions = list(topic.partitions)
    span_s = topics_of(vhost).rates.span_s(request.hub.now_ms)
    recent = yield from _flows(partitions, rates.lately)
    whole = yield from _flows(partitions, rates.since_start)
    is_recent = sum(flow.messages for flow in recent) >= rates.HOT_MESSAGES_MIN
    judged = recent if is_recent else whole
    messages = size = lost = 0
    for start in range(0, len(partitions), AT_ONCE):
        some = partitions[start : start + AT_ONCE]
        lost += sum(one.log.lost_count for one in some if one.log.gaps)
        messages += sum(one.high_watermark - one.start_offset for one in some)
        size += sum(one.size_bytes for one in some)
        yield
    came, now = _total(whole), _total(recent)
    yield
    hot = rates.hot(judged)
    yield
    row = {
        "name": topic.name,
        "vhost": vhost.name,
        "internal": topic.internal,
        "partitions": len(partitions),
        "state": "damaged" if lost else "running",
        "messages": messages - lost,
        "messages_damaged": lost,
        "size_bytes": size,
        "messages_in": came.messages,
        "bytes_in": came.octets,
        "messages_in_rate": _rate(now.messages, span_s),
        "bytes_in_rate": _rate(now.octets, span_s),
        "cleanup_policy": topic.value_of("cleanup.policy"),
        "hot_partitions": hot,
        "shares_of": "the last seconds" if is_recent else "the time since the start",
    }
    return row, recent, rates.shares(judged)


def _total(flows: Sequence[Flow]) -> Flow:
    return Flow(*map(sum, zip(*flows, strict=True)))


def _rate(count: int, span_s: float) -> float:
    """Per second."""
    return round(count / span_s, 1)


def _partition_rows(
    topic: Topic, recent: Sequence[Flow], shares: Sequence[float | None], hot: Iterable[int], span_s: float
) -> Iterator[dict[str, Any]]:
    hot = frozenset(hot)
    for partition, flow, share in zip(list(topic.partitions), recent, shares, strict=False):
        yield {
            "partition": partition.index,
            "start_offset": partition.start_offset,
            "end_offset": partition.log.next_offset,
            "high_watermark": partition.high_watermark,
            "messages_damaged": partition.log.lost_count,
            "size_bytes": partition.size_bytes,
            "leader_epoch": partition.leader_epoch,
            "messages_in": partition.messages_in,
            "bytes_in": partition.bytes_in,
            "messages_in_rate": _rate(flow.messages, span_s),
            "bytes_in_rate": _rate(flow.octets, span_s),
            "share": share if share is None else round(share, 4),
            "hot": partition.index in hot,
        }


@route_to("GET", "topics")
@route_to("GET", "topics/*")
def _list(request: Request, vhost: str | None = None) -> Listing:
    homes = [find_vhost(request, vhost)] if vhost is not None else list(visible_vhosts(request))

    def rows() -> Iterator[dict[str, Any] | None]:
        for home in homes:
            for topic in home.topics.all() if home.topics is not None else ():
                if may_see(request, home, topic.name, "describe"):
                    row, _, _ = yield from _summary(request, home, topic)
                    yield row

    return Listing(rows())


@route_to("GET", "topics/*/*")
def _show(request: Request, vhost: str, name: str) -> Work:
    home, topic = find_topic(request, vhost, name)
    row, recent, shares = yield from _summary(request, home, topic)
    span_s = topics_of(home).rates.span_s(request.hub.now_ms)
    groups = request.hub.groups_of(home.name)
    return row | {
        "id": topic.id.hex(),
        "config_overrides": topic.overrides,
        "config": {key: topic.value_of(key) for key in KEYS},
        "partition_details": Listing(_partition_rows(topic, recent, shares, row["hot_partitions"], span_s)),
        "groups": Listing(_readers(request, home, topic, groups)),
    }


def _readers(request: Request, home: VHost, topic: Topic, groups: Groups) -> Iterator[dict[str, Any] | None]:
    """The groups that have committed offsets of the topic."""
    for count, group_id in enumerate(groups.coordinator.ids()):
        if not count % AT_ONCE:
            yield None
        indexes = groups.coordinator.partitions_of(group_id, topic.name)
        if not indexes or not may_see(request, home, group_id, "describe", kind="group"):
            continue
        lag = 0
        for start in range(0, len(indexes), AT_ONCE):
            some = indexes[start : start + AT_ONCE]
            _, found = groups.coordinator.fetch(group_id, {topic.name: some})
            lag += sum(_lag(topic, index, one.offset) for index, one in found[topic.name].items())
            yield None
        state = groups.coordinator.describe(group_id)[1].state.value
        yield {"group": group_id, "state": state, "partitions": len(indexes), "lag": lag}


def _lag(topic: Topic, index: int, offset: int) -> int:
    """How far behind the end; 0 for what is not there any more."""
    if offset < 0 or index >= len(topic.partitions):
        return 0
    return max(topic.partitions[index].high_watermark - offset, 0)


@route_to("GET", "topics/*/*/offsets")
def _offsets(request: Request, vhost: str, name: str) -> Work:
    """?time=ISO or age or milliseconds -> [{partition, start_offset, end_offset, offset, timestamp}]."""
    _, topic = find_topic(request, vhost, name)
    wanted = request.query.get("time")
    time_ms = None
    if wanted is not None:
        time_ms = moment(wanted, "time", request.hub.scheduler.wall_ms)
        require(request, find_vhost(request, vhost), "read", "topic", name)
    rows = []
    for partition in list(topic.partitions):
        row: dict[str, Any] = {
            "partition": partition.index,
            "start_offset": partition.start_offset,
            "end_offset": partition.high_watermark,
        }
        if time_ms is not None and not partition.gone:
            timestamp_ms, offset = yield from first_at(partition, time_ms)
            row |= {"offset": offset if offset >= 0 else None, "timestamp": timestamp_ms if offset >= 0 else None}
        elif not partition.index % AT_ONCE:
            yield
        rows.append(row)
    return Listing(rows)


# Changes.


def _config(given: Any) -> dict[str, str | None]:
    """Overrides as text, null for a default. Raises HttpError 400."""
    if not isinstance(given, dict):
        raise bad("config is an object of keys and values")
    overrides: dict[str, str | None] = {}
    for key, value in given.items():
        if isinstance(value, bool):
            value = str(value).lower()
        if value is not None and not isinstance(value, (str, int, float)):
            raise bad(f"{key} is a string, a number, true, false or null")
        overrides[key] = None if value is None else str(value)
    return overrides


@route_to("PUT", "topics/*/*")
def _create(request: Request, vhost: str, name: str) -> Created | None:
    """{partitions, config}: 201; 204 if it is there and the same, 409 if it is not the same."""
    home = find_vhost(request, vhost)
    require(request, home, "create", "topic", name)
    topics = topics_of(home)
    body = request.body
    only(body, "a topic", "partitions", "config")
    kafka = request.hub.kafka
    standard = kafka.settings.partitions_default if kafka is not None else 1
    partitions = number(body.get("partitions"), "partitions", standard, 1, PARTITIONS_MAX)
    overrides = _config(body.get("config", {}))
    topic = topics.get(name)
    if topic is None:
        topics.create(name, partitions, overrides)
        return CREATED
    if body.get("partitions") is not None and partitions != len(topic.partitions):
        raise _conflict(topic, f"{len(topic.partitions)} partitions, not {partitions}")
    wanted = check_overrides(overrides)
    for key in sorted(wanted.keys() | topic.overrides.keys()):
        if wanted.get(key) != topic.overrides.get(key):
            standard = "at its default"
            raise _conflict(topic, f"{key} {topic.overrides.get(key, standard)}, not {wanted.get(key, standard)}")
    return None


def _conflict(topic: Topic, what: str) -> HttpError:
    return HttpError(409, "conflict", f"topic '{topic.name}' is there already, with {what}")


_ALTERS: dict[str, Operation] = {"partitions": "alter", "config": "alter_configs"}


@route_to("PATCH", "topics/*/*")
def _alter(request: Request, vhost: str, name: str) -> None:
    """{partitions: how many it is to have, config: what changes, null for a default}: all of it or nothing."""
    home, topic = find_topic(request, vhost, name, *(one for key, one in _ALTERS.items() if key in request.body))
    not_internal(topic)
    topics, body = topics_of(home), request.body
    only(body, "a change", "partitions", "config")
    count = number(body.get("partitions"), "partitions", len(topic.partitions), 1, PARTITIONS_MAX)
    changes = _config(body.get("config", {}))
    topics.propose_configuration(topic, topic.overrides | changes)
    if count != len(topic.partitions):
        topics.add_partitions(topic, count)
    if changes:
        topics.configure(topic, topic.overrides | changes)


@route_to("DELETE", "topics/*/*")
def _delete(request: Request, vhost: str, name: str) -> None:
    home, topic = find_topic(request, vhost, name, "delete")
    not_internal(topic)
    topics_of(home).delete(topic)


@route_to("DELETE", "topics/*/*/records")
def _delete_records(request: Request, vhost: str, name: str) -> dict[str, Any]:
    """?partition=N&before=OFFSET (or "latest"): what is below goes -> {partition, start_offset}."""
    home, topic = find_topic(request, vhost, name, "delete", "write")
    not_internal(topic)
    query = request.query
    index = number(query.get("partition"), "partition", 0, 0, PARTITIONS_MAX)
    before = query.get("before")
    if before is None:
        raise bad("before is missing: an offset, or 'latest'")
    partition = find_partition(topic, index)
    offset = -1 if before == "latest" else number(before, "before", 0)
    try:
        start = topics_of(home).delete_records(partition, offset)
    except TopicRefused as refused:
        if refused.code is not ErrorCode.OFFSET_OUT_OF_RANGE:
            raise
        raise bad(f"before is {offset}, and partition {index} ends at {partition.high_watermark}") from None
    promise(home)
    return {"partition": index, "start_offset": start}
