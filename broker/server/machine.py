"""What a sans-IO connection looks like to the pump that moves its octets, whichever protocol it speaks.

The pump's duties:
- call `receive` with what arrived; while `more` is true, let others run and call `proceed`;
- while `login` is set, await `log_in`;
- be the `writer` of `outbox`; set `congested` while the peer takes too little, and call `drained` when that ends;
- once `finished` is set and `outbox` is written, let the peer hear the end and close; call `abort` when it is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from broker.log.disk import FileRange
    from broker.server.log_lines import LogLines
    from broker.server.outbox import Outbox
    from broker.server.receive_buffer import ReceiveBuffer


class Machine(Protocol):
    """See the module."""

    peer: tuple[str, int]
    transport: Any
    tls: bool
    external_name: str | None
    login: Any
    outbox: Outbox
    finished: bool
    sent_octets: int

    @property
    def more(self) -> bool:
        """Whether `proceed` has something to do without new octets."""

    @property
    def paused(self) -> bool:
        """Nothing may be taken now."""

    @property
    def has_said_all(self) -> bool:
        """Nothing follows what is in `outbox`, and the peer is to see that at once."""

    def receive(self, data: bytes) -> None:
        """Octets arrived."""

    def proceed(self) -> None:
        """Work on what is buffered, for a slice."""

    def drained(self) -> None:
        """The peer takes octets again."""

    def abort(self) -> None:
        """The peer is gone: let go of everything."""

    async def log_in(self) -> None:
        """Finish a login that has to be checked off the loop."""


class BulkMachine(Machine, Protocol):
    """One whose large requests are received where they stay, and that has pieces of files in `outbox`."""

    buffer: ReceiveBuffer

    def received(self, count: int) -> None:
        """So many octets were put into the buffer's `target`; while that is None they go to `receive`."""

    def wrote(self, octets: int, in_memory: int) -> None:
        """So many octets of `outbox` have gone, and so many of these were in memory: not pieces of files."""


class Home(Protocol):
    """What a pump asks of those who keep its machine."""

    @property
    def now_ms(self) -> int:
        """The clock that never jumps, as of the event that is handled."""

    @property
    def log_lines(self) -> LogLines:
        """Where it says what peers may cause in a loop."""

    def remove(self, machine: Any) -> None:
        """The machine's socket is closed."""


Octets = Sequence["bytes | memoryview | FileRange"]
