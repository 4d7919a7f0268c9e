"""What `limits`, `expiry` and `at_least_once`, which enforce a queue's rules, may ask of that queue.

These modules count, take, settle and release messages at the queue's store. From the queue itself they learn its rules,
and they have it serve its consumers, or drop messages that have to die. `core.queues.queue.Queue` is a `Host`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from broker.core.message import Message
from broker.core.queues.effective_policy import Rules
from broker.core.queues.queue_store import QueueStore
from broker.core.scheduler import Dispatchable, Scheduler

Letter = tuple[int, Message, str]
"""A dead letter: (offset, message, reason of its death)."""
Tried = Callable[[Sequence[Letter], Sequence[Letter]], None]
"""Told of dead letters that were tried: (all, those that could not go)."""


class Waiting(Protocol):
    """The dead letters that wait in a queue: they count towards its limits."""

    body_bytes: int

    def __len__(self) -> int:
        """How many they are."""
        ...


class Host(Dispatchable, Protocol):
    """A queue with rules."""

    store: QueueStore
    rules: Rules
    scheduler: Scheduler
    deleted: bool
    returning_count: int
    """How many returns are in progress; until they are complete nobody knows which message comes first."""
    has_expirations: bool
    """Whether a message with an expiration of its own has ever come in."""

    @property
    def at_least_once(self) -> Waiting | None:
        """The dead letters that wait in the queue; None if none ever did."""
        ...

    @property
    def place(self) -> str:
        """Name and vhost of the queue, in words for an operator."""
        ...

    @property
    def deaths_max(self) -> int:
        """How many messages may die in one step."""
        ...

    @property
    def death_units(self) -> int:
        """What the death of one message costs, in the scheduler's units."""
        ...

    def serve(self) -> None:
        """Let waiting consumers take what they can, now."""

    def wake(self) -> None:
        """Something is ready again."""

    def drop(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """Leased messages die: they are settled, and go to the dead letter exchange if there is one."""

    def offer(self, letters: Sequence[Letter], tried: Tried, blocked: set[object]) -> None:
        """Dead letters, not settled yet, go where they can: see `DeadLetters.add_at_least_once`."""
