"""`jackalope config`: checks configuration files without starting anything."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Check configuration files."""


@config.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--data", metavar="DIR", help="Also what conflicts with what is in this data directory, beside its broker or not."
)
def check(paths: tuple[str, ...], sets: tuple[str, ...], data: str | None) -> None:
    """Say what `serve` would refuse or warn of; exit 1 for errors.

    With --data also where `vhosts` conflicts with what is there: errors if topology.strict is true. Without it, what
    could not be declared where nothing is there: always an error.
    """
    from broker.config import check as check_config

    report = check_config(list(paths), list(sets))
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    for error in report.errors:
        click.echo(error, err=True)
    if report.errors or _conflicts(paths, sets, data):
        sys.exit(1)
    click.echo("ok", err=True)


def _conflicts(paths: tuple[str, ...], sets: tuple[str, ...], data: str | None) -> bool:
    """Say them; returns whether they are errors."""
    from broker.config import load
    from broker.errors import ConfigError
    from broker.log.errors import StorageError
    from broker.rehearsal import conflicts_with
    from broker.settings import tls_context, vhost_limits

    loaded = load(list(paths), list(sets))
    try:
        if loaded.listeners.amqps is not None or loaded.listeners.kafkas is not None:
            tls_context(loaded)
    except ConfigError as error:
        click.echo(str(error), err=True)
        return True
    try:
        found = conflicts_with(loaded, None if data is None else Path(data), vhost_limits(loaded))
    except (OSError, StorageError) as error:
        click.echo(f"{data or 'the rehearsal'}: {error}", err=True)
        return True
    for one in found:
        click.echo(one if data is None else f"conflict: {one}", err=True)
    return bool(found) and (data is None or loaded.topology.strict)


@config.command()
def schema() -> None:
    """The JSON Schema of a configuration file."""
    import json

    from broker.config.reference import schema as json_schema

    click.echo(json.dumps(json_schema(), indent=2))
