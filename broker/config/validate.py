"""What single keys cannot show: settings that need one another, names that must exist, patterns and arguments.

Uses the core's own checks, so that `config check` and a client's declare give the same answer. Reads no topology into
a broker.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from broker.config.kinds import did_you_mean, show_seconds
from broker.config.schema import Binding, Config, Kafka, Listeners, Queue, QueueBinding, Tls, User, VHost
from broker.config.sections import NAME_BYTES_MAX
from broker.config.source import Item, is_written, where
from broker.core.access import check_pattern
from broker.core.arguments import CHECKS, queue_problems
from broker.core.exchange.base import Router
from broker.core.exchange.registry import ROUTERS
from broker.core.passwords import parse_hash
from broker.core.topics.config import KEYS, override_problem, text_of
from broker.core.topics.errors import TopicRefused
from broker.core.topics.proposing import check_name
from broker.core.vhosts.policies import make_policy
from broker.core.vhosts.proposing import PREDECLARED
from broker.errors import Refused
from protocol.amqp.fields import DEPTH_MAX, encode_table

Problem = tuple[tuple[str, ...], str]
"""The path of keys, and what is wrong there."""

EXCHANGE_ARGUMENTS = (
    "alternate-exchange", "hash-header", "hash-property", "x-cache-persistence", "x-cache-size", "x-cache-ttl",
    "x-delayed-type", "x-recent-history-length",
)  # fmt: skip
TAGS = ("administrator", "monitoring", "policymaker", "management", "impersonator", "none")


def problems(config: Config, root: Item, wrong: Sequence[str] = ()) -> list[str]:
    """Every problem as `file:line: key: text`, but for those below a path that is `wrong` already."""
    found = []
    for path, text in _all(config, root):
        name = ".".join(path)
        if not any(f"{name}.".startswith(f"{one}.") for one in wrong):
            found.append(f"{where(root, path)}: {name}: {text}")
    return found


def warnings(config: Config, root: Item) -> list[str]:
    """What is taken and does nothing: arguments that nobody knows, in the same form."""
    found = []
    for vhost in config.vhosts.values():
        at = ("vhosts", vhost.name)
        places = [((*at, "queues", one.name, "arguments"), one.arguments, CHECKS) for one in vhost.queues.values()]
        places += [
            ((*at, "exchanges", one.name, "arguments"), one.arguments, dict.fromkeys(EXCHANGE_ARGUMENTS))  # type: ignore[misc]
            for one in vhost.exchanges.values()
        ]
        for path, arguments, known in places:
            for name in arguments:
                if name.startswith("x-") and name not in known:
                    near = did_you_mean(name, known)
                    key = (*path, name)
                    found.append(f"{where(root, key)}: {'.'.join(key)}: unknown argument, kept and ignored{near}")
    return found


def _all(config: Config, root: Item) -> Iterator[Problem]:
    yield from _listeners(config.listeners)
    yield from _tls(config.tls, config.listeners)
    yield from _limits(config)
    yield from _kafka_vhosts(config.kafka, config.listeners)
    for vhost in config.vhosts.values():
        yield from _vhost(vhost)
        yield from _topics(vhost)
        yield from _policies(vhost)
    for user in config.users.values():
        # The default user's permission is nobody's mistake.
        yield from _user(user, config.vhosts if is_written(root, ("users", user.name)) else None)


def _listeners(listeners: Listeners) -> Iterator[Problem]:
    """An address is one listener's."""
    taken: dict[str, str] = {}
    for name in ("amqp", "amqps", "http", "kafka", "kafkas"):
        for one in map(str, getattr(listeners, name) or ()):
            other = taken.setdefault(one, name)
            if other != name and not one.endswith(":0"):
                yield ("listeners", name), f"{one} is the address of listeners.{other}"


def _kafka_vhosts(kafka: Kafka, listeners: Listeners) -> Iterator[Problem]:
    """A listener is named as it is written, and has a port of its own."""
    if kafka.vhosts and kafka.advertised is not None:
        yield ("kafka", "advertised"), "leads everybody to one listener, and kafka.vhosts tells vhosts by listener"
    known = [str(one) for one in (*(listeners.kafka or ()), *(listeners.kafkas or ()))]
    for name, vhost in kafka.vhosts.items():
        path = ("kafka", "vhosts", name)
        if not vhost:
            yield path, "a vhost has a name"
        elif name not in known:
            yield path, f"no listener for Kafka's clients has this address: {', '.join(known) or 'there is none'}"
        elif name.endswith(":0"):
            yield path, "give the listener a port: with 0 nobody knows which one has this vhost"


def _topics(vhost: VHost) -> Iterator[Problem]:
    named: dict[str, str] = {}
    for topic in vhost.topics.values():
        path = ("vhosts", vhost.name, "topics", topic.name)
        try:
            check_name(topic.name)
        except TopicRefused as refused:
            yield path, refused.text
        other = named.setdefault(topic.name.replace(".", "_"), topic.name)
        if other != topic.name:
            yield path, f"collides with topic '{other}': a dot and an underscore are one to Kafka's metrics"
        queue = vhost.queues.get(topic.name)
        if queue is not None and queue.arguments.get("x-queue-type") != "stream":
            yield path, f"'{topic.name}' is a queue already"
        for name, value in topic.config.items():
            key = (*path, "config", name)
            if isinstance(value, Mapping):
                yield key, "expected text, a number, true or false, or a list"
            elif name not in KEYS:
                yield key, f"Unknown topic config name: {name}{did_you_mean(name, KEYS)}"
            else:
                wrong = override_problem(name, text_of(value))
                if wrong is not None:
                    yield key, wrong


def _policies(vhost: VHost) -> Iterator[Problem]:
    for kind, policies in (("policies", vhost.policies), ("operator_policies", vhost.operator_policies)):
        for one in policies.values():
            try:
                make_policy(one.name, one.pattern or "", one.apply_to, one.priority, one.definition)
            except Refused as refused:
                yield ("vhosts", vhost.name, kind, one.name), refused.text


def _arguments(path: tuple[str, ...], arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """They are stored as a field table (AMQP 4.2.5.5), so one must be able to hold them."""
    try:
        encode_table(arguments)
    except (ValueError, TypeError, OverflowError, struct.error):
        yield (
            (*path, "arguments"),
            (
                f"a field table cannot hold this: names have up to {NAME_BYTES_MAX} bytes, whole numbers 64 bits, and"
                f" it is {DEPTH_MAX} levels deep at most"
            ),
        )


def _tls(tls: Tls, listeners: Listeners) -> Iterator[Problem]:
    missing = [f"tls.{name}" for name in ("cert", "key") if getattr(tls, name) is None]
    for name in ("amqps", "kafkas") if missing else ():
        if getattr(listeners, name) is not None:
            yield ("listeners", name), f"needs {' and '.join(missing)}"
    if tls.verify != "none" and tls.ca is None:
        yield ("tls", "verify"), "needs tls.ca, which says whose certificates are accepted"
    for name in ("cert", "key", "ca"):
        path = getattr(tls, name)
        if path is not None and not os.access(path, os.R_OK):
            yield ("tls", name), f"cannot read {path}"


def _limits(config: Config) -> Iterator[Problem]:
    limits = config.limits
    for less, more in (
        ("frame_max_unauthenticated_bytes", "frame_max_bytes"),
        ("read_chunk_bytes", "read_chunk_bytes_max"),
        ("connections_unauthenticated_per_ip_max", "connections_unauthenticated_max"),
        ("connections_unauthenticated_max", "connections_max"),
    ):
        if getattr(limits, less) > getattr(limits, more):
            yield ("limits", less), f"must not be more than limits.{more} ({getattr(limits, more)})"
    kafka = config.kafka
    if kafka.group_session_timeout_min_s > kafka.group_session_timeout_max_s:
        longest = f"kafka.group_session_timeout_max_s ({show_seconds(kafka.group_session_timeout_max_s)})"
        yield ("kafka", "group_session_timeout_min_s"), f"must not be more than {longest}"


def _user(user: User, vhosts: Iterable[str] | None) -> Iterator[Problem]:
    at = ("users", user.name)
    if user.password is not None and user.password_hash is not None:
        yield at, "has both a password and a password_hash"
    elif user.password_hash is not None:
        try:
            parse_hash(user.password_hash.reveal())
        except ValueError as error:
            yield (*at, "password_hash"), str(error)
    for tag in user.tags:
        near = did_you_mean(tag, TAGS) if tag not in TAGS else ""
        if near:
            yield (*at, "tags"), f"unknown tag '{tag}'{near}"
    for vhost, permission in user.permissions.items():
        yield from _exists((*at, "permissions", vhost), "vhost", vhost, vhosts)
        for verb in ("configure", "write", "read"):
            yield from _pattern((*at, "permissions", vhost, verb), getattr(permission, verb))
    for vhost, exchanges in user.topic_permissions.items():
        yield from _exists((*at, "topic_permissions", vhost), "vhost", vhost, vhosts)
        for exchange, topic in exchanges.items():
            for verb in ("write", "read"):
                yield from _pattern((*at, "topic_permissions", vhost, exchange, verb), getattr(topic, verb))


def _pattern(path: tuple[str, ...], pattern: str) -> Iterator[Problem]:
    try:
        check_pattern(pattern)
    except ValueError as error:
        yield path, str(error)


def _exists(path: tuple[str, ...], kind: str, name: str, among: Iterable[str] | None) -> Iterator[Problem]:
    names = tuple(among or ())
    if among is not None and name is not None and name not in names:
        yield path, f"no {kind} '{name}'{did_you_mean(name, names)}"


def _vhost(vhost: VHost) -> Iterator[Problem]:
    at = ("vhosts", vhost.name)
    routers = {name: ROUTERS[kind]({}, _first) for name, kind in PREDECLARED.items()}
    for exchange in vhost.exchanges.values():
        path = (*at, "exchanges", exchange.name)
        yield from _arguments(path, exchange.arguments)
        if exchange.type not in ROUTERS:
            yield (*path, "type"), f"unknown exchange type '{exchange.type}'{did_you_mean(exchange.type, ROUTERS)}"
        elif exchange.name.startswith("amq.") and PREDECLARED.get(exchange.name) != exchange.type:
            yield path, "names that begin with 'amq.' are reserved"
        else:
            try:
                routers[exchange.name] = ROUTERS[exchange.type](exchange.arguments, _first)
            except Refused as refused:
                yield (*path, "arguments"), refused.text
    for queue in vhost.queues.values():
        path = (*at, "queues", queue.name)
        yield from _queue(path, queue, vhost.name)
        for position, one in enumerate(queue.bindings):
            yield from _source((*path, "bindings", str(position)), one, vhost, routers)
    for position, binding in enumerate(vhost.bindings):
        path = (*at, "bindings", str(position))
        yield from _source(path, binding, vhost, routers)
        if binding.destination_type == "queue":
            yield from _exists((*path, "destination"), "queue", binding.destination, vhost.queues)
        elif binding.destination not in PREDECLARED:
            yield from _exists((*path, "destination"), "exchange", binding.destination, vhost.exchanges)


def _first(_: int) -> int:
    """Routers want randomness; these never route."""
    return 0


def _queue(path: tuple[str, ...], queue: Queue, vhost: str) -> Iterator[Problem]:
    if queue.name.startswith("amq."):
        yield path, "names that begin with 'amq.' are reserved"
    yield from _arguments(path, queue.arguments)
    for refused in queue_problems(
        queue.name, vhost, queue.arguments, durable=queue.durable, exclusive=False, auto_delete=queue.auto_delete
    ):
        yield path, refused.text


def _source(
    path: tuple[str, ...], binding: Binding | QueueBinding, vhost: VHost, routers: Mapping[str, Router]
) -> Iterator[Problem]:
    """The source must exist, and its type must take the binding."""
    yield from _arguments(path, binding.arguments)
    if len(binding.routing_key.encode()) > NAME_BYTES_MAX:
        yield (*path, "routing_key"), f"longer than {NAME_BYTES_MAX} bytes"
    if binding.source not in PREDECLARED:
        yield from _exists((*path, "source"), "exchange", binding.source, vhost.exchanges)
    router = routers.get(binding.source)  # None: reported already.
    if router is not None:
        try:
            router.check_binding(binding.routing_key, binding.arguments)
        except Refused as refused:
            yield path, refused.text
