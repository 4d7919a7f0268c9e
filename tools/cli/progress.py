"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class progress:
    """`with progress("moving", total) as advance: advance(10)`; without a total it counts."""

    def __init__(self, what: str, total: int | None) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            shape = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            # Rich would take what is printed to stdout meanwhile for its own.
            self._bar = Progress(*shape, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is not None:
            self._bar.start()
        return self._advance

    def _advance(self, many: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, many)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
