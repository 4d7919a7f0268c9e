"""Log lines that a peer can cause in a loop: some a second of each kind, and the next says how many were left out.

A kind is the text without its arguments, so there are as many as the source has. One a process (`Hub.log_lines`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

AT_ONCE = 10
"""Lines of one kind within `WINDOW_S`: all of a few peers that fail at the same moment, and not much of a loop."""
WINDOW_S = 1.0


class _Kind:
    """What was said of one text since its window began."""

    __slots__ = ("end_s", "left_out", "told")

    def __init__(self, end_s: float) -> None:
        self.end_s = end_s
        self.told = self.left_out = 0


class LogLines:
    """See the module. `now_s` is a clock that never jumps, in seconds."""

    __slots__ = ("_kinds", "_now_s")

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._kinds: dict[str, _Kind] = {}

    def info(self, log: logging.Logger, text: str, *args: object) -> None:
        """Log what is part of the day: a peer that was closed."""
        self.tell(log, logging.INFO, text, *args)

    def warning(self, log: logging.Logger, text: str, *args: object) -> None:
        """Log what somebody should look at."""
        self.tell(log, logging.WARNING, text, *args)

    def error(self, log: logging.Logger, text: str, *args: object) -> None:
        """Log what has failed."""
        self.tell(log, logging.ERROR, text, *args)

    def bug(self, log: logging.Logger, text: str, *args: object) -> None:
        """Log what has failed, with the traceback of the exception that is being handled, once a second."""
        self.tell(log, logging.ERROR, text, *args, at_once=1, exc_info=True)

    def tell(
        self, log: logging.Logger, level: int, text: str, *args: object, at_once: int = AT_ONCE, exc_info: Any = None
    ) -> bool:
        """Log a line, unless there were `at_once` of its kind within the second; whether it was logged."""
        now_s = self._now_s()
        kind = self._kinds.get(text)
        more = ""
        if kind is None or now_s >= kind.end_s:
            if kind is not None and kind.left_out:
                more = f" ({kind.left_out} more since the last line like this)"
            kind = self._kinds[text] = _Kind(now_s + WINDOW_S)
        elif kind.told >= at_once:
            kind.left_out += 1
            return False
        kind.told += 1
        log.log(level, text + "%s", *args, more, exc_info=exc_info)
        return True
