"""What comes into partitions: rates of the last seconds, and which partition takes far more than its share.

Nothing is done per record: a partition counts its octets per append, its records are its offsets. Every ROLL_MS the
counters of those that something came into are noted (`Partition.mark`); a rate is the difference between now and the
note before the last, so it is of the last ROLL_MS to 2 * ROLL_MS. An idle partition costs nothing.

Invariant: a partition that is in neither set has had nothing since before the last two rolls, and its mark says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from broker.core.topics.partition import Partition

ROLL_MS = 5_000
AT_ONCE = 500
"""Partitions whose counters are noted in one step."""
HOT_TIMES = 3
"""A partition is hot that takes more than so many times what the others take on average."""
HOT_MESSAGES_MIN = 100
"""Fewer say nothing about who gets how much: a producer without keys fills one batch after the other."""


class Mark(NamedTuple):
    """What had come in at the last roll, and at the one before."""

    messages: int
    octets: int
    messages_before: int
    octets_before: int


NOTHING_IN = Mark(0, 0, 0, 0)


class Flow(NamedTuple):
    """What came into a partition within the time that is looked at."""

    messages: int
    octets: int


class Rates:
    """The clock of the marks. Times are those of a monotonic clock."""

    __slots__ = ("_active", "_before_ms", "_last_ms", "_settling")

    def __init__(self) -> None:
        self._active: dict[Partition, None] = {}
        self._settling: dict[Partition, None] = {}
        self._last_ms = self._before_ms = -1

    def note(self, partitions: Iterable[Partition]) -> None:
        """Something came into these."""
        self._active.update(dict.fromkeys(partitions))

    def is_due(self, now_ms: int) -> bool:
        """Whether it is time for a roll; the first call starts the clock."""
        if self._last_ms < 0:
            self._last_ms = self._before_ms = now_ms
        return now_ms - self._last_ms >= ROLL_MS

    def roll(self, now_ms: int) -> Iterator[int]:
        """Note the counters; what it returns is a job."""
        self._before_ms, self._last_ms = self._last_ms, now_ms
        active, self._active = self._active, {}
        moved = active | self._settling  # Those of the roll before have one more, to come to rest.
        self._settling = active
        return _set_marks(list(moved))

    def span_s(self, now_ms: int) -> float:
        """How long it is that `lately` looks back; not less than a second, which would say little."""
        return max(now_ms - self._before_ms, 1000) / 1000 if self._before_ms >= 0 else 1.0


def _set_marks(moved: Sequence[Partition]) -> Iterator[int]:
    for start in range(0, len(moved), AT_ONCE):
        some = moved[start : start + AT_ONCE]
        for partition in some:
            mark = partition.mark
            partition.mark = Mark(partition.messages_in, partition.bytes_in, mark.messages, mark.octets)
        yield len(some)


def lately(partition: Partition) -> Flow:
    """What came in since the roll before the last."""
    mark = partition.mark
    return Flow(partition.messages_in - mark.messages_before, partition.bytes_in - mark.octets_before)


def since_start(partition: Partition) -> Flow:
    """What came in since the start of the broker."""
    return Flow(partition.messages_in, partition.bytes_in)


def shares(flows: Sequence[Flow]) -> list[float | None]:
    """The share of each in the octets of all; None where there was nothing."""
    whole = sum(flow.octets for flow in flows)
    return [flow.octets / whole if whole else None for flow in flows]


def hot(flows: Sequence[Flow]) -> list[int]:
    """The places of those that take far more than the others."""
    whole = sum(flow.octets for flow in flows)
    others = len(flows) - 1
    if not others or sum(flow.messages for flow in flows) < HOT_MESSAGES_MIN:
        return []
    return [place for place, flow in enumerate(flows) if flow.octets * others > HOT_TIMES * (whole - flow.octets)]
