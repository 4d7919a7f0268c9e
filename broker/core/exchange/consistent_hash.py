"""`x-consistent-hash`: equal keys go to the same one destination; each gets a share by weight.

RabbitMQ's rabbitmq_consistent_hash_exchange. A binding's routing key is its weight. What is hashed is the routing key
of the publication, or the header named by `hash-header`, or the property named by `hash-property` (`message_id`,
`correlation_id`, `timestamp`); publications that lack it all go to one destination. Of several bindings of one
destination the oldest gives the weight.

Jump consistent hash (Lamping, Veach 2014) over as many buckets as the weights add up to. It can only grow and shrink at
the end, so the buckets of a removed binding stay as holes: a key that falls into one is hashed again until it meets a
destination, and the next binding fills the holes first. Thus adding or removing moves only keys to or from that
destination; all move a little only when most buckets are holes and are cleared away.
Which destination a key gets follows from the bindings and their history alone, so that it is the same in every process
(a restart lays them out without holes); it is not RabbitMQ's choice, which depends on Erlang's generators.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

WEIGHT_MAX = 1_000_000
"""Bindings cost the same memory whatever their weight; the limit keeps bucket numbers exact as floats."""
PROPERTIES = {"message_id": "message-id", "correlation_id": "correlation-id", "timestamp": "timestamp"}
"""What `hash-property` may be -> the AMQP name of the property."""

_MASK = (1 << 64) - 1
_TRIES_MAX = 64


def jump(key: int, count: int) -> int:
    """The bucket, in range(count), of a 64-bit key; count >= 1. Growing the count moves keys to new buckets only."""
    bucket, following = 0, 0
    while following < count:
        bucket = following
        key = (key * 2862933555777941757 + 1) & _MASK
        following = int((bucket + 1) * (9007199254740992 / ((key >> 11) + 1)))
    return bucket


class Buckets:
    """Which destination owns each bucket, as runs: `_starts[i]` is where run i starts, `_owners[i]` whose it is.

    Runs are split when a hole is filled in part, and never joined.
    """

    __slots__ = ("_holes", "_owners", "_runs", "_starts", "count", "owned_count")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._owners: list[Destination | None] = []
        self._holes: list[int] = []  # Starts of the runs that nobody owns.
        self._runs: dict[Destination, list[int]] = {}  # Starts of the runs that somebody owns.
        self.count = 0
        self.owned_count = 0

    @property
    def run_count(self) -> int:
        """How many runs there are, that is, the memory."""
        return len(self._starts)

    def give(self, owner: Destination, weight: int) -> None:
        """Give `weight` buckets to a destination that has none: holes first, then new ones."""
        runs = self._runs[owner] = []
        self.owned_count += weight
        while weight and self._holes:
            start = self._holes.pop()
            index = bisect_left(self._starts, start)
            size = self._end(index) - start
            if size > weight:
                self._starts.insert(index + 1, start + weight)
                self._owners.insert(index + 1, None)
                self._holes.append(start + weight)
                size = weight
            self._owners[index] = owner
            runs.append(start)
            weight -= size
        if weight:
            self._starts.append(self.count)
            self._owners.append(owner)
            runs.append(self.count)
            self.count += weight

    def take(self, owner: Destination) -> None:
        """Make holes of the destination's buckets."""
        for start in self._runs.pop(owner):
            index = bisect_left(self._starts, start)
            self._owners[index] = None
            self._holes.append(start)
            self.owned_count -= self._end(index) - start

    def _end(self, index: int) -> int:
        return self._starts[index + 1] if index + 1 < len(self._starts) else self.count

    def find(self, key: int) -> Destination | None:
        """The destination of a 64-bit key; None if nobody owns a bucket."""
        for _ in range(_TRIES_MAX):
            owner = self._owners[bisect_right(self._starts, jump(key, self.count)) - 1]
            if owner is not None and not owner.deleted:
                return owner
            key = (key * 6364136223846793005 + 1442695040888963407) & _MASK
        return next((owner for owner in self._owners if owner is not None and not owner.deleted), None)


class ConsistentHashRouter:
    """The bindings of each destination, oldest first, and the buckets that the oldest of each give."""

    __slots__ = ("_bindings", "_buckets", "_header", "_property", "cacheable")

    type_name: ClassVar[str] = "x-consistent-hash"
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._header = _name(arguments, "hash-header")
        given = _name(arguments, "hash-property")
        if self._header is not None and given is not None:
            raise Refused(PRECONDITION_FAILED, "hash-header and hash-property are mutually exclusive")
        if given is not None and given not in PROPERTIES:
            raise Refused(PRECONDITION_FAILED, f"Unsupported property: {given[:64]}")
        self._property = None if given is None else PROPERTIES[given]
        self.cacheable = self._header is None and self._property is None
        self._bindings: dict[Destination, dict[Any, int]] = {}
        self._buckets = Buckets()

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Raises Refused(406) unless the routing key is a weight: a positive integer of at most WEIGHT_MAX."""
        digits = routing_key[1:] if routing_key[:1] in ("+", "-") else routing_key
        if not (digits.isascii() and digits.isdigit()):
            text = f'The binding key must be an integer: <<"{routing_key[:64]}">>'
            raise Refused(PRECONDITION_FAILED, text)
        weight = int(routing_key)
        if weight < 1:
            raise Refused(PRECONDITION_FAILED, "The binding key must be greater than 0")
        if weight > WEIGHT_MAX:
            raise Refused(PRECONDITION_FAILED, f"The binding key must be at most {WEIGHT_MAX}")

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        weight = int(binding.routing_key)
        weights = self._bindings.setdefault(binding.destination, {})
        weights[binding.key] = weight
        if len(weights) == 1:
            self._buckets.give(binding.destination, weight)
            self._maybe_compact()
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before; the next of its destination, if any, takes its place."""
        weights = self._bindings[binding.destination]
        was_oldest = next(iter(weights)) == binding.key
        del weights[binding.key]
        if was_oldest:
            self._buckets.take(binding.destination)
            if weights:
                self._buckets.give(binding.destination, next(iter(weights.values())))
        if not weights:
            del self._bindings[binding.destination]
        self._maybe_compact()

    def _maybe_compact(self) -> None:
        """Start over when most buckets are holes (tries per key) or runs are many more than destinations (memory)."""
        buckets = self._buckets
        if 2 * buckets.owned_count < buckets.count or buckets.run_count > 4 * len(self._bindings) + 64:
            self._buckets = Buckets()
            for destination, weights in self._bindings.items():
                self._buckets.give(destination, next(iter(weights.values())))

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """One destination; none if nothing is bound. Raises PeerError (502) for malformed headers that it needs."""
        if not self._bindings:
            return ()
        if self._header is not None:
            hashed = publication.headers.get(self._header)
        elif self._property is not None:
            hashed = publication.property(self._property)
        else:
            hashed = publication.routing_key
        found = self._buckets.find(_hash(hashed))
        return (found,) if found is not None else ()


def _name(arguments: Mapping[str, Any], argument: str) -> str | None:
    value = arguments.get(argument)
    if value is not None and not isinstance(value, str):
        raise Refused(PRECONDITION_FAILED, f"{argument} must be a string")
    return value


def _hash(value: Any) -> int:
    """64 bits; the same for a value in every process and for text and bytes alike."""
    if isinstance(value, bytes):
        raw = value
    elif value is None:
        raw = b""
    else:
        raw = str(value).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
