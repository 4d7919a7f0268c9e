"""What options may be: numbers with bounds, and pairs of a name and a value."""

from __future__ import annotations

import math
from typing import Any

import click

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


RATE = _Rate(min=0)
PAIR = _Pair()
