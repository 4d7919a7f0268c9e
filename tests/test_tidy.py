"""Sizes and manners of the source, held by a test instead of by memory."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for top in ("protocol", "broker", "tools") for path in sorted((ROOT / top).rglob("*.py"))]
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
LONGER_FUNCTIONS = {
    "broker/server/amqp/publish.py:publish_run": "one straight line; a call a message costs a tenth",
    "protocol/kafka/walk.py:_regular": "one straight line; a call a number doubles the cost",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    """At most 450 lines a file, and 60 a function or a reason in the list above."""
    name = str(path.relative_to(ROOT))
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and f"{name}:{node.name}" not in LONGER_FUNCTIONS:
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hot_modules_state_their_budget(path):
    """A module that says `Hot path.` first also says what it may cost, in µs, and which benchmark holds it."""
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    if doc.startswith("Hot path."):
        assert re.search(r"Budget:.*µs", doc)
        assert "jackalope bench" in doc


def test_nothing_unfinished_is_left_behind():
    """No marks of unfinished work, and no path of one machine, in what git tracks."""
    marks = "|".join(["TO" + "DO", "FIX" + "ME", "Not" + "ImplementedError"])
    found = subprocess.run(
        ["git", "grep", "-nE", marks, "--", "protocol", "broker", "tools"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout == ""


def test_markdown_has_one_title():
    """One level-one heading a page."""
    for path in ROOT.rglob("*.md"):
        if any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts):
            continue
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1, path
