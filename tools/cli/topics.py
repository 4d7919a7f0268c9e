"""`topic`: ls, show, create, alter, rm, trim, offsets; `produce` and `consume` are in `records`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click

from tools.cli.client import Client, path
from tools.cli.kinds import MOMENT, NAME, PAIR, PARTITION
from tools.cli.options import output_options, vhost_option
from tools.cli.output import document_option, show, show_document, show_fields, show_section
from tools.cli.records import consume, produce

COLUMNS = ("vhost", "name", "state", "partitions", "messages", "size_bytes", "messages_in_rate", "bytes_in_rate",
           "hot_partitions")  # fmt: skip
PARTITION_COLUMNS = ("partition", "start_offset", "end_offset", "leader_epoch", "size_bytes", "messages_in",
                     "messages_in_rate", "bytes_in_rate", "share", "hot")  # fmt: skip
"""Of what people see; the end is where consumers see it, JSON has the end of the log beside it."""
OFFSET_COLUMNS = ("partition", "start_offset", "end_offset", "offset", "timestamp")
Pairs = tuple[tuple[str, str], ...]


@click.group()
def topic() -> None:
    """Topics of a running broker: what is in them, and what comes in where."""


topic.add_command(produce)
topic.add_command(consume)


@topic.command("ls")
@click.option("--vhost", help="Only this one.")
@click.option("--internal", is_flag=True, help="Those of the broker itself too.")
@output_options
@click.pass_obj
def ls(client: Client, vhost: str | None, internal: bool, wanted: str | None, columns: str | None) -> None:
    """List them."""
    rows = client.request("GET", path("topics", *([vhost] if vhost is not None else [])))
    show([row for row in rows if internal or not row["internal"]], COLUMNS, wanted, columns)


@topic.command("show")
@click.argument("name", type=NAME)
@click.option("--config", "all_config", is_flag=True, help="Every value of the configuration, not only what was set.")
@vhost_option
@document_option
@click.pass_obj
def show_topic(client: Client, name: str, all_config: bool, vhost: str, wanted: str | None) -> None:
    """One topic: its partitions and the share that each takes, who reads it, what it was told."""

    def sections(found: Mapping[str, Any]) -> None:
        show_fields(_summary(found))
        show_section("PARTITIONS", [_for_people(one) for one in found["partition_details"]], PARTITION_COLUMNS)
        show_section("GROUPS", found["groups"], ("group", "state", "partitions", "lag"))
        config = found["config" if all_config else "config_overrides"]
        show_section("CONFIG", [{"key": key, "value": value} for key, value in config.items()], ("key", "value"))

    show_document(client.request("GET", path("topics", vhost, name)), wanted, sections)


def _for_people(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["share"]
    return {**row, "end_offset": row["high_watermark"], "share": "" if share is None else f"{share:.1%}"}


def _summary(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("topic", f"{found['name']} in vhost {found['vhost']}{' (internal)' if found['internal'] else ''}"),
        ("partitions", str(found["partitions"])),
        ("kept", f"{found['messages']} messages, {found['size_bytes']} bytes ({found['cleanup_policy']})"),
        ("came in", f"{found['messages_in']} messages, {found['bytes_in']} bytes since the start; now "
                    f"{found['messages_in_rate']} messages/s, {found['bytes_in_rate']} bytes/s"),
    ]  # fmt: skip
    for index in found["hot_partitions"]:
        share = found["partition_details"][index]["share"]
        even = 1 / found["partitions"]
        lines.append(
            ("hot", f"partition {index} took {share:.0%} of the bytes of {found['shares_of']}, an even share is "
                    f"{even:.0%}: a few of its keys have most of the traffic")
        )  # fmt: skip
    return lines


@topic.command("create")
@click.argument("name", type=NAME)
@click.option("-p", "--partitions", type=click.IntRange(min=1), help="Default: the broker's own default.")
@click.option("--config", "config", type=PAIR, multiple=True, help="Such as retention.ms=86400000; may be repeated.")
@vhost_option
@click.pass_obj
def create(client: Client, name: str, partitions: int | None, config: Pairs, vhost: str) -> None:
    """Create it; fails if there is another one of this name, and is fine if there is the same."""
    body: dict[str, Any] = {"config": dict(config)}
    if partitions is not None:
        body["partitions"] = partitions
    client.request("PUT", path("topics", vhost, name), body)
    click.echo(f"topic {name} is {'created' if client.status == 201 else 'there already, the same'}", err=True)


@topic.command("alter")
@click.argument("name", type=NAME)
@click.option("-p", "--partitions", type=click.IntRange(min=1), help="How many it is to have in all: only more.")
@click.option("--config", "config", type=PAIR, multiple=True, help="Set a key; may be repeated.")
@click.option("--unset", multiple=True, metavar="KEY", help="Back to its default; may be repeated.")
@vhost_option
@click.pass_obj
def alter(client: Client, name: str, partitions: int | None, config: Pairs, unset: tuple[str, ...], vhost: str) -> None:
    """Change its configuration, or give it more partitions (its keys find other ones then)."""
    changes: dict[str, str | None] = {**dict(config), **dict.fromkeys(unset)}
    if len(changes) < len(config) + len(unset):
        raise click.UsageError("a key is changed twice")
    if partitions is None and not changes:
        raise click.UsageError("nothing to change: --partitions, --config or --unset")
    body: dict[str, Any] = {"config": changes}
    if partitions is not None:
        body["partitions"] = partitions
    client.request("PATCH", path("topics", vhost, name), body)
    click.echo(f"topic {name} is changed", err=True)


@topic.command("rm")
@click.argument("name", type=NAME)
@vhost_option
@click.pass_obj
def rm(client: Client, name: str, vhost: str) -> None:
    """Remove it with all that is in it, and the offsets that groups have of it."""
    client.request("DELETE", path("topics", vhost, name))
    click.echo(f"topic {name} is gone", err=True)


@topic.command("trim")
@click.argument("name", type=NAME)
@click.option("--partition", type=PARTITION, required=True)
@click.option("--before", required=True, metavar="OFFSET", help="What is below it goes; 'latest' for everything.")
@vhost_option
@click.pass_obj
def trim(client: Client, name: str, partition: int, before: str, vhost: str) -> None:
    """Drop the oldest records of a partition (Kafka's delete-records)."""
    if before != "latest" and not (before.isdecimal() and len(before) < 20):
        raise click.UsageError(f"'{before}' is neither an offset nor 'latest'")
    target = path("topics", vhost, name, "records") + "?" + urlencode({"partition": partition, "before": before})
    answer = client.request("DELETE", target)
    click.echo(f"partition {answer['partition']} of {name} begins at {answer['start_offset']}", err=True)


@topic.command("offsets")
@click.argument("name", type=NAME)
@click.option("--time", type=MOMENT, help="Also the first offset at or behind it: ISO 8601, or an age like 5m.")
@vhost_option
@output_options
@click.pass_obj
def offsets(client: Client, name: str, time: str | None, vhost: str, wanted: str | None, columns: str | None) -> None:
    """Where each partition begins and ends."""
    query = "?" + urlencode({"time": time}) if time is not None else ""
    rows = client.request("GET", path("topics", vhost, name, "offsets") + query)
    show(rows, OFFSET_COLUMNS if time is not None else OFFSET_COLUMNS[:3], wanted, columns)
