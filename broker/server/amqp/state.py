"""Where a connection stands in its life; `handshake` has the table of what is expected when."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where the connection stands in its life."""

    HEADER = "header"
    START = "starting"
    TUNE = "tuning"
    OPEN = "opening"
    RUNNING = "running"
    CLOSING = "closing"
    DONE = "closed"
