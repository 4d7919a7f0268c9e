"""`jackalope bench log`: what storage costs without sockets, beside the budgets that its modules state.

Owns: the list of figures. Each is the median of REPEATS runs, in microseconds of one thread; run it before and after
touching a hot module of storage, since machines differ and budgets are those of one of them.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from broker.core.message import Message, make_origin
from broker.core.queues.records import Renderer, read
from broker.log.ackset import AckSet
from broker.log.checkpoint import Checkpoint
from broker.log.disk import RealDisk
from broker.log.recovery import open_store
from broker.log.store import Store
from protocol.amqp import content as wire
from protocol.kafka.records import check_batch, encode_batch, parse_header

REPEATS = 5
RUN = 256
SYNCS = 300


class Figure(NamedTuple):
    """One row. `budget_us` is what a module's first lines promise; None where none does."""

    name: str
    us: float
    budget_us: float | None

    def as_json(self) -> dict[str, Any]:
        """A JSON line."""
        met = None if self.budget_us is None else self.us <= self.budget_us
        return {"type": "figure", "name": self.name, "us": round(self.us, 3), "budget_us": self.budget_us, "met": met}


def _timed(work: Callable[[], object], units: int) -> float:
    """Microseconds per unit, median of the repeats."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append((time.perf_counter() - began) / units * 1e6)
    return statistics.median(found)


def _messages(count: int, body_bytes: int = 100) -> list[Message]:
    origin = make_origin(b"orders", b"order.created")
    persistent = wire.encode_content(1, b"\x02", wire.DELIVERY_MODE, b"x" * body_bytes, 131_072)
    return [(origin, persistent)] * count


def _open(directory: str) -> Store:
    return open_store(RealDisk(Path(directory)), lambda: os.urandom(16))


def _pure() -> Iterator[Figure]:
    messages = _messages(RUN)
    renderer = Renderer()
    _, records, _, _ = next(iter(renderer.render(messages)))
    batch = encode_batch(0, RUN - 1, RUN, records, leader_epoch=1, base_timestamp_ms=0, max_timestamp_ms=0)
    header = parse_header(batch)

    def encode() -> None:
        for _ in range(1000):
            encode_batch(0, RUN - 1, RUN, records, leader_epoch=1, base_timestamp_ms=0, max_timestamp_ms=0)

    def check() -> None:
        for _ in range(1000):
            check_batch(batch, 0, header)

    def acks(first: int) -> Callable[[], None]:
        def work() -> None:
            settled = AckSet()
            for offset in range(first, 10_000):
                settled.add(offset, offset + 1)

        return work

    yield Figure("message rendered in a run", _timed(lambda: [list(renderer.render(messages)) for _ in range(100)],
                                                     100 * RUN), 0.6)  # fmt: skip
    yield Figure("message rendered singly", _timed(lambda: [list(renderer.render(messages[:1])) for _ in range(5000)],
                                                   5000), 1.5)  # fmt: skip
    yield Figure("message read back", _timed(lambda: [read(batch, 0, header) for _ in range(100)], 100 * RUN), 1.5)
    yield Figure("batch of 256 encoded", _timed(encode, 1000), None)
    yield Figure("batch of 256 checked", _timed(check, 1000), None)
    yield Figure("offset settled in order", _timed(acks(0), 10_000), 0.3)
    yield Figure("offset settled out of order", _timed(acks(1), 10_000), 0.6)


def _stored(directory: str) -> Iterator[Figure]:
    store = _open(directory)
    store.sync = False
    log = store.create_log(durable=True)
    _, records, _, _ = next(iter(Renderer().render(_messages(RUN))))

    def append() -> None:
        for _ in range(100):
            log.append(records, RUN, 0)
        store.flush()

    def settle() -> None:
        first = log.settled.floor
        for offset in range(first, first + 100 * RUN, RUN):
            log.settle(offset, offset + RUN)
        store.flush()

    yield Figure("message appended and written", _timed(append, 100 * RUN), None)
    yield Figure("range settled and written", _timed(settle, 100), None)
    began = time.perf_counter()
    for job in Checkpoint(store).steps():
        if job is not None:
            job()
        store.flush()
    yield Figure("checkpoint", (time.perf_counter() - began) * 1e6, None)
    store.close()


def _recovered(directory: str) -> Iterator[Figure]:
    store = _open(directory)
    store.sync = False
    log = store.create_log(durable=True)
    _, records, _, _ = next(iter(Renderer().render(_messages(RUN))))
    for _ in range(400):
        log.append(records, RUN, 0)
        store.flush()
    store.close()
    store.disk.close()  # type: ignore[attr-defined]  # A real one.
    began = time.perf_counter()
    again = _open(directory)
    yield Figure("message recovered", (time.perf_counter() - began) / (400 * RUN) * 1e6, None)
    again.close()


def _disk(directory: str) -> Iterator[Figure]:
    """The disk's own figure: what no broker can be faster than."""
    taken = []
    with open(Path(directory) / "syncs", "wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(bytes(1024))
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1e6)
    taken.sort()
    yield Figure("1 KiB appended and synced, p50", taken[SYNCS // 2], None)
    yield Figure("1 KiB appended and synced, p99", taken[SYNCS * 99 // 100], None)


def measure() -> Iterator[Figure]:
    """All figures, one after the other."""
    yield from _pure()
    for part in (_stored, _recovered, _disk):
        with tempfile.TemporaryDirectory(prefix="jackalope-bench-") as directory:
            yield from part(directory)
