"""The catalog: what is declared durable, as keys and octets of the store, and back.

A value is two field tables (`protocol.amqp.fields`): what is known of it, and its arguments, which so keep their types
and may be as deep as on the wire. Exclusive queues are not in it: they go with their connection, so with the process.

| key | the first table |
|---|---|
| `x` vhost, name | type, auto_delete, internal, uuid of the log of one that delays |
| `q` vhost, name | auto_delete, uuid of the log, expirations: whether messages with one of their own have come in |
| `b` vhost, source, destination kind, destination, routing key, digest of the arguments | empty |
| `p`, `o` vhost, name of a policy or an operator policy | pattern, apply-to, priority; the second is its definition |
| `t` vhost, name | of a topic: id, internal, uuids of the logs, starts; the second are its overrides |
| `B` vhost, scope of the broker's configuration (`topics.broker_config`) | empty; the second are its overrides |
| `A` vhost, seven parts of an ACL (`access_lists`) | empty |
| `U` user, SCRAM mechanism | the credential |
| `R` vhost, queue | uuid of the queue's log; the second are its replays by id (`replays`) |
| `D` uuid of a log | empty; what of the log cannot be read, see `damage` |
| `?` a whole key | the value of an entry that a start could not use: it waits there for one that can |

Keys `s`, `k` and `m` (vhost, topic, partition) and `n` have values of their own, see `topics.registry`; `H` is a secret
of 32 octets, which the salts of SCRAM are made of; `f` is the format of all this, see `upgrading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from protocol.amqp.errors import PeerError
from protocol.amqp.fields import EMPTY_TABLE, decode_table, encode_table

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.policies import Policy

EXCHANGE, QUEUE, BINDING, POLICY, OPERATOR_POLICY = b"x", b"q", b"b", b"p", b"o"
TOPIC, PRODUCERS, PRODUCER_IDS, CLEANED, TIMES = b"t", b"s", b"n", b"k", b"m"
BROKER_CONFIG = b"B"
ACL, SCRAM, SCRAM_SECRET = b"A", b"U", b"H"
REPLAYS = b"R"
FORMAT = b"f"
ASIDE, DAMAGE = b"?", b"D"
KIND_NAMES = {EXCHANGE: "exchange", QUEUE: "queue", BINDING: "binding", POLICY: "policy",
              OPERATOR_POLICY: "operator policy", TOPIC: "topic", ACL: "access list entry",
              BROKER_CONFIG: "broker configuration", REPLAYS: "replays of queue"}  # fmt: skip
"""Of the kinds whose values are two tables."""
PARTS_KEPT = 1024
"""Names that are remembered as parts of keys: an exchange or a queue is in the keys of all its bindings."""
EMPTY_DIGEST = sha256(EMPTY_TABLE).hexdigest()[:32]


class Entry(NamedTuple):
    """One key and value, taken apart: `names` are the parts of the key as its kind has them."""

    kind: bytes
    names: tuple[str, ...]
    known: dict[str, Any]
    arguments: dict[str, Any]
    key: bytes

    @property
    def place(self) -> str:
        """What it is, for an operator."""
        return place_of(self.key)


class Unreadable(NamedTuple):
    """An entry whose octets are not what this version writes."""

    key: bytes
    why: str


def key(kind: bytes, *names: str) -> bytes:
    """A key: its kind, then names, each behind its length."""
    parts = [kind]
    for name in names:
        parts.append(_part(name))  # noqa: PERF401  # A comprehension costs more than such a few.
    return b"".join(parts)


@lru_cache(maxsize=PARTS_KEPT)
def _part(name: str) -> bytes:
    raw = name.encode()
    return len(raw).to_bytes(2, "big") + raw


def value(known: Mapping[str, Any], arguments: Mapping[str, Any]) -> bytes:
    """A value: two tables."""
    return encode_table(known) + encode_table(arguments)


def partition_key(kind: bytes, vhost: str, topic: str, index: int) -> bytes:
    """The key of something that is written down of a partition: PRODUCERS, TIMES, CLEANED."""
    return key(kind, vhost, topic, str(index))


def exchange_known(kind: str, *, auto_delete: bool, internal: bool, log: bytes | None) -> dict[str, Any]:
    """What is known of an exchange: its definition, and the log of what waits in it."""
    known: dict[str, Any] = {"type": kind, "auto_delete": auto_delete, "internal": internal}
    if log is not None:
        known["log"] = log
    return known


def queue_known(*, auto_delete: bool, log: bytes | None, expirations: bool = False) -> dict[str, Any]:
    """What is known of a queue: its definition, and which log is its; none of one that no restart finds."""
    known: dict[str, Any] = {"auto_delete": auto_delete}
    if log is not None:
        known["log"] = log
    if expirations:
        known["expirations"] = True
    return known


def replays_key(queue: Queue) -> bytes:
    """The key of a queue's replays."""
    return key(REPLAYS, queue.vhost, queue.name)


def replays_value(queue: Queue, rows: Mapping[str, Any]) -> bytes:
    """They, by id, and whose they are."""
    log = queue.store.log
    assert log is not None
    return value({"log": log.uuid}, rows)


def read_replays(catalog: Mapping[bytes, bytes], queue: Queue) -> dict[str, Any]:
    """The rows again; none where another queue had the name. Raises PeerError for what this version cannot read."""
    octets, log = catalog.get(replays_key(queue)), queue.store.log
    if octets is None or log is None:
        return {}
    known, position = decode_table(octets, 0, len(octets))
    return decode_table(octets, position, len(octets))[0] if known.get("log") == log.uuid else {}


def digest(table: bytes) -> str:
    """What stands for a binding's arguments, a field table, in its key."""
    return EMPTY_DIGEST if table == EMPTY_TABLE else sha256(table).hexdigest()[:32]


def policy_known(policy: Policy) -> dict[str, Any]:
    """What is known of a policy beside its definition."""
    return {"pattern": policy.pattern, "apply-to": policy.apply_to, "priority": policy.priority}


def read_catalog(catalog: Mapping[bytes, bytes]) -> Iterator[Entry | Unreadable]:
    """The entries: configuration, policies, topics, exchanges, queues, then bindings: each finds what it needs."""
    for wanted in (BROKER_CONFIG, POLICY, OPERATOR_POLICY, TOPIC, EXCHANGE, QUEUE, BINDING):
        yield from read_kind(catalog, wanted)


def read_kind(catalog: Mapping[bytes, bytes], wanted: bytes) -> Iterator[Entry | Unreadable]:
    """The entries of one kind. The catalog may change meanwhile."""
    for key, value in [(key, value) for key, value in catalog.items() if key[:1] == wanted]:
        try:
            # What was written is read, however much it is: a peer's limit on tables is none of the disk's.
            known, position = decode_table(value, 0, len(value))
            arguments, _ = decode_table(value, position, len(value))
            yield Entry(wanted, tuple(_names(key)), known, arguments, key)
        except (PeerError, UnicodeDecodeError, IndexError) as error:
            yield Unreadable(key, getattr(error, "text", None) or "not text, or shorter than it says")


def place_of(key: bytes) -> str:
    """What a key names, for an operator: `queue 'orders' in vhost '/'`."""
    kind = KIND_NAMES.get(key[:1], "entry")
    try:
        vhost, *names = _names(key)
    except ValueError:
        return f"{kind} of key {key.hex()}"
    quoted = " ".join([f"'{name}'" for name in names])
    return f"{kind} {quoted} in vhost '{vhost}'"


def _names(key: bytes) -> Iterator[str]:
    position = 1
    while position < len(key):
        end = position + 2 + int.from_bytes(key[position : position + 2], "big")
        yield key[position + 2 : end].decode()
        position = end
