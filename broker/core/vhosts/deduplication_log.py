"""What an x-message-deduplication exchange has seen, in a log of its own: a restart forgets nothing of it.

A record a value, appended in the turn that routes its message: one frame holds both, so whoever publishes again after a
crash is dropped exactly if the first one was kept. Who publishes again before that frame is synced is dropped as well,
and hears of it with the frame. A value that is forgotten is settled, so what is live in the log is what the router
remembers; one that is forgotten in its own turn, since no queue took the message, is written nowhere.

| of the record | is |
|---|---|
| key | the kind of the value ("text", "int", "digest of text", ...) |
| value | when it is forgotten (wall clock in ms, eight octets; -1: when others need the room), then the value |
"""

from __future__ import annotations

from broker.core.exchange.deduplication import DeduplicationRouter, Value
from broker.log.errors import Corrupt
from broker.log.log import Log
from broker.log.store import Store
from protocol.kafka.records import CorruptBatch, read_records, render_record

_NEVER = -1


class DeduplicationFrames:
    """Beside a router whose memory ends with the process: only in which frame the first message of a value went."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, value: Value, expires_ms: int | None, wall_ms: int) -> int:
        """The value is remembered from now on; returns the frame that its message is in."""
        del value, expires_ms, wall_ms
        return self._store.frame

    def forget(self, number: int) -> None:
        """Nothing is kept of it."""

    def dropped(self, number: int) -> None:
        """A duplicate of one in this frame: whoever sent it waits as the first one does."""
        if number > self._store.synced_frame:
            self._store.promised_count += 1


class DeduplicationLog:
    """The log behind one router."""

    __slots__ = ("_log", "_router", "_store")

    delayed_count = None

    def __init__(self, router: DeduplicationRouter, store: Store, log: Log) -> None:
        self._router = router
        self._store = store
        self._log = log
        router.log = self

    def note(self, value: Value, expires_ms: int | None, wall_ms: int) -> int:
        """The value is remembered from now on; returns the number to forget it by."""
        kind, raw = value
        due = (_NEVER if expires_ms is None else expires_ms).to_bytes(8, "big", signed=True)
        record = render_record(0, due + raw, kind.encode())
        self._store.pending_bytes += len(record)
        self._store.promised_count += 1
        return self._log.append(record, 1, wall_ms)

    def forget(self, number: int) -> None:
        """It is not any more."""
        self._log.settle(number, number + 1)

    def dropped(self, number: int) -> None:
        """A duplicate of this one: whoever sent it waits as the first one does."""
        if number >= self._log.synced_offset:
            self._store.promised_count += 1

    def recover(self, *, clean: bool) -> None:
        """Tell the router what it knew; it knows that after any kind of stop. Raises Corrupt and OSError."""
        del clean
        log = self._log
        for batch in log.read(0):
            try:
                for record in read_records(batch.data, batch.position, batch.header):
                    if record.offset not in log.settled and record.key is not None and record.value is not None:
                        due = int.from_bytes(record.value[:8], "big", signed=True)
                        value = record.key.decode(), record.value[8:]
                        self._router.recall(value, None if due == _NEVER else due, record.offset)
            except (CorruptBatch, UnicodeDecodeError) as error:
                raise Corrupt(str(error)) from None

    def close(self) -> None:
        """The exchange is deleted."""
        self._store.drop_log(self._log)
