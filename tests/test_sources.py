"""SOURCES.md and what the code cites are the same."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    path for top in ("broker", "protocol") for path in sorted((ROOT / top).rglob("*")) if path.suffix in (".py", ".md")
]
CITED = re.compile(
    r"\bKIP-\d+|\bRFC \d+"
    r"|\b\w+\.(?:erl|java|scala)\b"
    r"|\brabbit_(?:mgmt|auth)_\w+(?!\.erl|\w)"  # Modules of RabbitMQ's that are named without their file's suffix.
)
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| <(https://[^>]+)> \| ([^|]+) \|$")


def rows():
    """Of each row: (cited as, what it is, address, cited in)."""
    lines = (ROOT / "SOURCES.md").read_text().splitlines()
    listed = [line for line in lines if line.startswith("| `")]
    found = [match.groups() for line in listed if (match := ROW.match(line))]
    assert len(found) == len(listed), "a row has four columns: `cited as`, what it is, <address>, folders"
    return found


def folders_that_cite(word):
    """The folders with a file that has the word, as it is."""
    whole = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
    return sorted({str(path.parent.relative_to(ROOT)) for path in FILES if whole.search(path.read_text())})


def test_what_is_cited_is_listed():
    """Each proposal, RFC and source file that code or its READMEs name has a row."""
    listed = [word for word, *_ in rows()]
    assert len(listed) == len(set(listed)), "listed twice"
    cited = {word: path for path in FILES for word in CITED.findall(path.read_text())}
    assert {word: str(path) for word, path in cited.items() if word not in listed} == {}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_is_listed_is_cited(row):
    """By the folders of its last column and by no others."""
    word, _, _, folders = row
    assert folders.split(", ") == folders_that_cite(word)
