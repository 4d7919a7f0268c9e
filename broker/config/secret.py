"""A secret from the configuration: a value that no log line, traceback or dump may show."""

from __future__ import annotations

import hmac
from typing import NoReturn

REDACTED = "***"


class Secret:
    """Text that prints as `***`. `reveal` is the only way in, so that every use can be found by its name."""

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]  # A hash would be an oracle for the text.

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; hand it to what verifies or sends it, never to a format string."""
        return self._text

    def __repr__(self) -> str:
        return REDACTED

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")
