"""Reading the files of a data directory as they lie there, beside a running broker: for `jackalope log dump`.

Nothing is locked or changed. Damage is told and stepped over where a later frame is found. At most one frame, or one
batch, is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from broker.log import entries, frames
from broker.log.checkpoint import is_checkpoint
from broker.log.errors import Corrupt
from broker.log.journal import base_of
from broker.log.sealed import indexed_base
from protocol.kafka.records import HEADER_SIZE, BatchHeader, CorruptBatch, check_batch, parse_header

KINDS = {
    getattr(entries, name): name.lower().replace("_", " ")
    for name in ("BEGIN", "PUT", "DELETE", "OPEN", "DROP", "STATE", "APPEND", "VOLATILE", "SETTLE", "RETURN",
                 "TRUNCATE", "SEEN", "CLEAN", "END", "START", "SETTLE_EACH", "KEEP", "EDITIONS", "SEALED", "PLACES")
}  # fmt: skip


class Damage(NamedTuple):
    """Something that is not what was written. A torn tail of the last journal file looks like this too."""

    file: Path
    position: int
    what: str


class FoundEntry(NamedTuple):
    """One entry of a frame: `value` as `entries` reads it, `payload` that of the whole frame."""

    file: Path
    position: int
    kind: str
    value: tuple  # type: ignore[type-arg]  # the row of the kind in `entries` says which
    payload: bytes


class FoundBatch(NamedTuple):
    """One batch: its octets stand in `data` at `at`. `log` is its log's number, or None in a segment."""

    file: Path
    position: int
    log: int | None
    header: BatchHeader
    data: bytes
    at: int


Found = FoundEntry | FoundBatch | Damage


def files_of(path: Path) -> list[Path]:
    """The files behind a path: itself, or of a data directory its checkpoint, the journal with sealed files and their
    indexes, and segments, in that order."""
    if not path.is_dir():
        return [path]
    checkpoints = sorted(one for one in path.glob("checkpoint-*") if is_checkpoint(one.name))
    journals = sorted(one for one in path.glob("journal/*") if base_in(one) is not None)
    return [*checkpoints[-1:], *journals, *sorted(path.glob("logs/*/*.log"))]


def base_in(file: Path) -> int | None:
    """Where the frames of a file begin, as its name says; None unless it is of the journal, or the index of one."""
    base = base_of(file.name)
    return indexed_base(file.name) if base is None else base


def replayed(path: Path) -> Iterator[Found]:
    """What a start reads frame by frame: the checkpoint, and the journal from where that lets it go on."""
    replay_from = 0
    for file in files_of(path):
        for found in dump(file) if _is_replayed(file, replay_from) else ():
            if isinstance(found, FoundEntry) and found.kind == "begin":
                replay_from = found.value[2]
            yield found


def _is_replayed(file: Path, replay_from: int) -> bool:
    """Whether a start reads it frame by frame, with a checkpoint that goes on at this position of the journal."""
    if is_segment(file):
        return False
    base = base_of(file.name)
    return indexed_base(file.name) is None and (base is None or base >= replay_from)


def catalog_of(path: Path) -> tuple[dict[bytes, bytes], dict[int, bytes]]:
    """(the catalog, the uuids of the logs by their numbers) as the files of a data directory leave them.

    Damage is stepped over. Raises OSError.
    """
    catalog: dict[bytes, bytes] = {}
    logs: dict[int, bytes] = {}
    for found in replayed(path):
        if not isinstance(found, FoundEntry):
            continue
        if found.kind == "put":
            catalog[found.value[0]] = found.value[1]
        elif found.kind == "delete":
            catalog.pop(found.value[0], None)
        elif found.kind == "open":
            logs[found.value[0]] = found.value[1]
        elif found.kind == "drop":
            logs.pop(found.value[0], None)
    return catalog, logs


def is_segment(file: Path) -> bool:
    """Whether it holds bare batches."""
    return file.suffix == ".log"


def dump(file: Path) -> Iterator[Found]:
    """What stands in one file, in order: entries and the batches in them, or bare batches. Raises OSError."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if is_segment(file):
            yield from _segment(file, fd, size)
        else:
            yield from _frames(file, fd, base_in(file) or 0, size)
    finally:
        os.close(fd)


def _frames(file: Path, fd: int, base: int, size: int) -> Iterator[Found]:
    def read(position: int, count: int) -> bytes:
        return os.pread(fd, count, position)

    position = base
    while position < base + size:
        frame = frames.read_frame(read, base, position, size)
        if frame is None:
            if frames.data_end(read, position - base, size) == position - base:
                return  # Reserved room.
            frame = frames.find_later(read, base, position, size)
            what = "no whole frame, nor any behind it" if frame is None else f"no whole frame before {frame.position}"
            yield Damage(file, position, what)
            if frame is None:
                return
        yield from _entries(file, frame)
        position = frame.end


def _entries(file: Path, frame: frames.Frame) -> Iterator[Found]:
    try:
        for kind, value in entries.read_entries(frame.payload):
            yield FoundEntry(file, frame.position, KINDS[kind], value, frame.payload)
            if kind in (entries.APPEND, entries.VOLATILE):
                number, start, size = value
                for header, at in _batches(frame.payload, start, start + size):
                    yield FoundBatch(file, frame.position, number, header, frame.payload, at)
    except (Corrupt, CorruptBatch) as error:
        yield Damage(file, frame.position, str(error))


def _batches(data: bytes, at: int, end: int) -> Iterator[tuple[BatchHeader, int]]:
    while at < end:
        header = parse_header(data, at)
        check_batch(data, at, header)
        yield header, at
        at += header.size


def _segment(file: Path, fd: int, size: int) -> Iterator[Found]:
    position = 0
    while position < size:
        try:
            header = parse_header(os.pread(fd, HEADER_SIZE, position))
            if header.size > size - position:
                raise CorruptBatch(f"a batch of {header.size} octets, {size - position} are left")
            data = os.pread(fd, header.size, position)
            check_batch(data, 0, header)
        except CorruptBatch as error:
            # What stands behind what the last checkpoint promises is nobody's; a dump cannot tell.
            yield Damage(file, position, str(error))
            return
        yield FoundBatch(file, position, None, header, data, 0)
        position += header.size
