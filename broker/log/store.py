"""The store: one data directory, its journal, its logs, its catalog, and the frame that is being filled.

All state lives on the loop; what blocks is handed out as jobs (`Write`, the steps of a checkpoint) for somebody else's
thread, see `flusher`. A turn of the broker calls `append`, `settle`, `put` as it goes; all of one turn lands in one
frame, so all of it happens or none. `frame` is the number of the frame that is being filled: whatever was done so far
is durable once `synced_frame` has reached it.

The catalog is a map of keys to octets; what they mean is its owner's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from broker.log import entries
from broker.log.cutting import Shipped
from broker.log.disk import Disk
from broker.log.extents import OpenSource
from broker.log.filling import Filling
from broker.log.frames import HEADER_SIZE
from broker.log.journal import Journal, Write
from broker.log.log import Log
from broker.log.pledges import Pledge, Pledges
from broker.log.sealed import SealedFile
from broker.log.segment import Handles, log_folder

JOURNAL_BYTES_MAX = 64 << 20
"""A checkpoint is due when the journal has grown by this: it bounds recovery time and the disk that is used twice."""
HANDLES_MAX = 256


class Cut:
    """A frame on its way: the write, the logs that will have been synced up to here, and what followers get of it."""

    __slots__ = ("ends", "frame", "shipped", "write")

    def __init__(self, frame: int, write: Write, ends: list[tuple[Log, int]], shipped: list[Shipped]) -> None:
        self.frame = frame
        self.write = write
        self.ends = ends
        self.shipped = shipped


@dataclass(slots=True)
class Recovered:
    """What opening a data directory found."""

    clean: bool = True
    """Whether the last run stopped in order; else whatever is there may have been delivered."""
    cut_bytes: int = 0
    """Octets of a torn tail that were dropped: written, but promised to nobody."""
    frames: int = 0
    """Frames replayed."""
    strangers: list[str] = field(default_factory=list)
    """Names in our folders that are not ours; they are left alone."""


class Store:
    """An open data directory. Made by `recovery.open_store`."""

    __slots__ = (
        "_catalog_entries", "by_uuid", "catalog", "checkpoint_end", "checkpoint_source", "disk", "doomed", "filling",
        "frame", "generation", "handles", "journal", "logs", "new_uuid", "next_log", "pending_bytes", "pledges",
        "promised_count", "recovered", "sealed", "swept", "sync", "synced_frame",
    )  # fmt: skip

    def __init__(self, disk: Disk, journal: Journal, new_uuid: Callable[[], bytes]) -> None:
        self.disk = disk
        self.journal = journal
        self.handles = Handles(disk, HANDLES_MAX)
        self.sync = True  # flush: ack. Otherwise a frame counts when it is written (flush: os).
        self.logs: dict[int, Log] = {}
        """By number, which is this directory's own; no number is given out twice."""
        self.by_uuid: dict[bytes, Log] = {}
        self.catalog: dict[bytes, bytes] = {}
        self.next_log = 1
        self.sealed: dict[int, SealedFile] = {}
        """Files of the journal that have batches of logs in them and are not replayed, by where they begin."""
        self.generation = 0
        self.checkpoint_end = 0
        """Position from which the journal would be replayed."""
        self.checkpoint_source: OpenSource | None = None
        """The file of the last checkpoint; small logs have batches in it."""
        self.doomed: list[str] = []
        """Files and folders (with a slash at the end) to be removed once a checkpoint no longer needs them."""
        self.swept = False
        """Whether a checkpoint of this run has removed what the last one left behind."""
        self.frame = 1
        self.synced_frame = 0
        self.pending_bytes = 0
        """About what the frame that is being filled holds; moved by whoever appends."""
        self.promised_count = 0
        """Moved by whoever does what a peer may be told of only when it is committed. A face that finds it moved by
        what it was asked for answers with a pledge, else at once: what is transient waits for nobody's frame."""
        self.pledges = Pledges()
        self.recovered = Recovered()
        self.new_uuid = new_uuid  # 16 octets that nobody has had.
        self._catalog_entries: list[bytes] = []
        self.filling = Filling()

    # Changes. Each takes part in the frame that is being filled.

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key of the catalog."""
        self.catalog[key] = value
        self._catalog_entries.append(entries.put(key, value))

    def delete(self, key: bytes) -> None:
        """Remove a key of the catalog; none is no error."""
        if self.catalog.pop(key, None) is not None:
            self._catalog_entries.append(entries.delete(key))

    def create_log(self, *, durable: bool, uuid: bytes | None = None) -> Log:
        """A new, empty log. One that is not durable may be read like any other, and is gone after a restart.

        It has the `uuid` of 16 octets that other brokers know it by, or one that nobody has had.
        """
        if uuid is None:
            uuid = self.new_uuid()
        assert uuid not in self.by_uuid
        log = Log(self.next_log, uuid, self.journal.epoch, self.filling, durable=durable)
        self.next_log += 1
        self.logs[log.number] = self.by_uuid[uuid] = log
        if durable:
            self._catalog_entries.append(entries.open_log(log.number, log.uuid))
        return log

    def drop_log(self, log: Log) -> None:
        """The log is gone, with all that is in it; its files are removed after the next checkpoint."""
        del self.logs[log.number], self.by_uuid[log.uuid]
        log.dropped()
        for segment in log.segments:
            segment.close()
        if log.has_folder:
            self.doomed.append(log_folder(log.uuid) + "/")
        if log.durable:
            self._catalog_entries.append(entries.drop(log.number))

    @property
    def dirty(self) -> bool:
        """Whether the frame that is being filled has anything in it."""
        return bool(self._catalog_entries or self.filling)

    # Who waits for them.

    def pledge(self, pledge: Pledge) -> None:
        """Keep the pledge when the frame that is being filled is committed."""
        self.pledges.add(pledge, self.frame)

    def pledge_all(self, pledge: Pledge) -> None:
        """Keep the pledge when everything that anybody has done so far is committed, which may be now."""
        frame = self.frame if self.dirty or self.pledges.last_frame == self.frame else self.frame - 1
        if frame <= self.synced_frame:
            pledge.kept(True)
        else:
            self.pledges.add(pledge, frame)

    # Frames.

    def cut(self) -> Cut | None:
        """Close the frame; None when there is nothing to write. The frame before has to be finished."""
        parts, self._catalog_entries = self._catalog_entries, []
        filling = self.filling
        dirty, filling.dirty = filling.dirty, []
        alone, filling.alone = filling.alone, []
        settled, filling.settled = filling.settled, []
        if settled:
            parts.append(entries.settle_each(settled))
        self.pending_bytes = 0
        journal = self.journal
        start = journal.end + HEADER_SIZE
        position = start + sum(map(len, parts))
        # Logs that are opened in this frame stand before what they hold; a log that is dropped in it holds nothing.
        ends: list[tuple[Log, int]] = []
        shipped: list[Shipped] = []
        for log in dirty:
            if self.logs.get(log.number) is log:
                if log.replica is not None:
                    shipped.append(log.shipped())
                position = log.cut(parts, journal, position)
                ends.append((log, log.next_offset))
            else:
                log.dirty = False
        for log in alone:
            if log.alone is not None:  # Else it was settled, or is no longer alone.
                position = log.cut_alone(parts, journal, position)
                ends.append((log, log.next_offset))
                if log.replica is not None:
                    shipped.append(Shipped(log, log.next_offset - 1, log.next_offset, parts[-1:], [], {}))
        number = self.frame
        self.frame += 1
        if not parts:
            self._synced(number, ends)
            return None
        return Cut(number, journal.begin(parts, sync=self.sync), ends, shipped)

    def finish(self, cut: Cut) -> None:
        """The frame is on the disk."""
        self.journal.finish(cut.write)
        self._synced(cut.frame, cut.ends)

    def _synced(self, frame: int, ends: list[tuple[Log, int]]) -> None:
        self.synced_frame = frame
        for log, end in ends:
            # What was truncated while the frame was on its way, and appended since, is in no frame yet.
            limit = log.next_offset if log.truncated_to is None else log.truncated_to
            log.synced_offset = end if end <= limit else limit  # noqa: FURB136 - it may be hot

    def mark_start(self) -> None:
        """Put START into the frame: this run has begun, or a file of the journal that has to have something in it."""
        self._catalog_entries.append(entries.mark(entries.START))

    def close_in_order(self) -> None:
        """Note in the frame that is being filled that this run ends in order."""
        for log in self.logs.values():
            if log.durable and log.seen_offset:
                self._catalog_entries.append(entries.seen(log.number, log.seen_offset))
        self._catalog_entries.append(entries.mark(entries.CLEAN))

    @property
    def checkpoint_due(self) -> bool:
        """Whether the journal has grown enough."""
        return self.journal.end - self.checkpoint_end >= JOURNAL_BYTES_MAX

    @property
    def has_dead_segments(self) -> bool:
        """Whether a checkpoint would free a file, or may; looks at the first segment of each log, and sealed files."""
        return (
            bool(self.doomed)
            or any(
                log.has_waste
                or log.lost_segments
                or (log.segments and log.is_done(log.segments[0].base, log.segments[0].end))
                for log in self.logs.values()
            )
            or any(map(self._is_dead, self.sealed.values()))
        )

    def _is_dead(self, file: SealedFile) -> bool:
        """Whether nothing in a sealed file is needed any more."""
        if file.is_damaged:
            return False
        for number, (_, end) in file.spans.items():
            log = self.logs.get(number)
            if log is not None and not (end <= log.settled.floor and end <= log.kept_from):
                return False
        return True

    def flush(self) -> None:
        """Write and sync what is pending, here and now: for start, stop and tests. Raises OSError."""
        while self.dirty:
            cut = self.cut()
            if cut is not None:
                cut.write.write()
                cut.write.flush()
                self.finish(cut)

    def close(self) -> None:
        """Give all handles back; writes nothing."""
        self.handles.close_all()
        self.journal.close()
        if self.checkpoint_source is not None:
            self.checkpoint_source.close()
