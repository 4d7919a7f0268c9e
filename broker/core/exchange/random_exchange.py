"""`x-random`: a publication goes to one binding picked at random (RabbitMQ's rabbitmq_random_exchange).

A destination bound twice is picked twice as often. The routing key plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication


class RandomRouter:
    """All bindings, and the answers prepared: one tuple a binding."""

    __slots__ = ("_answers", "_bindings", "_choose")

    type_name: ClassVar[str] = "x-random"
    cacheable: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._choose = choose
        self._bindings: dict[Any, Destination] = {}
        self._answers: list[tuple[Destination]] | None = None

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Any binding will do."""

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        self._bindings[binding.key] = binding.destination
        self._answers = None
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before."""
        del self._bindings[binding.key]
        self._answers = None

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """One destination; none if nothing is bound."""
        for answers in (self._answers, None):
            if answers is None:
                present = [(destination,) for destination in self._bindings.values() if not destination.deleted]
                answers = self._answers = present
            answer = answers[self._choose(len(answers))] if answers else ()
            if not (answer and answer[0].deleted):
                break  # Else it has gone since they were prepared.
        return answer
