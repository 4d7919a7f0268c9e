"""Which function answers which API. Modules of this package fill the table; `broker.app` imports them all.

A handler takes (connection, slot, request) and returns the response, None when `slot.answer` comes later, or
`connection.NO_ANSWER`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Handler = Callable[[Any, Any, Any], Any]
HANDLERS: dict[int, Handler] = {}

H = TypeVar("H", bound=Handler)


def handles(api_key: int) -> Callable[[H], H]:
    """The function answers this API."""

    def register(handler: H) -> H:
        assert api_key not in HANDLERS
        HANDLERS[api_key] = handler
        return handler

    return register
