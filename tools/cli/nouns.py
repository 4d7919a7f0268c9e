"""The nouns that are read through the management API, and messages and health."""

from __future__ import annotations

from typing import Any

import click

from tools.cli.client import Client, path
from tools.cli.errors import FAILED, ApiError
from tools.cli.kinds import NUMBER, PAIR
from tools.cli.options import output_options, vhost_option
from tools.cli.output import printable, show

COLUMNS: dict[str, tuple[str, ...]] = {
    "queue": ("vhost", "name", "type", "state", "messages_ready", "messages_unacknowledged", "consumers", "durable"),
    "exchange": ("vhost", "name", "type", "durable", "auto_delete", "internal"),
    "binding": ("vhost", "source", "destination_type", "destination", "routing_key", "arguments"),
    "connection": ("name", "user", "vhost", "state", "channels", "ssl", "recv_oct", "send_oct"),
    "channel": ("name", "user", "vhost", "consumer_count", "prefetch_count", "messages_unacknowledged", "confirm"),
    "consumer": ("queue.vhost", "queue.name", "consumer_tag", "ack_required", "prefetch_count", "active",
                 "group.id", "group.partitions", "channel_details.name"),
    "vhost": ("name", "queues"),
}  # fmt: skip
BY_VHOST = frozenset({"queue", "exchange", "binding", "consumer"})


def make_group(noun: str) -> click.Group:
    """The command group of one noun."""
    group = click.Group(noun, help=f"{noun.capitalize()}s of a running broker.")

    @group.command("ls")
    @click.option("--vhost", help="Only this one.")
    @output_options
    @click.pass_obj
    def ls(client: Client, vhost: str | None, wanted: str | None, columns: str | None) -> None:
        """List them."""
        target = path(f"{noun}s", vhost) if vhost is not None and noun in BY_VHOST else path(f"{noun}s")
        rows = client.request("GET", target)
        if vhost is not None and noun not in BY_VHOST:
            rows = [row for row in rows if row.get("vhost", row.get("name")) == vhost]
        show(rows, COLUMNS[noun], wanted, columns)

    if noun == "queue":
        _add_queue_verbs(group)
    from tools.cli.topology import VERBS

    for verb in VERBS.get(noun, ()):
        group.add_command(verb)
    return group


def _add_queue_verbs(group: click.Group) -> None:
    from tools.cli.dead_letters import peek
    from tools.cli.redelivery import replay, replays

    group.add_command(peek)
    group.add_command(replay)
    group.add_command(replays)

    @group.command("show")
    @click.argument("name")
    @vhost_option
    @click.pass_obj
    def show_queue(client: Client, name: str, vhost: str) -> None:
        """One queue with its consumers, as JSON."""
        show([client.request("GET", path("queues", vhost, name))], (), "json")

    @group.command("purge")
    @click.argument("name")
    @vhost_option
    @click.pass_obj
    def purge(client: Client, name: str, vhost: str) -> None:
        """Drop the ready messages of a queue. One with x-retain keeps them like what it has delivered."""
        before = client.request("GET", path("queues", vhost, name))
        client.request("DELETE", path("queues", vhost, name, "contents"))
        after = client.request("GET", path("queues", vhost, name))
        click.echo(f"purged {name}: {before['messages_ready']} messages{_kept(after)}", err=True)


def _kept(queue: dict[str, Any]) -> str:
    """What a purge has left behind."""
    told = []
    if retained := queue.get("messages_retained"):
        size = queue["message_bytes_retained"]
        told.append(f"; {retained} are retained ({size} bytes), see `queue peek --retained` and `queue replay`")
    if held := queue["messages_unacknowledged"]:
        told.append(f"; {held} are with consumers")
    return "".join(told)


@click.group()
def message() -> None:
    """Publish and get messages."""


@message.command()
@click.argument("payload")
@click.option("-r", "--routing-key", default="", help="With the default exchange: the queue's name.")
@click.option("-e", "--exchange", default="", help="Default: the default exchange.")
@click.option(
    "-p", "--property", "properties", type=PAIR, multiple=True,
    help="Such as content_type=text/plain or delivery-mode=2.",
)  # fmt: skip
@vhost_option
@click.pass_obj
def publish(
    client: Client, payload: str, routing_key: str, exchange: str, properties: tuple[tuple[str, str], ...], vhost: str
) -> None:
    """Publish PAYLOAD; fails when it reaches no queue."""
    body = {
        "routing_key": routing_key,
        "payload": payload,
        "properties": {name.replace("-", "_"): value for name, value in properties},
    }
    answer = client.request("POST", path("exchanges", vhost, exchange or "amq.default", "publish"), body)
    if not answer["routed"]:
        raise ApiError("published, but no queue is bound for it", FAILED)
    click.echo("published", err=True)


@message.command()
@click.argument("queue")
@click.option("-n", "--count", default=1, show_default=True, type=NUMBER, help="At most so many.")
@click.option(
    "--ack", is_flag=True, help="Take the messages out of the queue; without it they go back to their places."
)
@vhost_option
@output_options
@click.pass_obj
def get(client: Client, queue: str, count: int, ack: bool, vhost: str, wanted: str | None, columns: str | None) -> None:
    """Get messages from QUEUE."""
    body = {"count": count, "ackmode": "ack_requeue_false" if ack else "ack_requeue_true"}
    rows = client.request("POST", path("queues", vhost, queue, "get"), body)
    show(rows, ("exchange", "routing_key", "redelivered", "payload_bytes", "payload"), wanted, columns)


@click.command()
@click.pass_obj
def health(client: Client) -> None:
    """Exit 0 when the broker answers, no alarm is on, and nothing is damaged.

    Where the configuration conflicts with what is there, it says so, and that is no failure.
    """
    found = client.request("GET", path("health"))
    for one in found["conflicts"]:
        click.echo(f"conflict: {printable(one)}", err=True)
    overview = client.request("GET", path("overview"))
    totals = overview["object_totals"]
    click.echo(
        f"ok: {totals['connections']} connections, {totals['queues']} queues, loop lag "
        f"{overview['loop_lag_ms_max']:.1f} ms, {overview['mem_used'] // 2**20} MiB"
    )
