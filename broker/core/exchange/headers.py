"""`headers`: a publication goes where a binding's arguments match its headers (spec 3.1.3.4, RabbitMQ's extensions).

| `x-match` | matches when | arguments named `x-...` |
|---|---|---|
| `all`, absent | every argument is met, so one without arguments always does | ignored |
| `any` | at least one is met, so one without arguments never does | ignored |
| `all-with-x`, `any-with-x` | the same | count, but for `x-match` itself |

An argument without value (void) is met by the presence of the header; any other by an equal value: 5 equals 5.0 and
5 of another width, but neither `'5'` nor true; text and bytes are equal when their bytes are (RabbitMQ, observed).

Bindings are indexed by one of their arguments (`any`: by each), so that a publication is compared with those bindings
only that share a header with it. The routing key plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from broker.core.arguments import type_name
from broker.core.exchange.base import Binding, Choose, Destination, Message, Publication
from broker.errors import Refused
from protocol.amqp.errors import PRECONDITION_FAILED

MODES = ("all", "any", "all-with-x", "any-with-x")
SHOWN_MAX = 64
"""Characters of a refused value that the error repeats; a reply-text ends at 255 bytes."""

_PRESENT = ("present",)  # A tuple of one: no canonical value looks like it.
_TRUE, _FALSE = ("bool", True), ("bool", False)

_Condition = tuple[str, Any]
"""(header, its canonical value or _PRESENT)."""


def _canonical(value: Any) -> Any:
    """A hashable stand-in; two values of headers are equal in RabbitMQ's sense when their stand-ins are."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return ("array", tuple(map(_canonical, value)))
    if isinstance(value, Mapping):
        return ("table", tuple(sorted((name, _canonical(item)) for name, item in value.items())))
    if isinstance(value, Decimal):
        return ("decimal", value.as_tuple())  # RabbitMQ compares scale and digits: 1.0 is not 1.00.
    return value


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'<<"{value[:SHOWN_MAX]}">>'
    if value is None or isinstance(value, bool):
        return {None: "undefined", True: "true", False: "false"}[value]
    return str(value)[:SHOWN_MAX]


class _Rule:
    """One binding, compiled."""

    __slots__ = ("conditions", "destination", "indexed", "match_any", "sequence")

    def __init__(self, binding: Binding, sequence: int) -> None:
        mode = binding.arguments.get("x-match", "all")
        with_x = mode.endswith("-with-x")
        self.sequence = sequence
        self.destination = binding.destination
        self.match_any = mode.startswith("any")
        self.conditions: tuple[_Condition, ...] = tuple(
            (name, _PRESENT if value is None else _canonical(value))
            for name, value in binding.arguments.items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        )
        self.indexed: tuple[_Condition, ...] = ()

    def matches(self, headers: Mapping[str, Any]) -> bool:
        """Whether every condition holds. `headers` are canonical."""
        for name, value in self.conditions:
            if name not in headers or (value is not _PRESENT and headers[name] != value):
                return False
        return True


class HeadersRouter:
    """Rules by binding, and an index from conditions to rules."""

    __slots__ = ("_always", "_index", "_rules", "_sequence")

    type_name: ClassVar[str] = "headers"
    cacheable: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any], choose: Choose) -> None:
        self._rules: dict[Any, _Rule] = {}
        self._index: dict[_Condition, dict[_Rule, None]] = {}
        self._always: dict[_Rule, None] = {}  # `all` without conditions.
        self._sequence = 0

    def check_binding(self, routing_key: str, arguments: Mapping[str, Any]) -> None:
        """Raises Refused(406) for an `x-match` that is none of the four."""
        if "x-match" not in arguments:
            return
        mode = arguments["x-match"]
        if not isinstance(mode, str):
            raise Refused(
                PRECONDITION_FAILED,
                f"Invalid x-match field type {type_name(mode)} (value {_shown(mode)}); expected longstr",
            )
        if mode not in MODES:
            raise Refused(
                PRECONDITION_FAILED,
                f"Invalid x-match field value {_shown(mode)}; expected all, any, all-with-x, or any-with-x",
            )

    def add(self, binding: Binding) -> Sequence[Message]:
        """Add a binding; nothing is delivered at once."""
        self._sequence += 1
        rule = self._rules[binding.key] = _Rule(binding, self._sequence)
        if rule.match_any:
            rule.indexed = rule.conditions
        elif rule.conditions:
            # The condition that fewest others are filed under: in {format: pdf, customer: 17} that soon is customer.
            rule.indexed = (min(rule.conditions, key=lambda condition: len(self._index.get(condition, ()))),)
        else:
            self._always[rule] = None
        for condition in rule.indexed:
            self._index.setdefault(condition, {})[rule] = None
        return ()

    def remove(self, binding: Binding) -> None:
        """Remove a binding that was added before."""
        rule = self._rules.pop(binding.key)
        self._always.pop(rule, None)
        for condition in rule.indexed:
            filed = self._index[condition]
            del filed[rule]
            if not filed:
                del self._index[condition]

    def route(self, publication: Publication) -> tuple[Destination, ...]:
        """The destinations of every rule that the headers meet. Raises PeerError (502) for malformed headers."""
        if not self._index:
            return tuple(dict.fromkeys([rule.destination for rule in self._always]))
        headers = {name: _canonical(value) for name, value in publication.headers.items()}
        matched = dict(self._always)
        for name, value in headers.items():
            for condition in ((name, value), (name, _PRESENT)):
                for rule in self._index.get(condition, ()):
                    if rule.match_any or rule.matches(headers):
                        matched[rule] = None
        return tuple(dict.fromkeys([rule.destination for rule in sorted(matched, key=_sequence_of)]))


def _sequence_of(rule: _Rule) -> int:
    return rule.sequence
