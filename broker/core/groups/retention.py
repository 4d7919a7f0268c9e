"""Offsets that are too old, and groups that nothing is left of: looked for in slices, all groups in a round.

The retention of a group's offsets starts when its last member is gone, not at their commits: a consumer that commits
seldom, or stands still over a holiday, keeps its place. Offsets of a consumer outside group management age from their
commit. While a group has members only topics that nobody subscribes to expire, if that can be told at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.core.groups.table import Entry, GroupTable
from broker.core.groups.values import DropGroup, DropOffsets, State, TopicPartition

SLICE = 2_000
"""Groups and offsets that are looked at in one step."""


class Retention:
    """One round after the other over a table of groups."""

    __slots__ = ("_round", "_table")

    def __init__(self, table: GroupTable) -> None:
        self._table = table
        self._round: Iterator[str] | None = None

    def sweep(self, now_ms: int) -> bool:
        """The next step of the round, or the first of a new one; returns whether there are more."""
        by_id = self._table.by_id
        if self._round is None:
            self._round = iter(list(by_id))
        budget = SLICE
        for group_id in self._round:
            entry = by_id.get(group_id)
            if entry is not None:
                budget -= 1 + len(entry.offsets)
                self._look_at(group_id, entry, now_ms)
            if budget <= 0:
                return True
        self._round = None
        return False

    def _look_at(self, group_id: str, entry: Entry, now_ms: int) -> None:
        effects = self._table.around.effects
        gone = self._expired(entry, now_ms)
        for topic, partition in gone:
            entry.offsets.delete(topic, partition)
        if gone:
            effects.append(DropOffsets(group_id, gone, "older than the retention"))
        if entry.group.is_unused and not entry.offsets:
            if entry.group.is_kept:
                effects.append(DropGroup(group_id))
            entry.group.die(now_ms)
            self._table.drop(group_id, entry)
        elif gone:
            self._table.settle(group_id, entry)

    def _expired(self, entry: Entry, now_ms: int) -> tuple[TopicPartition, ...]:
        group, retention_ms = entry.group, self._table.around.settings.offsets_retention_ms
        if not group.protocol_type:
            return entry.offsets.expired(now_ms, retention_ms, None)
        if group.state is State.EMPTY:
            return entry.offsets.expired(now_ms, retention_ms, group.since_ms)
        subscribed = group.subscribed_topics() if group.state is State.STABLE else None
        return entry.offsets.expired(now_ms, retention_ms, None, subscribed) if subscribed is not None else ()
