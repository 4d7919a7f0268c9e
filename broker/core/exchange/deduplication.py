"""`x-message-deduplication`: a fanout that drops what it has seen.

The exchange of the plugin rabbitmq-message-deduplication by M. Cafasso. A message whose header
`x-deduplication-header` has a value seen before is not routed; one without that header always is. Arguments:
`x-cache-size` (required) values are remembered, each for `x-cache-ttl` milliseconds (absent: until others need the
room) or for the message's own header `x-cache-ttl`. A durable exchange knows them after a restart (see
`core.vhosts.deduplication_log`), unless `x-cache-persistence` is `memory`.

Where the plugin forgets an arbitrary value when it is full, this forgets the oldest, and expired ones before it.
A value counts as seen once a message was routed with it, unless no queue has taken that: one that was refused or
returned may come again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from broker.core.exchange.base import Choose, Destination, Publication
from broker.core.exchange.fanout import FanoutRouter
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

CACHE_SIZE_MAX = 1_000_000
"""Values one exchange may remember; about 300 bytes each."""
FORGET_MAX = 4
"""Values that are forgotten at one publication: more than come in, and few enough to cost next to nothing."""
DUE_MS_MAX = (1 << 63) - 1
VALUE_BYTES_MAX = 64
"""A longer value is remembered by its digest."""

_ABSENT = object()

Value = tuple[str, bytes]
"""A small stand-in for a header value: (kind, octets)."""


class DeduplicationKeeper(Protocol):
    """Where values are kept beyond the process."""

    def note(self, value: Value, expires_ms: int | None, wall_ms: int) -> int:
        """The value is remembered from now on; returns the number to forget it by."""
        ...

    def forget(self, number: int) -> None:
        """It is not any more."""

    def dropped(self, number: int) -> None:
        """A publication was dropped because this value is remembered: its publisher may be told no sooner than it is
        sure that the broker will not forget the first one."""


def _positive(arguments: Mapping[str, Any], name: str, text: str) -> int:
    value = arguments[name]
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refused(PRECONDITION_FAILED, f"{text}, '{name}' must be an integer greater than 0")
    return value


def _remembered(value: Any) -> Value:
    """A small stand-in for a header value: equal for equal text or bytes and for equal values of one type."""
    if isinstance(value, str):
        kind, raw = "text", value.encode(errors="surrogatepass")
    elif isinstance(value, bytes):
        kind, raw = "text", value
    else:
        kind = type(value).__name__ if isinstance(value, bool) or not isinstance(value, int) else "int"
        raw = repr(value).encode()
    if len(raw) > VALUE_BYTES_MAX:
        return "digest of " + kind, hashlib.blake2b(raw, digest_size=32).digest()
    return kind, raw


class DeduplicationRouter(FanoutRouter):
    """A fanout, and the header values that went through it with the wall clock (ms) at which each is forgotten."""

    __slots__ = ("_seen", "_size", "_ttl_ms", "log", "persistent")

    type_name: ClassVar[str] = "x-message-deduplication"
    cacheable: ClassVar[bool] = False
    remembers: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        super().__init__(arguments, choose)
        missing = "Missing or invalid argument"
        if "x-cache-size" not in arguments:
            raise Refused(PRECONDITION_FAILED, f"{missing}, 'x-cache-size' must be an integer greater than 0")
        self._size = _positive(arguments, "x-cache-size", missing)
        if self._size > CACHE_SIZE_MAX:
            raise Refused(PRECONDITION_FAILED, f"Invalid argument, 'x-cache-size' must be at most {CACHE_SIZE_MAX}")
        self._ttl_ms: int | None = None
        if "x-cache-ttl" in arguments:
            self._ttl_ms = _positive(arguments, "x-cache-ttl", "Invalid argument")
        persistence = arguments.get("x-cache-persistence")
        if persistence not in ("disk", "memory", None):
            text = "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'"
            raise Refused(PRECONDITION_FAILED, text)
        self.persistent = persistence != "memory"
        self.log: DeduplicationKeeper | None = None
        """Set by the vhost that owns the exchange, if what it has seen outlives the process."""
        # (when it is forgotten, the log's number); ordered, since a dict is slow to find its first after many others
        # were taken out in front.
        self._seen: OrderedDict[Value, tuple[int | None, int]] = OrderedDict()

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """Every destination, or none for a duplicate. Raises PeerError (502) for malformed headers."""
        headers = publication.headers
        value = headers.get("x-deduplication-header", _ABSENT)
        if value is not _ABSENT and not self._first(publication, _remembered(value), headers.get("x-cache-ttl")):
            return ()
        return super().route(publication)

    def recall(self, value: Value, expires_ms: int | None, number: int) -> None:
        """After a restart: the log still knows this value; oldest first."""
        self._seen[value] = (expires_ms, number)

    def _first(self, publication: Publication, value: Value, ttl_ms: Any) -> bool:
        """Remember the value; False if it is remembered already."""
        seen, log, now_ms = self._seen, self.log, publication.wall_ms
        known = seen.get(value)
        if known is not None:
            expires_ms, number = known
            if expires_ms is None or expires_ms > now_ms:
                if log is not None:
                    log.dropped(number)
                return False
            self._forget(value)
        self._make_room(now_ms)
        if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int):
            ttl_ms = self._ttl_ms
        due_ms = None if ttl_ms is None else max(0, min(now_ms + ttl_ms, DUE_MS_MAX))
        entry = seen[value] = (due_ms, log.note(value, due_ms, now_ms) if log is not None else 0)
        publication.remembered(lambda: self._undo(value, entry))
        return True

    def _make_room(self, now_ms: int) -> None:
        """Forget expired values at the front, a few at a time, and the oldest when there is no room."""
        seen = self._seen
        for _ in range(min(FORGET_MAX, len(seen))):
            oldest = next(iter(seen))
            expires_ms, _ = seen[oldest]
            if len(seen) < self._size and (expires_ms is None or expires_ms > now_ms):
                return
            self._forget(oldest)

    def _undo(self, value: Value, entry: tuple[int | None, int]) -> None:
        """Nobody has taken the message of this entry."""
        if self._seen.get(value) is entry:
            self._forget(value)

    def _forget(self, value: Value) -> None:
        _, number = self._seen.pop(value)
        if self.log is not None:
            self.log.forget(number)
