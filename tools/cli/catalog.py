"""`catalog`: ls, rm: entries that the start could not use and has left aside."""

from __future__ import annotations

import click

from tools.cli.client import Client, path
from tools.cli.options import output_options
from tools.cli.output import show

COLUMNS = ("id", "kind", "place", "reason")


@click.group()
def catalog() -> None:
    """What a running broker has found in its catalog and could not use; each start tries again."""


@catalog.command("ls")
@output_options
@click.pass_obj
def ls(client: Client, wanted: str | None, columns: str | None) -> None:
    """List the entries that are left aside. For administrators."""
    show(client.request("GET", path("catalog", "aside")), COLUMNS, wanted, columns)


@catalog.command("rm")
@click.argument("entry", metavar="ID")
@click.pass_obj
def rm(client: Client, entry: str) -> None:
    """Drop the entry of this ID for good. For administrators.

    The messages of a queue or topic that is dropped so go with the first start that leaves nothing aside.
    """
    client.request("DELETE", path("catalog", "aside", entry))
    click.echo(f"entry {entry} is dropped", err=True)
