"""`policy`: ls, set, rm."""

from __future__ import annotations

import json

import click

from tools.cli.client import Client, path
from tools.cli.options import output_options, vhost_option
from tools.cli.output import show

COLUMNS = ("vhost", "name", "pattern", "apply-to", "priority", "definition")
APPLY_TO = ("all", "queues", "exchanges", "classic_queues", "quorum_queues", "streams")


@click.group()
def policy() -> None:
    """Policies of a running broker; --operator for operator policies."""


def _kind(operator: bool) -> str:
    return "operator-policies" if operator else "policies"


@policy.command("ls")
@click.option("--vhost", help="Only this one.")
@click.option("--operator", is_flag=True)
@output_options
@click.pass_obj
def ls(client: Client, vhost: str | None, operator: bool, wanted: str | None, columns: str | None) -> None:
    """List them."""
    rows = client.request("GET", path(_kind(operator), *([vhost] if vhost is not None else [])))
    show(rows, COLUMNS, wanted, columns)


@policy.command("set")
@click.argument("name")
@click.argument("pattern")
@click.argument("definition", metavar="JSON")
@click.option("--apply-to", type=click.Choice(APPLY_TO), default="all", show_default=True)
@click.option("--priority", default=0, show_default=True)
@click.option("--operator", is_flag=True)
@vhost_option
@click.pass_obj
def set_policy(
    client: Client, name: str, pattern: str, definition: str, apply_to: str, priority: int, operator: bool, vhost: str
) -> None:
    """Add or replace one, such as: policy set short '^logs' '{"max-length": 1000}'."""
    try:
        values = json.loads(definition)
    except ValueError as error:
        raise click.UsageError(f"the definition is not JSON: {error}") from None
    body = {"pattern": pattern, "definition": values, "apply-to": apply_to, "priority": priority}
    client.request("PUT", path(_kind(operator), vhost, name), body)
    click.echo(f"policy {name} is in force", err=True)


@policy.command("rm")
@click.argument("name")
@click.option("--operator", is_flag=True)
@vhost_option
@click.pass_obj
def rm(client: Client, name: str, operator: bool, vhost: str) -> None:
    """Remove one."""
    client.request("DELETE", path(_kind(operator), vhost, name))
    click.echo(f"policy {name} is gone", err=True)
