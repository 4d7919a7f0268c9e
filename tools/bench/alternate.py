"""Alternate brokers through one scenario (A, B, A, B, ...), whatever protocol they speak.

Owns: the order of the runs, what becomes of a run that fails, and what a whole comparison came to. Emits records
(dicts, one per JSON line) as it goes. Must not know: how a run is measured.
"""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.bench.control import Broker
from tools.bench.frames import StreamError
from tools.bench.report import Measured, Row, row_of, sample_json
from tools.bench.window import RunFailed, Sample, Unavailable

Emit = Callable[[dict[str, Any]], None]
Note = Callable[[str], None]
CONGESTION = "reno"


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part: `ours` first, then the peer if there is one, then ours in another setting (not compared)."""

    ours: Broker
    theirs: Broker | None = None
    beside: Broker | None = None

    def brokers(self) -> list[Broker]:
        """In the order of their runs."""
        return [broker for broker in (self.ours, self.theirs, self.beside) if broker is not None]


@dataclass(slots=True)
class Outcome:
    """The rows that were measured, the scenarios that were not (with the reason), and the start-up goals."""

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    startup: dict[str, Any] | None = None

    @property
    def goals_met(self) -> bool:
        """Whether every goal that was compared is met and nothing failed."""
        found = [met for row in self.rows for met in row.verdicts.values()]
        found += list(self.startup["met"].values()) if self.startup is not None else []
        return not self.failed and all(found)

    def fail(self, name: str, reason: str, emit: Emit) -> None:
        """Record that a scenario has no figures, and why."""
        self.failed[name] = reason
        emit({"type": "failed", "scenario": name, "reason": reason})


def allow_many_sockets() -> int:
    """Raise the soft limit of open files to the hard one, for the brokers started here too. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def alternate(scenario: Measured, cast: Cast, rounds: int, run: Callable[[Broker], Sample], outcome: Outcome,
              emit: Emit, note: Note, *, warm_up: bool = False) -> None:  # fmt: skip
    """`rounds` runs of each broker in turn; the row, or why there is none, goes to `outcome`.

    With `warm_up` a round before counts for nothing: a broker that compiles itself while it runs needs it.
    """
    taken: dict[int, list[Sample]] = {id(broker): [] for broker in cast.brokers()}
    try:
        for number in range(0 if warm_up else 1, rounds + 1):
            for broker in cast.brokers():
                note(f"{scenario.name}: {f'round {number} of {rounds}' if number else 'warm-up'}, {broker.name}")
                sample = run(broker)
                if not number:
                    continue
                taken[id(broker)].append(sample)
                emit(sample_json(sample, number))
    except (RunFailed, Unavailable, StreamError, OSError) as error:
        outcome.fail(scenario.name, f"{type(error).__name__}: {error}", emit)
        return

    def of(broker: Broker | None) -> Sequence[Sample]:
        return () if broker is None else taken[id(broker)]

    row = row_of(scenario, of(cast.ours), of(cast.theirs), of(cast.beside))
    outcome.rows.append(row)
    emit(row.as_json())
