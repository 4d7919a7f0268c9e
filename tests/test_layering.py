"""The arrows of import point one way, and what is to be pure is pure."""

import ast
from pathlib import Path

import pytest

from tools.dev.imports import (
    RUN_TIME,
    START,
    TYPES,
    arrows,
    backwards,
    between,
    circles,
    folder_of,
    house,
    imported_names,
    inside,
    layers,
)

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for top in ("protocol", "broker", "tools") for path in sorted((ROOT / top).rglob("*.py"))]
LAYERS = ("protocol", "broker", "tools")
"""Each may import from those before it."""
INSIDE_BROKER = ("log", "core", "server", "app")
FACES = ("amqp", "http", "kafka")
"""Packages of broker/server that know nothing of one another."""
IMPURE = {"trio", "socket", "ssl", "os", "time", "random", "threading", "asyncio", "select", "selectors", "subprocess",
          "pathlib", "tempfile"}  # fmt: skip


DEFENDED = {
    "broker.core.access": "an access list is a part of the access that it is read into",
    "broker.core.queues.limits": "whoever hands out for a queue that has limits tells them what went",
    "broker.core.streams.reading": "a stream and its readings know each other, as a queue and its consumers do",
    "broker.core.streams.stream": "the other half of that",
    "broker.core.streams.streams": "a vhost's asking half declares what its applying half brings along",
    "broker.core.topics.broker_config": "the asking half of topics names what its applying half brings along",
    "broker.core.topics.partition": "rates look at the partitions that are counted",
    "broker.core.topics.registry": "queues that are read as topics are a part of the topics of a vhost",
    "broker.core.vhosts.policies": "the catalog writes policies, which are found among what it has read",
    "broker.core.vhosts.proposing": "the bindings of what is deleted are looked up in the vhost that it was in",
    "broker.core.vhosts.vhost": "its parts are handed the vhost, which makes them",
    "broker.log.log": "a log writes itself into the list of those that changed",
    "broker.server.amqp.channel": "its parts are handed the channel, which calls them",
    "broker.server.amqp.connection": "its parts, its channels and the hub are handed the connection",
    "broker.server.amqp.delivery": "timeouts look at the consumers that a channel made",
    "broker.server.amqp.hub": "a connection is made with the hub in which it enters itself",
    "broker.server.amqp.reply_to": "the hub keeps addresses of direct replies that channels make",
    "broker.server.groups": "members that live here are a part of the groups of a vhost",
    "broker.server.kafka.connection": "its parts, its slots and the hub are handed the connection",
    "broker.server.kafka.fetch": "fetches wait in what is owed, which they ask",
    "broker.server.kafka.hub": "a connection is made with the hub in which it enters itself",
    "broker.server.kafka.slot": "handlers are handed the slot that the connection made for their answer",
    "broker.server.poller": "a pump enters itself in the poller that drives it",
}
"""What is named below TYPE_CHECKING by modules that it imports itself, directly or not, and why that has to be so."""


def imports(path):
    """The dotted names that a file imports, at any depth of its code."""
    return {name for name, _ in imported_names(ast.parse(path.read_text()))}


def test_no_circle_at_run_time():
    """Nobody imports, at the start or later, who imports him: each module can be read with those below it."""
    assert circles(pair for pair, kind in arrows().items() if kind in RUN_TIME) == []


def test_the_house_is_read_in_order():
    """Each folder imports at run time only from those before it in the table of broker/README.md."""
    order = house()
    assert len(order) > 10
    found = inside(arrows(), "broker")
    counts = between(
        (pair for pair, kind in found.items() if kind in RUN_TIME), lambda module: folder_of(module, ["broker", *order])
    )
    assert backwards(counts, order) == {}


def test_circles_of_types_are_defended():
    """A circle that closes below TYPE_CHECKING leads to a module of DEFENDED; no reason there is left over."""
    found = arrows()
    rounds = [set(circle) for circle in circles(found)]
    closing = {
        (source, target)
        for (source, target), kind in found.items()
        if kind == TYPES and any(source in one and target in one for one in rounds)
    }
    assert sorted((source, target) for source, target in closing if target not in DEFENDED) == []
    assert DEFENDED.keys() - {target for _, target in closing} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    """tools -> broker -> protocol; in the broker app -> server -> core -> log; the faces never import one another."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for name in imports(path):
        target = name.split(".")
        if target[0] in LAYERS:
            assert LAYERS.index(target[0]) <= LAYERS.index(parts[0]), f"{name} is above"
        if parts[0] == "broker" and target[0] == "broker" and len(target) > 1:
            if parts[1] in INSIDE_BROKER and target[1] in INSIDE_BROKER:
                assert INSIDE_BROKER.index(target[1]) <= INSIDE_BROKER.index(parts[1]), f"{name} is above"
            if parts[1] == target[1] == "server" and parts[2] in FACES and target[2] in FACES:
                assert parts[2] == target[2], f"{name} is another face"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_layers_import_nothing_impure(path):
    """protocol and broker/core have no sockets, files, clocks, randomness or awaits: those are handed in."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "protocol" or parts[:2] == ("broker", "core"):
        impure = {name.split(".")[0] for name in imports(path)} & IMPURE
        assert not impure
        assert "async def" not in path.read_text()


def test_the_purity_test_can_fail(tmp_path):
    """An import inside a function is found too."""
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from time import time\n")
    assert imports(file) == {"time.time"}


def test_kinds_of_imports():
    """What is imported for types, and what only when a function runs, is told from what is imported at the start."""
    code = """
import a
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import b
else:
    import c
try:
    import d
except ImportError:
    def f():
        import e
"""
    kinds = dict(imported_names(ast.parse(code)))
    assert kinds == {"a": START, "typing.TYPE_CHECKING": START, "b": TYPES, "c": START, "d": START, "e": "late"}
    with pytest.raises(ValueError, match="line 1: a relative import"):
        list(imported_names(ast.parse("from . import x")))


def test_circles_and_layers():
    """A circle is found whole, and is one layer."""
    pairs = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("e", "d")]
    assert circles(pairs) == [["b", "c"]]
    assert circles(pair for pair in pairs if pair != ("c", "b")) == []
    assert layers("abcdef", pairs) == [["d", "f"], ["b", "c", "e"], ["a"]]
