"""Which replays of a queue there are, and how far each has come: so that a step that is asked for again, or a replay
that goes on after a kill, copies nothing twice.

What was reached is put into the catalog within the turn that made the copies, so it is in the same frame of the
journal: after a crash there are both or neither. A queue that no restart finds has its replays in memory. The latest
REPLAYS_MAX of a queue are known, finished ones among them: their last answer may have been lost. They go with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from broker.core import catalog

if TYPE_CHECKING:
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost

REPLAYS_MAX = 16


@dataclass(slots=True)
class Replay:
    """One replay: what was asked for (as its user wrote it), its range of offsets, and what has become of it so far."""

    asked: str
    start: int
    end: int
    next: int
    """Where it goes on; what is below it is done with."""
    copied: int = 0
    left: dict[str, int] = field(default_factory=dict)
    """What was not copied, by reason."""
    finished: bool = False


class Replays:
    """Those of a vhost's queues."""

    __slots__ = ("_home", "_of")

    def __init__(self, home: VHost) -> None:
        self._home = home
        self._of: dict[Queue, dict[str, Replay]] = {}

    def of(self, queue: Queue) -> dict[str, Replay]:
        """By id, the one that began first in front."""
        found = self._of.get(queue)
        if found is None:
            found = self._of[queue] = self._read(queue)
        return found

    def begin(self, queue: Queue, replay_id: str, replay: Replay) -> None:
        """One more; when there are too many one that is finished is forgotten, or else the oldest."""
        known = self.of(queue)
        if len(known) >= REPLAYS_MAX:
            del known[next((one for one, old in known.items() if old.finished), next(iter(known)))]
        known[replay_id] = replay
        self.reached(queue)

    def reached(self, queue: Queue) -> None:
        """Keep how far they are, with whatever else this turn has done."""
        if queue.kept:
            self._home.keep(catalog.replays_key(queue), catalog.replays_value(queue, self._rows(queue)))

    def forget(self, queue: Queue) -> None:
        """The queue is gone."""
        self._of.pop(queue, None)
        store = self._home.store
        if store is not None and queue.kept:
            key = catalog.replays_key(queue)
            if key in store.catalog:
                self._home.unkeep(key)

    def _rows(self, queue: Queue) -> dict[str, Any]:
        return {replay_id: asdict(one) for replay_id, one in self.of(queue).items()}

    def _read(self, queue: Queue) -> dict[str, Replay]:
        store = self._home.store
        if store is None or not queue.kept:
            return {}
        rows = catalog.read_replays(store.catalog, queue)
        return {replay_id: Replay(**row) for replay_id, row in rows.items()}
