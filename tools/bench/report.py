"""From samples to rows: medians with their spread, ratios per alternation, and whether the goals are met.

Owns: the arithmetic and the two renderings (a table for a terminal, JSON lines for a pipe). Pure but for `print_table`.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tools.bench.scenarios import IDLE_CPU_RATIO_MAX, Goal
from tools.bench.window import Sample


class Measured(Protocol):
    """What a row has to know of its scenario, whatever protocol that speaks."""

    @property
    def name(self) -> str:
        """As it is asked for on the command line."""

    @property
    def title(self) -> str:
        """In words."""

    @property
    def goal(self) -> Goal:
        """What is asked of the ratios."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several runs, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    def as_json(self, digits: int = 3) -> dict[str, float]:
        """Rounded, for a JSON line."""
        return {"median": round(self.median, digits), "min": round(self.low, digits), "max": round(self.high, digits)}


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median, lowest and highest; None when a value is missing or there is none."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) != len(values):
        return None
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Spread | None:
    """Ours over theirs, alternation by alternation: what drifts on the machine drifts for both. None without a pair."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} runs against {len(theirs)}")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b]
    return spread([a / b for a, b in pairs]) if pairs and len(pairs) == len(ours) else None


@dataclass(frozen=True, slots=True)
class Side:
    """One broker's figures in one scenario."""

    name: str
    rate: Spread
    cpu_us: Spread | None
    client_cpu_us: Spread
    p50_us: Spread | None
    p99_us: Spread | None
    extra: dict[str, Spread] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One object of a JSON line; figures that do not exist are left out."""
        figures = {"rate": self.rate, "cpu_us": self.cpu_us, "client_cpu_us": self.client_cpu_us,
                   "p50_us": self.p50_us, "p99_us": self.p99_us, **self.extra}  # fmt: skip
        return {"name": self.name, **{name: value.as_json() for name, value in figures.items() if value is not None}}


def side_of(samples: Sequence[Sample]) -> Side:
    """Summarise the runs of one broker. Raises StatisticsError without samples."""
    rate = spread([sample.rate for sample in samples])
    client = spread([sample.client_cpu_us for sample in samples])
    if rate is None or client is None:
        raise statistics.StatisticsError("no samples")
    extra = {name: spread([sample.extra[name] for sample in samples]) for name in samples[0].extra}
    return Side(
        samples[0].broker, rate, spread([sample.cpu_us for sample in samples]), client,
        spread([sample.p50_us for sample in samples]), spread([sample.p99_us for sample in samples]),
        {name: value for name, value in extra.items() if value is not None},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: both sides, the ratios, and each goal with whether it is met.

    `beside` is our broker in another setting, measured in the same alternations and not compared.
    """

    scenario: Measured
    ours: Side
    theirs: Side | None
    throughput: Spread | None
    cpu: Spread | None
    p99: Spread | None
    verdicts: dict[str, bool]
    beside: Side | None = None

    def as_json(self) -> dict[str, Any]:
        """The `summary` line of this scenario."""
        found = {"throughput_ratio": self.throughput, "cpu_ratio": self.cpu, "p99_ratio": self.p99}
        return {
            "type": "summary", "scenario": self.scenario.name, "title": self.scenario.title,
            "broker": self.ours.as_json(), "peer": self.theirs.as_json() if self.theirs is not None else None,
            **({"beside": self.beside.as_json()} if self.beside is not None else {}),
            **{name: value.as_json(4) for name, value in found.items() if value is not None}, "met": self.verdicts,
        }  # fmt: skip


def row_of(scenario: Measured, ours: Sequence[Sample], theirs: Sequence[Sample], beside: Sequence[Sample] = ()) -> Row:
    """Compare the alternations; `theirs` may be empty, then there are no ratios."""
    throughput = cpu = p99 = None
    if theirs:
        throughput = ratios([sample.rate for sample in ours], [sample.rate for sample in theirs])
        cpu = ratios([sample.cpu_us for sample in ours], [sample.cpu_us for sample in theirs])
        p99 = ratios([sample.p99_us for sample in ours], [sample.p99_us for sample in theirs])
    mine = side_of(ours)
    found = verdicts(scenario.goal, throughput, cpu, p99) | own_verdicts(scenario.goal, mine)
    p50 = ratios([sample.p50_us for sample in ours], [sample.p50_us for sample in theirs]) if theirs else None
    if scenario.goal.p50_max is not None and p50 is not None:
        found["p50"] = p50.median <= scenario.goal.p50_max
    if (idle := mine.extra.get("cpu_ratio_idle")) is not None:
        found["idle"] = idle.median <= IDLE_CPU_RATIO_MAX
    return Row(scenario, mine, side_of(theirs) if theirs else None, throughput, cpu, p99, found,
               side_of(beside) if beside else None)  # fmt: skip


def verdicts(goal: Goal, throughput: Spread | None, cpu: Spread | None, p99: Spread | None) -> dict[str, bool]:
    """For each goal that could be compared, whether the median ratio meets it."""
    found = {}
    if goal.throughput_min is not None and throughput is not None:
        found["throughput"] = throughput.median >= goal.throughput_min
    if goal.cpu_max is not None and cpu is not None:
        found["cpu"] = cpu.median <= goal.cpu_max
    if goal.p99_max is not None and p99 is not None:
        found["p99"] = p99.median <= goal.p99_max
    return found


def own_verdicts(goal: Goal, side: Side) -> dict[str, bool]:
    """For each goal that needs no peer, whether the median meets it."""
    found = {}
    if goal.rate_min is not None:
        found["rate"] = side.rate.median >= goal.rate_min
    if goal.p99_us_max is not None and side.p99_us is not None:
        found["p99_us"] = side.p99_us.median <= goal.p99_us_max
    return found


def sample_json(sample: Sample, round_number: int) -> dict[str, Any]:
    """The `sample` line of one run."""
    figures = {"cpu_us": sample.cpu_us, "p50_us": sample.p50_us, "p99_us": sample.p99_us, **sample.extra}
    return {
        "type": "sample", "scenario": sample.scenario, "broker": sample.broker, "round": round_number,
        "messages": sample.messages, "elapsed_s": round(sample.elapsed_s, 4), "rate": round(sample.rate, 1),
        "client_cpu_us": round(sample.client_cpu_us, 3),
        **{name: round(value, 3) for name, value in figures.items() if value is not None},
    }  # fmt: skip


def _figure(value: Spread | None, form: str) -> str:
    return "-" if value is None else f"{value.median:{form}}\n{value.low:{form}}..{value.high:{form}}"


def _ratio(value: Spread | None, sign: str, goal: float | None, met: bool | None) -> str:
    if value is None:
        return "-"
    wanted = "" if goal is None else f"\n{'met' if met else 'MISSED'} {sign}{goal:.3g}"
    return _figure(value, ".3g") + wanted


COLUMNS = ("scenario", "broker", "msg/s", "CPU µs/msg", "client µs/msg", "p50 µs", "p99 µs")


def _cells(name: str, side: Side) -> list[str]:
    cells = [name, side.name, _figure(side.rate, ",.0f"), _figure(side.cpu_us, ".2f")]
    cells += [f"{side.client_cpu_us.median:.2f}", _figure(side.p50_us, ",.0f"), _figure(side.p99_us, ",.0f")]
    cells[1] += "".join(f"\n{name} {_figure(value, ',.3g')}" for name, value in side.extra.items())
    return cells


def print_table(rows: Sequence[Row]) -> None:
    """Tables on stdout: median (lowest..highest); the ratio is ours over theirs, by alternation."""
    # Imported here: a bench that writes JSON lines does not need it.
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, title="median, min..max", show_lines=False)
    for row in rows:
        sides = [side for side in (row.ours, row.beside, row.theirs) if side is not None]
        for side in sides:
            table.add_row(*_cells(row.scenario.name if side is row.ours else "", side), end_section=side is sides[-1])
    console = Console()
    console.print(table)
    if not any(row.theirs for row in rows):
        return
    compared = Table("scenario", "throughput ratio", "CPU ratio", "p99 ratio", title="broker / peer")
    for row in rows:
        goal, met = row.scenario.goal, row.verdicts
        compared.add_row(
            row.scenario.name,
            _ratio(row.throughput, "≥", goal.throughput_min, met.get("throughput")),
            _ratio(row.cpu, "≤", goal.cpu_max, met.get("cpu")),
            _ratio(row.p99, "≤", goal.p99_max, met.get("p99")),
        )
    console.print(compared)
