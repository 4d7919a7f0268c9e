"""Takes frames to the disk and checkpoints along, off the loop; tells the hub what is durable.

One frame is on its way at a time, in a thread of its own; what turns do meanwhile gathers in the next one. So the sync
itself decides how much is committed together, and no timer is needed. Checkpoint jobs have a second thread.

    idle --turn ended, something to write--> writing --done--> idle, or the next frame at once
                                               |--no space, no handle--> waits RETRY_MS, writes the same again
                                               |    (at once, when handles of segments could be given back for it)
                                               |--sync failed, any other error--> failed, for good

Failed is also what `fail` was told, and an exception in a thread that no disk has caused: whatever ends the journal
ends the process, and nobody waits for ever.

A failed sync is never tried again: the kernel has forgotten what it could not write, and the next sync would lie.
Whoever owns the loop watches `fd` and calls `collect` when it is readable, `turn_ended` when a turn, or several that
were ready together, have ended, `tick` now and then. What nobody waits for may wait for the next tick.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from broker.log.checkpoint import Checkpoint, Step
from broker.log.disk import NO_HANDLES, NO_SPACE
from broker.log.errors import StorageError
from broker.log.store import Cut, Store

if TYPE_CHECKING:
    from broker.server.worker import Worker

log = logging.getLogger("jackalope.storage")

RETRY_MS = 200
IDLE_MS = 3000
IDLE_BYTES_MAX = 64 << 10
"""Who writes less than this in IDLE_MS is idle: a commit now and then must not keep what is dead on the disk."""
CHECKPOINT_PAUSE_MS = 2000
GATHER_BYTES_MAX = 256 << 10
"""What nobody waits for goes with what somebody waits for, with a tick, or when it is more than this."""


def _is_shortage(error: Exception) -> bool:
    """Whether there may be space, or a handle, later."""
    return isinstance(error, OSError) and error.errno in (*NO_SPACE, *NO_HANDLES)


class Flusher:
    """See the module. `on_synced(frame)` is called when everything up to a frame is durable."""

    def __init__(
        self,
        store: Store,
        on_synced: Callable[[int], None],
        on_failed: Callable[[Exception], None],
        on_space: Callable[[bool], None],
        new_worker: Callable[[str, int], Worker],
    ) -> None:
        self.store = store
        self.failed: Exception | None = None
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._on_synced = on_synced
        self._on_failed = on_failed
        self._on_space = on_space
        self._writer = new_worker("journal", self.fd)
        self._copier = new_worker("checkpoint", self.fd)
        self._cut: Cut | None = None
        self.full = False  # The last write found no space, or no handle for its file.
        self._retry_ms: int | None = None
        self._steps: Generator[Step, None, None] | None = None
        self._copying = False
        self._is_promise = False
        self._pause_ms = 0
        self._idle_ms = 0
        self._idle_from = 0  # The journal's end when the time that `_idle_ms` counts began.
        self.frames_count = 0
        self.checkpoints_count = 0

    # Frames.

    @property
    def wanted(self) -> bool:
        """Whether what has gathered had better go soon, and could: somebody waits for it, or it has grown."""
        store = self.store
        return self._cut is None and (
            store.pledges.urgent_frame >= store.frame or store.pending_bytes > GATHER_BYTES_MAX
        )

    def turn_ended(self) -> None:
        """Send what has gathered on its way, unless a frame is under way."""
        store = self.store
        pledges = store.pledges
        while self._cut is None and (store.dirty or pledges.urgent_frame >= store.frame) and self.failed is None:
            cut = store.cut()
            if cut is None:
                self._on_synced(store.synced_frame)
            else:
                self._cut = cut
                self._writer.submit(cut.write.run)

    def collect(self) -> None:
        """Something may be done: tell who waits for it, and go on."""
        with contextlib.suppress(BlockingIOError):  # Collected already.
            os.eventfd_read(self.fd)
        while self._writer.results:
            self._written(self._writer.results.popleft())
        while self._copier.results:
            self._copying = False
            error = self._copier.results.popleft()
            if error is not None:
                self._checkpoint_failed(error)
        self._advance()

    def _written(self, error: Exception | None) -> None:
        cut = self._cut
        assert cut is not None
        if error is None:
            self._cut = None
            self.frames_count += 1
            self.store.finish(cut)
            if self.full:
                self.full = False
                self._on_space(True)
            self._on_synced(cut.frame)
        elif _is_shortage(error) and not cut.write.written:
            if self._give_handles_back(error):
                self._writer.submit(cut.write.run)
                return
            if not self.full:
                self.full = True
                log.error("nothing can be written, publishers wait until that is over: %s", error)
                self._on_space(False)
            self._retry_ms = RETRY_MS
        else:
            self.fail(error)

    def _give_handles_back(self, error: Exception) -> bool:
        """If handles are short, close those that are kept for reading segments; returns whether there were any.

        While publishers wait nothing else may ever ask for a segment, and the journal would wait for handles that the
        broker itself keeps.
        """
        return isinstance(error, OSError) and error.errno in NO_HANDLES and self.store.handles.close_all()

    def tick(self, elapsed_ms: int) -> None:
        """Time has passed: try again what found no space, go on with a checkpoint, begin one that is due.

        When next to nothing has been written for a while, one is due as soon as it frees a file.
        """
        if self._retry_ms is not None and self.failed is None:
            self._retry_ms -= elapsed_ms
            if self._retry_ms <= 0:
                self._retry_ms = None
                assert self._cut is not None
                self._writer.submit(self._cut.write.run)
        self._pause_ms = max(self._pause_ms - elapsed_ms, 0)
        self._idle_ms += elapsed_ms
        if self.store.journal.end - self._idle_from > IDLE_BYTES_MAX:
            self._idle_ms, self._idle_from = 0, self.store.journal.end
        if self._idle_ms >= IDLE_MS and self._cut is None and self._steps is None and not self._pause_ms:
            self._idle_ms, self._idle_from = 0, self.store.journal.end
            if self.store.has_dead_segments:
                self._steps = Checkpoint(self.store).steps()
        self._advance()
        self.turn_ended()

    def fail(self, error: Exception) -> None:
        """Storage cannot be relied on any more: nothing that waits will become durable. The first error counts."""
        if self.failed is None:
            self.failed = error
            self._on_failed(error)

    # Checkpoints.

    def _advance(self) -> None:
        """Take the checkpoint one step further, if its thread is idle."""
        if self._copying or self.failed is not None or self._pause_ms > 0:
            return
        if self._steps is None:
            if not self.store.checkpoint_due:
                return
            self._steps = Checkpoint(self.store).steps()
        try:
            step = next(self._steps)
        except StopIteration:
            self._steps = None
            self.checkpoints_count += 1
            return
        except (OSError, StorageError) as error:
            self._checkpoint_failed(error)
            return
        if step is not None:
            self._copying = True
            # That the journal is synced has been promised to others; the rest of a checkpoint is nobody's yet.
            self._is_promise = step == self.store.journal.sync_files
            self._copier.submit(step)

    def _checkpoint_failed(self, error: Exception) -> None:
        """Without handles or space a checkpoint is given up: nothing of it counts, and a later one does it again."""
        if not _is_shortage(error) or self._is_promise:
            self.fail(error)
            return
        self._give_handles_back(error)
        log.warning("checkpoint given up, another follows: %s", error)
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self._pause_ms = CHECKPOINT_PAUSE_MS

    # The end.

    def stop(self) -> None:
        """Let both threads finish, then write what is left here and now. Blocks; raises what failed, mostly OSError."""
        if self._retry_ms is not None and self._cut is not None and self.failed is None:
            # It waits for space or a handle; it gets one more chance.
            self._retry_ms = None
            self._writer.submit(self._cut.write.run)
        self._writer.stop()
        self._copier.stop()
        if self._cut is not None and self.failed is None:
            error = self._writer.results.popleft()
            if error is not None:
                raise error
            self.store.finish(self._cut)
            self._cut = None
        if self.failed is None:
            self.store.flush()
        os.close(self.fd)
