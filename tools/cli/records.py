"""`topic produce` and `topic consume`: records in from arguments or lines, out as rows, lines or any shape."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import click

from tools.cli.client import Client, path
from tools.cli.errors import FAILED, NOT_FOUND, PARTIAL, ApiError
from tools.cli.kinds import NAME, NUMBER, PAIR, PARTITION, PLACE
from tools.cli.options import vhost_option
from tools.cli.output import FORMATS, chosen_format, printable, show
from tools.cli.progress import progress

BATCH_RECORDS, BATCH_BYTES = 500, 256 << 10
PAGE = 1000
READ_BYTES = 64 << 10
LINE_BYTES_MAX = 16 << 20
MERGED_MAX = 64
"""Topics of more partitions are read one partition after the other, not in the order of time."""
POLL_S = 0.25
COLUMNS = ("partition", "offset", "time", "key", "value", "headers")
FOLLOWED = "%p:%o %t %k %v"
Record = dict[str, Any]
Pairs = tuple[tuple[str, str], ...]


# In.


def _field(record: Record, name: str, octets: bytes) -> None:
    """Put octets into a record: as text where they are, else as base64."""
    try:
        record[name] = octets.decode()
    except UnicodeDecodeError:
        record[name] = base64.b64encode(octets).decode()
        record[f"{name}_encoding"] = "base64"


def _lines() -> Iterator[bytes | None]:
    """The lines of stdin without their ends, and None whenever there are no more for now."""
    rest = b""
    descriptor = sys.stdin.fileno()
    while octets := os.read(descriptor, READ_BYTES):
        *lines, rest = (rest + octets).split(b"\n") if b"\n" in octets else (rest + octets,)
        if len(rest) > LINE_BYTES_MAX:
            raise click.ClickException(f"a line is longer than {LINE_BYTES_MAX} bytes")
        yield from lines
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
    if rest:
        yield rest


def _of_line(line: bytes, separator: bytes | None, key: bytes | None) -> Record:
    record: Record = {}
    if separator is not None:
        found, there, rest = line.partition(separator)
        if not there:
            raise click.UsageError(f"a line has no key separator: {printable(line[:100].decode(errors='replace'))}")
        key, line = found, rest
    if key is not None:
        _field(record, "key", key)
    _field(record, "value", line)
    return record


def _of_json(line: bytes) -> Record:
    """A record as `consume` prints it; where it was does not count."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise click.UsageError(f"a line is no JSON object: {printable(line[:100].decode(errors='replace'))}")
    return {name: value for name, value in record.items() if name not in ("partition", "offset", "value_bytes")}


def _json(record: Record) -> bytes:
    """As short as can be: a request has a limit, and an escaped letter takes six octets."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # Half a surrogate pair; the broker says so.
        return json.dumps(record).encode()


class _Sender:
    """Sends records in batches."""

    def __init__(self, client: Client, target: str, common: Record, *, show_offsets: bool) -> None:
        self._client = client
        self._target = target
        self._common = common
        self._show_offsets = show_offsets
        self._batch: list[bytes] = []
        self._size = 0
        self.sent = 0
        self.refused = 0
        self.reason = ""
        """Why the first was."""

    def add(self, record: Record) -> int:
        """How many were sent by it."""
        octets = _json({**record, **self._common})
        before = self.flush() if self._size + len(octets) > BATCH_BYTES else 0
        self._batch.append(octets)
        self._size += len(octets)
        return before + (self.flush() if len(self._batch) >= BATCH_RECORDS else 0)

    def flush(self) -> int:
        """Send what has gathered; how many that were. Raises ApiError."""
        if not self._batch:
            return 0
        batch, self._batch, self._size = self._batch, [], 0
        answer = self._client.request("POST", self._target, b'{"records":[%b]}' % b",".join(batch))
        for one in answer["offsets"]:
            if "error" in one:
                self.refused += 1
                self.reason = self.reason or one["error"]
            elif self._show_offsets:
                print(json.dumps(one))
        taken = sum("error" not in one for one in answer["offsets"])
        self.sent += taken
        return len(batch)


@click.command()
@click.argument("name", type=NAME)
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option("-k", "--key", help="Of every record.")
@click.option("--key-separator", metavar="TEXT", help="What stands between key and value in each line of stdin.")
@click.option("-H", "--header", "headers", type=PAIR, multiple=True, help="Of every record; may be repeated.")
@click.option("--partition", type=PARTITION, help="Default: that of the key (murmur2), or any.")
@click.option("--tombstone", is_flag=True, help="One record without a value, which deletes --key when compacted.")
@click.option(
    "--from-json", is_flag=True, help="The lines of stdin are records as `topic consume --format jsonl` prints them."
)
@click.option("--offsets", "show_offsets", is_flag=True, help="Print where each record is, as JSON lines.")
@vhost_option
@click.pass_obj
def produce(
    client: Client, name: str, values: tuple[str, ...], key: str | None, key_separator: str | None, headers: Pairs,
    partition: int | None, tombstone: bool, from_json: bool, show_offsets: bool, vhost: str,
) -> None:  # fmt: skip
    """Append VALUEs, or else each line of stdin; each is durable when it is counted."""
    if key_separator is not None and (key is not None or values or from_json or not key_separator):
        raise click.UsageError("--key-separator is for lines of stdin, without --key and --from-json")
    if tombstone and (values or key is None or from_json):
        raise click.UsageError("--tombstone needs --key, and no values")
    common: Record = {} if partition is None else {"partition": partition}
    if headers:
        common["headers"] = [{"name": header, "value": value} for header, value in headers]
    sender = _Sender(client, path("topics", vhost, name, "records"), common, show_offsets=show_offsets)
    octets = None if key is None else os.fsencode(key)
    separator = None if key_separator is None else os.fsencode(key_separator)
    try:
        if tombstone:
            record: Record = {"value": None}
            _field(record, "key", octets or b"")
            sender.add(record)
        elif values:
            for value in values:
                sender.add(_of_line(os.fsencode(value), None, octets))
        else:
            with progress("producing", None) as advance:
                for line in _lines():
                    if line is None:
                        advance(sender.flush())
                    else:
                        advance(sender.add(_of_json(line) if from_json else _of_line(line, separator, octets)))
        sender.flush()
    except click.UsageError:
        sender.flush()  # What came before it is good.
        raise
    except ApiError as error:
        raise ApiError(str(error), PARTIAL if sender.sent and error.exit_code == FAILED else error.exit_code) from None
    finally:
        refused = f", {sender.refused} refused: {sender.reason}" if sender.refused else ""
        click.echo(f"produced {sender.sent} to {name}{refused}", err=True)
    if sender.refused:
        sys.exit(PARTIAL)


# Out.


class _Partition:
    """Reads one partition, page by page."""

    def __init__(self, client: Client, target: str, index: int, start: str, page: int) -> None:
        self._client = client
        self._target = target
        self._page = page
        self.index = index
        self.place = start
        """Where the next page begins: an offset once there was one."""
        self.until: int | None = None

    def page(self) -> list[Record]:
        """The next records; none at the end. Raises ApiError."""
        query = urlencode({"partition": self.index, "from": self.place, "count": self._page})
        answer = self._client.request("GET", f"{self._target}/records?{query}")
        self.place = str(answer["next"])
        if self.until is None:
            self.until = answer["high_watermark"]
        return list(answer["items"])

    def rest(self) -> Iterator[Record]:
        """All up to what was the end at the first page."""
        while self.until is None or int(self.place) < self.until:
            for record in self.page():
                if self.until is not None and record["offset"] >= self.until:
                    return
                yield record


def _when(record: Record) -> int:
    return int(record["timestamp"])


def _in_order(partitions: list[_Partition]) -> Iterator[Record]:
    if len(partitions) > MERGED_MAX:
        return (record for one in partitions for record in one.rest())
    return merge(*(one.rest() for one in partitions), key=_when)


def _followed(client: Client, target: str, partitions: list[_Partition]) -> Iterator[Record]:
    """All that comes, for ever."""
    ends: dict[int, int] = {}
    while True:
        is_new = False
        for one in partitions:
            if not one.place.isdecimal() or int(one.place) < ends.get(one.index, 0):
                records = one.page()
                is_new = is_new or bool(records)
                yield from records
        if not is_new:
            sys.stdout.flush()
            time.sleep(POLL_S)
        ends = {row["partition"]: row["end_offset"] for row in client.request("GET", f"{target}/offsets")}


def _octets(text: str | None, encoding: str) -> bytes:
    if text is None:
        return b""
    return base64.b64decode(text) if encoding == "base64" else text.encode()


_ESCAPES = {r"\n": b"\n", r"\t": b"\t", r"\r": b"\r", r"\0": b"\0", r"\\": b"\\"}
_PIECES = re.compile(r"(%[pothkv%]|\\[ntr0\\])")


def _shape(template: str) -> Callable[[Record], bytes]:
    """Makes octets of records. Raises click.UsageError for a letter that stands for nothing."""
    pieces = _PIECES.split(template)
    unknown = re.search(r"%.?", "".join(pieces[::2]))
    if unknown:
        raise click.UsageError(f"'{unknown[0]}' stands for nothing; there are %k %v %p %o %t %h %%")
    makers: dict[str, Callable[[Record], bytes]] = {
        "%k": lambda record: _octets(record["key"], record["key_encoding"]),
        "%v": lambda record: _octets(record["value"], record["value_encoding"]),
        "%p": lambda record: str(record["partition"]).encode(),
        "%o": lambda record: str(record["offset"]).encode(),
        "%t": lambda record: _time(record).encode(),
        "%h": lambda record: _headers(record).encode(),
        "%%": lambda _: b"%",
    }

    def make(record: Record) -> bytes:
        return b"".join(
            [
                makers[piece](record) if piece in makers else _ESCAPES.get(piece, piece.encode())
                for piece in pieces
                if piece
            ]
        )

    return make


def _time(record: Record) -> str:
    try:
        return datetime.fromtimestamp(record["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(record["timestamp"])


def _headers(record: Record) -> str:
    return ",".join(f"{one['name']}={one['value']}" for one in record["headers"])


def _for_people(record: Record) -> Record:
    return {**record, "time": _time(record), "headers": _headers(record)}


class _Unreadable:
    """Takes out of a stream what says that something could not be shown."""

    def __init__(self) -> None:
        self.count = 0

    def pass_over(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            if "unreadable" not in record:
                yield record
                continue
            self.count += record["records"]
            where = f"partition {record['partition']}, offset {record['offset']}, {record['records']} records"
            click.echo(f"left out: {where}: {record['unreadable']}", err=True)


@click.command()
@click.argument("name", type=NAME)
@click.option("--partition", "indexes", type=PARTITION, multiple=True, help="Default: all; may be repeated.")
@click.option(
    "--from", "start", type=PLACE, metavar="PLACE",
    help="earliest, latest, an offset, a time (ISO 8601) or an age like 5m. Default: earliest, with --follow latest.",
)  # fmt: skip
@click.option("-n", "--count", default=0, type=NUMBER, help="Stop after so many; 0 is all.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until it is stopped.")
@click.option(
    "--format", "wanted", metavar="FORMAT",
    help="table, json, jsonl or csv; or a shape such as '%k\\t%v\\n': %k key, %v value, %p partition, %o offset,"
    " %t time, %h headers. Default: table, or jsonl in a pipe.",
)  # fmt: skip
@click.option("--columns", metavar="A,B,...", help="Which columns, in which order.")
@vhost_option
@click.pass_obj
def consume(
    client: Client, name: str, indexes: tuple[int, ...], start: str | None, count: int, follow: bool,
    wanted: str | None, columns: str | None, vhost: str,
) -> None:  # fmt: skip
    """Show records, in the order of time; nothing is consumed, and no group moves."""
    is_shape = wanted is not None and "%" in wanted
    if wanted is not None and not is_shape and wanted not in FORMATS:
        raise click.UsageError(f"'{wanted}' is no format: {', '.join(FORMATS)}, or a shape with %v in it")
    kind = "shape" if is_shape else chosen_format(wanted)
    if follow and kind in ("json", "csv"):
        raise click.UsageError(f"--follow has no end, and {kind} needs one")
    shape = _shape(wanted) if is_shape and wanted is not None else None
    target = path("topics", vhost, name)
    ends = {row["partition"]: row for row in client.request("GET", f"{target}/offsets")}
    missing = sorted(set(indexes) - set(ends))
    if missing:
        raise ApiError(f"topic '{name}' has no partition {missing[0]}", NOT_FOUND)
    begin = start or ("latest" if follow else "earliest")
    chosen = list(dict.fromkeys(indexes)) or list(ends)
    partitions = [_Partition(client, target, index, begin, min(count or PAGE, PAGE)) for index in chosen]
    unreadable = _Unreadable()
    found = unreadable.pass_over(_followed(client, target, partitions) if follow else _in_order(partitions))
    whole = sum(ends[index]["end_offset"] - ends[index]["start_offset"] for index in chosen)
    with _watched(islice(found, count or None), min(whole, count or whole)) as watched:
        _write(watched, kind, shape, columns, follow=follow)
    if unreadable.count:
        sys.exit(PARTIAL)


@contextmanager
def _watched(records: Iterator[Record], total: int) -> Iterator[Iterator[Record]]:
    """With a progress bar, where they go into a file."""
    if not stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
        yield records
        return
    with progress("consuming", total) as advance:

        def counted() -> Iterator[Record]:
            number = 0
            for number, record in enumerate(records, 1):
                if not number % PAGE:
                    advance(PAGE)
                yield record
            advance(number % PAGE)

        yield counted()


def _write(
    records: Iterator[Record], kind: str, shape: Callable[[Record], bytes] | None, columns: str | None, *, follow: bool
) -> None:
    if shape is not None:
        for record in records:
            sys.stdout.buffer.write(shape(record))
            if follow:
                sys.stdout.buffer.flush()
    elif kind == "table" and follow:
        line = _shape(FOLLOWED)
        for record in records:
            print(printable(line(record).decode(errors="replace")), flush=True)
    elif kind in ("table", "csv"):
        show(map(_for_people, records), COLUMNS, kind, columns)
    else:
        show(records, COLUMNS, kind, columns)
