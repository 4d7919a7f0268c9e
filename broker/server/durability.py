"""Who waits for the disk: confirms of channels, and replies of connections that stand still until theirs is durable.

Frames become durable in order, so the confirms of a channel come in order: what is published while an earlier publish
of the channel waits, waits with it. Replies to what changes the catalog (a durable declare, tx.commit, purge ...) park
their connection: nothing more of it is read before they are out.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from broker.log.errors import StorageError
from broker.log.store import Store
from broker.server.flusher import Flusher, Worker

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel
    from broker.server.amqp.connection import Connection

log = logging.getLogger("jackalope.storage")

PENDING_BYTES_MAX = 32 << 20
"""Publishers wait when so much has gathered behind the frame that is being written."""


class Waiting:
    """A channel that may be confirmed up to `seq` once `frame` is durable."""

    __slots__ = ("channel", "frame", "seq")

    def __init__(self, channel: Channel, frame: int, seq: int) -> None:
        self.channel = channel
        self.frame = frame
        self.seq = seq


class Durability:
    """The store, its flusher, and everybody who waits for them. `set_space(False)` is called when the disk is full."""

    def __init__(self, store: Store, new_worker: Callable[[str, int], Worker] | None = None) -> None:
        self.store = store
        self.flusher = Flusher(store, self._on_synced, self._on_failed, self._on_space, new_worker)
        self.set_space: Callable[[bool], None] = _ignore
        self.failed = trio.Event()
        """Set when the disk has failed us: the process has to end."""
        self._waiting: deque[Waiting] = deque()
        self._parked: deque[tuple[int, Connection]] = deque()
        self._events: deque[tuple[int, trio.Event]] = deque()
        self.on_synced: list[Callable[[int], None]] = []
        """Called with the number of the frame up to which everything is durable, when that has moved."""
        self._company = 0  # How many waited for the last frame.

    # Who waits.

    def wait(self, channel: Channel) -> None:
        """Confirm what the channel has published so far when the frame that is being filled is durable."""
        frame = self.store.frame
        waiting = channel.waiting
        if waiting is not None and waiting.frame == frame:
            waiting.seq = channel.publish_seq
        else:
            channel.waiting = waiting = Waiting(channel, frame, channel.publish_seq)
            self._waiting.append(waiting)
            self.flusher.waiting_frame = frame

    def park(self, connection: Connection) -> None:
        """Call `connection.unpark` when the frame that is being filled is durable."""
        self._parked.append((self.store.frame, connection))
        self.flusher.waiting_frame = self.store.frame

    def wait_frame(self, frame: int) -> None:
        """Somebody of `on_synced` waits for this frame."""
        self.flusher.waiting_frame = max(self.flusher.waiting_frame, frame)

    async def synced(self) -> None:
        """Return when everything done so far is durable. Raises OSError when that will not happen."""
        store = self.store
        frame = store.frame if store.dirty else store.frame - 1
        if store.synced_frame < frame:
            event = trio.Event()
            self._events.append((frame, event))
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
        """The same, but more turns follow: the frame goes if about as many wait for it as waited for the last ones."""
        if self.flusher.wanted and len(self._waiting) + len(self._parked) >= self._company:
            self.flusher.turn_ended()

    # What the flusher says.

    def _on_synced(self, frame: int) -> None:
        waiting = self._waiting
        before = len(waiting) + len(self._parked)
        while waiting and waiting[0].frame <= frame:
            one = waiting.popleft()
            if one.channel.waiting is one:
                one.channel.waiting = None
            one.channel.confirm(one.seq)
        while self._parked and self._parked[0][0] <= frame:
            self._parked.popleft()[1].unpark()
        released = before - len(waiting) - len(self._parked)
        self._company = max(released, self._company * 7 // 8)
        while self._events and self._events[0][0] <= frame:
            self._events.popleft()[1].set()
        for call in self.on_synced:
            call(frame)

    def _on_failed(self, error: Exception) -> None:
        """Nothing that waits will become durable: refuse it, and end."""
        is_of_disk = isinstance(error, OSError | StorageError)
        log.critical("storage failed, stopping: %s", str(error) or repr(error), exc_info=None if is_of_disk else error)
        while self._waiting:
            one = self._waiting.popleft()
            one.channel.waiting = None
            one.channel.refuse(one.seq)
        while self._events:
            self._events.popleft()[1].set()
        self.failed.set()

    def _on_space(self, there_is: bool) -> None:
        self.set_space(there_is)


def _ignore(_: bool) -> None:
    return
