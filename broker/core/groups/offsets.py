"""The committed offsets of one group: what it has, what a transaction may bring, and what is too old. Pure.

Knows nothing of members: whether a commit is allowed is the group's to say. Invariant: `held_bytes` is about what all
of it takes in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from broker.core.groups.values import Committed, Fetched, TopicPartition
from protocol.kafka.errors import ErrorCode

_ENTRY_BYTES = 250
"""What the objects of one offset take, about."""


def _held_bytes(committed: Committed) -> int:
    return _ENTRY_BYTES + len(committed.metadata)


class Offsets:
    """By topic and partition."""

    __slots__ = ("_by_topic", "_pending", "held_bytes")

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[int, Committed]] = {}
        self._pending: dict[int, dict[TopicPartition, Committed]] = {}  # By the producer whose transaction is open.
        self.held_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_topic.values())) + sum(map(len, self._pending.values()))

    def __bool__(self) -> bool:
        return bool(self._by_topic or self._pending)

    def __iter__(self) -> Iterator[tuple[TopicPartition, Committed]]:
        for topic, partitions in self._by_topic.items():
            for partition, committed in partitions.items():
                yield (topic, partition), committed

    def get(self, topic: str, partition: int) -> Committed | None:
        """None: nothing is committed."""
        return self._by_topic.get(topic, {}).get(partition)

    def topics(self) -> list[str]:
        """Those that something is committed for."""
        return list(self._by_topic)

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Those of the topic that something is committed for."""
        return tuple(self._by_topic.get(topic, ()))

    def commit(self, topic: str, partition: int, committed: Committed) -> None:
        """Later ones replace earlier ones, also by a lower offset: that is how groups are rewound."""
        partitions = self._by_topic.setdefault(topic, {})
        old = partitions.get(partition)
        self.held_bytes += _held_bytes(committed) - (_held_bytes(old) if old is not None else 0)
        partitions[partition] = committed

    def delete(self, topic: str, partition: int) -> bool:
        """Whether there was one."""
        partitions = self._by_topic.get(topic, {})
        old = partitions.pop(partition, None)
        if old is None:
            return False
        self.held_bytes -= _held_bytes(old)
        if not partitions:
            del self._by_topic[topic]
        return True

    def fetch(
        self, wanted: Mapping[str, Sequence[int]] | None, *, require_stable: bool = False
    ) -> dict[str, dict[int, Fetched]]:
        """What is asked for, or all; with `require_stable` nothing that an open transaction may change."""
        if wanted is None:
            wanted = {topic: tuple(partitions) for topic, partitions in self._by_topic.items()}
        return {
            topic: {partition: self._fetch(topic, partition, require_stable) for partition in partitions}
            for topic, partitions in wanted.items()
        }

    def _fetch(self, topic: str, partition: int, require_stable: bool) -> Fetched:
        if require_stable and self.is_unstable(topic, partition):
            return Fetched(error=ErrorCode.UNSTABLE_OFFSET_COMMIT)
        committed = self.get(topic, partition)
        if committed is None:
            return Fetched()
        return Fetched(committed.offset, committed.leader_epoch, committed.metadata)

    # Transactions: their offsets count once the transaction is committed.

    def stage(self, producer_id: int, topic: str, partition: int, committed: Committed) -> None:
        """It is committed if the producer's transaction is."""
        staged = self._pending.setdefault(producer_id, {})
        old = staged.get((topic, partition))
        self.held_bytes += _held_bytes(committed) - (_held_bytes(old) if old is not None else 0)
        staged[topic, partition] = committed

    def end_transaction(self, producer_id: int, *, commit: bool) -> tuple[tuple[TopicPartition, Committed], ...]:
        """Returns what is committed by it."""
        staged = self._pending.pop(producer_id, {})
        self.held_bytes -= sum(map(_held_bytes, staged.values()))
        if not commit:
            return ()
        for (topic, partition), committed in staged.items():
            self.commit(topic, partition, committed)
        return tuple(staged.items())

    def is_unstable(self, topic: str, partition: int) -> bool:
        """An open transaction may change it."""
        return any((topic, partition) in staged for staged in self._pending.values())

    # Retention.

    def expired(
        self, now_ms: int, retention_ms: int, since_ms: int | None, spared: frozenset[str] = frozenset()
    ) -> tuple[TopicPartition, ...]:
        """What is older than the retention, counted from `since_ms` or, if that is None, from its commit.

        Topics in `spared` never expire, nor does what an open transaction may change. What came with a retention of its
        own goes by that.
        """
        return tuple(
            (topic, partition)
            for (topic, partition), committed in self
            if topic not in spared
            and not self.is_unstable(topic, partition)
            and _end_ms(committed, retention_ms, since_ms) <= now_ms
        )


def _end_ms(committed: Committed, retention_ms: int, since_ms: int | None) -> int:
    if committed.expires_ms is not None:
        return committed.expires_ms
    # One that was committed to an Empty group, to move it, has its retention before it.
    return max(committed.committed_ms, since_ms or 0) + retention_ms
