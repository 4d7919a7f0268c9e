"""Entries of the catalog that the start has left aside (`core.catalog`): listed, and dropped if nobody will mend them.

For administrators alone: what is dropped cannot be brought back, and an entry may be of any vhost.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from broker.core.catalog import KIND_NAMES, place_of
from broker.server.http.api import HttpError, Request, not_there, route_to

ID_LETTERS = 16


def _id_of(key: bytes) -> str:
    """What an entry is called in a path: its key is not text, and may be a kilobyte."""
    return sha256(key).hexdigest()[:ID_LETTERS]


def _require_administrator(request: Request) -> None:
    if "administrator" not in request.user.tags:
        raise HttpError(401, "not_authorised", "what was left aside is for administrators")


@route_to("GET", "catalog/aside")
def _left_aside(request: Request) -> list[dict[str, Any]]:
    _require_administrator(request)
    return [
        {"id": _id_of(key), "kind": KIND_NAMES.get(key[:1], "entry"), "place": place_of(key), "reason": why}
        for key, why in request.hub.broker.aside.items()
    ]


@route_to("DELETE", "catalog/aside/*")
def _drop(request: Request, wanted: str) -> None:
    """Drop one. What its log holds goes at the first start that leaves nothing aside."""
    _require_administrator(request)
    broker = request.hub.broker
    for key in broker.aside:
        if _id_of(key) == wanted:
            broker.drop_aside(key)
            return
    raise not_there(f"entry '{wanted}' is left aside")
