"""One partition that a consumer of a group reads: where it is, what is not settled yet, what can be committed.

The committed offset is the lowest that is not settled: what was acknowledged out of order above it comes again after a
crash, and nothing is lost. How often deliveries have failed is committed with it, as its metadata, so that a poisonous
record counts on with the next consumer. Pure.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from broker.core.message import Message, redelivered, with_delivery_count

if TYPE_CHECKING:
    from broker.core.streams.position import Position

SPAN_MAX = 1 << 16
"""How far a partition is read past its lowest unsettled offset: what a crash makes come again, at most."""
OFFSET_BITS = 63
OFFSET_MASK = (1 << OFFSET_BITS) - 1
METADATA_CHARS_MAX = 4000
METADATA_HEAD = "failed "
_COUNT = re.compile(r"([0-9]{1,19}):([0-9]{1,9})")


class Claim:
    """See the module. Leases of it are numbers above `base`: a claim that is void leaves none that mean another's."""

    __slots__ = ("_low", "away", "base", "committed", "counts", "out", "position", "returned")

    def __init__(self, number: int, position: Position, committed: int, metadata: str) -> None:
        self.base = number << OFFSET_BITS
        self.position = position
        self.counts = read_counts(metadata)
        """Offset -> failed deliveries, of those that had any."""
        self.out: dict[int, None] = {}
        """What was delivered and is not settled, in order of offsets."""
        self.returned: deque[tuple[int, Message]] = deque()
        """What of it is to be delivered again."""
        self.away = 0
        """How much of it is with the client."""
        self.committed = committed, metadata
        self._low = position.offset  # `lowest` as it was when somebody asked, so nothing above that.

    @property
    def index(self) -> int:
        """The number of its partition."""
        return self.position.partition.index

    @property
    def has_more(self) -> bool:
        """Whether there is something to deliver, and it may be."""
        if self.returned:
            return True
        return self.position.has_more and self.room > 0

    @property
    def room(self) -> int:
        """How many new ones may be delivered."""
        room = SPAN_MAX - (self.position.offset - self._low)
        return room if room > 0 else SPAN_MAX - (self.position.offset - self.lowest)

    @property
    def lowest(self) -> int:
        """The lowest offset that is not settled."""
        # What was settled in front of it is passed over again each time, so this is not for each message.
        self._low = next(iter(self.out), self.position.offset)
        return self._low

    def deliver(self, offsets: Sequence[int]) -> list[int]:
        """New ones go out: their leases."""
        self.out.update(dict.fromkeys(offsets))
        self.away += len(offsets)
        base = self.base
        return [base | offset for offset in offsets]

    def settle(self, offset: int) -> None:
        """One is settled for good, if it was not before (`skip_to`)."""
        self.out.pop(offset, None)
        self.away -= 1
        if self.counts:
            self.counts.pop(offset, None)

    def fail(self, offset: int) -> int:
        """A delivery has failed; returns how often that was."""
        count = self.counts[offset] = self.counts.get(offset, 0) + 1
        return count

    def take_back(self, offset: int, message: Message) -> None:
        """One is to be delivered again."""
        self.away -= 1
        self.returned.append((offset, redelivered(self.told(message, offset))))

    def told(self, message: Message, offset: int) -> Message:
        """The message, which says how often its delivery has failed."""
        count = self.counts.get(offset)
        return redelivered(with_delivery_count(message, count)) if count else message

    def skip_to(self, offset: int) -> None:
        """Everything below was committed, by whomever."""
        for one in [one for one in self.out if one < offset]:
            del self.out[one]
            self.counts.pop(one, None)
        self.returned = deque(one for one in self.returned if one[0] >= offset)
        if self.position.offset < offset:
            self.position.move(offset)

    def progress(self) -> tuple[int, str]:
        """(offset, metadata) as they are to be committed."""
        lowest = self.lowest
        return lowest, write_counts(self.counts, lowest) if self.counts else ""


def write_counts(counts: dict[int, int], lowest: int) -> str:
    """What is to be known of failed deliveries from `lowest` on; the highest counts where not all have room."""
    known = [(count, offset) for offset, count in counts.items() if offset >= lowest]
    parts: list[str] = []
    size = len(METADATA_HEAD)
    for count, offset in sorted(known, reverse=True):
        part = f"{offset}:{count}"
        size += len(part) + 1
        if size > METADATA_CHARS_MAX:
            break
        parts.append(part)
    return METADATA_HEAD + ",".join(parts) if parts else ""


def read_counts(metadata: str) -> dict[int, int]:
    """What `write_counts` has written; nothing of what anybody else committed with an offset."""
    if not metadata.startswith(METADATA_HEAD):
        return {}
    return {int(offset): int(count) for offset, count in _COUNT.findall(metadata)}
