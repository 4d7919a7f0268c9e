"""`jackalope`: noun, then verb. Each noun is imported only when it is asked for, so that `serve` starts fast.

Exit codes: 0 ok, 1 failed, 2 usage, 3 partial, 4 not found, 5 refused, 6 cannot connect.
"""

from __future__ import annotations

import gc
import importlib
import sys

import click

from tools.cli.errors import ApiError

DEFAULT_URL = "http://guest:guest@127.0.0.1:15672"
NOUNS = ("queue", "exchange", "binding", "connection", "channel", "consumer", "vhost")
LAZY = {"message": "tools.cli.nouns:message", "health": "tools.cli.nouns:health", "bench": "tools.bench.cli:bench",
        "config": "tools.cli.config:config", "dlq": "tools.cli.dead_letters:dlq",
        "policy": "tools.cli.policies:policy", "log": "tools.cli.log:log",
        "catalog": "tools.cli.catalog:catalog",
        "topic": "tools.cli.topics:topic", "group": "tools.cli.groups:group"}  # fmt: skip


class LazyGroup(click.Group):
    """Knows its subcommands by name and imports them late; turns ApiError into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, without importing any."""
        return sorted([*super().list_commands(ctx), *NOUNS, *LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one that is asked for."""
        if cmd_name in NOUNS:
            from tools.cli.nouns import make_group

            return make_group(cmd_name)
        if cmd_name in LAZY:
            module, _, name = LAZY[cmd_name].partition(":")
            command = getattr(importlib.import_module(module), name)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> object:
        """Run, and end with the exit code that a refusal means."""
        try:
            return super().invoke(ctx)
        except ApiError as error:
            from tools.cli.output import printable

            click.echo(f"jackalope: {printable(str(error))}", err=True)  # It may quote what clients call themselves.
            ctx.exit(error.exit_code)


@click.group(cls=LazyGroup, context_settings={"max_content_width": 120})  # So that lists of verbs are not cut.
@click.option(
    "--url",
    envvar="JACKALOPE_URL",
    show_envvar=True,
    default=DEFAULT_URL,
    show_default=True,
    help="The broker's HTTP API, with user and password.",
)
@click.version_option(package_name="jackalope")
@click.pass_context
def main(ctx: click.Context, url: str) -> None:
    """A broker for AMQP 0-9-1's and Kafka's clients. Start it with `serve`, look inside with the other nouns."""
    if ctx.invoked_subcommand not in ("serve", "bench", "config", "log"):
        from tools.cli.client import Client  # It brings http.client and what that needs.

        ctx.obj = Client(url)


@main.command()
@click.option(
    "-c",
    "--config",
    "paths",
    multiple=True,
    metavar="FILE",
    help="YAML, a folder of it, or definitions.json; may be repeated.",
)
@click.option("--data", metavar="DIR", help="The data directory, or memory. Default: what storage.dir says.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key, such as listeners.amqp=127.0.0.1:5700; may be repeated.",
)
def serve(paths: tuple[str, ...], data: str | None, sets: tuple[str, ...]) -> None:
    """Run the broker in the foreground; logs go to stderr, the ready line to stdout."""
    gc.disable()  # Until it is ready: next to nothing of what start-up makes is garbage, and looking for it takes time.
    from broker.app import run

    sys.exit(run(list(paths), data, list(sets)))


if __name__ == "__main__":
    main()
