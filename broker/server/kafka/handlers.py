"""Which function answers which API. Modules of this package fill the table, each when one of its APIs is first asked
for: a start does not wait for them, and who uses some has no others in memory.

A handler takes (connection, slot, request) and returns the response, None when `slot.answer` comes later, NO_ANSWER,
or `Steps`: an answer that is made in slices, since a request may name 40,000 things and nobody else is to wait for it.
`each` and `each_partition` cut the work; whoever takes the steps runs the first one at once, so that what fits a slice
is answered as if there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from importlib import import_module
from typing import Any, TypeVar

from broker.core.scheduler import SLICE_UNITS

Steps = Generator[int, None, Any]
"""Yields the units of work since it did so last (`core.scheduler`); its value is what a handler returns."""
Handler = Callable[[Any, Any, Any], Any]
CHANGES: set[int] = set()
"""APIs that are done to the end although their peer is gone: half of what an administrator has asked for is nobody's
wish, and Kafka's controller does each in one step (`ReplicationControlManager.createTopics`)."""
_MODULES = {
    "acls": (29, 30, 31),
    "cluster": (22, 35, 43, 45, 46, 60, 61),
    "configs": (32, 33, 44, 74),
    "fetch": (1,),
    "group_admin": (9, 10, 15, 16, 42, 47),
    "groups": (8, 11, 12, 13, 14),
    "metadata": (2, 3, 18, 23, 75),
    "produce": (0,),
    "quorum": (55, 57),
    "sasl": (17, 36),
    "scram_admin": (50, 51),
    "single_node": (34, 48, 66),
    "topics": (19, 20, 21, 37),
}
SERVED = {api_key: module for module, keys in _MODULES.items() for api_key in keys}
"""The module that answers each API; what is not here is not served."""
_HANDLERS: dict[int, Handler] = {}
NO_ANSWER = object()
"""What a handler returns when the peer expects nothing (Produce with acks=0)."""
NEEDS_TURN = -1
"""Yielded before work of which only some may be under way at a time (`long_requests`)."""
AT_ONCE_UNITS = 2000
"""How far batches are looked into before that counts as long."""
NAME_UNITS = 1
"""What naming a topic costs, beside its partitions."""

H = TypeVar("H", bound=Handler)
T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")
A = TypeVar("A")


def handles(api_key: int, *, changes: bool = False) -> Callable[[H], H]:
    """The function answers this API; with `changes` it is among CHANGES."""

    def register(handler: H) -> H:
        assert api_key not in _HANDLERS
        assert f"{__package__}.{SERVED[api_key]}" == handler.__module__
        _HANDLERS[api_key] = handler
        if changes:
            CHANGES.add(api_key)
        return handler

    return register


def handler_of(api_key: int) -> Handler:
    """The function that answers an API which is served. The first use of its module imports that: 1 to 10 ms."""
    handler = _HANDLERS.get(api_key)
    if handler is None:
        import_module(f"{__package__}.{SERVED[api_key]}")
        handler = _HANDLERS[api_key]
    return handler


def each(items: Iterable[T], work: Callable[[T], R], units: int) -> Generator[int, None, list[R]]:
    """Do `work`, which costs about `units`, for each item; the value is the list of what it returned."""
    found = []
    spent = 0
    for item in items:
        if spent >= SLICE_UNITS:
            yield spent
            spent = 0
        found.append(work(item))
        spent += units
    return found


def each_partition(
    topics: Iterable[T],
    partitions: Callable[[T], Iterable[P]],
    work: Callable[[T, P], R],
    units: int,
    answer: Callable[[T, list[R]], A],
) -> Generator[int, None, list[A]]:
    """Do `work`, which costs about `units`, for each partition of each topic.

    The value is the list of what `answer` makes of each topic and of what `work` returned for its partitions.
    """
    found = []
    spent = 0
    for topic in topics:
        results: list[R] = []
        for one in partitions(topic):
            if spent >= SLICE_UNITS:
                yield spent
                spent = 0
            results.append(work(topic, one))
            spent += units
        found.append(answer(topic, results))
        spent += NAME_UNITS
        if spent >= SLICE_UNITS:
            yield spent
            spent = 0
    return found


def in_turn(steps: Generator[int, None, R]) -> Generator[int, None, tuple[R, int]]:
    """Look into a batch; the value is (what was found, units that were not yielded).

    What is more than AT_ONCE_UNITS has to wait for its turn: it may have a record of 64 MiB opened.
    """
    spent = 0
    is_long = False
    while True:
        try:
            spent += next(steps)
        except StopIteration as done:
            return done.value, spent
        if spent >= AT_ONCE_UNITS:
            yield spent if is_long else NEEDS_TURN
            is_long = True
            spent = 0
