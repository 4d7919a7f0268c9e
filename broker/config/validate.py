"""What single keys cannot show: settings that need one another, names that must exist, patterns and arguments.

Uses the core's own checks, so that `config check` and a client's declare give the same answer. Reads no topology into
a broker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from broker.config.kinds import did_you_mean, show_seconds
from broker.config.schema import Binding, Config, Listeners, Queue, QueueBinding, Tls, User, VHost
from broker.config.sections import NAME_BYTES_MAX
from broker.config.source import Item
from broker.core.access import check_pattern
from broker.core.arguments import check_queue
from broker.core.exchange.base import Router
from broker.core.exchange.registry import ROUTERS
from broker.core.passwords import parse_hash
from broker.core.vhost import PREDECLARED
from broker.errors import Refused

Problem = tuple[tuple[str, ...], str]
"""The path of keys, and what is wrong there."""

TAGS = ("administrator", "monitoring", "policymaker", "management", "impersonator", "none")


def problems(config: Config, root: Item) -> list[str]:
    """Every problem as `file:line: key: text`."""
    return [_located(root, path, text) for path, text in _all(config)]


def _all(config: Config) -> Iterator[Problem]:
    yield from _tls(config.tls, config.listeners)
    yield from _limits(config)
    for vhost in config.vhosts.values():
        yield from _vhost(vhost)
    for user in config.users.values():
        yield from _user(user, config.vhosts)


def _located(root: Item, path: tuple[str, ...], text: str) -> str:
    """With the place of the deepest key of the path that is written anywhere."""
    item = root
    for name in path:
        below: Any = item.value
        if isinstance(below, dict) and name in below:
            item = below[name]
        elif isinstance(below, list) and name.isdigit():
            item = below[int(name)]
        else:
            break
    return f"{item.where}: {'.'.join(path)}: {text}"


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


def _user(user: User, vhosts: Iterable[str]) -> Iterator[Problem]:
    at = ("users", user.name)
    if user.password is not None and user.password_hash is not None:
        yield at, "has both a password and a password_hash"
    elif user.password_hash is not None:
        try:
            parse_hash(user.password_hash.reveal())
        except ValueError as error:
            yield (*at, "password_hash"), str(error)
    for tag in user.tags:
        near = did_you_mean(tag, TAGS)
        if near and tag not in TAGS:
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


def _exists(path: tuple[str, ...], kind: str, name: str, among: Iterable[str]) -> Iterator[Problem]:
    names = tuple(among)
    if name not in names:
        yield path, f"no {kind} '{name}'{did_you_mean(name, names)}"


def _vhost(vhost: VHost) -> Iterator[Problem]:
    at = ("vhosts", vhost.name)
    routers = {name: ROUTERS[kind]({}, _first) for name, kind in PREDECLARED.items()}
    for exchange in vhost.exchanges.values():
        path = (*at, "exchanges", exchange.name)
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
    try:
        check_queue(
            queue.name,
            vhost,
            queue.arguments,
            durable=queue.durable,
            exclusive=False,
            auto_delete=queue.auto_delete,
        )
    except Refused as refused:
        yield path, refused.text


def _source(
    path: tuple[str, ...], binding: Binding | QueueBinding, vhost: VHost, routers: Mapping[str, Router]
) -> Iterator[Problem]:
    """The source must exist, and its type must take the binding."""
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
