"""A face: the connections of one protocol. The process asks all of its faces alike."""

from __future__ import annotations

from typing import Protocol


class Face(Protocol):
    """See the module. A face adds itself to `Hub.faces`."""

    @property
    def open_count(self) -> int:
        """How many connections are open."""

    def sweep(self) -> None:
        """Look at every connection, as a job of the scheduler: some have timed out, others want a heartbeat."""

    def alarm_ended(self) -> None:
        """Publishers may go on."""

    def end_all(self, *, failed: bool) -> None:
        """The broker stops: ask every peer to go. With `failed` it is the disk that ends it, and nothing that is
        under way may be answered any more."""
