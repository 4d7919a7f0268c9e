"""A store and its model, side by side.

The model keeps what the store must hold after each frame. After a power cut the store has to be exactly one of these:
not before the last frame that was reported as synced, not between two frames. That covers all at once: nothing
confirmed is lost, groups happen whole or not at all, nothing settled returns, no offset is used twice.
"""

import copy
import itertools
import random

from sim_disk import PowerCut, SimDisk

from broker.log import checkpoint
from broker.log.errors import Corrupt
from broker.log.log import QUEUE
from broker.log.recovering import NOTHING_KEPT
from broker.log.recovery import open_store
from protocol.kafka.compression import open_batch, packed, without
from protocol.kafka.records import ZSTD, render_record


def run_checkpoint(store, fail_at=None, *, done=False):
    """Its steps, each in a frame of its own; given up at a job if `fail_at` says so, before or when it is `done`.

    Returns whether it ended.
    """
    steps = checkpoint.Checkpoint(store).steps()
    jobs = 0
    for job in steps:
        if job is not None:
            if jobs == fail_at and not done:
                steps.close()
                return False
            job()
            if jobs == fail_at:
                steps.close()
                return False
            jobs += 1
        store.flush()
    return True


class Model:
    """Logs as {offset: value}, how often offsets came back, the catalog; `volatile` offsets do not outlive a run.

    `kept` is what was settled while its log kept it, as {offset: value}, and has to be there; `kept_from` what the logs
    were told. What was settled before that may be there as well. `ends` are those of the logs that a restart has found:
    what is kept cannot begin behind them.
    """

    def __init__(self):
        self.logs = {}
        self.kept = {}
        self.kept_from = {}
        self.ends = {}
        self.returns = {}
        self.volatile = {}
        self.catalog = {}

    def copy(self):
        other = Model()
        other.logs = {number: dict(log) for number, log in self.logs.items()}
        other.kept = {number: dict(log) for number, log in self.kept.items()}
        other.kept_from = dict(self.kept_from)
        other.returns = {number: dict(counts) for number, counts in self.returns.items()}
        other.volatile = {number: set(offsets) for number, offsets in self.volatile.items()}
        other.catalog = dict(self.catalog)
        return other

    def restarted(self):
        """As a restart finds it."""
        other = self.copy()
        for number, offsets in other.volatile.items():
            for offset in offsets:
                other.logs[number].pop(offset, None)
                other.returns[number].pop(offset, None)
        other.volatile = {number: set() for number in other.logs}
        return other

    def settle(self, number, offset):
        value = self.logs[number].pop(offset, None)
        self.returns[number].pop(offset, None)
        if value is not None and offset >= self.kept_from[number] and offset not in self.volatile[number]:
            self.kept[number][offset] = value

    def keep_from(self, number, offset):
        self.kept_from[number] = offset
        self.kept[number] = {one: value for one, value in self.kept[number].items() if one >= offset}

    def fits(self, *others):
        """Whether this, as it was found, is one of those that it may be."""
        return any(self._is(other) for other in others)

    def _is(self, other):
        floors = {
            number: floor if floor == NOTHING_KEPT else min(floor, self.ends.get(number, floor))
            for number, floor in other.kept_from.items()
        }
        return (self.logs, self.returns, self.catalog, self.kept_from) == (
            other.logs, other.returns, other.catalog, floors
        ) and all(other.kept[number].items() <= kept.items() for number, kept in self.kept.items())  # fmt: skip


def read_all(log, *, kept=False):
    """What is not settled; or with `kept` what is, and is kept."""
    return {
        record.offset: record.value
        for batch in log.read(0, kept=kept)
        for record in open_batch(batch.data, batch.position, batch.header)
        if (record.offset in log.settled) is kept and (not kept or record.offset >= log.kept_from)
    }


def reduce(batch, settled):
    return without(batch.data, batch.position, batch.header, settled, None)


COMPACTED = QUEUE._replace(reduce=reduce)
PACKED = COMPACTED._replace(pack=lambda records: packed(ZSTD, 1, records))


def seen(store):
    """What the store holds, as a model."""
    model = Model()
    model.logs = {number: read_all(log) for number, log in store.logs.items()}
    model.kept = {number: read_all(log, kept=True) for number, log in store.logs.items()}
    model.kept_from = {number: log.kept_from for number, log in store.logs.items()}
    model.ends = {number: log.next_offset for number, log in store.logs.items()}
    model.returns = {number: dict(log.returns) for number, log in store.logs.items()}
    model.catalog = dict(store.catalog)
    return model


class World:
    """A store, its model, and anything a broker may do to them, with the disk's work cut into its steps.

    Without `sync` frames count when they are written (flush: os), so a power cut may take any of a run's last ones.
    With `compacts` the logs are those of compacted topics, whose segments are written anew, compressed or not.
    """

    def __init__(self, seed, *, lies=False, sync=True, compacts=False):
        self.sync = sync
        self.random = random.Random(seed)
        self.disk = SimDisk(self.random.randrange, lies=lies)
        self.uuids = itertools.count(1)
        self.values = itertools.count(1)
        self.model = Model()
        self.cut = None
        self.written = False
        self.steps = None
        self.refused = 0  # How often a lost file was missed.
        self.layout = (COMPACTED, PACKED)[seed // 2 % 2] if compacts else QUEUE
        self.rewritten = set()  # Names of segments that were written anew.
        self.indexed = set()  # Editions of indexes of sealed files.
        self.emptied = 0  # Sealed files of which the rest was moved.
        self.is_watched = bool(seed % 2)  # A look at a log makes what came alone a batch like any other.
        self.restart_store()

    def restart_store(self):
        self.store = open_store(self.disk, lambda: next(self.uuids).to_bytes(16, "big"))
        self.store.sync = self.sync
        self.cut = self.steps = None
        for log in self.store.logs.values():
            log.layout = self.layout
        # Frames are counted anew; what was found is all there is.
        self.model = seen(self.store)
        self.model.volatile = {number: set() for number in self.model.logs}
        self.after_frame = {self.store.synced_frame: self.model.copy()}

    def log(self, pick):
        return self.store.logs[sorted(self.store.logs)[pick % len(self.store.logs)]] if self.store.logs else None

    # What a broker does.

    def create_log(self):
        if len(self.model.logs) >= 4:
            return
        log = self.store.create_log(durable=True)
        log.layout = self.layout
        self.model.logs[log.number], self.model.returns[log.number] = {}, {}
        self.model.kept[log.number], self.model.kept_from[log.number] = {}, NOTHING_KEPT
        self.model.volatile[log.number] = set()

    def append_to(self, log, count, size, *, volatile=False):
        values = [b"%d:" % next(self.values) + bytes(size) for _ in range(count)]
        joins = not volatile and count % 2 == 1
        joined = log.open_count(size) if joins else 0
        records = b"".join(render_record(delta, value) for delta, value in enumerate(values, joined))
        first = log.next_offset
        if joins:
            log.extend(records, count, size, joined)
        else:
            log.append(records, count, 0, volatile=volatile)
        self.model.logs[log.number].update(zip(range(first, first + count), values, strict=True))
        if volatile:
            self.model.volatile[log.number].update(range(first, first + count))

    def append(self, pick, count, size, volatile):
        if log := self.log(pick):
            self.append_to(log, count, size, volatile=volatile)

    def append_alone(self, pick, size, *, pass_by=False):
        """One record, rendered when its frame is cut, where the log has nothing else in this frame; `pass_by`: it is
        settled at once."""
        if log := self.log(pick):
            log.render = lambda raw: render_record(0, raw)
            value = b"%d:" % next(self.values) + bytes(size)
            if not log.dirty and log.alone is None:
                offset = log.append_alone(value, size)
                self.model.logs[log.number][offset] = value
                if pass_by:
                    log.settle_one(offset)
                    self.model.settle(log.number, offset)

    def settle_one(self, pick, where):
        log = self.log(pick)
        if log and (live := sorted(self.model.logs[log.number])):
            offset = live[where % len(live)]
            log.settle_one(offset)
            self.model.settle(log.number, offset)

    def skip(self, pick, count, returned):
        """Messages that live in memory alone; one of them may come back."""
        if log := self.log(pick):
            first = log.skip(count)
            self.model.volatile[log.number].update(range(first, first + count))
            if returned:
                log.note_return(first, returned)
                self.model.returns[log.number][first] = returned

    def settle_in(self, log, pick, width):
        live = sorted(self.model.logs[log.number])
        if live:
            first = live[pick % len(live)]
            log.settle(first, first + width)
            for offset in range(first, first + width):
                self.model.settle(log.number, offset)

    def settle(self, pick, where, width):
        if (log := self.log(pick)) and log.next_offset:
            live = sorted(self.model.logs[log.number])
            if live:
                first = live[where % len(live)]
                self.settle_in(log, where, min(width, log.next_offset - first))

    def settle_all(self, pick):
        if log := self.log(pick):
            log.settle(0, log.next_offset)
            for offset in [*self.model.logs[log.number], *self.model.returns[log.number]]:
                self.model.settle(log.number, offset)

    def keep(self, pick, where):
        """Begin to keep what is settled from now on, move the floor, or end it."""
        if (log := self.log(pick)) and log.layout.reduce is None:
            if log.kept_from == NOTHING_KEPT:
                log.keep_from(log.settled.floor)
            elif where % 3:
                log.keep_from(log.kept_from + where % (log.next_offset - log.kept_from + 1))
            else:
                log.keep_from(NOTHING_KEPT)
            self.model.keep_from(log.number, log.kept_from)

    def note_return(self, pick, where, count):
        if log := self.log(pick):
            live = sorted(self.model.logs[log.number])
            if live:
                offset = live[where % len(live)]
                log.note_return(offset, count)
                self.model.returns[log.number][offset] = count

    def move(self, source, into, where):
        """A dead letter: out of one log and into another, in one group."""
        if (log := self.log(source)) and self.model.logs[log.number]:
            self.append_to(self.log(into), 1, 5)
            self.settle_in(log, where, 1)

    def drop_log(self, pick):
        if log := self.log(pick):
            self.store.drop_log(log)
            for of_log in vars(self.model).values():
                if of_log is not self.model.catalog:
                    of_log.pop(log.number, None)

    def truncate(self, pick, where):
        log = self.log(pick)
        if log and (batches := list(log.read(0))):
            offset = batches[where % len(batches)].header.base_offset
            log.truncate(offset)
            if log.kept_from != NOTHING_KEPT:
                self.model.kept_from[log.number] = min(self.model.kept_from[log.number], offset)
            for of_log in (self.model.logs, self.model.returns, self.model.kept):
                of_log[log.number] = {key: value for key, value in of_log[log.number].items() if key < offset}
            self.model.volatile[log.number] = {one for one in self.model.volatile[log.number] if one < offset}

    def change_layout(self, pick):
        """A topic becomes a compacted one, or is one no more; what keeps is a queue."""
        if (log := self.log(pick)) and log.kept_from == NOTHING_KEPT:
            log.layout = COMPACTED if log.layout is QUEUE else QUEUE

    def put(self, key, value):
        if value is None:
            self.store.delete(key)
            self.model.catalog.pop(key, None)
        else:
            self.store.put(key, value)
            self.model.catalog[key] = value

    # What the disk does, a step at a time.

    def begin_write(self):
        if self.cut is not None:
            return
        number = self.store.frame
        self.after_frame[number] = self.model.copy()
        self.cut = self.store.cut()
        self.written = False

    def go_on_writing(self):
        if self.cut is None:
            return
        if not self.written:
            self.cut.write.write()
            self.written = True
        else:
            self.cut.write.flush()
            self.store.finish(self.cut)
            self.cut = None

    def begin_checkpoint(self):
        if self.steps is not None:
            return
        for log in self.store.logs.values():
            log.has_waste = True
        self.checkpoint = checkpoint.Checkpoint(self.store)
        self.steps = self.checkpoint.steps()

    def go_on_with_checkpoint(self, count):
        if self.steps is None:
            return
        for _ in range(count):
            try:
                job = next(self.steps)
            except StopIteration:
                self.steps = None
                for log in self.store.logs.values():
                    self.rewritten.update(segment.name for segment in log.segments if segment.edition)
                self.indexed.update((one.base, one.edition) for one in self.store.sealed.values())
                self.emptied += len(self.checkpoint._sealing.emptied)
                return
            if job is not None:
                job()

    def give_up(self):
        """The checkpoint that is under way, at a job or a pause."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None

    # How it ends.

    def crash(self, power, after, again):
        if after is not None:
            # In the middle of whatever comes next.
            self.disk.left = after
            try:
                self.run_disk()
            except PowerCut:
                power = True
        is_whole = self.sync or not (power or again is not None)
        promised = self.store.synced_frame if is_whole else min(self.after_frame)
        possible = [model.restarted() for number, model in self.after_frame.items() if number >= promised]
        (self.disk.power_cut if power else self.disk.kill)()
        if again is not None:
            # And once more while recovering.
            self.disk.left = again
            try:
                self.restart_store()
            except PowerCut:
                self.disk.power_cut()
            else:
                self.disk.kill()
        # Without syncs `begun` knows what checkpoints have synced.
        self.lose_a_file(possible if self.sync else [model.restarted() for model in self.after_frame.values()])
        self.restart_store()
        assert self.model.fits(*possible), f"after frame {promised} something else was promised"
        assert not self.store.recovered.clean

    def lose_a_file(self, possible):
        """One file that goes, or is emptied, is missed when the store opens, unless nothing promised was in it."""
        disk = copy.deepcopy(self.disk)
        name = self.random.choice([name for name in disk.files if name != "format"])
        if self.random.random() < 0.5:
            del disk.files[name]
        else:
            disk.files[name].data.clear()
        before = {name: bytes(inode.data) for name, inode in disk.files.items()}
        try:
            store = open_store(disk, lambda: bytes(16))
        except Corrupt:
            assert {name: bytes(inode.data) for name, inode in disk.files.items()} == before, "evidence was changed"
            self.refused += 1
        else:
            assert seen(store).fits(*possible), f"{name} was not missed"

    def stop_in_order(self):
        self.run_disk()
        self.store.close_in_order()
        self.store.flush()
        self.store.close()
        expected = self.model.restarted()
        (self.disk.power_cut if self.sync else self.disk.kill)()
        self.restart_store()
        assert self.store.recovered.clean
        assert self.model.fits(expected)

    def run_disk(self):
        """All that is under way, to its end."""
        if self.cut is not None:
            if not self.written:
                self.cut.write.write()
            self.cut.write.flush()
            self.store.finish(self.cut)
            self.cut = None
        self.after_frame[self.store.frame] = self.model.copy()
        self.store.flush()
        while self.steps is not None:
            self.go_on_with_checkpoint(1)
            self.after_frame[self.store.frame] = self.model.copy()
            self.store.flush()

    def it_reads_back(self):
        """At every moment, whatever is pending, under way, moved or carried."""
        assert seen(self.store).fits(self.model)
        for log in self.store.logs.values():
            assert log.kept[0] == 0 or log.kept_from != NOTHING_KEPT
        for number, log in self.store.logs.items():
            live, volatile = self.model.logs[number], self.model.volatile[number]
            # What lives in memory between the batches of an extent counts as well; after a restart there is none.
            assert len(live) <= log.live_count <= len(live) + len(volatile.difference(live))
