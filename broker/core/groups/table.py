"""All groups of this broker by id, what they hold together, and which of them wants to be looked at next.

Invariants: `held_bytes` is the sum over all entries, as of their last `settle`; a group that has anything falling due
has asked `wakeups` for it.
"""

from __future__ import annotations

from broker.core.groups.group import Group
from broker.core.groups.offsets import Offsets
from broker.core.groups.rebalance import NEVER_MS
from broker.core.groups.values import Surroundings
from broker.core.wakeups import Wakeups

_ENTRY_BYTES = 2_000
"""What the objects of a group without members and offsets take, about."""


class Entry:
    """A group and its offsets."""

    __slots__ = ("counted_bytes", "group", "offsets")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.offsets = Offsets()
        self.counted_bytes = 0


class GroupTable:
    """Entries by group id."""

    __slots__ = ("around", "by_id", "held_bytes", "wakeups")

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.by_id: dict[str, Entry] = {}
        self.wakeups: Wakeups[str] = Wakeups()
        self.held_bytes = 0

    def is_full(self, more_bytes: int, *, is_in: bool) -> bool:
        """Whether there is no room for so much more; who is in already may use a quarter more than who is not."""
        limit = self.around.settings.bytes_max
        return self.held_bytes + more_bytes > (limit + limit // 4 if is_in else limit)

    def make(self, group_id: str, now_ms: int) -> Entry | None:
        """The group's entry, new if need be; None if there is no room for one more."""
        entry = self.by_id.get(group_id)
        if entry is None:
            if len(self.by_id) >= self.around.settings.groups_max or self.is_full(_ENTRY_BYTES, is_in=False):
                return None
            entry = self.add(group_id, now_ms)
        return entry

    def add(self, group_id: str, now_ms: int) -> Entry:
        """A new entry, whether there is room or not."""
        entry = self.by_id[group_id] = Entry(Group(group_id, self.around, now_ms))
        return entry

    def settle(self, group_id: str, entry: Entry) -> None:
        """Something of the group may have changed; one that nothing would be lost with goes."""
        group, offsets = entry.group, entry.offsets
        if group.is_unused and not group.is_kept and not offsets:
            self.drop(group_id, entry)
            return
        held_bytes = _ENTRY_BYTES + len(group_id) + group.held_bytes + offsets.held_bytes
        self.held_bytes += held_bytes - entry.counted_bytes
        entry.counted_bytes = held_bytes
        if group.due_ms != NEVER_MS:
            self.wakeups.ask(group_id, group.due_ms)

    def drop(self, group_id: str, entry: Entry) -> None:
        """It is not there any more."""
        self.held_bytes -= entry.counted_bytes
        del self.by_id[group_id]
        self.wakeups.forget(group_id)
