"""The verbs that change AMQP's topology: `queue create|rm`, `exchange create|rm`, `binding create|rm`."""

from __future__ import annotations

import json
from typing import Any

import click

from tools.cli.client import Client, path
from tools.cli.errors import NOT_FOUND, ApiError
from tools.cli.kinds import NAME, PAIR
from tools.cli.options import vhost_option

Pairs = tuple[tuple[str, str], ...]
QUEUE_TYPES = ("classic", "quorum", "stream")
CREATED = 201


def _arguments_option(command: Any) -> Any:
    return click.option(
        "-a", "--argument", "arguments", type=PAIR, multiple=True,
        help="Such as x-max-length=1000; a value is JSON, or else text. May be repeated.",
    )(command)  # fmt: skip


def _table(pairs: Pairs) -> dict[str, Any]:
    return {name: _value(text) for name, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _say(client: Client, what: str) -> None:
    click.echo(f"{what} {'is there now' if client.status == CREATED else 'was there already'}", err=True)


@click.command("create")
@click.argument("name", type=NAME)
@click.option("--type", "kind", type=click.Choice(QUEUE_TYPES), help="Default: classic. A stream is a topic.")
@click.option("--partitions", type=click.IntRange(1), help="Of a stream; default 1.")
@click.option("--transient", is_flag=True, help="Gone with the broker; default: durable.")
@click.option("--auto-delete", is_flag=True, help="Gone with its last consumer.")
@_arguments_option
@vhost_option
@click.pass_obj
def create_queue(
    client: Client, name: str, kind: str | None, partitions: int | None, transient: bool, auto_delete: bool,
    arguments: Pairs, vhost: str,
) -> None:  # fmt: skip
    """Declare a queue; no error if it is there and the same."""
    if partitions is not None and kind != "stream":
        raise click.UsageError("--partitions needs --type stream")
    table = _table(arguments)
    if kind is not None:
        table["x-queue-type"] = kind
    if partitions is not None:
        table["x-partitions"] = partitions
    body = {"durable": not transient, "auto_delete": auto_delete, "arguments": table}
    client.request("PUT", path("queues", vhost, name), body)
    _say(client, f"queue {name}")


@click.command("rm")
@click.argument("name", type=NAME)
@click.option("--if-unused", is_flag=True, help="Only if it has no consumers.")
@click.option("--if-empty", is_flag=True, help="Only if no message is ready in it.")
@vhost_option
@click.pass_obj
def remove_queue(client: Client, name: str, if_unused: bool, if_empty: bool, vhost: str) -> None:
    """Delete a queue with all that is in it."""
    client.request("DELETE", path("queues", vhost, name) + _query(if_unused=if_unused, if_empty=if_empty))
    click.echo(f"queue {name} is gone", err=True)


def _query(**flags: bool) -> str:
    asked = [f"{name.replace('_', '-')}=true" for name, value in flags.items() if value]
    return "?" + "&".join(asked) if asked else ""


@click.command("create")
@click.argument("name", type=NAME)
@click.argument("kind", metavar="TYPE")
@click.option("--transient", is_flag=True, help="Gone with the broker; default: durable.")
@click.option("--auto-delete", is_flag=True, help="Gone with its last binding.")
@click.option("--internal", is_flag=True, help="Only other exchanges lead to it.")
@_arguments_option
@vhost_option
@click.pass_obj
def create_exchange(
    client: Client, name: str, kind: str, transient: bool, auto_delete: bool, internal: bool, arguments: Pairs,
    vhost: str,
) -> None:  # fmt: skip
    """Declare an exchange of a TYPE such as direct, topic, fanout, headers; no error if it is there and the same."""
    body = {"type": kind, "durable": not transient, "auto_delete": auto_delete, "internal": internal,
            "arguments": _table(arguments)}  # fmt: skip
    client.request("PUT", path("exchanges", vhost, name), body)
    _say(client, f"exchange {name}")


@click.command("rm")
@click.argument("name", type=NAME)
@click.option("--if-unused", is_flag=True, help="Only if it has no bindings.")
@vhost_option
@click.pass_obj
def remove_exchange(client: Client, name: str, if_unused: bool, vhost: str) -> None:
    """Delete an exchange with its bindings."""
    client.request("DELETE", path("exchanges", vhost, name) + _query(if_unused=if_unused))
    click.echo(f"exchange {name} is gone", err=True)


def _binding_options(command: Any) -> Any:
    for one in (
        click.pass_obj,
        vhost_option,
        _arguments_option,
        click.option("--to-exchange", is_flag=True, help="DESTINATION is an exchange, not a queue or topic."),
        click.option("-r", "--routing-key", default="", help="Or pattern; default: empty."),
        click.argument("destination", type=NAME),
        click.argument("source", type=NAME),
    ):
        command = one(command)
    return command


def _path_between(vhost: str, source: str, destination: str, to_exchange: bool) -> str:
    return path("bindings", vhost, "e", source, "e" if to_exchange else "q", destination)


@click.command("create")
@_binding_options
def create_binding(
    client: Client, source: str, destination: str, routing_key: str, to_exchange: bool, arguments: Pairs, vhost: str
) -> None:
    """Bind the exchange SOURCE to a queue, a topic or (--to-exchange) an exchange DESTINATION."""
    target = _path_between(vhost, source, destination, to_exchange)
    client.request("POST", target, {"routing_key": routing_key, "arguments": _table(arguments)})
    click.echo(f"{source} leads to {destination}", err=True)


@click.command("rm")
@_binding_options
def remove_binding(
    client: Client, source: str, destination: str, routing_key: str, to_exchange: bool, arguments: Pairs, vhost: str
) -> None:
    """Remove the binding with this routing key and these arguments."""
    target, wanted = _path_between(vhost, source, destination, to_exchange), _table(arguments)
    for row in client.request("GET", target):
        if row["routing_key"] == routing_key and row["arguments"] == wanted:
            client.request("DELETE", f"{target}/{path(row['properties_key']).removeprefix('/api/')}")
            click.echo(f"{source} leads to {destination} no more", err=True)
            return
    raise ApiError(f"no such binding of {source} to {destination}", NOT_FOUND)


VERBS: dict[str, tuple[click.Command, ...]] = {
    "queue": (create_queue, remove_queue),
    "exchange": (create_exchange, remove_exchange),
    "binding": (create_binding, remove_binding),
}
