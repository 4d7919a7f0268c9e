"""The store of a running broker: the flusher that takes its frames to the disk, and what follows when they are there.

Who waits for the disk has given a pledge (`log.pledges`); here all of them are kept when a frame is durable, and broken
when the disk has failed, which ends the process.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import trio

from broker.log.errors import StorageError
from broker.log.pledges import Pledge
from broker.log.store import Store
from broker.server.env import Env
from broker.server.flusher import Flusher

log = logging.getLogger("jackalope.storage")

PENDING_BYTES_MAX = 32 << 20
"""Publishers wait when so much has gathered behind the frame that is being written."""


class _Wakening(Pledge):
    """A task waits for the event."""

    __slots__ = ("event",)

    def __init__(self, event: trio.Event) -> None:
        self.event = event

    def kept(self, committed: bool) -> None:
        del committed  # Whoever waits asks the flusher.
        self.event.set()


class Durability:
    """The store and its flusher. `set_space` is called with False when the disk is full, with True afterwards."""

    def __init__(self, store: Store, env: Env | None = None) -> None:
        self.store = store
        self.flusher = Flusher(store, self._on_synced, self._on_failed, self._on_space, (env or Env()).new_worker)
        self.set_space: Callable[[bool], None] = _ignore
        self.failed = trio.Event()
        """Set when the disk has failed us: the process has to end."""
        self.on_synced: list[Callable[[], None]] = []
        """Called when another frame is durable, after its pledges were kept."""
        self._company = 0  # How many waited for the last frame.

    async def synced(self) -> None:
        """Return when everything done so far is durable. Raises OSError when that will not happen."""
        if self.flusher.failed is None:
            event = trio.Event()
            self.store.pledge_all(_Wakening(event))
            self.flusher.turn_ended()
            await event.wait()
        if self.flusher.failed is not None:
            raise OSError(errno.EIO, str(self.flusher.failed))

    @property
    def congested(self) -> bool:
        """Whether publishers had better wait for the disk."""
        return self.store.pending_bytes > PENDING_BYTES_MAX

    def fail(self, error: Exception) -> None:
        """Somebody has found that storage cannot be relied on: refuse all that waits, and end. Again is nothing."""
        self.flusher.fail(error)

    def turn_ended(self) -> None:
        """See `Flusher.turn_ended`."""
        self.flusher.turn_ended()

    def turn_ended_among_others(self) -> None:
        """Like `turn_ended`, when more turns follow: the frame goes if about as many wait for it as for the last."""
        if self.flusher.wanted and self.store.pledges.urgent_count >= self._company:
            self.flusher.turn_ended()

    # What the flusher says.

    def _on_synced(self, frame: int) -> None:
        released = self.store.pledges.committed(frame)
        self._company = max(released, self._company * 7 // 8)
        for call in self.on_synced:
            call()

    def _on_failed(self, error: Exception) -> None:
        """Nothing that waits will become durable: refuse it, and end."""
        is_of_disk = isinstance(error, OSError | StorageError)
        log.critical("storage failed, stopping: %s", str(error) or repr(error), exc_info=None if is_of_disk else error)
        self.store.pledges.failed()
        self.failed.set()

    def _on_space(self, there_is: bool) -> None:
        self.set_space(there_is)


def _ignore(_: bool) -> None:
    return
