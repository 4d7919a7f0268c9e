"""Configuration text to a tree of items that remember their file and line: YAML, JSON, `--set KEY=VALUE`, and merging.

Owns the limits on what a file may make us build. Knows nothing of which keys exist.

Invariants: no tag is ever constructed; an alias costs what it expands to; depth is counted before descending (libyaml's
own composer recurses until the C stack ends); a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from broker.config.interpolate import interpolate, is_utf8
from broker.errors import ConfigError

FILE_BYTES_MAX = 64 * 1024 * 1024
"""A definitions file of 100,000 queues is about 20 MB."""
ITEMS_MAX = 4_000_000
"""Items of one file, aliases counted at what they expand to ("billion laughs")."""
DEPTH_MAX = 64
"""The deepest native key lies at 7; the rest is for nested arguments."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}(?:[eE][-+]?[0-9]{1,2})?")
_MERGED_LISTS = ("bindings",)
"""Lists that two files may both add to; any other list is replaced as a whole."""


class Item:
    """One value with its origin. `text` is a plain scalar as it was written, so that a string key can take `4.0`."""

    __slots__ = ("file", "line", "text", "value")

    def __init__(self, value: Any, file: str, line: int = 0, text: str | None = None) -> None:
        self.value: Any = value  # dict[str, Item], list[Item], str, int, float, bool or None
        self.file = file
        self.line = line
        self.text = text

    @property
    def where(self) -> str:
        """`file:line`, or the file alone where no line is known (JSON, --set)."""
        return f"{self.file}:{self.line}" if self.line else self.file


def where(root: Item, path: Iterable[str]) -> str:
    """`file:line` of the deepest key of the path that is written anywhere."""
    item = root
    for name in path:
        below: Any = item.value
        if isinstance(below, dict) and name in below:
            item = below[name]
        elif isinstance(below, list) and name.isdigit() and int(name) < len(below):
            item = below[int(name)]
        else:
            break
    return item.where


def is_written(root: Item, path: Iterable[str]) -> bool:
    """Whether this key stands in the files, whatever its value."""
    item = root
    for name in path:
        if not isinstance(item.value, dict) or name not in item.value:
            return False
        item = item.value[name]
    return True


def plain(item: Item) -> Any:
    """The bare values of a tree."""
    value = item.value
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


def resolve(text: str) -> str | int | float | bool | None:
    """A plain scalar by the YAML 1.2 core rules, narrowed: booleans are `true` and `false` only, integers decimal."""
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def merge(below: Item, above: Item) -> Item:
    """Both trees in one: mappings by key, bindings appended, anything else from `above`. Neither is changed."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return below if above.value is None else above
    merged: dict[str, Item] = dict(below.value)
    for key, item in above.value.items():
        there = merged.get(key)
        if there is None:
            merged[key] = item
        elif key in _MERGED_LISTS and isinstance(there.value, list) and isinstance(item.value, list):
            merged[key] = Item(there.value + item.value, there.file, there.line)
        else:
            merged[key] = merge(there, item)
    return Item(merged, below.file, below.line)


# YAML.


class _Builder:
    """Items from libyaml's events. Each step returns (item, items it expands to, height)."""

    __slots__ = ("anchors", "environ", "errors", "file", "loader")

    def __init__(self, loader: Any, file: str, environ: Mapping[str, str], errors: list[str]) -> None:
        self.loader = loader
        self.file = file
        self.environ = environ
        self.errors = errors
        self.anchors: dict[str, tuple[Item, int, int]] = {}

    def fail(self, event: Any, text: str) -> ConfigError:
        return ConfigError(f"{self.file}:{event.start_mark.line + 1}: {text}")

    def build(self, event: Any, depth: int) -> tuple[Item, int, int]:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self.alias(event, depth)
        if getattr(event, "tag", None) is not None:
            raise self.fail(event, "YAML tags are not supported")
        if kind == "ScalarEvent":
            built = self.scalar(event), 1, 1
        elif depth >= DEPTH_MAX:
            raise self.fail(event, f"nested deeper than {DEPTH_MAX} levels")
        elif kind == "MappingStartEvent":
            built = self.mapping(event, depth)
        else:
            built = self.sequence(event, depth)
        if built[1] > ITEMS_MAX:
            raise self.fail(event, f"more than {ITEMS_MAX} values, aliases expanded")
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = built
        return built

    def alias(self, event: Any, depth: int) -> tuple[Item, int, int]:
        """The anchor is known only after its value has ended, so no value can contain itself."""
        built = self.anchors.get(event.anchor)
        if built is None:
            raise self.fail(event, f"no such anchor: '{event.anchor}'")
        if depth + built[2] > DEPTH_MAX:
            raise self.fail(event, f"nested deeper than {DEPTH_MAX} levels")
        item, size, height = built
        return Item(item.value, self.file, event.start_mark.line + 1, item.text), size, height

    def scalar(self, event: Any) -> Item:
        line = event.start_mark.line + 1
        text = event.value
        try:
            text = interpolate(text, self.environ)
        except ValueError as error:
            self.errors.append(f"{self.file}:{line}: {error}")
        if event.style:  # Quoted or a block: a string whatever it looks like.
            return Item(text, self.file, line)
        return Item(resolve(text), self.file, line, text)

    def sequence(self, event: Any, depth: int) -> tuple[Item, int, int]:
        items: list[Item] = []
        size, height = 1, 0
        while type(entry := self.loader.get_event()).__name__ != "SequenceEndEvent":
            item, item_size, item_height = self.build(entry, depth + 1)
            items.append(item)
            size += item_size
            height = max(height, item_height)
        return Item(items, self.file, event.start_mark.line + 1), size, height + 1

    def mapping(self, event: Any, depth: int) -> tuple[Item, int, int]:
        items: dict[str, Item] = {}
        size, height = 1, 0
        while type(key := self.loader.get_event()).__name__ != "MappingEndEvent":
            if type(key).__name__ != "ScalarEvent" or key.tag is not None:
                raise self.fail(key, "a key must be a plain or quoted string")
            name = key.value
            if name == "<<" and not key.style:
                raise self.fail(key, "merge keys (<<) are not supported")
            if name in items:
                raise self.fail(key, f"the key '{name}' is given twice, first in line {items[name].line}")
            item, item_size, item_height = self.build(self.loader.get_event(), depth + 1)
            # The line of the key, since that is where one looks.
            items[name] = Item(item.value, self.file, key.start_mark.line + 1, item.text)
            size += item_size
            height = max(height, item_height)
        return Item(items, self.file, event.start_mark.line + 1), size, height + 1


def parse_yaml(text: str, file: str, environ: Mapping[str, str], errors: list[str]) -> Item:
    """The tree of a one-document YAML text; unset variables go to `errors`, anything else raises ConfigError."""
    import yaml  # Only where a file is given: 20 ms of start-up.

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        builder = _Builder(loader, file, environ, errors)
        loader.get_event()
        if type(loader.get_event()).__name__ == "StreamEndEvent":
            return Item({}, file)
        root = builder.build(loader.get_event(), 0)[0]
        loader.get_event()
        if type(loader.get_event()).__name__ != "StreamEndEvent":
            raise ConfigError(f"{file}: more than one YAML document")
        return root
    except yaml.YAMLError as error:
        raise ConfigError(_yaml_error(error, file)) from None
    finally:
        loader.dispose()


def _yaml_error(error: Any, file: str) -> str:
    """File, line and problem; never a snippet, which could be a password's line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = f"{file}:{mark.line + 1}" if mark is not None else file
    return f"{place}: not YAML: {getattr(error, 'problem', None) or 'unreadable character'}"


# JSON.


def parse_json(text: str, file: str) -> Item:
    """The tree of a JSON text. Nothing is interpolated: an export says what it means. Lines are not known."""
    import json

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(entries)
        if len(values) != len(entries):
            names = [name for name, _ in entries]
            raise ConfigError(f"{file}: the key '{next(n for n in names if names.count(n) > 1)}' is given twice")
        return values

    try:
        return from_values(json.loads(text, object_pairs_hook=pairs), file)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: not JSON: {error.msg}") from None
    except ValueError:
        raise ConfigError(f"{file}: a number too long to be one") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested deeper than {DEPTH_MAX} levels") from None


def from_values(value: Any, file: str, depth: int = 0) -> Item:
    """Items of bare values. Raises ConfigError past DEPTH_MAX."""
    if depth > DEPTH_MAX:
        raise ConfigError(f"{file}: nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, dict):
        if not all(map(is_utf8, value)):
            raise ConfigError(f"{file}: a key that is not Unicode text")
        return Item({key: from_values(entry, file, depth + 1) for key, entry in value.items()}, file)
    if isinstance(value, list):
        return Item([from_values(entry, file, depth + 1) for entry in value], file)
    if isinstance(value, str) and not is_utf8(value):
        raise ConfigError(f"{file}: a string that is not Unicode text")
    return Item(value, file)


# --set.

_SEGMENT = re.compile(r'(?:"(?P<quoted>[^"]*)"|(?P<bare>[^".=]+))(?P<end>[.=]|$)')


def parse_set(assignment: str, environ: Mapping[str, str], errors: list[str]) -> Item:
    """The tree of `a.b.c=VALUE`. A name that holds a dot is quoted: `users."a.b".tags=[management]`.

    The value is a plain scalar, or flow YAML in `[...]` or `{...}`. Errors never show it: it may be a secret.
    """
    if not is_utf8(assignment):
        raise ConfigError("--set: not UTF-8")
    path: list[str] = []
    position = 0
    end = "."
    while end == ".":
        match = _SEGMENT.match(assignment, position)
        if match is None:
            break
        path.append(match["quoted"] if match["quoted"] is not None else match["bare"].strip())
        end, position = match["end"], match.end()
    if end != "=" or not all(path):
        shown = assignment.partition("=")[0]
        raise ConfigError(f"--set {shown}: expected KEY=VALUE, such as listeners.amqp=127.0.0.1:5672")
    label = "--set " + ".".join(path)
    text = assignment[position:]
    if (text[:1], text[-1:]) in (("[", "]"), ("{", "}")):
        item = parse_yaml(text, label, environ, errors)
    else:
        try:
            text = interpolate(text, environ)
        except ValueError as error:
            errors.append(f"{label}: {error}")
        item = Item(resolve(text), label, text=text)
    for name in reversed(path):
        item = Item({name: item}, label)
    return item


def overlay(trees: Iterable[Item]) -> Item:
    """All trees in one, later ones above. Raises ConfigError for a tree that is not a mapping."""
    result = Item({}, "")
    for tree in trees:
        if tree.value is not None and not isinstance(tree.value, dict):
            raise ConfigError(f"{tree.where}: expected a mapping of sections")
        result = merge(result, tree)
    return result
