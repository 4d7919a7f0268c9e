"""`queue replay`: delivering once more what a queue keeps of what it delivered."""

from __future__ import annotations

import secrets
import sys
import time
from typing import Any

import click
from click.core import ParameterSource

from tools.cli.client import Client, path
from tools.cli.dead_letters import Pairs, Stop, batch_size, content_options, meant_by, say_left
from tools.cli.errors import PARTIAL, ApiError
from tools.cli.kinds import MOMENT, NUMBER, RATE
from tools.cli.options import output_options, vhost_option
from tools.cli.output import show
from tools.cli.progress import progress

BLOCKED_S = 0.5
"""How long to wait when the broker takes nothing for now."""
REPLAY_COLUMNS = ("id", "copied", "left", "from", "next", "to", "finished", "asked")
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
@click.option(
    "--id",
    "replay_id",
    metavar="ID",
    help="What the broker knows this replay by. Run again with it, whatever has happened, it goes on. Default: one by"
    " chance, see `queue replays`.",
)
@click.option("--resume", metavar="ID", help="Go on with this replay, as it was asked for.")
@vhost_option
@click.pass_context
def replay(
    context: click.Context,
    name: str, start: str, end: str | None, into: str | None, routing_key: str | None, headers: Pairs,
    body: str | None, count: int, rate: float, dry_run: bool, replay_id: str | None, resume: str | None, vhost: str,
) -> None:  # fmt: skip
    """Deliver once more what queue NAME has delivered, and keeps (x-retain): copies, which say where they are from.

    The broker keeps how far it is together with the copies: stopped or killed, itself or the broker, it goes on with
    --resume, or when it is run again with the same --id, and nothing is copied twice.
    """
    _check_resume(context)
    client: Client = context.obj
    if routing_key is not None and into is None:
        raise click.UsageError("--routing-key needs --into")
    given = {"from": start, "to": end, "into": into, "routing_key": routing_key, "most": count or None}
    asked = {**meant_by(None, None, headers, body), **{key: one for key, one in given.items() if one is not None}}
    if resume is not None:
        asked = {"id": resume, "resume": True}
    elif dry_run:
        asked = {**asked, "dry_run": True}
        asked.pop("most", None)
    else:
        asked["id"] = replay_id or secrets.token_hex(4)
    run = _Replay(client, path("queues", vhost, name, "redeliver"), asked, count, rate)
    try:
        run.run()
    except ApiError as error:
        run.say_where(failed=True)
        raise error from None
    click.echo(f"{'would replay' if dry_run else 'replayed'} {run.copied} of {name}{say_left(run.left)}", err=True)
    run.say_where()
    if run.is_stopped or run.left:
        sys.exit(PARTIAL)


def _check_resume(context: click.Context) -> None:
    """What was asked for is known to the broker."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if context.params["resume"] is not None and given - {"resume", "name", "vhost", "rate"}:
        raise click.UsageError("--resume goes on as it was asked for: it takes --rate and --vhost only")
    if context.params["dry_run"] and context.params["replay_id"] is not None:
        raise click.UsageError("--dry-run keeps nothing: it has no --id")


@click.command()
@click.argument("name")
@vhost_option
@output_options
@click.pass_obj
def replays(client: Client, name: str, vhost: str, wanted: str | None, columns: str | None) -> None:
    """The latest replays of queue NAME: how far each is. What is not finished goes on with `replay --resume`."""
    show(client.request("GET", path("queues", vhost, name, "replays")), REPLAY_COLUMNS, wanted, columns)


class _Replay:
    """One run: requests for one slice after the other; `next` is where the next one begins."""

    def __init__(self, client: Client, target: str, asked: dict[str, Any], count: int, rate: float) -> None:
        self._client = client
        self._target = target
        self._asked = asked
        self._id = asked.get("id")
        self._count = count
        self._rate = rate
        self.copied = 0
        self.left: dict[str, int] = {}
        self.next: int | None = None
        self.end = 0
        self._is_begun = False
        self._earlier = 0  # What was copied before this run.
        self._stop = Stop()
        self._told_s = 0.0

    def run(self) -> None:
        """All of it, or until a signal comes. Raises ApiError."""
        began = self._told_s = time.monotonic()
        answer = self._ask(self._asked)
        first, self.end = answer["from"], answer["to"]
        self._earlier = answer.get("total", 0) - answer["copied"]
        with progress("replaying", max(self.end - first, 0)) as advance:
            shown = first
            while True:
                self._note(answer)
                reached = self.end if self.next is None else self.next
                advance(reached - shown)
                shown = reached
                if self.next is None or self._stop.is_asked or self._is_enough:
                    return
                self._tell()
                if "blocked" in answer:
                    self._stop.sleep_until(time.monotonic() + BLOCKED_S)
                elif self._rate:
                    self._stop.sleep_until(began + (self.copied - self._earlier) / self._rate)
                if self._stop.is_asked:
                    return
                answer = self._ask(self._onward())

    @property
    def _is_enough(self) -> bool:
        return bool(self._count and self.copied >= self._count)

    def _onward(self) -> dict[str, Any]:
        """The next request."""
        if self._id is None:
            return {**self._asked, "from": self.next, "to": self.end}
        return {"id": self._id, "resume": True} if self._is_begun else self._asked

    def _ask(self, asked: dict[str, Any]) -> Any:
        batch = batch_size(self._rate, self._count, self.copied)
        return self._client.request("POST", self._target, {**asked, "count": batch})

    def _note(self, answer: dict[str, Any]) -> None:
        self.next, self.end = answer["next"], answer["to"]
        if "total" in answer:
            self._is_begun = True
            self.copied, self.left = answer["total"], answer["total_left"]
            return
        self.copied += answer["copied"]
        for why, many in answer["left"].items():
            self.left[why] = self.left.get(why, 0) + many

    def _tell(self) -> None:
        if not sys.stderr.isatty() and time.monotonic() >= self._told_s + TOLD_EVERY_S:
            self._told_s = time.monotonic()
            known = f", replay {self._id}" if self._id is not None else ""
            click.echo(f"replayed {self.copied}, next offset {self.next} of {self.end}{known}", err=True)

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has asked for it."""
        return self._stop.is_asked

    def say_where(self, *, failed: bool = False) -> None:
        """How to go on."""
        if self.next is not None and (self._id is None or self._is_enough):
            click.echo(f"go on with --from {self.next} --to {self.end}", err=True)
        elif self._is_begun and self.next is not None:
            click.echo(f"go on with --resume {self._id}", err=True)
        elif failed and self._id is not None:  # The answer may have been lost.
            click.echo(f"if it has begun (see `queue replays`) go on with --resume {self._id}", err=True)
