"""What a message tells of its deaths: the headers, how they are counted, and the loops that they give away (RabbitMQ).

A death is rejected, expired, maxlen or delivery_limit. The headers that tell of it (`x-death`, newest first, and
`x-first-death-*`, `x-last-death-*`) are the broker's own; a client that publishes what it got once does not make
history (RabbitMQ 4.0). So a content whose death headers are ours has the channel number 0, which no client can use;
`core.queues.records` keeps the difference in the log. What is read here may have been stored by anybody, years ago: of
a history that makes no sense the sensible part counts, and nothing in a message stops its dead-lettering. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from broker.core.message import Message, copied_keys, further_keys, make_origin, origin_names, pack_keys
from protocol.amqp import content as wire
from protocol.amqp.errors import PeerError
from protocol.amqp.fields import Long, Timestamp, encode_table, with_entries
from protocol.amqp.frames import BODY, frame

REJECTED, EXPIRED, MAXLEN, DELIVERY_LIMIT = "rejected", "expired", "maxlen", "delivery_limit"
OWN_CHANNEL = 0
COUNT_MAX = (1 << 63) - 1
_WANTED = frozenset({"headers", "expiration"})
_HEADERS = frozenset({"headers"})
_EMPTY = encode_table({})
_BODY_SIZE, _FLAGS = 11, 19
"""Where these stand in a content."""
Deaths = list[dict[str, Any]]


class DeadLetter(NamedTuple):
    """A dead message on its way: rewritten, with its deaths and the routing keys to try."""

    message: Message
    deaths: Deaths
    keys: tuple[str, ...]


def make_dead_letter(
    message: Message, queue: str, reason: str, exchange: str, routing_key: str | None, wall_ms: int
) -> DeadLetter:
    """Rewrite a message that died in `queue` for its dead letter exchange.

    `routing_key` None keeps the message's own and those of CC and BCC; with one a CC header stays, and is not followed
    by this death or a later one (RabbitMQ 4.0, rabbit_dead_letter.erl; 3.x removes it). Of the routing keys in x-death
    none is from BCC (mc.erl).
    """
    origin, content = message
    died_exchange, died_key = origin_names(origin)
    try:
        values = wire.parse_properties(wire.header_payload(content), _WANTED)
        headers: dict[str, Any] = values.get("headers") or {}
        table = wire.property_octets(content, "headers") if "headers" in values else _EMPTY
    except PeerError:
        # Nobody looked inside when it was published. What cannot be read cannot be kept.
        values = {"expiration": None}
        headers, table = {}, _EMPTY
    own = int.from_bytes(content[1:3], "big") == OWN_CHANNEL
    told, more = copied_keys(headers), further_keys(origin, headers)
    shown = more if more == told else list(filter(frozenset(told).__contains__, more))
    deaths = _add_death(_history(headers.get("x-death")) if own else [], queue, reason, died_exchange,
                        [died_key, *shown], values.get("expiration"), wall_ms)  # fmt: skip
    entries: dict[str, Any] = {"x-death": deaths}
    newest = {"exchange": died_exchange, "queue": queue, "reason": reason}
    if not own:
        entries |= {f"x-first-death-{name}": value for name, value in newest.items()}
    entries |= {f"x-last-death-{name}": value for name, value in newest.items()}
    changes = {"headers": with_entries(table, entries), "expiration": None}
    keys = (died_key, *more) if routing_key is None else (routing_key,)
    known = None if list(keys[1:]) == told else pack_keys(keys[1:])
    rewritten = wire.with_properties(content, changes, OWN_CHANNEL)
    return DeadLetter((make_origin(exchange.encode(), keys[0].encode(), known), rewritten), deaths, keys)


class DeadLetterMaker:
    """Like `make_dead_letter`, and remembers how the last one was rewritten: the next is likely to be of the same kind.

    This takes a tenth of the time for a message that differs from the last one in nothing but its body.
    """

    __slots__ = ("_after", "_before", "_kind", "_last")

    def __init__(self) -> None:
        self._kind: tuple[object, ...] = ()
        self._last = DeadLetter((b"", b""), [], ())
        self._before = self._after = b""  # The new header frame, around the size of the body.

    def make(
        self, message: Message, queue: str, reason: str, exchange: str, routing_key: str | None, wall_ms: int
    ) -> DeadLetter:
        """See `make_dead_letter`."""
        origin, content = message
        properties = content[_FLAGS : 7 + int.from_bytes(content[3:7], "big")]
        own = content[1] or content[2]
        kind = (origin, own, properties, queue, reason, exchange, routing_key, wall_ms // 1000)
        if kind != self._kind:
            letter = self._last = make_dead_letter(message, queue, reason, exchange, routing_key, wall_ms)
            self._kind = kind
            new = letter.message[1]
            self._before, self._after = new[:_BODY_SIZE], new[_FLAGS : 8 + int.from_bytes(new[3:7], "big")]
            return letter
        octets = wire.body(content)
        rest = frame(BODY, OWN_CHANNEL, octets) if octets else b""
        rewritten = b"%b%b%b%b" % (self._before, content[_BODY_SIZE:_FLAGS], self._after, rest)
        return self._last._replace(message=(self._last.message[0], rewritten))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _history(value: Any) -> Deaths:
    """The deaths in an `x-death` header."""
    return [death for death in _listed(value) if isinstance(death, dict)]


def _count(death: Mapping[str, Any], absent: int) -> int:
    count = death.get("count", absent)
    return max(0, min(count, COUNT_MAX)) if isinstance(count, int) else absent


def _add_death(
    deaths: Deaths, queue: str, reason: str, exchange: str, keys: list[str], expiration: str | None, wall_ms: int
) -> Deaths:
    """The deaths with this one in front; one of the same queue and reason counts up."""
    for index, death in enumerate(deaths):
        if death.get("queue") == queue and death.get("reason") == reason:
            again = {**death, "count": Long(min(_count(death, 0) + 1, COUNT_MAX))}
            return [again, *_typed(deaths[:index]), *_typed(deaths[index + 1 :])]
    first: dict[str, Any] = {}
    if expiration is not None:
        # Octets that are no UTF-8 come as half surrogates, which no text may have.
        first["original-expiration"] = expiration.encode(errors="replace").decode()
    first |= {
        "count": Long(1),
        "reason": reason,
        "queue": queue,
        "time": Timestamp(wall_ms // 1000),
        "exchange": exchange,
        "routing-keys": keys,
    }
    return [first, *_typed(deaths)]


def _typed(deaths: Deaths) -> Deaths:
    return [{**death, "count": Long(_count(death, 1))} for death in deaths]


def is_cycle(deaths: Deaths, queue: str) -> bool:
    """Whether a message with these deaths, newest first, would come round to `queue` all by itself.

    Without a rejection on the way nobody wanted that, and it would go round for ever.
    """
    round_trip = []
    for death in deaths:
        round_trip.append(death.get("reason"))
        if death.get("queue") == queue:
            return REJECTED not in round_trip
    return False


def read_deaths(content: bytes) -> Deaths:
    """The deaths of a stored message, newest first; none unless the broker wrote them."""
    if int.from_bytes(content[1:3], "big") != OWN_CHANNEL:
        return []
    try:
        headers = wire.parse_properties(wire.header_payload(content), _HEADERS).get("headers") or {}
    except PeerError:
        return []
    return _history(headers.get("x-death"))
