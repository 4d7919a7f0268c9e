"""Where groups are kept: the topic `__consumer_offsets`, in Kafka's own records, and back after a restart.

A key's last record counts. When a newer one is committed the older is settled in the log, as a message is that was
acknowledged: so the log keeps itself compact, and a segment goes when nothing of it is left. It is not settled before,
since an append that is taken back must leave what it was to supersede. A deletion is the settling of all records of the
key.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

from broker.core.groups.coordinator import Coordinator, partition_for
from broker.core.groups.settings import OFFSETS_TOPIC
from broker.core.groups.values import (
    Committed,
    DropGroup,
    DropOffsets,
    GroupSnapshot,
    MemberSnapshot,
    SaveGroup,
    SaveOffsets,
)
from broker.log.pledges import Pledge
from protocol.kafka.compression import open_batch
from protocol.kafka.group_records import (
    GROUP_KEY_VERSION,
    GROUP_VALUE_VERSION,
    GROUP_VALUE_VERSION_MAX,
    OFFSET_KEY_VERSION,
    OFFSET_VALUE_VERSION,
    OFFSET_VALUE_VERSION_MAX,
    GroupKey,
    GroupMember,
    GroupValue,
    OffsetKey,
    OffsetValue,
    read_version,
    read_versioned,
    write_versioned,
)
from protocol.kafka.records import render_record

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition
    from broker.core.topics.registry import Topics

TOPIC = OFFSETS_TOPIC
PARTITIONS = 50
"""Kafka's figure; which partition a group is in is told to clients by hash."""
OWN_PROTOCOLS_HEADER = b"protocols"
"""What Kafka's record has no room for: all protocols of the members, with their metadata."""

Place = tuple[str, str, int]
"""(group, topic, partition); the topic "" is the group itself."""
Kept = SaveGroup | SaveOffsets | DropGroup | DropOffsets


class _Superseded(Pledge):
    """Records whose successors are in the frame that is being filled: they are settled when it is committed."""

    __slots__ = ("records", "store")

    is_urgent = False

    def __init__(self, store: GroupStore) -> None:
        self.store = store
        self.records: list[tuple[Place, int]] = []

    def kept(self, committed: bool) -> None:
        """See `Pledge.kept`."""
        if committed:
            self.store.settle_superseded(self.records)


class GroupStore:
    """See the module."""

    __slots__ = ("_last", "_older", "_superseded", "_topics")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._last: dict[Place, tuple[Partition, int]] = {}
        """Where the last record of each is."""
        self._older: dict[Place, deque[tuple[Partition, int]]] = {}
        """The records before it that are not settled yet, oldest first."""
        self._superseded: _Superseded | None = None

    def save(self, effect: Kept, now_ms: int) -> None:
        """Keep, or no longer keep, what the coordinator says; durable with the frame that is being filled."""
        if isinstance(effect, SaveOffsets):
            self._save_offsets(effect, now_ms)
        elif isinstance(effect, SaveGroup):
            snapshot = effect.snapshot
            key = write_versioned(GroupKey(group=snapshot.group_id), GROUP_KEY_VERSION)
            headers = ((OWN_PROTOCOLS_HEADER, _protocols(snapshot)),) if snapshot.members else ()
            record = render_record(0, _group_value(snapshot), key, headers)
            self._append(snapshot.group_id, [((snapshot.group_id, "", -1), record)], now_ms)
        elif isinstance(effect, DropGroup):
            self._settle((effect.group_id, "", -1))
        else:
            for topic, partition in effect.partitions:
                self._settle((effect.group_id, topic, partition))

    def _save_offsets(self, effect: SaveOffsets, now_ms: int) -> None:
        records = []
        for delta, ((topic, partition), committed) in enumerate(effect.offsets):
            key = OffsetKey(group=effect.group_id, topic=topic, partition=partition)
            value = OffsetValue(
                offset=committed.offset,
                leader_epoch=committed.leader_epoch,
                metadata=committed.metadata,
                commit_timestamp=committed.committed_ms,
                expire_timestamp=-1 if committed.expires_ms is None else committed.expires_ms,
            )
            # Version 1 has an expiration of its own, and no leader epoch; few clients are so old.
            version = OFFSET_VALUE_VERSION if committed.expires_ms is None else 1
            octets = render_record(delta, write_versioned(value, version), write_versioned(key, OFFSET_KEY_VERSION))
            records.append(((effect.group_id, topic, partition), octets))
        self._append(effect.group_id, records, now_ms)

    def _append(self, group_id: str, records: list[tuple[Place, bytes]], now_ms: int) -> None:
        topic = self._topics.get(TOPIC)
        if topic is None:
            topic = self._topics.create(TOPIC, PARTITIONS, {"cleanup.policy": "compact"}, internal=True)
        partition = topic.partitions[partition_for(group_id, len(topic.partitions))]
        first = partition.append_own(b"".join([octets for _, octets in records]), len(records), now_ms)
        for offset, (place, _) in enumerate(records, first):
            known = self._last.get(place)
            if known is not None:
                self._supersede(place, known)
            self._last[place] = partition, offset

    def _supersede(self, place: Place, known: tuple[Partition, int]) -> None:
        self._older.setdefault(place, deque()).append(known)
        store = self._topics.store
        superseded = self._superseded
        if superseded is None or superseded.frame != store.frame:
            superseded = self._superseded = _Superseded(self)
            store.pledge(superseded)
        superseded.records.append((place, known[1]))

    def settle_superseded(self, records: list[tuple[Place, int]]) -> None:
        """Settle these records, (place, offset), except for those that were deleted meanwhile."""
        for place, offset in records:
            older = self._older.get(place)
            if older is None or older[0][1] != offset:
                continue
            partition, _ = older.popleft()
            partition.pass_over(offset, offset + 1)
            if not older:
                del self._older[place]

    def _settle(self, place: Place) -> None:
        """Settle all records of the place: it is deleted."""
        known = self._last.pop(place, None)
        if known is not None:
            for partition, offset in (*self._older.pop(place, ()), known):
                partition.pass_over(offset, offset + 1)

    # The start.

    def load(self, coordinator: Coordinator, now_ms: int) -> None:
        """Tell the coordinator what was kept. Raises Corrupt, CorruptBatch, MalformedRequest and OSError."""
        topic = self._topics.get(TOPIC)
        for partition in topic.partitions if topic is not None else ():
            settled = partition.log.settled
            for batch in partition.log.read(0):
                for record in open_batch(batch.data, batch.position, batch.header):
                    if record.offset not in settled and record.key is not None and record.value is not None:
                        self._load(coordinator, partition, record.offset, record.key, record.value, record.headers)
        coordinator.finish_loading(now_ms)

    def _load(
        self,
        coordinator: Coordinator,
        partition: Partition,
        offset: int,
        key: bytes,
        value: bytes,
        headers: tuple[tuple[bytes, bytes | None], ...],
    ) -> None:
        if read_version(key) == GROUP_KEY_VERSION:
            group_id = read_versioned(GroupKey, key, GROUP_KEY_VERSION).group
            protocols = dict(headers).get(OWN_PROTOCOLS_HEADER) or b"{}"
            coordinator.load_group(_snapshot(group_id, value, protocols))
            self._found((group_id, "", -1), partition, offset)
            return
        place = read_versioned(OffsetKey, key, OFFSET_KEY_VERSION)
        kept = read_versioned(OffsetValue, value, OFFSET_VALUE_VERSION_MAX)
        expires_ms = None if kept.expire_timestamp < 0 else kept.expire_timestamp
        committed = Committed(kept.offset, kept.leader_epoch, kept.metadata, kept.commit_timestamp, expires_ms)
        coordinator.load_offset(place.group, place.topic, place.partition, committed)
        self._found((place.group, place.topic, place.partition), partition, offset)

    def _found(self, place: Place, partition: Partition, offset: int) -> None:
        """Note a record that a restart has found; those before it lacked only their settling."""
        known = self._last.get(place)
        if known is not None:
            known[0].pass_over(known[1], known[1] + 1)
        self._last[place] = partition, offset


def _group_value(snapshot: GroupSnapshot) -> bytes:
    value = GroupValue(
        protocol_type=snapshot.protocol_type,
        generation=snapshot.generation,
        protocol=snapshot.protocol,
        leader=snapshot.leader or None,
        current_state_timestamp=snapshot.since_ms,
        members=[
            GroupMember(
                member_id=one.member_id,
                group_instance_id=one.instance_id,
                client_id=one.client_id,
                client_host=one.client_host,
                rebalance_timeout=one.rebalance_timeout_ms,
                session_timeout=one.session_timeout_ms,
                subscription=dict(one.protocols).get(snapshot.protocol or "", b""),
                assignment=one.assignment,
            )
            for one in snapshot.members
        ],
    )
    return write_versioned(value, GROUP_VALUE_VERSION)


def _protocols(snapshot: GroupSnapshot) -> bytes:
    """The names of the protocols of each member; metadata only where they differ from those of the chosen one."""
    table = {
        one.member_id: [
            [name, None if metadata == dict(one.protocols).get(snapshot.protocol or "") else metadata.hex()]
            for name, metadata in one.protocols
        ]
        for one in snapshot.members
    }
    return json.dumps(table, separators=(",", ":")).encode()


def _snapshot(group_id: str, value: bytes, protocols: bytes) -> GroupSnapshot:
    kept = read_versioned(GroupValue, value, GROUP_VALUE_VERSION_MAX)
    table = json.loads(protocols)
    members = []
    for one in kept.members:
        own = table.get(one.member_id, [[kept.protocol or "", None]])
        members.append(
            MemberSnapshot(
                one.member_id,
                one.group_instance_id,
                one.client_id,
                one.client_host,
                one.session_timeout,
                one.rebalance_timeout,
                tuple((name, one.subscription if text is None else bytes.fromhex(text)) for name, text in own),
                one.assignment,
            )
        )
    return GroupSnapshot(
        group_id,
        kept.generation,
        kept.protocol_type,
        kept.protocol,
        kept.leader or "",
        kept.current_state_timestamp,
        tuple(members),
    )
