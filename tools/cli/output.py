"""How rows are shown: a table on a terminal, JSON lines in a pipe, or what `--format` says. Data goes to stdout."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

RICH_ROWS_MAX = 500
FORMATS = ("table", "json", "jsonl", "csv")
DOCUMENT_FORMATS = ("table", "json", "jsonl")


def chosen_format(wanted: str | None) -> str:
    """`wanted`, or what fits the output."""
    return wanted or ("table" if sys.stdout.isatty() else "jsonl")


def column(row: Mapping[str, Any], name: str) -> Any:
    """A column by name; `a.b` reaches into a nested object."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


Row = Mapping[str, Any]


def show(rows: Iterable[Row], columns: Sequence[str], wanted: str | None, chosen: str | None = None) -> None:
    """Write the rows: `columns`, or those that were `chosen` (comma-separated; without them JSON shows everything).

    Raises click.UsageError for a column that no row has.
    """
    kind = chosen_format(wanted)
    if chosen is not None:
        columns = tuple(one.strip() for one in chosen.split(",") if one.strip())
        rows = _checked(rows, columns)
    if kind == "jsonl":
        for row in rows:  # As they come: there may be many.
            print(json.dumps({name: column(row, name) for name in columns} if chosen else dict(row)))
        return
    rows = list(rows)
    if kind == "json":
        full = [{name: column(row, name) for name in columns} if chosen else dict(row) for row in rows]
        print(json.dumps(full, indent=2))
        return
    cells = [[_cell(column(row, name)) for name in columns] for row in rows]
    if kind == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(cells)
        return
    if not cells:
        print("none", file=sys.stderr)
        return
    _table(columns, [[printable(cell) for cell in line] for line in cells])


def document_option(command: Any) -> Any:
    """`--format`, of what is no list."""
    return click.option(
        "--format", "wanted", type=click.Choice(DOCUMENT_FORMATS), help="Default: table, or jsonl in a pipe."
    )(command)


def show_document(
    document: Mapping[str, Any], wanted: str | None, sections: Callable[[Mapping[str, Any]], None]
) -> None:
    """One thing with parts: `sections` writes it for people, JSON has all of it (a line, or indented with "json")."""
    kind = chosen_format(wanted)
    if kind == "table":
        sections(document)
    else:
        print(json.dumps(document, indent=2 if kind == "json" else None))


def show_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, a line each; a name that is empty goes on with the one before."""
    lines = [(name, printable(value)) for name, value in pairs]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        print(f"{name.ljust(width)}  {value}")


def show_section(title: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A table under a title; nothing where there are no rows."""
    if rows:
        print(f"\n{title}", flush=True)
        _table(columns, [[printable(_cell(column(row, name))) for name in columns] for row in rows])


def _checked(rows: Iterable[Row], columns: Sequence[str]) -> Iterable[Row]:
    """The rows, the first of which has to know the columns."""
    for index, row in enumerate(rows):
        unknown = [name for name in columns if name.partition(".")[0] not in row] if not index else []
        if unknown:
            raise click.UsageError(f"no column '{unknown[0]}'; there are {', '.join(sorted(row))}")
        yield row


def _table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    if len(cells) > RICH_ROWS_MAX:
        # Rich measures and wraps every cell: a second for each thousand rows.
        widths = [max(map(len, one)) for one in zip(columns, *cells, strict=True)]
        for line in (columns, *cells):
            print(" ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console  # Imported only where a table is shown: it costs 50 ms.
    from rich.table import Column, Table
    from rich.text import Text

    # Folded, not cut off: a narrow terminal shows a name in two lines rather than half of it.
    headers = (Column(name, overflow="fold") for name in columns)
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for line in cells:
        # As text, never as markup: names come from whoever may declare a queue.
        table.add_row(*map(Text, line))
    Console(highlight=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (Mapping, list)):
        return json.dumps(value) if value else ""
    return str(value)


def printable(text: str) -> str:
    """Without control characters, which could drive the terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
