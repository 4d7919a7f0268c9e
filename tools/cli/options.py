"""Options that commands of several nouns have in common."""

from __future__ import annotations

from typing import Any

import click

from tools.cli.output import FORMATS


def output_options(command: Any) -> Any:
    """`--format` and `--columns`."""
    command = click.option("--columns", metavar="A,B,...", help="Which columns, in which order.")(command)
    return click.option("--format", "wanted", type=click.Choice(FORMATS), help="Default: table, or jsonl in a pipe.")(
        command
    )


def vhost_option(command: Any) -> Any:
    """`--vhost`, of what has a name in one."""
    return click.option("--vhost", default="/", show_default=True)(command)
