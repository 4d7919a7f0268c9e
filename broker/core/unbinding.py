"""The bindings of what is deleted: they go with it, in slices when they are many.

A queue, stream or exchange that is deleted is gone at once, for everybody and from the catalog: routes leave it out
(`Destination.deleted`). What is left of its bindings goes in slices, and with them the auto-delete exchanges that lose
their last one. Until then its name is *leaving*: nothing else gets it, and who has deleted it waits for the answer. So
whatever has that name later has bindings of its own only, also after a crash in between: the next start finds bindings
to or from what is not in the catalog, and drops them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from broker.core.exchange.exchange import Exchange
from broker.errors import Refused
from protocol.amqp.errors import RESOURCE_LOCKED

if TYPE_CHECKING:
    from broker.core.exchange.base import Binding, Destination
    from broker.core.vhost import VHost

DROPPED_AT_ONCE = 100
DROP_UNITS = 10
"""What it costs to drop one binding, for the scheduler."""


class Unbinding:
    """What is deleted in one vhost and still has bindings."""

    __slots__ = ("_home", "_leaving")

    def __init__(self, home: VHost) -> None:
        self._home = home
        self._leaving: dict[tuple[str, str], list[Callable[[], None]]] = {}  # (kind, name) -> who waits.

    def leave(self, end: Destination) -> None:
        """It has been deleted: its bindings go."""
        job = self._run(end)
        if next(job, None) is not None:
            self._home.scheduler.add_job(job)

    def is_leaving(self, kind: str, name: str) -> bool:
        """Whether something of this name (a "queue", streams included, or an "exchange") still has bindings."""
        return (kind, name) in self._leaving

    def wait(self, kind: str, name: str, call: Callable[[], None]) -> bool:
        """Call back when nothing of this name is left; False if nothing is now."""
        waiting = self._leaving.get((kind, name))
        if waiting is None:
            return False
        waiting.append(call)
        return True

    def check(self, kind: str, name: str) -> None:
        """Raises Refused 405 while the name is leaving."""
        if (kind, name) in self._leaving:
            text = f"{kind} '{name}' in vhost '{self._home.name}' is being deleted, and still has bindings"
            raise Refused(RESOURCE_LOCKED, text)

    def _run(self, end: Destination) -> Iterator[int]:
        """Everything that goes with `end`; pauses only if that is much."""
        home = self._home
        ends = [end]
        left = DROPPED_AT_ONCE
        while ends:
            end = ends.pop()
            place = ("exchange" if isinstance(end, Exchange) else "queue", end.name)
            # Taken out of lists one by one: what is dropped is freed in slices, too.
            away, here = list(end.bindings.values()) if isinstance(end, Exchange) else [], home.take_inbound(end)
            while away or here:
                if not left:
                    self._leaving.setdefault(place, [])
                    yield DROPPED_AT_ONCE * DROP_UNITS
                    left = DROPPED_AT_ONCE
                left -= 1
                if away:
                    self._drop(end, away.pop())
                    continue
                binding = here.pop()
                source = home.exchanges.get(binding.source)
                # One that is not there is leaving as well, and takes its bindings along.
                if source is not None and self._drop(source, binding) and home.end_unused(source):
                    ends.append(source)
                    self._leaving[("exchange", source.name)] = []  # From now on, not when its turn comes.
            for call in self._leaving.pop(place, ()):
                call()

    def _drop(self, source: Destination, binding: Binding) -> bool:
        """Returns whether it was there: somebody else may have been faster."""
        assert isinstance(source, Exchange)
        is_there = source.bindings.get(binding.key) is binding
        if is_there:
            self._home.forget_binding(source, binding)
        return is_there
