"""The bindings of what is deleted: they go with it, in slices when they are many.

A queue, stream or exchange that is deleted is gone at once, for everybody and from the catalog: routes leave it out
(`Destination.deleted`). The proposal of its deletion has what follows from it: its bindings, the auto-delete exchanges
that lose their last one, and so on, as far as DROPPED_AT_ONCE bindings go. What is left goes in slices, each a proposal
of its own. Until then its name is *leaving*: nothing else gets it, and who has deleted it waits for the answer. So
whatever has that name later has bindings of its own only, also after a crash in between: the next start finds bindings
to or from what is not in the catalog, and drops them, with the auto-delete exchanges that had no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from broker.core.metadata import Change, Guard, Proposal, at_once
from broker.errors import Locked

if TYPE_CHECKING:
    from broker.core.exchange.base import Binding, Destination
    from broker.core.exchange.exchange import Exchange
    from broker.core.vhosts.proposing import Proposing
    from broker.core.vhosts.vhost import VHost

DROPPED_AT_ONCE = 100
DROP_UNITS = 10
"""What it costs to drop one binding, for the scheduler."""


def deleted_together(
    home: Proposing, end: Destination | None, bindings: Iterable[Binding]
) -> tuple[list[Change], list[Guard]]:
    """What is deleted with `end`, itself included, or else with these bindings, but for those that are gone already:
    as changes, and what has to hold still for them. Nothing is touched."""
    changes: list[Change] = []
    guards: list[Guard] = []
    left = DROPPED_AT_ONCE
    taken: set[Binding] = set()
    lost: dict[Exchange, int] = {}
    pending: list[Destination] = []
    ended = {end}
    exchanges, change_of = home.exchanges, home.binding_change
    while True:
        for binding in bindings:
            source = exchanges.get(binding.source) or home.source_of(binding.source)
            if source is None or source.bindings.get(binding.key) is not binding or binding in taken:
                continue
            taken.add(binding)
            changes.append(change_of(source, binding.destination, binding.routing_key, binding.arguments, gone=True))
            if source.auto_delete and not source.deleted and source not in ended:
                lost[source] = lost.get(source, 0) + 1
                if lost[source] == len(source.bindings):
                    ended.add(source)
                    pending.append(source)
            left -= 1
            if left <= 0:
                break
        if end is not None:  # Behind its bindings: those that are left when it is deleted go later.
            change, held = home.ending(end)
            changes.append(change)
            guards += held
        if not pending:
            return changes, guards
        end = pending.pop()
        bindings = home.bindings_of(end) if left > 0 else ()


class _Leaving:
    """Something that is deleted and still has bindings."""

    __slots__ = ("end", "waiting")

    def __init__(self, end: Destination) -> None:
        self.end = end
        self.waiting: list[Callable[[], None]] = []


class Unbinding:
    """What is deleted in one vhost and still has bindings."""

    __slots__ = ("_home", "_leaving")

    def __init__(self, home: VHost) -> None:
        self._home = home
        self._leaving: dict[tuple[str, str], _Leaving] = {}  # By kind and name.

    def leave(self, end: Destination) -> None:
        """It has been deleted: bindings that it still has go."""
        if self._home.has_bindings(end):
            leaving = self._leaving[end.kind, end.name] = _Leaving(end)
            self._home.scheduler.add_job(self._run(leaving))

    def is_leaving(self, kind: str, name: str) -> bool:
        """Whether something of this name (a "queue", streams included, or an "exchange") still has bindings."""
        return (kind, name) in self._leaving

    def leaving(self, kind: str, name: str) -> Destination | None:
        """What of this name is deleted and still has bindings."""
        found = self._leaving.get((kind, name))
        return found.end if found is not None else None

    def wait(self, kind: str, name: str, call: Callable[[], None]) -> bool:
        """Call back when nothing of this name is left; False if nothing is now."""
        found = self._leaving.get((kind, name))
        if found is None:
            return False
        found.waiting.append(call)
        return True

    def check(self, kind: str, name: str) -> None:
        """Raises Refused 405 while the name is leaving."""
        if (kind, name) in self._leaving:
            text = f"{kind} '{name}' in vhost '{self._home.name}' is being deleted, and still has bindings"
            raise Locked(text)

    def _run(self, leaving: _Leaving) -> Iterator[int]:
        """The bindings of what is leaving, in slices."""
        home, end = self._home, leaving.end
        left = list(home.bindings_of(end))  # It gets no more of them. They are freed in slices, too.
        while left:
            some = left[-DROPPED_AT_ONCE:]
            at_once(home.metadata, self._propose, some)
            del left[-DROPPED_AT_ONCE:]
            if left:
                yield DROPPED_AT_ONCE * DROP_UNITS
        for call in self._leaving.pop((end.kind, end.name)).waiting:
            call()

    def _propose(self, bindings: Sequence[Binding]) -> Proposal[None]:
        changes, guards = deleted_together(self._home, None, bindings)
        return Proposal(changes, guards, None)
