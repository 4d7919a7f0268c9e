"""Partitions with which something cannot be done now: read, or rid of what is too old or superseded.

Each is named once in the log and in the health check, and what it is about is tried again by every sweep; all other
partitions go on. Kafka's log cleaner marks such partitions as uncleanable and counts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.log.errors import StorageError
from protocol.kafka.records import CorruptBatch

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition

ERRORS = (StorageError, CorruptBatch, TopicRefused, OSError)
"""What a partition may raise for what is in it, or under it."""
CLEAN, READ = "clean", "read"
MEANS = {CLEAN: "what is too old or superseded stays", READ: "it cannot be read"}


class Troubles:
    """Those of a vhost."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Partition, int] = {}
        """And the last offset that could not be read."""

    def note(self, partition: Partition, what: str, error: Exception, offset: int = -1) -> bool:
        """This could not be done; whether that is news."""
        is_news = what not in partition.troubles
        partition.troubles[what] = str(error)
        self._known[partition] = offset if what == READ else self._known.get(partition, -1)
        return is_news

    def is_over(self, partition: Partition, what: str) -> None:
        """This could be done."""
        if partition.troubles and partition.troubles.pop(what, None) is not None and not partition.troubles:
            del self._known[partition]

    def all(self) -> list[str]:
        """A line for each."""
        return [
            f"partition {one.index} of topic '{one.topic_name}': {MEANS[what]}: {why}"
            for one in self._known
            if not one.gone
            for what, why in one.troubles.items()
        ]

    def try_again(self) -> None:
        """Read where that has failed, and forget who is gone."""
        for partition, offset in list(self._known.items()):
            if partition.gone:
                del self._known[partition]
            elif READ in partition.troubles:
                try:
                    partition.read(max(offset, partition.start_offset), 1, at_least_one=True)
                except ERRORS:
                    continue
                self.is_over(partition, READ)
