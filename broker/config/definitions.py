"""RabbitMQ's definitions file (`rabbitmqctl export_definitions`, GET /api/definitions) as our own topology keys.

Only what brokers agree on is taken over; objects may carry keys that we do not know, since every release adds some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.config.source import Item

_LISTS = ("users", "vhosts", "permissions", "topic_permissions", "parameters", "global_parameters", "policies",
          "queues", "exchanges", "bindings")  # fmt: skip
_VERSIONS = ("rabbit_version", "rabbitmq_version", "rabbitmq_definition_format")
_OURS = ("listeners", "tls", "storage", "limits", "security", "compat", "log")
_IGNORED = ("parameters",)
_HASHING = ("rabbit_password_hashing_sha256", "rabbit_password_hashing_sha512")

_NO_NAME = "\0"
"""What stands for a name that is no string."""


def is_definitions(root: Item) -> bool:
    """Whether a tree is a definitions file: its lists are our mappings, or it names RabbitMQ's version.

    A file with keys of neither kind (`limits`) is one of ours, with a mistake.
    """
    keys = root.value
    if not isinstance(keys, dict):
        return False
    if any(name in keys for name in _VERSIONS):
        return True
    lists = [name for name, item in keys.items() if name in _LISTS and isinstance(item.value, list)]
    return bool(lists) and not any(name in keys for name in _OURS)


def translate(root: Item, errors: list[str], warnings: list[str]) -> Item:
    """Return the native tree. Every object that lacks what names it, or names what is not there, is among `errors`."""
    translation = _Translation(root, warnings)
    native = translation.run()
    errors += translation.errors
    return native


class _Translation:
    """One file. A mistake is noted, and the translation goes on with something in its place that nobody will see."""

    __slots__ = ("errors", "root", "users", "vhosts", "warnings")

    def __init__(self, root: Item, warnings: list[str]) -> None:
        self.root = root
        self.errors: dict[str, None] = {}
        self.warnings = warnings
        self.users: dict[str, Item] = {}
        self.vhosts: dict[str, Item] = {}

    def run(self) -> Item:
        for _, entry in self.objects("vhosts"):
            self.vhosts[self.text(entry, "name", "vhosts")] = self.mapping(
                exchanges={}, queues={}, bindings=[], policies={}
            )
        if not self.vhosts:  # An export of one vhost lists none, and its objects do not say where they belong.
            self.vhosts["/"] = self.empty_vhost()
        for at, entry in self.objects("users"):
            self.user(at, entry)
        self.permissions()
        for kind, take in (
            ("exchanges", self.exchange),
            ("queues", self.queue),
            ("bindings", self.binding),
            ("policies", self.policy),
        ):
            for at, entry in self.objects(kind):
                take(at, entry)
        for name in _IGNORED:
            count = sum(1 for _ in self.objects(name))
            if count:
                self.warnings.append(f"{self.root.file}: {count} {name} ignored: not supported yet")
        native = {"vhosts": Item(self.vhosts, self.root.file)}
        if self.users:
            native["users"] = Item(self.users, self.root.file)
        return Item(native, self.root.file, self.root.line)

    # Reading.

    def objects(self, name: str) -> Iterator[tuple[str, Item]]:
        listed = self.root.value.get(name)
        if listed is None or listed.value is None:
            return
        if not isinstance(listed.value, list):
            self.wrong(listed, name, "expected a list")
            return
        for position, entry in enumerate(listed.value):
            at = f"{name}[{position}]"
            if not isinstance(entry.value, dict):
                self.wrong(entry, at, "expected an object")
            else:
                yield at, entry

    def wrong(self, item: Item, at: str, text: str) -> None:
        self.errors[f"{item.where}: {at}: {text}"] = None

    def text(self, entry: Item, name: str, at: str, default: str | None = None) -> str:
        item = entry.value.get(name)
        if item is None and default is not None:
            return default
        if item is None or not isinstance(item.value, str):
            self.wrong(entry, at, f"'{name}' must be a string")
            return _NO_NAME
        return item.value

    def mapping(self, **values: Any) -> Item:
        return Item({name: Item(value, self.root.file) for name, value in values.items()}, self.root.file)

    def empty_vhost(self) -> Item:
        return self.mapping(exchanges={}, queues={}, bindings=[], policies={})

    def anything(self) -> Item:
        """What stands for a vhost or a user that is not there."""
        return self.mapping(exchanges={}, queues={}, bindings=[], policies={}, permissions={}, topic_permissions={})

    def pick(self, entry: Item, *names: str) -> dict[str, Item]:
        return {name: entry.value[name] for name in names if name in entry.value}

    def vhost(self, at: str, entry: Item) -> dict[str, Item]:
        return self.known(self.vhosts, "vhost", self.text(entry, "vhost", at, "/"), at, entry)

    def known(self, among: dict[str, Item], kind: str, name: str, at: str, entry: Item) -> dict[str, Item]:
        if name not in among and name is not _NO_NAME:  # That has been noted.
            self.wrong(entry, at, f"no {kind} '{name}' in this file")
        value: dict[str, Item] = among[name].value if name in among else self.anything().value
        return value

    # Translating.

    def user(self, at: str, entry: Item) -> None:
        values = self.pick(entry, "tags")
        hashed = self.text(entry, "password_hash", at, "")
        if hashed:
            algorithm = self.text(entry, "hashing_algorithm", at, _HASHING[0])
            if algorithm not in (*_HASHING, _NO_NAME):
                self.wrong(entry, at, f"{algorithm} is not accepted, only {' and '.join(_HASHING)}")
            values["password_hash"] = entry.value["password_hash"]
        name = self.text(entry, "name", at)
        values["permissions"] = Item({}, self.root.file)
        values["topic_permissions"] = Item({}, self.root.file)
        self.users[name] = Item(values, entry.file, entry.line)

    def permissions(self) -> None:
        for at, entry in self.objects("permissions"):
            self.vhost(at, entry)
            user = self.known(self.users, "user", self.text(entry, "user", at), at, entry)
            granted = Item(self.pick(entry, "configure", "write", "read"), entry.file, entry.line)
            user["permissions"].value[self.text(entry, "vhost", at, "/")] = granted
        for at, entry in self.objects("topic_permissions"):
            self.vhost(at, entry)
            user = self.known(self.users, "user", self.text(entry, "user", at), at, entry)
            exchanges = user["topic_permissions"].value
            vhost = self.text(entry, "vhost", at, "/")
            granted = Item(self.pick(entry, "write", "read"), entry.file, entry.line)
            exchanges.setdefault(vhost, Item({}, entry.file)).value[self.text(entry, "exchange", at)] = granted

    def exchange(self, at: str, entry: Item) -> None:
        values = self.pick(entry, "type", "durable", "auto_delete", "internal", "arguments")
        self.add(at, entry, "exchanges", values)

    def queue(self, at: str, entry: Item) -> None:
        values = self.pick(entry, "durable", "auto_delete", "arguments")
        kind = self.text(entry, "type", at, "classic")
        arguments = values.get("arguments")
        given = arguments.value if arguments is not None and isinstance(arguments.value, dict) else {}
        if kind != "classic" and "x-queue-type" not in given:
            values["arguments"] = Item({**given, "x-queue-type": entry.value["type"]}, entry.file, entry.line)
        self.add(at, entry, "queues", values)

    def policy(self, at: str, entry: Item) -> None:
        values = self.pick(entry, "pattern", "priority", "definition")
        if "apply-to" in entry.value:
            values["apply_to"] = entry.value["apply-to"]
        self.add(at, entry, "policies", values)

    def add(self, at: str, entry: Item, kind: str, values: dict[str, Item]) -> None:
        there: dict[str, Item] = self.vhost(at, entry)[kind].value
        there[self.text(entry, "name", at)] = Item(values, entry.file, entry.line)

    def binding(self, at: str, entry: Item) -> None:
        values = self.pick(entry, "source", "destination", "destination_type", "routing_key", "arguments")
        self.vhost(at, entry)["bindings"].value.append(Item(values, entry.file, entry.line))
