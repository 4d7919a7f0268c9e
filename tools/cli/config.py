"""`jackalope config`: checks configuration files without starting anything."""

from __future__ import annotations

import sys

import click


@click.group()
def config() -> None:
    """Check configuration files."""


@config.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
def check(paths: tuple[str, ...], sets: tuple[str, ...]) -> None:
    """Say what `serve` would refuse or warn of; exit 1 for errors."""
    from broker.config import check as check_config

    report = check_config(list(paths), list(sets))
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    for error in report.errors:
        click.echo(error, err=True)
    if report.errors:
        sys.exit(1)
    click.echo("ok", err=True)


@config.command()
def schema() -> None:
    """The JSON Schema of a configuration file."""
    import json

    from broker.config.reference import schema as json_schema

    click.echo(json.dumps(json_schema(), indent=2))
