"""The arrows of import point one way, and what is to be pure is pure."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for top in ("protocol", "broker", "tools") for path in sorted((ROOT / top).rglob("*.py"))]
LAYERS = ("protocol", "broker", "tools")
"""Each may import from those before it."""
INSIDE_BROKER = ("log", "core", "server", "app")
FACES = ("amqp", "http", "kafka")
"""Packages of broker/server that know nothing of one another."""
IMPURE = {"trio", "socket", "ssl", "os", "time", "random", "threading", "asyncio", "select", "selectors", "subprocess",
          "pathlib", "tempfile"}  # fmt: skip


def imports(path):
    """The dotted names that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


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
