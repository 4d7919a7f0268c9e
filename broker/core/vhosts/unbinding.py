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


class Following:
    """What is deleted together, as changes: collected, and nothing is touched. `guards` say that what goes is still
    there then, and that no exchange has got bindings which are not part of this."""

    __slots__ = ("_ended", "_home", "_left", "_lost", "_pending", "_taken", "changes", "guards")

    def __init__(self, home: Proposing) -> None:
        self.changes: list[Change] = []
        self.guards: list[Guard] = []
        self._home = home
        self._left = DROPPED_AT_ONCE
        self._taken: set[Binding] = set()
        self._lost: dict[Exchange, int] = {}
        self._pending: list[Destination] = []
        self._ended: set[Destination] = set()

    def end(self, end: Destination) -> None:
        """It is deleted."""
        self._ended.add(end)
        self._pending.append(end)
        self._follow()

    def unbind(self, bindings: Sequence[Binding]) -> None:
        """These bindings are deleted, but for those that are gone already."""
        self._unbind(bindings)
        self._follow()

    def _follow(self) -> None:
        home = self._home
        while self._pending:
            end = self._pending.pop()
            # Its bindings stand before itself: those that are left when it is deleted go later.
            if self._left > 0 and home.has_bindings(end):
                self._unbind(home.bindings_of(end))
            change, guards = home.ending(end)
            self.changes.append(change)
            self.guards += guards

    def _unbind(self, bindings: Iterable[Binding]) -> None:
        home, taken, ended = self._home, self._taken, self._ended
        exchanges, append, change_of = home.exchanges, self.changes.append, home.binding_change
        for binding in bindings:
            source = exchanges.get(binding.source) or home.source_of(binding.source)
            if source is None or source.bindings.get(binding.key) is not binding or binding in taken:
                continue
            taken.add(binding)
            append(change_of(source, binding.destination, binding.routing_key, binding.arguments, gone=True))
            if source.auto_delete and not source.deleted and source not in ended:
                lost = self._lost[source] = self._lost.get(source, 0) + 1
                if lost == len(source.bindings):
                    ended.add(source)
                    self._pending.append(source)
            self._left -= 1
            if self._left <= 0:
                break


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
        following = Following(self._home)
        following.unbind(bindings)
        return Proposal(following.changes, following.guards, None)
