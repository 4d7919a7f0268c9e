"""What options may be: numbers with bounds, and pairs of a name and a value."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from broker.core.intervals import place_of

NUMBER = click.IntRange(0, (1 << 63) - 1)
"""A count or an offset."""


class _Rate(click.FloatRange):
    """A number of messages a second; click lets NaN and infinity through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a rate.", param, ctx)
        return number


class _Pair(click.ParamType):  # type: ignore[type-arg]  # Generic only in the newest click.
    """NAME=VALUE."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, equals, rest = value.partition("=")
        if not name or not equals:
            self.fail(f"'{value}' is not NAME=VALUE.", param, ctx)
        return name, rest


class _Name(click.ParamType):  # type: ignore[type-arg]  # As above.
    """Of something that the broker holds."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("a name is empty.", param, ctx)
        return value


class _Place(click.ParamType):  # type: ignore[type-arg]  # As above.
    """Where in a queue or partition: the broker reads it, here it is only seen whether it can be one."""

    name = "place"

    def __init__(self, also: str, more: str = "") -> None:
        """`also` is a pattern of what is neither an offset nor a time, `more` says it in words."""
        self._also = re.compile(also)
        self._more = more

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value or not self._also.fullmatch(value):
            try:
                place_of(value, 0)
            except ValueError as error:
                self.fail(f"{error}{self._more}.", param, ctx)
        return value


RATE = _Rate(min=0)
PAIR = _Pair()
NAME = _Name()
PARTITION = click.IntRange(0, (1 << 31) - 1)
MOMENT = _Place("")
PLACE = _Place("earliest|latest", ", nor earliest or latest")
PLACE_OR_SHIFT = _Place("earliest|latest|[+-][0-9]{1,18}", ", nor earliest, latest, +N or -N")
