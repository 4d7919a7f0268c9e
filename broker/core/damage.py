"""Damage that was found in logs: noted in the catalog, so that each start says so, until nobody needs what is lost.

A gap (`log.gaps`) is found by whoever reads; the key `D` and the log's uuid has all gaps of the log. A start looks at
each again: what was put back from a copy is read like before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from broker.core import catalog
from broker.core.queues.queue import Queue
from broker.log.gaps import Gap
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import decode_table

if TYPE_CHECKING:
    from broker.core.vhosts.vhost import VHost
    from broker.log.log import Log
    from broker.log.store import Store

LOOKED_AT_ONCE = 1000
"""Queues and partitions that are looked at between pauses."""


def recall(store: Store) -> None:
    """Before anything is counted: what earlier runs have found. Raises OSError."""
    for key in [key for key in store.catalog if key[:1] == catalog.DAMAGE]:
        log = store.by_uuid.get(key[1:])
        found = [log.recall_gap(gap) for gap in _gaps(store.catalog[key])] if log is not None else []
        if not any(found):
            store.delete(key)


def note(store: Store) -> list[Log]:
    """What was found since the last time is written; returns the logs."""
    found = [store.by_uuid[uuid] for uuid in dict.fromkeys(store.filling.gapped) if uuid in store.by_uuid]
    store.filling.gapped.clear()
    for log in found:
        if log.durable:
            store.put(catalog.DAMAGE + log.uuid, _value(log.lost))
    return found


def let_go(log: Log) -> None:
    """What was damaged outside of segments and sealed files has been moved on without it, and cannot be put back: it is
    done with."""
    for gap in log.lost if log.replica is None else ():  # Other brokers have what is lost here.
        if not gap.place.startswith(("logs/", "journal/")):
            log.settle(gap.first, gap.end)


def _value(gaps: list[Gap]) -> bytes:
    return catalog.value({}, {"gaps": [list(gap) for gap in gaps]})


def _gaps(value: bytes) -> list[Gap]:
    try:
        _, position = decode_table(value, 0, len(value))
        return [Gap(*gap) for gap in decode_table(value, position, len(value))[0]["gaps"]]
    except (PeerError, KeyError, TypeError):
        return []  # Whoever reads the log will find them again.


def damaged(vhosts: Iterable[VHost]) -> Iterator[tuple[str, Log]]:
    """(what it is, its log) of all that has lost something."""
    return (one for vhost in vhosts for one in _look(vhost) if one is not None)


def _look(vhost: VHost) -> Iterator[tuple[str, Log] | None]:
    """The same of a vhost; None for a pause, where so many have been looked at that others are to have their turn."""
    count = 0
    for queue in [*vhost.queues.values(), *(one.state for one in vhost.exchanges.values())]:
        count += 1
        if count % LOOKED_AT_ONCE == 0:
            yield None
        if isinstance(queue, Queue) and (log := queue.store.log) is not None and log.gaps:
            yield queue.place, log
    for topic in vhost.topics.all() if vhost.topics is not None else ():
        for partition in topic.partitions:
            count += 1
            if count % LOOKED_AT_ONCE == 0:
                yield None
            if partition.log.gaps and topic.name not in vhost.queues:
                yield f"partition {partition.index} of topic '{topic.name}' in vhost '{vhost.name}'", partition.log


def sentences(vhost: VHost) -> Iterator[str | None]:
    """What is lost in a vhost, and what to do, each in one; None for a pause, as above."""
    for one in _look(vhost):
        if one is None:
            yield None
            continue
        place, log = one
        count = log.lost_count
        if count:
            where = "; ".join(map(str, log.lost))
            yield (
                f"{place} is damaged: {count} messages cannot be read, all others are delivered: {where}. Put the file"
                " back from a copy before a start, or purge, delete or expire what is there to be done with it"
            )
    for number, queue in enumerate(list(vhost.queues.values()), 1):
        if number % LOOKED_AT_ONCE == 0:
            yield None
        if queue.store.broken:
            yield f"{queue.place} cannot be read"
