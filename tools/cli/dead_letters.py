"""`queue peek`, and `dlq`: looking into queues without consuming, and sending dead letters back."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any
from urllib.parse import urlencode

import click

from tools.cli.client import Client, path
from tools.cli.errors import PARTIAL
from tools.cli.kinds import NUMBER, PAIR, RATE
from tools.cli.options import output_options, vhost_option
from tools.cli.output import show
from tools.cli.progress import progress

PEEK_COLUMNS = ("offset", "state", "exchange", "routing_key", "redelivered", "payload_bytes", "payload")
BATCH = 200
SLEEP_S = 0.2
Pairs = tuple[tuple[str, str], ...]


def content_options(command: Any) -> Any:
    """`--header`, `--body`: which messages are meant."""
    command = click.option("--body", metavar="TEXT", help="Only those whose body has this in it.")(command)
    return click.option("--header", "headers", type=PAIR, multiple=True, help="Only those with this header.")(command)


def filter_options(command: Any) -> Any:
    """`--source`, `--reason`, and those of `content_options`."""
    command = content_options(command)
    for option in (
        click.option("--reason", type=click.Choice(("rejected", "expired", "maxlen", "delivery_limit"))),
        click.option("--source", metavar="QUEUE", help="Only those that died first in this queue."),
    ):
        command = option(command)
    return command


def meant_by(source: str | None, reason: str | None, headers: Pairs, body: str | None) -> dict[str, Any]:
    """The filter, as a request has it."""
    given = {"queue": source, "reason": reason, "body": body}
    found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if headers:
        found["headers"] = dict(headers)
    return found


def browse(client: Client, vhost: str, queue: str, start: int, meant: dict[str, Any], **more: Any) -> Iterator[Any]:
    """The messages of a queue, page after page."""
    query = {**meant, **more}
    if "headers" in query:
        query["headers"] = ",".join(f"{name}={value}" for name, value in query["headers"].items())
    onward: int | None = start
    while onward is not None:
        target = path("queues", vhost, queue, "browse") + "?" + urlencode({**query, "from": onward})
        page = client.request("GET", target)
        yield from page["items"]
        onward = page["next"]


def batch_size(rate: float, count: int, done: int) -> int:
    """How many a request may move: a tenth of a second's share, and of `count` what is not `done`; 0 is no bound."""
    batch = min(BATCH, max(int(rate / 10), 1)) if rate else BATCH
    return min(batch, count - done) if count else batch


def say_left(left: dict[str, int]) -> str:
    """How many stayed where they were, by reason, to be put behind how many did not."""
    return "".join(f", {many} left ({why})" for why, many in sorted(left.items()))


@click.command()
@click.argument("name")
@click.option("-n", "--count", default=10, show_default=True, type=NUMBER, help="How many to show; 0 is all.")
@click.option("--from", "start", default=0, type=NUMBER, help="The offset to begin with.")
@filter_options
@click.option("--retained", is_flag=True, help="What was delivered already and is kept (x-retain), instead.")
@vhost_option
@output_options
@click.pass_obj
def peek(
    client: Client, name: str, count: int, start: int, source: str | None, reason: str | None,
    headers: Pairs, body: str | None, retained: bool, vhost: str, wanted: str | None, columns: str | None,
) -> None:  # fmt: skip
    """Show messages without taking them: ready, unacknowledged, and what waits in the queue itself; or a topic's."""
    meant = meant_by(source, reason, headers, body) | ({"state": "retained"} if retained else {})
    found = browse(client, vhost, name, start, meant, count=min(count or 400, 400))
    shown = islice(found, count or None)
    first = list(islice(shown, 1))
    of_topic = ("partition",) if first and "partition" in first[0] else ()
    show(chain(first, shown), (*of_topic, *PEEK_COLUMNS), wanted, columns)


class Stop:
    """^C or SIGTERM end a command after the request that is under way, so that it is known what it has done."""

    def __init__(self) -> None:
        self.is_asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.is_asked = True

    def sleep_until(self, due_s: float) -> None:
        """Up to a time of `time.monotonic`, or until it is asked to stop."""
        while not self.is_asked and (left_s := due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, SLEEP_S))


@click.group()
def dlq() -> None:
    """Dead letters: where they came from, and sending them back."""


@dlq.command("ls")
@click.argument("name", required=False)
@vhost_option
@output_options
@click.pass_obj
def dlq_ls(client: Client, name: str | None, vhost: str, wanted: str | None, columns: str | None) -> None:
    """Group the dead letters in NAME by source, reason and age; or in every queue, and every topic that begins with
    one."""
    queues = (
        [client.request("GET", path("queues", vhost, name))] if name else client.request("GET", path("queues", vhost))
    )
    groups: dict[tuple[str, str, str, str], int] = {}
    with progress("counting", sum(row["messages"] for row in queues)) as advance:
        for row in queues:
            onward: int | None = 0
            seen = 0
            while onward is not None:
                target = path("queues", vhost, row["name"], "deaths") + "?" + urlencode({"from": onward})
                page = client.request("GET", target)
                for one in page["groups"]:
                    key = (row["name"], one["source"], one["reason"], one["age"])
                    groups[key] = groups.get(key, 0) + one["messages"]
                onward = page["next"]
                seen += page["seen"]
                advance(page["seen"])
                if not name and row["type"] == "stream" and seen and not page["groups"]:
                    break  # A topic of living records: nobody wants all of it looked at.
    rows = [
        {"queue": queue, "source": source, "reason": reason, "age": age, "messages": count}
        for (queue, source, reason, age), count in sorted(groups.items())
    ]
    show(rows, ("queue", "source", "reason", "age", "messages"), wanted, columns)


@dlq.command("replay")
@click.argument("name")
@click.option(
    "--to",
    type=click.Choice(("queue", "exchange")),
    default="queue",
    show_default=True,
    help="Into the queue of the first death, or through the exchange that it came from.",
)
@filter_options
@click.option("-n", "--count", default=0, type=NUMBER, help="At most so many; 0 is all.")
@click.option("--rate", default=0.0, type=RATE, help="Messages a second at most; 0 is as fast as can be.")
@vhost_option
@click.pass_obj
def dlq_replay(
    client: Client, name: str, to: str, source: str | None, reason: str | None, headers: Pairs,
    body: str | None, count: int, rate: float, vhost: str,
) -> None:  # fmt: skip
    """Send dead letters back to where they died first: those that are in NAME now, and not what dies meanwhile.

    Each is moved once; killed in between, just run it again. Stopped by ^C or a signal, it says how many were moved.
    """
    stop = Stop()
    meant = meant_by(source, reason, headers, body)
    total = client.request("GET", path("queues", vhost, name))["messages_ready"]
    left: dict[str, int] = {}
    moved = 0
    onward: int | None = 0
    until: int | None = None
    began = time.monotonic()
    try:
        with progress("replaying", total) as advance:
            while onward is not None and (not count or moved < count) and not stop.is_asked:
                asked = {**meant, "from": onward, "count": batch_size(rate, count, moved), "to": to}
                if until is not None:
                    asked["until"] = until
                answer = client.request("POST", path("queues", vhost, name, "replay"), asked)
                until = answer["until"]
                moved += answer["moved"]
                onward = answer["next"]
                for why, many in answer["left"].items():
                    left[why] = left.get(why, 0) + many
                advance(answer["moved"])
                if rate:
                    stop.sleep_until(began + moved / rate)
    finally:  # Also when the broker has gone away: nobody else knows.
        click.echo(f"replayed {moved} of {name}{say_left(left)}", err=True)
    if left or stop.is_asked:
        sys.exit(PARTIAL)
