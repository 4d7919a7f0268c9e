"""The configuration as documentation: conf/jackalope.yaml with every key at its default, and the JSON schema.

Both come from the fields of `broker.config.schema`, so that file, schema and code cannot differ; a test holds the
file to this.
"""

from __future__ import annotations

import textwrap
from dataclasses import MISSING
from typing import Any

from broker.config.kinds import Kind
from broker.config.schema import Config, field_kinds

WIDTH = 118

_HEAD = """\
# The whole configuration of Jackalope at its defaults: `jackalope serve -c FILE`, or a directory of such files, which
# are merged by key in the order of their names. Keep only what you change. `--set limits.channel_max=100` wins over
# any file. Sizes: 64KiB, 16MiB, 1GB or bytes. Durations: 500ms, 30s, 5m, 1h or seconds. In strings ${VAR},
# ${VAR:-default} and ${VAR:?message} are taken from the environment; $$ is a dollar. Booleans are true and false.
# A RabbitMQ definitions file (.json) may stand wherever a file may. `jackalope config check` tells what is wrong."""

_VHOSTS = """\
vhosts:
  /: {}
  # shop:
  #   exchanges:
  #     orders: {type: topic, durable: true, auto_delete: false, internal: false, arguments: {}}
  #   queues:
  #     charge:
  #       durable: true
  #       auto_delete: false
  #       arguments: {x-message-ttl: 60000}
  #       bindings:
  #         - {source: orders, routing_key: order.*.placed, arguments: {}}
  #   bindings:
  #     - {source: orders, destination: amq.fanout, destination_type: exchange, routing_key: '#', arguments: {}}
  #   topics:  # Grown and configured where they are there; Kafka's names, a list is one with commas.
  #     events: {partitions: 12, config: {retention.ms: 86400000, cleanup.policy: [compact, delete]}}
  #   policies:
  #     short: {pattern: '^charge', apply_to: queues, priority: 1, definition: {max-length: 100000}}
  #   operator_policies:  # They bound what others ask for.
  #     bounded: {pattern: '.*', apply_to: queues, priority: 0, definition: {max-length: 1000000}}"""

_USERS = """\
users:
  guest:
    password: guest  # or {file: PATH}, {env: NAME}
    tags: [administrator]
    loopback_only: true
    permissions:
      /: {configure: '.*', write: '.*', read: '.*'}
    topic_permissions: {}
  # alice:  # RabbitMQ's salted SHA-256 and SHA-512 hashes are taken too; without any, only EXTERNAL can log in.
  #   password_hash: scrypt$32768$8$1$1XFYSd8U7xhkzXwOUMP8Cw==$I0JgVdqfW4q+M7NIS9yHWG0C7Vb1kq1FuJ5MbYCzf1g=
  #   permissions:
  #     shop: {configure: '^shop\\.', write: '^(shop\\.|orders$)', read: '^shop\\.'}
  #   topic_permissions:
  #     shop:
  #       orders: {write: '^{username}\\.', read: '.*'}"""

_LITERAL = {"vhosts": _VHOSTS, "users": _USERS}
"""What is a mapping of names has examples in the place of keys."""


def render() -> str:
    """The text of conf/jackalope.yaml."""
    parts = [_HEAD]
    for name, (kind, why, default) in field_kinds(Config).items():
        lines = _comment(why, "")
        if name in _LITERAL:
            lines.append(_LITERAL[name])
        else:
            lines.append(f"{name}:")
            assert kind.children is not None
            for key, (one, reason, _) in field_kinds(kind.children).items():
                lines += [*_comment(reason, "  "), f"  {key}: {one.show(getattr(default, key))}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a configuration file, for editors and `jackalope config schema`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Jackalope configuration",
        **_section(Config),
    }


def _section(cls: type) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, (kind, why, default) in field_kinds(cls).items():
        properties[name] = {"description": why, **_of(kind)}
        if default is MISSING:
            required.append(name)
    section: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return section | ({"required": required} if required else {})


def _of(kind: Kind[Any]) -> dict[str, Any]:
    """A kind's schema, with that of the section behind it at the depth where it belongs."""
    if kind.children is None:
        return kind.schema
    return _filled(kind.schema, kind.children)


def _filled(schema: dict[str, Any], cls: type) -> dict[str, Any]:
    if schema == {}:
        return _section(cls)
    if schema["type"] == "array":
        return {**schema, "items": _section(cls)}
    return {**schema, "additionalProperties": _filled(schema.get("additionalProperties", {}), cls)}
