"""`log dump`: what stands in the files of a data directory, beside a running broker or without one."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from broker.core.catalog import ACL, ASIDE, KIND_NAMES, REPLAYS, Unreadable, place_of, read_catalog, read_kind
from broker.core.message import KeyedOrigin, Message, origin_names, unpack_keys
from broker.core.queues.records import read
from broker.log.dump import Damage, Found, FoundBatch, FoundEntry, dump, files_of, is_segment
from broker.log.verify import torn_end, verify
from protocol.amqp import content as wire
from protocol.kafka.compression import open_batch
from protocol.kafka.records import COMPRESSION, CorruptBatch
from tools.cli.kinds import NUMBER
from tools.cli.options import output_options
from tools.cli.output import show

KINDS = ("entries", "batches", "records", "catalog")
COLUMNS = {
    "entries": ("file", "position", "entry", "log", "says"),
    "batches": ("file", "position", "log", "offset", "records", "octets", "epoch", "timestamp_ms"),
    "records": ("log", "offset", "exchange", "routing_key", "persistent", "octets", "body"),
    "catalog": ("kind", "name", "known", "arguments"),
}
SHOWN_OCTETS = 60
PARTIAL, NOT_FOUND = 3, 4


@click.group()
def log() -> None:
    """The files of storage."""


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(octets).decode()


def _entry(found: FoundEntry) -> dict[str, Any]:
    value = found.value
    named = found.kind not in ("begin", "put", "delete", "settle each", "clean", "end", "start")
    says = value[1:] if named else value
    return {
        "file": found.file.name,
        "position": found.position,
        "entry": found.kind,
        "log": value[0] if named else None,
        "says": " ".join(_text(one)[:SHOWN_OCTETS] if isinstance(one, bytes) else str(one)[:200] for one in says),
    }


def _batch(found: FoundBatch) -> dict[str, Any]:
    header = found.header
    return {
        "file": found.file.name,
        "position": found.position,
        "log": found.log if found.log is not None else found.file.parent.name,
        "offset": header.base_offset,
        "records": header.records,
        "octets": header.size,
        "epoch": header.leader_epoch,
        "timestamp_ms": header.base_timestamp_ms,
    }


def _records(found: FoundBatch, *, whole: bool) -> Iterator[dict[str, Any]]:
    log_name = found.log if found.log is not None else found.file.parent.name
    header = found.header
    messages = _messages(found)
    if messages is None:
        yield from _as_kafka_shows_it(found, log_name, whole=whole)
        return
    for offset, (origin, content) in enumerate(messages, header.base_offset):
        exchange, routing_key = origin_names(origin)
        body = wire.body(content)
        properties = wire.parse_properties(wire.header_payload(content))
        yield {
            "log": log_name,
            "offset": offset,
            "exchange": exchange,
            "routing_key": routing_key,
            "further_keys": unpack_keys(origin.keys) if isinstance(origin, KeyedOrigin) else None,
            "persistent": properties.get("delivery-mode") == 2,
            "properties": {name: _text(one) if isinstance(one, bytes) else one for name, one in properties.items()},
            "octets": len(body),
            "body": _text(body if whole else body[:SHOWN_OCTETS]),
        }


def _as_kafka_shows_it(found: FoundBatch, log_name: int | str, *, whole: bool) -> Iterator[dict[str, Any]]:
    try:
        for record in open_batch(found.data, found.at, found.header):
            body = record.value or b""
            shown = {
                "key": _text(record.key or b""),
                "octets": len(body),
                "body": _text(body[: None if whole else SHOWN_OCTETS]),
            }
            yield {"log": log_name, "offset": record.offset, **shown}
    except CorruptBatch as error:  # A producer's mistake, which nobody has opened yet.
        yield {"log": log_name, "offset": found.header.base_offset, "body": f"({error})"}


def _messages(found: FoundBatch) -> list[Message] | None:
    """The messages of a queue's batch; None for a topic's."""
    if found.header.attributes & COMPRESSION:
        return None
    try:
        return read(found.data, found.at, found.header)
    except CorruptBatch:
        return None


def _catalog(everything: Iterator[Found], unreadable: list[str]) -> Iterator[dict[str, Any]]:
    """What the journal leaves of it; what cannot be read is named in `unreadable`."""
    catalog: dict[bytes, bytes] = {}
    for found in everything:
        if isinstance(found, FoundEntry) and found.kind == "put":
            catalog[found.value[0]] = found.value[1]
        elif isinstance(found, FoundEntry) and found.kind == "delete":
            catalog.pop(found.value[0], None)
    for entry in chain(read_catalog(catalog), read_kind(catalog, ACL), read_kind(catalog, REPLAYS)):
        if isinstance(entry, Unreadable):
            unreadable.append(f"{place_of(entry.key)}: {entry.why}")
            continue
        yield {"kind": KIND_NAMES[entry.kind], "name": " ".join(entry.names),
               "known": {name: _shown(one) for name, one in entry.known.items()},
               "arguments": entry.arguments}  # fmt: skip
    for key in catalog:
        if key[:1] == ASIDE:
            yield {"kind": "left aside", "name": place_of(key[1:])}


def _shown(value: Any) -> Any:
    """Numbers that were packed, as numbers (`topics.registry`)."""
    if not isinstance(value, bytes):
        return value
    return [int.from_bytes(value[at : at + 8], "big") for at in range(0, len(value), 8)]


@log.command("verify")
@click.argument("directory", type=click.Path(path_type=Path))
def verify_command(directory: Path) -> None:
    """Read all of a data directory and list every damage; beside a running broker or without one. Changes nothing.

    Exit: 0 all of it is whole, 3 something is damaged, 4 not found.
    """
    files = files_of(directory) if directory.is_dir() else []
    if not files:
        click.echo(f"jackalope: {directory} is no data directory, or has nothing in it", err=True)
        sys.exit(NOT_FOUND)
    try:
        found = verify(directory)
    except OSError as error:
        click.echo(f"jackalope: {error.filename or directory}: {error.strerror}", err=True)
        sys.exit(PARTIAL)
    damaged = [one for one in found if not torn_end(directory, one)]
    for one in found:
        text = f"{one.file} at {one.position}: {one.what}"
        click.echo(f"damaged: {text}" if one in damaged else f"torn end, cut by the next start: {text}", err=True)
    if damaged:
        sys.exit(PARTIAL)
    click.echo(f"ok: {len(files)} {'file is' if len(files) == 1 else 'files are'} whole", err=True)


@log.command("dump")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(KINDS), help="Default: records of a segment, entries of anything else.")
@click.option("--log", "number", help="Only of this log: its number, or its uuid for segments.")
@click.option("--from", "start", default=0, type=NUMBER, help="Only from this offset on (batches, records).")
@click.option("--limit", default=0, type=NUMBER, help="At most so many rows; 0 is all.")
@click.option("--body", "whole", is_flag=True, help="Whole bodies instead of their first octets.")
@output_options
def dump_command(
    paths: tuple[Path, ...], kind: str | None, number: str | None, start: int, limit: int, whole: bool,
    wanted: str | None, columns: str | None,
) -> None:  # fmt: skip
    """Show what stands in PATHS: data directories, journals, checkpoints or segments. Changes and locks nothing.

    Exit: 0 all of it is whole, 3 something is damaged (said on stderr; the torn end of a journal too), 4 not found.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        click.echo(f"jackalope: {missing[0]} is not there", err=True)
        sys.exit(NOT_FOUND)
    files = [file for path in paths for file in files_of(path)]
    if not files:
        click.echo(f"jackalope: {paths[0]} is no data directory, and has no files of one", err=True)
        sys.exit(NOT_FOUND)
    kind = kind or ("records" if all(map(is_segment, files)) else "entries")
    damaged: list[Damage] = []
    unreadable: list[str] = []

    def everything() -> Iterator[Found]:
        for file in files:
            for found in dump(file):
                if isinstance(found, Damage):
                    damaged.append(found)
                else:
                    yield found

    rows = (
        _catalog(everything(), unreadable)
        if kind == "catalog"
        else _rows(everything(), kind, number, start, whole=whole)
    )
    show(islice(rows, limit) if limit else rows, COLUMNS[kind], wanted, columns)
    for one in damaged:
        click.echo(f"damaged: {one.file} at {one.position}: {one.what}", err=True)
    for text in unreadable:
        click.echo(f"unreadable: {text}", err=True)
    if damaged or unreadable:
        sys.exit(PARTIAL)


def _rows(
    everything: Iterator[Found], kind: str, number: str | None, start: int, *, whole: bool
) -> Iterator[dict[str, Any]]:
    for found in everything:
        if isinstance(found, FoundEntry):
            row = _entry(found)
            if kind == "entries" and number in (None, str(row["log"])):
                yield row
        elif isinstance(found, FoundBatch) and kind != "entries":
            row = _batch(found)
            if number in (None, str(row["log"])) and found.header.next_offset > start:
                if kind == "batches":
                    yield row
                else:
                    yield from (one for one in _records(found, whole=whole) if one["offset"] >= start)
