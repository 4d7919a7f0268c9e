"""Every key of the configuration: typed, frozen, with default and reason. The one source of conf/jackalope.yaml too.

`Config()` is what runs when nothing is given. Knows nothing of files; `broker.config.loader` fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any

from broker.config.kinds import (
    Address,
    Kind,
    Section,
    address,
    addresses,
    any_text,
    boolean,
    choice,
    free,
    integer,
    option,
    optional,
    seconds,
    secret,
    section,
    size,
    text,
    words,
)
from broker.config.limits import Limits
from broker.config.secret import Secret
from broker.config.sections import entries, listing, named, struct
from broker.config.source import Item


def loopback(port: int) -> tuple[Address, ...]:
    """This machine alone, in both families: clients try ::1 first for `localhost`."""
    return Address("127.0.0.1", port), Address("::1", port)


@section
class Listeners(Section):
    """Where each face listens; None is off."""

    amqp: tuple[Address, ...] | None = option(loopback(5672), addresses(), "AMQP 0-9-1.")
    amqps: tuple[Address, ...] | None = option(
        None, addresses(), "AMQP 0-9-1 over TLS, usually port 5671; needs cert and key below."
    )
    http: tuple[Address, ...] | None = option(loopback(15672), addresses(), "The management API.")
    kafka: tuple[Address, ...] | None = option(
        loopback(9092), addresses(), "The Kafka protocol. Needs a data directory: off where there is none."
    )
    kafkas: tuple[Address, ...] | None = option(
        None, addresses(), "The Kafka protocol over TLS; needs cert and key below."
    )


@section
class Tls(Section):
    """What the TLS listeners present and ask for. Paths are relative to the working directory."""

    cert: str | None = option(None, optional(text()), "PEM file: the certificate, then its chain.")
    key: str | None = option(None, optional(text()), "PEM file: the certificate's private key.")
    ca: str | None = option(None, optional(text()), "PEM file: who may sign client certificates.")
    verify: str = option(
        "none",
        choice("none", "request", "require"),
        "Client certificates: none, request (checked when there is one), require. EXTERNAL login needs one.",
    )
    login_from: str = option(
        "common_name",
        choice("common_name", "subject_alternative_name"),
        "Which name of the client certificate is the user under EXTERNAL (the alternative name: the first DNS name).",
    )
    min_version: str = option(
        "1.2", choice("1.2", "1.3"), "1.0 and 1.1 are withdrawn (RFC 8996). Clients that can will speak 1.3."
    )


@section
class Permission(Section):
    """Patterns for resource names; the empty pattern matches nothing but the empty name."""

    configure: str = option("", any_text(), "Declare and delete.")
    write: str = option("", any_text(), "Publish, and bind to.")
    read: str = option("", any_text(), "Consume, get, purge, and bind from.")


@section
class TopicPermission(Section):
    """Patterns for routing keys on one topic exchange; `{username}`, `{vhost}`, `{client_id}` stand for themselves."""

    write: str = option("", any_text(), "Publish with.")
    read: str = option("", any_text(), "Bind with.")


@section
class User(Section):
    """At most one of `password` and `password_hash`; with neither only EXTERNAL can log in."""

    name: str
    password: Secret | None = option(None, secret(), "Text, {file: PATH} or {env: NAME}.")
    password_hash: Secret | None = option(None, secret(), "scrypt$N$r$p$SALT$HASH, or RabbitMQ's salted hash.")
    tags: tuple[str, ...] = option((), words(), "administrator, monitoring, policymaker, management, or none.")
    loopback_only: bool | None = option(
        None, optional(boolean()), "Only from a loopback peer address. Default: true for guest, false for others."
    )
    permissions: Mapping[str, Permission] = option(dict, entries(struct(Permission)), "By vhost.")
    topic_permissions: Mapping[str, Mapping[str, TopicPermission]] = option(
        dict, entries(entries(struct(TopicPermission))), "By vhost, then by exchange."
    )

    @property
    def from_loopback_only(self) -> bool:
        """`loopback_only`, or its default."""
        return self.name == "guest" if self.loopback_only is None else self.loopback_only


@section
class Exchange(Section):
    """An exchange of the topology."""

    name: str
    type: str = option("direct", text(), "direct, fanout, topic, headers, or one of the built-in x- types.")
    durable: bool = option(True, boolean(), "Kept over a restart.")
    auto_delete: bool = option(False, boolean(), "Deleted with the last binding that leads out of it.")
    internal: bool = option(False, boolean(), "Fed by bindings only, never by a publisher.")
    arguments: Mapping[str, Any] = option(dict, free(), "Such as alternate-exchange.")


@section
class QueueBinding(Section):
    """A binding written below its queue."""

    source: str = option(MISSING, text(), "The exchange.")
    routing_key: str = option("", any_text(), "What the exchange's type makes of it.")
    arguments: Mapping[str, Any] = option(dict, free(), "What a headers exchange matches.")


@section
class Binding(Section):
    """A binding of the topology."""

    source: str = option(MISSING, text(), "The exchange that routes.")
    destination: str = option(MISSING, text(), "The queue or exchange that is routed to.")
    destination_type: str = option("queue", choice("queue", "exchange"), "What the destination is.")
    routing_key: str = option("", any_text(), "What the exchange's type makes of it.")
    arguments: Mapping[str, Any] = option(dict, free(), "What a headers exchange matches.")


@section
class Queue(Section):
    """A queue of the topology. Never exclusive: that needs a connection."""

    name: str
    durable: bool = option(True, boolean(), "Kept over a restart.")
    auto_delete: bool = option(False, boolean(), "Deleted with its last consumer.")
    arguments: Mapping[str, Any] = option(dict, free(), "Such as x-message-ttl, x-max-length, x-max-priority.")
    bindings: tuple[QueueBinding, ...] = option((), listing(QueueBinding), "What leads to this queue.")


@section
class Topic(Section):
    """A topic of the topology. There it is grown and configured; it never loses partitions."""

    name: str
    partitions: int = option(1, integer(1, 10_000), "How many it has at least.")
    config: Mapping[str, Any] = option(dict, free(), "Kafka's names: retention.ms, cleanup.policy, segment.bytes ...")


@section
class Policy(Section):
    """A policy of the topology: what it defines holds for everything that its pattern matches."""

    name: str
    pattern: str = option(MISSING, any_text(), "A regular expression, found anywhere in the name; ^ and $ anchor it.")
    apply_to: str = option(
        "all",
        choice("all", "queues", "exchanges", "classic_queues", "quorum_queues", "streams"),
        "What it is for.",
    )
    priority: int = option(0, integer(-(2**31), 2**31 - 1), "Of several that match, the highest applies.")
    definition: Mapping[str, Any] = option(dict, free(), "Such as message-ttl, max-length, dead-letter-exchange.")


@section
class VHost(Section):
    """One vhost's exchanges, queues, bindings and policies."""

    name: str
    exchanges: Mapping[str, Exchange] = option(dict, named(Exchange), "By name.")
    queues: Mapping[str, Queue] = option(dict, named(Queue), "By name.")
    bindings: tuple[Binding, ...] = option((), listing(Binding), "Between exchanges, or from one to a queue.")
    topics: Mapping[str, Topic] = option(dict, named(Topic), "By name. They need a data directory.")
    policies: Mapping[str, Policy] = option(dict, named(Policy), "By name.")
    operator_policies: Mapping[str, Policy] = option(dict, named(Policy), "By name; they bound what others ask for.")

    def all_bindings(self) -> tuple[Binding, ...]:
        """The vhost's own bindings, then those written below queues."""
        below = (
            Binding(one.source, queue.name, "queue", one.routing_key, one.arguments)
            for queue in self.queues.values()
            for one in queue.bindings
        )
        return (*self.bindings, *below)


@section
class Declared(Section):
    """What is declared at start, in this order: vhosts with exchanges, queues and bindings, then users."""

    vhosts: tuple[VHost, ...]
    users: tuple[User, ...]


@section
class Topology(Section):
    """How what `vhosts` declares meets what is there."""

    strict: bool = option(
        False,
        boolean(),
        "true: whatever of it conflicts with what is there ends the start. false: what fits is applied, what is there"
        " stays, and each conflict is logged and shown by `jackalope health`.",
    )


@section
class Storage(Section):
    """Where data is kept."""

    dir: str = option(
        "./jackalope-data",
        text(),
        "The data directory; `--data DIR` sets it. `memory`: there is none, and everything ends with the process; "
        "there are no topics then, and nobody listens for Kafka's clients.",
    )
    flush: str = option(
        "ack",
        choice("ack", "os"),
        "When a message counts as safe. ack: fdatasync comes before the confirm, a power cut loses nothing confirmed."
        " os: the kernel has it; kill -9 loses nothing, but a power cut can lose confirmed messages.",
    )
    disk_free_bytes_min: int = option(
        200 * 1024 * 1024,
        size(0, 1 << 50),
        "Publishers wait while less is free; consumers go on. Room for two journals and what acknowledging writes."
        " 0: they wait only when a write has found none.",
    )


@section
class Kafka(Section):
    """What clients of the Kafka protocol see."""

    advertised: Address | None = option(
        None,
        address(),
        "Where clients are told to connect to; off tells each the address that it has dialled. For proxies and NAT.",
    )
    vhost: str = option(
        "/", text(), "The vhost whose topics, groups and access list they see, and whose permissions hold for them."
    )
    vhosts: Mapping[str, str] = option(
        dict,
        entries(text()),
        "Listeners whose clients see another one, as HOST:PORT of `listeners.kafka` or `kafkas`: {127.0.0.1:9093:"
        " shop}.",
    )
    anonymous: str | None = option(
        "guest",
        optional(text()),
        "The user of who does not log in with SASL, from where that user may (guest: loopback); null: all have to.",
    )
    node_id: int = option(1, integer(0, 2**31 - 1), "This broker's number in metadata.")
    auto_create_topics: bool = option(True, boolean(), "A topic that is used and not there is created.")
    partitions_default: int = option(1, integer(1, 10_000), "Of a topic whose creator does not say.")
    group_initial_rebalance_delay_s: float = option(
        0.5,
        seconds(0, 3600),
        "How long a new consumer group waits for more members. Kafka's 3 s spares many that start together some"
        " rebalances, and keeps everybody else waiting.",
    )
    group_session_timeout_min_s: float = option(
        6.0,
        seconds(0.001, 86_400),
        "The shortest session.timeout.ms that a member may ask for: each member sends a heartbeat three times in it."
        " Kafka's group.min.session.timeout.ms.",
    )
    group_session_timeout_max_s: float = option(
        1800.0,
        seconds(0.001, 86_400),
        "The longest: so long what a dead member had waits for another. Kafka's group.max.session.timeout.ms.",
    )
    retention_check_s: float = option(
        30.0,
        seconds(0.1, 86_400),
        "How often topics and queues are looked through for what retention.ms, x-retain and such let go. Kafka: 5 min.",
    )
    offsets_retention_s: float = option(
        7 * 86_400.0, seconds(1, 10 * 365 * 86_400), "Offsets of a group without members go after so long. Kafka's."
    )


@section
class Security(Section):
    """How logins are verified and guessing is slowed."""

    anonymous_user: str | None = option(
        None,
        optional(text()),
        "The user of AMQP's clients that log in with the mechanism ANONYMOUS, from where that user may; null: it is not"
        " offered, and refused. RabbitMQ's anonymous_login_user, which is guest there.",
    )
    auth_cache_ttl_s: float = option(
        60.0,
        seconds(0, 3600),
        "A verified login is remembered (as a keyed hash) for so long: scrypt costs 80 ms, a thousand reconnects 80 s.",
    )
    login_refused_delay_s: float = option(
        3.0, seconds(0, 60), "Silence before a refused peer's socket is closed. RabbitMQ's figure."
    )
    login_failures_burst: int = option(
        30,
        integer(1, 100_000),
        "Failed logins of one user from one address before further ones are refused unread; ten times that for the"
        " address alone. A client with a stale password that retries every 3 s never gets there.",
    )
    login_failure_refill_s: float = option(
        1.0, seconds(0.001, 3600), "One failure is forgiven each so often; for the address alone ten times as often."
    )
    login_failures_tracked_max: int = option(
        4096, integer(16, 1_000_000), "(address, user) pairs remembered for this; the one not seen longest goes first."
    )
    scram_iterations: int = option(
        8192,
        integer(4096, 16_384),
        "Of the keys that SCRAM makes of a password: what a client computes at its login, and for each guess who has"
        " recorded one. RFC 7677 asks for 4096.",
    )


@section
class Compat(Section):
    """What clients that look at the server's name are told (kombu does, for its quality-of-service rules)."""

    product: str = option("Jackalope", text(), "`product` in server-properties; RabbitMQ for clients that insist.")
    version: str | None = option(None, optional(text()), "`version` in server-properties; null is our own.")


@section
class Log(Section):
    """Logs go to stderr."""

    level: str = option("info", choice("debug", "info", "warning", "error"), "The least severe that is written.")
    format: str = option("text", choice("text", "json"), "Text lines, or one JSON object a line.")


def _guest() -> dict[str, User]:
    everything = Permission(".*", ".*", ".*")
    guest = User("guest", Secret("guest"), tags=("administrator",), loopback_only=True, permissions={"/": everything})
    return {"guest": guest}


def _root() -> dict[str, VHost]:
    return {"/": VHost("/")}


@section
class Config(Section):
    """The whole configuration. `warnings` is what was understood and not used."""

    listeners: Listeners = option(
        Listeners,
        struct(Listeners),
        "Where to listen: HOST:PORT, [IPV6]:PORT, a list of them or off. [::] is every address of both families. Port 0"
        " picks a free one, the same for a whole list. On a machine without IPv6 a list is its IPv4 addresses.",
    )
    tls: Tls = option(Tls, struct(Tls), "For the TLS listeners (amqps, kafkas).")
    storage: Storage = option(Storage, struct(Storage), "Where data is kept.")
    limits: Limits = option(Limits, struct(Limits), "Every buffer, count and wait that a peer could make grow.")
    security: Security = option(Security, struct(Security), "How logins are verified and guessing is slowed.")
    kafka: Kafka = option(Kafka, struct(Kafka), "What clients of the Kafka protocol see.")
    compat: Compat = option(Compat, struct(Compat), "What clients that look at the server's name are told.")
    log: Log = option(Log, struct(Log), "Logs go to stderr.")
    topology: Topology = option(Topology, struct(Topology), "How what is declared below meets what is there.")
    vhosts: Mapping[str, VHost] = option(
        _root, named(VHost), "The topology, declared at start. Giving this key replaces the default vhost."
    )
    users: Mapping[str, User] = option(
        _guest, named(User), "Who may log in. Giving this key replaces the default user."
    )
    warnings: tuple[str, ...] = ()
    root: Item | None = field(default=None, compare=False, repr=False)
    """Where all of it was written; None once nobody asks any more."""

    def declared(self) -> Declared:
        """Vhosts and users in the order in which they are applied."""
        return Declared(tuple(self.vhosts.values()), tuple(self.users.values()))


def field_kinds(cls: type) -> dict[str, tuple[Kind[Any], str, Any]]:
    """Of a section: key -> (kind, reason, default); the default is MISSING where the key must be given."""
    found: dict[str, tuple[Kind[Any], str, Any]] = {}
    for one in fields(cls):
        if "kind" in one.metadata:
            default = one.default if one.default_factory is MISSING else one.default_factory()
            found[one.name] = (one.metadata["kind"], one.metadata["why"], default)
    return found
