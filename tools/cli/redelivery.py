"""`queue replay`: delivering once more what a queue keeps of what it delivered."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from tools.cli.client import PARTIAL, ApiError, Client, path
from tools.cli.dead_letters import Pairs, Stop, batch_size, content_options, meant_by, say_left
from tools.cli.kinds import MOMENT, NUMBER, RATE
from tools.cli.nouns import vhost_option
from tools.cli.progress import progress

BLOCKED_S = 0.5
"""How long to wait when the broker takes nothing for now."""
TOLD_EVERY_S = 5.0
"""Where no progress bar is, the position is told so often: what is killed leaves it behind."""


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "start",
    default="0",
    show_default=True,
    type=MOMENT,
    help="Where to begin: an offset, a time such as 2026-11-28T12:00 (UTC), or an interval ago such as 2h.",
)
@click.option("--to", "end", type=MOMENT, help="Where to end, not included. Default: with what is there now.")
@click.option("--into", metavar="EXCHANGE", help="Through this exchange. Default: straight into the queue.")
@click.option("-r", "--routing-key", help="With --into: instead of the one that each message had.")
@content_options
@click.option("-n", "--count", default=0, type=NUMBER, help="At most so many; 0 is all.")
@click.option("--rate", default=0.0, type=RATE, help="Messages a second at most; 0 is as fast as can be.")
@click.option("--dry-run", is_flag=True, help="Count them only.")
@vhost_option
@click.pass_obj
def replay(
    client: Client, name: str, start: str, end: str | None, into: str | None, routing_key: str | None, headers: Pairs,
    body: str | None, count: int, rate: float, dry_run: bool, vhost: str,
) -> None:  # fmt: skip
    """Deliver once more what queue NAME has delivered, and keeps (x-retain): copies, which say where they are from.

    Stopped by ^C or a signal, it says with which --from and --to it goes on, and nothing is copied twice. When it or
    the broker is killed, up to 200 copies may be made again.
    """
    if routing_key is not None and into is None:
        raise click.UsageError("--routing-key needs --into")
    given = {"into": into, "routing_key": routing_key, "dry_run": dry_run}
    asked = {**meant_by(None, None, headers, body), **{key: one for key, one in given.items() if one is not None}}
    run = _Replay(client, path("queues", vhost, name, "redeliver"), asked, count, rate)
    try:
        run.run(start, end)
    except ApiError as error:
        run.say_where()
        raise error from None
    click.echo(f"{'would replay' if dry_run else 'replayed'} {run.copied} of {name}{say_left(run.left)}", err=True)
    run.say_where()
    if run.is_stopped or run.left:
        sys.exit(PARTIAL)


class _Replay:
    """One run: requests for one slice after the other; `next` is where the next one begins."""

    def __init__(self, client: Client, target: str, asked: dict[str, Any], count: int, rate: float) -> None:
        self._client = client
        self._target = target
        self._asked = asked
        self._count = count
        self._rate = rate
        self.copied = 0
        self.left: dict[str, int] = {}
        self.next: int | None = None
        self.end = 0
        self._stop = Stop()
        self._told_s = 0.0

    def run(self, start: str, end: str | None) -> None:
        """All of it, or until a signal comes. Raises ApiError."""
        began = self._told_s = time.monotonic()
        answer = self._ask({"from": start, **({"to": end} if end is not None else {})})
        first, self.end = answer["from"], answer["to"]
        with progress("replaying", max(self.end - first, 0)) as advance:
            shown = first
            while True:
                self._note(answer)
                reached = self.end if self.next is None else self.next
                advance(reached - shown)
                shown = reached
                if self.next is None or self._stop.is_asked or (self._count and self.copied >= self._count):
                    return
                self._tell()
                if "blocked" in answer:
                    self._stop.sleep_until(time.monotonic() + BLOCKED_S)
                elif self._rate:
                    self._stop.sleep_until(began + self.copied / self._rate)
                if self._stop.is_asked:
                    return
                answer = self._ask({"from": self.next, "to": self.end})

    def _ask(self, where: dict[str, Any]) -> Any:
        batch = batch_size(self._rate, self._count, self.copied)
        return self._client.request("POST", self._target, {**self._asked, **where, "count": batch})

    def _note(self, answer: dict[str, Any]) -> None:
        self.copied += answer["copied"]
        self.next = answer["next"]
        for why, many in answer["left"].items():
            self.left[why] = self.left.get(why, 0) + many

    def _tell(self) -> None:
        if not sys.stderr.isatty() and time.monotonic() >= self._told_s + TOLD_EVERY_S:
            self._told_s = time.monotonic()
            click.echo(f"replayed {self.copied}, next offset {self.next} of {self.end}", err=True)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has asked for it."""
        return self._stop.is_asked

    def say_where(self) -> None:
        """How to go on."""
        if self.next is not None:
            click.echo(f"go on with --from {self.next} --to {self.end}", err=True)
