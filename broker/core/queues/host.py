"""What may be asked of a queue by those who keep it to its rules: `limits`, `expiry` and `at_least_once`.

Messages they count, take, settle and give back at the queue's store; of the queue itself they want to know what it was
told, and they let it hand out what it has, or drop what has to die. `core.queues.queue.Queue` is a `Host`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from broker.core.message import Message
from broker.core.scheduler import Dispatchable, Scheduler

if TYPE_CHECKING:
    from broker.core.queues.at_least_once import AtLeastOnce, Letter, Tried
    from broker.core.queues.effective_policy import Rules
    from broker.core.queues.queue_store import QueueStore


class Host(Dispatchable, Protocol):
    """A queue with rules."""

    store: QueueStore
    rules: Rules
    scheduler: Scheduler
    deleted: bool
    held: int
    """Returns in progress: what comes first is known when they are complete."""
    has_expirations: bool
    """Whether a message with an expiration of its own has ever come in."""
    at_least_once: AtLeastOnce | None
    """Its dead letters that wait, if any ever did."""

    @property
    def place(self) -> str:
        """What it is, for an operator."""
        ...

    @property
    def deaths_max(self) -> int:
        """How many messages are to die in one step."""
        ...

    @property
    def death_units(self) -> int:
        """What the death of one costs, for the scheduler."""
        ...

    def serve(self) -> None:
        """Let waiting consumers take what they can, now."""

    def wake(self) -> None:
        """Something is ready again."""

    def drop(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """Leased messages die: they are settled, and go to the dead letter exchange if there is one."""

    def offer(self, letters: Sequence[Letter], tried: Tried, blocked: set[object]) -> None:
        """Dead letters, not settled yet, go where they can: see `DeadLetters.add_at_least_once`."""
