"""`jackalope bench`: the command line of the benchmark.

Owns: options, and what goes to stdout (a table on a terminal, JSON lines in a pipe) and to stderr (notes). The load
itself is imported by the command, so that the main command line can mount this group cheaply.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tools.bench.scenarios import SCENARIOS, STARTUP

if TYPE_CHECKING:
    from tools.bench.alternate import Emit, Note, Outcome
    from tools.bench.control import Broker
    from tools.bench.report import Measured

EXIT_FAILED, EXIT_PARTIAL, EXIT_REFUSED, EXIT_CANNOT_CONNECT = 1, 3, 5, 6
QUICK_ROUNDS, QUICK_SECONDS, QUICK_STARTS = 1, 1.0, 3


@click.group()
def bench() -> None:
    """Measure brokers."""


def _listing(scenarios: "Iterable[Measured]") -> None:
    for name, title in [*((row.name, row.title) for row in scenarios),
                        (STARTUP, "exec to ready line, resident memory")]:  # fmt: skip
        click.echo(f"{name:26} {title}" if sys.stdout.isatty() else json.dumps({"scenario": name, "title": title}))


def _emit_json(record: dict[str, Any]) -> None:
    click.echo(json.dumps(record))


def _emit_nothing(_record: dict[str, Any]) -> None:
    """On a terminal the table at the end says it all."""


def _note(text: str) -> None:
    click.echo(text, err=True)


def _check_names(names: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no such scenario: {', '.join(unknown)} (see --list)")


def _check_urls(parse: "Callable[[str], Broker]", own_names: Sequence[str], *brokers: str) -> None:
    for url in brokers:
        if url not in own_names:
            try:
                parse(url)
            except ValueError as error:
                raise click.UsageError(str(error)) from None


def _alternation(own: str, url: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of a command that alternates two brokers: `own` is the control, `url` how others are named."""
    options = [
        click.option("--scenario", "names", multiple=True, metavar="NAME", help="Run this one; may be repeated."),
        click.option("--list", "list_only", is_flag=True, help="List the scenarios. All are run by default."),
        click.option("--broker", default="jackalope", show_default=True, metavar=f"jackalope|{own}|{url}"),
        click.option("--peer", default=own, show_default=True, metavar=f"{own}|jackalope|{url}|none"),
        click.option("--broker-pid", type=int, help=f"Main process of a --broker {url}, to count its CPU."),
        click.option("--peer-pid", type=int, help=f"Main process of a --peer {url}, to count its CPU."),
        click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50),
                     help="Alternations per scenario."),
        click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.2, 120),
                     help="Window of a run."),
        click.option("--quick", is_flag=True, help="One round of one second: shows that it works, not how fast it is."),
        click.option("--check", is_flag=True, help="Exit 1 when a goal is missed."),
        click.option("--serve-option", "serve_arguments", multiple=True, metavar="WORD",
                     help="A word for `jackalope serve`."),
    ]  # fmt: skip

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _sizes(rounds: int, seconds: float, quick: bool) -> dict[str, Any]:
    if quick:
        return {"rounds": QUICK_ROUNDS, "seconds": QUICK_SECONDS, "starts": QUICK_STARTS}
    return {"rounds": rounds, "seconds": seconds}


def _run(context: click.Context, compare: "Callable[[Emit, Note], Outcome]", check: bool) -> None:
    """Compare, print what came of it, and exit with what that means."""
    from tools.bench.control import BrokerStartError
    from tools.bench.processes import Busy, only_one, orderly_end
    from tools.bench.report import print_table

    terminal = sys.stdout.isatty()
    try:
        with only_one(), orderly_end():
            outcome = compare(_emit_nothing if terminal else _emit_json, _note)
    except BrokerStartError as error:
        _note(f"bench: {error}")
        context.exit(EXIT_CANNOT_CONNECT)
    except Busy as error:
        _note(f"bench: {error}")
        context.exit(EXIT_REFUSED)
    if terminal and outcome.rows:
        print_table(outcome.rows)
    if terminal and outcome.startup is not None:
        click.echo(json.dumps(outcome.startup, indent=2))
    for name, reason in outcome.failed.items():
        _note(f"bench: {name}: {reason}")
    if outcome.failed:
        context.exit(EXIT_PARTIAL if outcome.rows or outcome.startup else EXIT_FAILED)
    if check and not outcome.goals_met:
        context.exit(EXIT_FAILED)


@bench.command()
@_alternation("rabbitmq", "URL")
@click.pass_context
def amqp(context: click.Context, /, names: tuple[str, ...], list_only: bool, broker: str, peer: str,
         rounds: int, seconds: float, quick: bool, check: bool, **rest: Any) -> None:  # fmt: skip
    """Alternate two AMQP brokers through scenarios; print medians with their spread, and ratios."""
    if list_only:
        _listing(SCENARIOS.values())
        return
    known = (*SCENARIOS, STARTUP)
    _check_names(names, known)
    from tools.bench.amqp import Options, compare, parse_url

    _check_urls(parse_url, ("jackalope", "rabbitmq", "none"), broker, peer)
    options = Options(names or known, broker, peer, **_sizes(rounds, seconds, quick), **rest)
    _run(context, partial(compare, options), check)


@bench.command()
@_alternation("kafka", "kafka://HOST:PORT")
@click.pass_context
def kafka(context: click.Context, /, names: tuple[str, ...], list_only: bool, broker: str, peer: str,
          rounds: int, seconds: float, quick: bool, check: bool, **rest: Any) -> None:  # fmt: skip
    """Alternate two Kafka brokers through scenarios, with librdkafka as the load."""
    from tools.bench.kafka_scenarios import KAFKA_SCENARIOS

    if list_only:
        _listing(KAFKA_SCENARIOS.values())
        return
    known = (*KAFKA_SCENARIOS, STARTUP)
    _check_names(names, known)
    from tools.bench.kafka import KafkaOptions, compare, parse_address

    _check_urls(parse_address, ("jackalope", "kafka", "none"), broker, peer)
    options = KafkaOptions(names or known, broker, peer, **_sizes(rounds, seconds, quick), **rest, warm_up=not quick)
    _run(context, partial(compare, options), check)


@bench.command()
def log() -> None:
    """What storage costs without sockets, beside the budgets that its modules state; and the disk's own sync."""
    from tools.bench.log_bench import measure

    terminal = sys.stdout.isatty()
    for figure in measure():
        if terminal:
            budget = "" if figure.budget_us is None else f"  budget {figure.budget_us:g}"
            click.echo(f"{figure.name:36} {figure.us:12.3f} us{budget}")
        else:
            click.echo(json.dumps(figure.as_json()))


@bench.command("kafka-codec")
def kafka_codec() -> None:
    """What Kafka's messages cost to read and to write, beside the codec's budgets (and beside kio, where there is)."""
    from tools.bench.kafka_codec import measure

    for figure in measure():
        if sys.stdout.isatty():
            beside = "" if figure.kio_us is None else f"  kio {figure.kio_us:9.2f} ({figure.kio_us / figure.us:.2f}x)"
            click.echo(f"{figure.name:36} {figure.us:9.2f} us  budget {figure.budget_us:5g}{beside}")
        else:
            click.echo(json.dumps(figure.as_json()))


@bench.command()
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Of each run.")
def compression(seconds: float) -> None:
    """What a topic's compression.type saves on JSON events that AMQP publishes into it, at several rates."""
    from tools.bench.compression import measure
    from tools.bench.processes import orderly_end

    terminal = sys.stdout.isatty()
    with orderly_end():
        for row in measure(seconds):
            if terminal:
                rate = f"{row.rate} /s" if row.rate else f"{row.per_second:.0f} /s (all)"
                click.echo(f"{row.kind:10} {rate:>16} {row.octets:8.1f} octets for {row.plain:.0f}  "
                           f"{row.ratio:5.2f}x  {row.per_batch:6.1f} per batch  {row.cpu_us:7.1f} us CPU")  # fmt: skip
            else:
                click.echo(json.dumps(row.as_json()))


@bench.command()
@click.option("--messages", default=1_000_000, show_default=True, type=click.IntRange(1000, 100_000_000),
              help="Of 1 kB, in one durable queue.")  # fmt: skip
@click.option("--queues", default=10_000, show_default=True, type=click.IntRange(1, 100_000), help="Durable, one each.")
@click.option("--partitions", default=10_000, show_default=True, type=click.IntRange(1, 20_000), help="Of topics.")
@click.option("--check", is_flag=True, help="Exit 1 when a goal is missed.")
@click.pass_context
def backlog(context: click.Context, messages: int, queues: int, partitions: int, check: bool) -> None:
    """A backlog on disk, many queues, many partitions: how fast, in how much memory, how soon again after kill -9."""
    from tools.bench.backlog import measure
    from tools.bench.processes import orderly_end

    terminal = sys.stdout.isatty()
    missed = False
    with orderly_end():
        for figure in measure(messages, queues, partitions):
            missed |= figure.met is False
            if terminal:
                bound = "at least" if figure.at_least else "at most"
                goal = "" if figure.limit is None else f"  {bound} {figure.limit:g}"
                click.echo(f"{figure.name:36} {figure.value:14,.1f} {figure.unit}{goal}")
            else:
                click.echo(json.dumps(figure.as_json()))
    if check and missed:
        context.exit(EXIT_FAILED)


@bench.command()
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.001, 1.0),
              help="Of the consumers, queues, bindings and channels.")  # fmt: skip
@click.option("--check", is_flag=True, help="Exit 1 when somebody waited for longer than the goal.")
@click.pass_context
def bystander(context: click.Context, scale: float, check: bool) -> None:
    """How long somebody who publishes and gets waits at most beside requests and peers that mean much work."""
    from tools.bench.bystander import GOAL_MS, measure
    from tools.bench.processes import orderly_end

    terminal = sys.stdout.isatty()
    missed = False
    with orderly_end():
        for row in measure(scale):
            missed |= not row.met
            if terminal:
                click.echo(f"{row.name:52} worst {row.worst_ms:8.1f} ms  while made {row.making_ms:8.1f} ms  "
                           f"{row.rounds:6} rounds  at most {GOAL_MS:g}")  # fmt: skip
            else:
                click.echo(json.dumps(row.as_json()))
    if check and missed:
        context.exit(EXIT_FAILED)


@bench.command()
@click.option(
    "--pairs", default=8, show_default=True, type=click.IntRange(1, 100), help="Starts beside an import each."
)
@click.option("--check", is_flag=True, help="Exit 1 when a goal is missed.")
@click.pass_context
def start(context: click.Context, pairs: int, check: bool) -> None:
    """Exec to ready line, beside an import of the libraries that the broker is made of; memory when idle."""
    from tools.bench.processes import orderly_end
    from tools.bench.startup import measure_beside_libraries

    with orderly_end():
        found = measure_beside_libraries(pairs)
    click.echo(json.dumps(found, indent=2 if sys.stdout.isatty() else None))
    if check and not all(found["met"].values()):
        context.exit(EXIT_FAILED)
