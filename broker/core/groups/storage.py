"""Where groups are kept: the topic `__consumer_offsets`, in Kafka's own records, and back after a restart.

A key's last record counts. When a newer one is appended the older is settled in the log at once, as a message is that
was acknowledged: so the log keeps itself compact, what is superseded before its frame is written is written nowhere,
and a segment goes when nothing of it is left. A deletion is the settling of the last record.
"""

from __future__ import annotations

import json
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

Kept = SaveGroup | SaveOffsets | DropGroup | DropOffsets


class GroupStore:
    """See the module."""

    __slots__ = ("_last", "_topics")

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._last: dict[tuple[str, str, int], tuple[Partition, int]] = {}
        """(group, topic, partition), topic "" being the group itself -> where its last record is."""

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

    def _append(self, group_id: str, records: list[tuple[tuple[str, str, int], bytes]], now_ms: int) -> None:
        topic = self._topics.get(TOPIC)
        if topic is None:
            topic = self._topics.create(TOPIC, PARTITIONS, {"cleanup.policy": "compact"}, internal=True)
        partition = topic.partitions[partition_for(group_id, len(topic.partitions))]
        first = partition.append_own(b"".join([octets for _, octets in records]), len(records), now_ms)
        for offset, (place, _) in enumerate(records, first):
            self._settle(place)
            self._last[place] = partition, offset

    def _settle(self, place: tuple[str, str, int]) -> None:
        known = self._last.pop(place, None)
        if known is not None:
            partition, offset = known
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
            self._last[group_id, "", -1] = partition, offset
            return
        place = read_versioned(OffsetKey, key, OFFSET_KEY_VERSION)
        kept = read_versioned(OffsetValue, value, OFFSET_VALUE_VERSION_MAX)
        expires_ms = None if kept.expire_timestamp < 0 else kept.expire_timestamp
        committed = Committed(kept.offset, kept.leader_epoch, kept.metadata, kept.commit_timestamp, expires_ms)
        coordinator.load_offset(place.group, place.topic, place.partition, committed)
        self._last[place.group, place.topic, place.partition] = partition, offset


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
