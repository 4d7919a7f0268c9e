"""Hot path. Octets that have come from one peer and are not worked on yet, whichever protocol it speaks; no IO.

Budget: 0.15 µs a read whose octets are used up, beside the copies named below; held by `jackalope bench amqp` (rows
rtt1, unbatched50) and `jackalope bench kafka` (rows produce...). The loops that take frames and requests out of `data`
read and move `position` themselves: a call a message would cost a twentieth of a regular publish.

Copies: what is left behind a slice is copied once when more comes behind it, pieces that were set aside are joined once
when the last has come, and a large one that comes into `target` is copied with each doubling.
"""

from __future__ import annotations

from collections.abc import Callable


class ReceiveBuffer:
    """The octets in `data` from `position` on, or the beginning of a frame or request that is `need` octets long.

    While `need` is 0 everything is in `data`. Whoever finds a frame or request that is not whole sets `need` to its
    length, counted from `position`, and calls `set_aside` or `begin_large`; from then on `data` is empty until all of
    it has come. The buffer itself has no bound: its owner refuses what is too long before it sets `need`, and asks
    `broker.server.unfinished` for the room of what is large (`grow`).
    """

    __slots__ = ("_large", "_largest", "_pieces", "data", "have", "need", "position", "target")

    def __init__(self, largest_bytes: int = 0) -> None:
        """`largest_bytes`: the room for the beginning of something large from a peer that has sent nothing larger."""
        self.data = b""
        """`bytes`, or the bytearray in which something large was received, which whoever takes it may keep."""
        self.position = 0
        self.need = 0
        self.have = 0
        """How many octets of those in `need` have come."""
        self._pieces: list[bytes] = []
        self._large = bytearray()  # Something large as it comes.
        self._largest = largest_bytes  # Of the large ones that came whole.
        self.target: memoryview | None = None
        """Where the next octets of something large go; None: to `add`."""

    def add(self, octets: bytes) -> bool:
        """Octets arrived; False while `need` says that more have to come before anything can be done."""
        if self._pieces:
            pieces = self._pieces
            pieces.append(octets)
            self.have += len(octets)
            if self.have < self.need:
                return False
            octets = b"".join(pieces)
            pieces.clear()
        elif self.position < len(self.data):
            octets = self.data[self.position :] + octets
        self.data = octets
        self.position = 0
        self.need = 0
        return True

    def clear(self) -> None:
        """Nothing is left in `data`."""
        self.data = b""
        self.position = 0

    def set_aside(self) -> None:
        """What is left is fewer than `need` octets: keep them until the others have come, and join them once."""
        rest = self.data[self.position :]
        self._pieces.append(rest)
        self.have = len(rest)
        self.clear()

    # Something large, which is received where it stays.

    def begin_large(self) -> None:
        """What is left is the beginning of something large: `grow` says where the others go."""
        self._large = bytearray(self.data[self.position :])
        self.have = len(self._large)
        self.clear()

    def grow(self, may_hold: Callable[[int], bool]) -> None:
        """Make room for twice what has come, or for the largest size that came before: a mere promise gets none.

        `may_hold` is asked whether that many octets may be kept in all. If not, `target` is None, and the peer must not
        be read until `grow` has been called again and has set `target`.
        """
        size, have = len(self._large), self.have
        if size == have:
            octets = min(self.need, max(2 * size, self._largest))
            if not may_hold(octets):
                self.target = None
                return
            larger = bytearray(octets)
            larger[:size] = self._large
            self._large = larger
        self.target = memoryview(self._large)[have:]

    def added(self, count: int) -> bool:
        """So many octets were put into `target`; False while it is not whole, and then `grow` has to be called."""
        self.have += count
        if self.have < self.need:
            return False
        self._largest = max(self._largest, self.need)
        self.data, self._large = self._large, bytearray()  # type: ignore[assignment]  # Read in the same way.
        self.position = 0
        self.need = 0
        self.target = None
        return True

    def drop_large(self) -> None:
        """It will never be whole."""
        self._large = bytearray()
        self.target = None
