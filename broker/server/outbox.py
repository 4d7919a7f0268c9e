"""Hot path. What is to be written to one peer, whichever protocol it speaks: parts, their size, and when they go.

Budget: 0.1 µs a part that is sent singly, and as much a run of deliveries; held by `jackalope bench amqp` (rows rtt1,
confirm). A delivery of AMQP costs too little for a call: `amqp/delivery.py` adds to `parts` and `size` by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS_MAX = 4096
"""Parts of deliveries that may gather before they are written in the middle of a turn."""
WRITE_SOON_BYTES = 262_144
"""Roughly how many octets of deliveries may gather before they are written in the middle of a turn."""


class Outbox:
    """Parts in the order in which they are written, and whether the end of the turn has to write them.

    An outbox bounds only what deliveries gather within a turn (PARTS_MAX, WRITE_SOON_BYTES). While the peer takes too
    little, the pump sets `congested`; whoever makes deliveries or answers looks at `congested`, or at `size`, first.
    """

    __slots__ = ("_touched_ones", "congested", "parts", "size", "touched", "writer")

    def __init__(self, touched_ones: list[Outbox]) -> None:
        """`touched_ones` are those that the end of the turn writes: `Hub.touched`."""
        self._touched_ones = touched_ones
        self.parts: list[Any] = []
        """`bytes`, `memoryview` or `FileRange`; the last are for machines with a `BulkPump` only."""
        self.size = 0
        """An upper bound of the octets of `parts`, but for the frames around AMQP's deliveries."""
        self.touched = False
        self.congested = False
        """The peer takes too little: consumers take nothing from queues."""
        self.writer: Any = None
        """Who writes `parts`: the pump; None in tests that drain it themselves."""

    def send(self, part: bytes) -> None:
        """Have this written at the end of the turn."""
        self.parts.append(part)
        self.size += len(part)
        if not self.touched:
            self.touched = True
            self._touched_ones.append(self)

    def put(self, parts: Sequence[Any]) -> None:
        """These go next; whoever puts the last of several calls `touch`."""
        self.parts += parts
        self.size += sum(map(len, parts))

    def touch(self) -> None:
        """Have `parts` written at the end of the turn; the writer is asked even if there are none."""
        if not self.touched:
            self.touched = True
            self._touched_ones.append(self)

    def delivered(self, size: int) -> None:
        """Deliveries of at most `size` octets of content were put into `parts`."""
        if not self.touched:
            self.touched = True
            self._touched_ones.append(self)
        self.size += size
        if (self.size > WRITE_SOON_BYTES or len(self.parts) > PARTS_MAX) and self.writer is not None:
            self.writer.flush()
