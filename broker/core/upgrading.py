"""A catalog that an older version wrote is brought to what this one reads, once, in the first frame of a start.

| format | what was different |
|---|---|
| 1 (no key `f`) | logs go by their numbers in this directory; those and the starts of a topic may be lists |

Entries that cannot be read stay as they are: whoever reads the catalog names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.core import catalog
from broker.core.topics.proposing import packed, unpacked
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import decode_table, encode_table

if TYPE_CHECKING:
    from broker.log.store import Store

FORMAT = b"2"


def upgrade(store: Store) -> None:
    """Bring the catalog of a store to FORMAT; nothing where it is."""
    if store.catalog.get(catalog.FORMAT) == FORMAT:
        return
    uuids = {number: log.uuid for number, log in store.logs.items()}
    for key, value in list(store.catalog.items()):
        kind = key.removeprefix(catalog.ASIDE)[:1]
        change = _CHANGES.get(kind)
        if change is None:
            continue
        try:
            known, position = decode_table(value, 0, len(value))
            change(known, uuids)
        except (PeerError, KeyError, TypeError):
            continue  # Also of a log that is not there.
        store.put(key, encode_table(known) + value[position:])
    store.put(catalog.FORMAT, FORMAT)


def _by_uuid(known: dict[str, Any], uuids: Mapping[int, bytes]) -> None:
    if "log" in known:
        known["log"] = uuids[known["log"]]


def _topic_by_uuid(known: dict[str, Any], uuids: Mapping[int, bytes]) -> None:
    known["uuids"] = b"".join([uuids[number] for number in _numbers(known.pop("logs"))])
    if "starts" in known:
        known["starts"] = packed(_numbers(known["starts"]))


def _numbers(value: bytes | list[int]) -> list[int]:
    return value if isinstance(value, list) else unpacked(value)


_CHANGES = {
    catalog.EXCHANGE: _by_uuid,
    catalog.QUEUE: _by_uuid,
    catalog.REPLAYS: _by_uuid,
    catalog.TOPIC: _topic_by_uuid,
}
