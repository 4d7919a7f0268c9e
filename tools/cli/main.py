"""`jackalope`: noun, then verb. Each noun is imported only when it is asked for, so that `serve` starts fast."""

from __future__ import annotations

import sys

import click


@click.group()
def main() -> None:
    """A message broker: AMQP 0-9-1 in one small process."""


@main.command()
@click.option("-c", "--config", "paths", multiple=True, metavar="FILE", help="YAML file, folder of them, or RabbitMQ definitions.")
@click.option("--data", metavar="DIR", help="Data directory.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override one key; may be repeated.")
def serve(paths: tuple[str, ...], data: str | None, sets: tuple[str, ...]) -> None:
    """Run the broker in the foreground."""
    from broker.app import run

    sys.exit(run(list(paths), data, list(sets)))


if __name__ == "__main__":
    main()
