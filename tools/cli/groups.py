"""`group`: ls, show (also whom a rebalance waits for), reset, rm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click

from tools.cli.client import Client, path
from tools.cli.kinds import NAME, PARTITION, PLACE_OR_SHIFT
from tools.cli.options import output_options, vhost_option
from tools.cli.output import document_option, show, show_document, show_fields, show_section

COLUMNS = ("vhost", "name", "state", "members", "awaited", "topics", "lag", "generation", "protocol", "rebalances")
MEMBER_COLUMNS = ("id", "client_id", "host", "awaited", "heard_s_ago", "assigned")
OFFSET_COLUMNS = ("topic", "partition", "offset", "end_offset", "lag", "committed_s_ago", "member")
MOVE_COLUMNS = ("topic", "partition", "from", "to", "clamped", "end_offset", "lag")


@click.group()
def group() -> None:
    """Consumer groups of a running broker."""


@group.command("ls")
@click.option("--vhost", help="Only this one.")
@output_options
@click.pass_obj
def ls(client: Client, vhost: str | None, wanted: str | None, columns: str | None) -> None:
    """List them."""
    rows = client.request("GET", path("groups", *([vhost] if vhost is not None else [])))
    show(sorted(rows, key=lambda row: (row["vhost"], row["name"])), COLUMNS, wanted, columns)


@group.command("show")
@click.argument("name", type=NAME)
@vhost_option
@document_option
@click.pass_obj
def show_group(client: Client, name: str, vhost: str, wanted: str | None) -> None:
    """One group: what it does, whom it waits for and why, who has what, and how far behind it is."""

    def sections(found: Mapping[str, Any]) -> None:
        show_fields(_summary(found))
        members = [{**one, "assigned": _assigned(one)} for one in found["members"]]
        show_section("MEMBERS", members, MEMBER_COLUMNS)
        show_section("OFFSETS", found["offsets"], OFFSET_COLUMNS)

    show_document(client.request("GET", path("groups", vhost, name)), wanted, sections)


def _summary(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    protocol = " ".join(one for one in (found["protocol_type"], found["protocol"]) if one)
    lines = [
        ("group", f"{found['name']} in vhost {found['vhost']}"),
        ("state", f"{found['state']} for {found['state_for_s']} s, generation {found['generation']}"),
        ("members", f"{len(found['members'])}{f' ({protocol})' if protocol else ''}"),
        ("lag", str(found["lag"])),
    ]
    rebalance = found["rebalance"]
    if rebalance is not None:
        lines += _rebalance(found, rebalance)
    return lines


def _rebalance(found: Mapping[str, Any], rebalance: Mapping[str, Any]) -> list[tuple[str, str]]:
    began = rebalance["began_s_ago"]
    when = f"began {began} s ago, " if began is not None else ""
    what = "under way" if rebalance["under_way"] else "over"
    lines = [("rebalance", f"{when}{what} ({found['rebalances']} so far)")]
    if rebalance["reason"]:
        lines.append(("why", rebalance["reason"]))
    by_id = {one["id"]: one for one in found["members"]}
    waits = []
    for member_id in rebalance["waits_for"]:
        one = by_id[member_id]
        role = ", the leader, who brings the assignment" if one["leader"] and _is_completing(found) else ""
        waits.append(
            f"{member_id} (client {one['client_id']}, {one['host']}{role}), last heard {one['heard_s_ago']} s ago"
        )
    ids = rebalance["waits_for_ids_given_out"]
    if ids:
        waits.append(f"{ids} that got {'an id' if ids == 1 else 'ids'} and did not come back with it yet")
    if rebalance["under_way"] and not waits:
        waits.append("more members, which may come within the initial delay")
    lines += [("waits for" if not count else "", text) for count, text in enumerate(waits)]
    if rebalance["gives_up_in_s"] is not None:
        lines.append(("gives up", f"in {rebalance['gives_up_in_s']} s, and goes on without"))
    return lines


def _is_completing(found: Mapping[str, Any]) -> bool:
    return bool(found["state"] == "CompletingRebalance")


def _assigned(member: Mapping[str, Any]) -> str:
    """`orders 0-3,7; prices 1`."""
    if member["assignment"] is None:
        return f"{member['assignment_bytes']} bytes"
    return "; ".join(f"{one['topic']} {_ranges(one['partitions'])}" for one in member["assignment"])


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@group.command("reset")
@click.argument("name", type=NAME)
@click.option("--topic", "topics", type=NAME, multiple=True, help="Default: all that the group has offsets of.")
@click.option("--partition", "partitions", type=PARTITION, multiple=True, help="Only these, of the one --topic.")
@click.option(
    "--to", type=PLACE_OR_SHIFT, required=True, metavar="PLACE",
    help="earliest, latest, an offset, a time (ISO 8601), an age like 5m, or +N or -N records from where it is.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be done.")
@vhost_option
@output_options
@click.pass_obj
def reset(
    client: Client, name: str, topics: tuple[str, ...], partitions: tuple[int, ...], to: str, dry_run: bool,
    vhost: str, wanted: str | None, columns: str | None,
) -> None:  # fmt: skip
    """Move the offsets of a group that nobody is in."""
    body: dict[str, Any] = {"to": to, "dry_run": dry_run}
    if partitions and len(topics) != 1:
        raise click.UsageError("--partition needs one --topic")
    if len(topics) == 1:
        body["topic"] = topics[0]
    elif topics:
        body["topics"] = list(topics)
    if partitions:
        body["partitions"] = list(partitions)
    answer = client.request("PUT", path("groups", vhost, name, "offsets"), body)
    show(answer["moves"], MOVE_COLUMNS, wanted, columns)
    count = len(answer["moves"])
    what = f"would move {count} offsets" if dry_run else f"moved {count} offsets"
    clamped = sum(one["clamped"] for one in answer["moves"])
    notes = (f", {clamped} of them only to the end of what there is" if clamped else "") + (
        "; the group is new" if answer["created"] else ""
    )
    click.echo(f"{what} of {name}{notes}", err=True)


@group.command("rm")
@click.argument("name", type=NAME)
@click.option("--topic", "topics", type=NAME, multiple=True, help="Only its offsets of this topic; may be repeated.")
@vhost_option
@click.pass_obj
def rm(client: Client, name: str, topics: tuple[str, ...], vhost: str) -> None:
    """Remove a group that nobody is in, with its offsets."""
    if topics:
        query = "?" + urlencode({"topics": ",".join(topics)})
        answer = client.request("DELETE", path("groups", vhost, name, "offsets") + query)
        click.echo(f"{answer['deleted']} offsets of {name} are gone", err=True)
        return
    client.request("DELETE", path("groups", vhost, name))
    click.echo(f"group {name} is gone", err=True)
