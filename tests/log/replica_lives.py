"""A broker's life with replicated logs, beside a model: it follows leaders of rising epochs and leads, is cut back to
where epochs part, settles what is committed, drops logs and gets them back, and loses its power in any operation.

After each crash the store is as it was after some frame, not before the last one that was reported as synced; what each
log had promised (`synced_offset`) is there; its epoch cache says what its batches say, also those that are settled and
gone. What frames hand out for followers adds up to the same logs.
"""

import itertools
import random

from sim_disk import PowerCut, SimDisk

from broker.log import checkpoint
from broker.log.recovery import open_store
from protocol.kafka.records import check_batch, encode_batch, parse_header, render_record

LOGS = 3


class Replica:
    """The model of a log: its batches as (first, end, epoch, checksum), and what became of its offsets."""

    def __init__(self):
        self.batches = []
        self.settled = set()
        self.returns = {}
        self.epoch = 1
        self.high_watermark = 0

    def copy(self):
        other = Replica()
        other.batches, other.settled, other.returns = list(self.batches), set(self.settled), dict(self.returns)
        other.epoch, other.high_watermark = self.epoch, self.high_watermark
        return other

    @property
    def end(self):
        return self.batches[-1][1] if self.batches else 0

    def cut(self, keep):
        """All but the first `keep` batches go."""
        self.batches = self.batches[:keep]
        self.settled = {one for one in self.settled if one < self.end}
        self.returns = {one: count for one, count in self.returns.items() if one < self.end}

    def settle(self, first, end):
        self.settled.update(range(first, end))
        for offset in range(first, end):
            self.returns.pop(offset, None)

    def shape(self):
        live = [one for one in self.batches if not self.settled.issuperset(range(one[0], one[1]))]
        return live, sorted(self.settled), self.returns, self.end, epochs_of(self.batches)


def epochs_of(batches):
    """Where epochs begin, as the batches say it."""
    starts = []
    for first, _, epoch, _ in batches:
        if not starts or starts[-1][0] < epoch:
            starts.append((epoch, first))
    return starts


def batches_of(log):
    """What a log gives its readers, who have checked what the checksums say."""
    return [identity(header) for header, _, _ in log.read(0)]


def identity(header):
    """A batch as the model knows it; each has a value of its own, so no two checksums are the same by intention."""
    return header.base_offset, header.next_offset, header.leader_epoch, header.crc


def encoded(first, count, epoch, value):
    """A batch of so many records of one value."""
    records = b"".join(render_record(delta, value) for delta in range(count))
    return encode_batch(first, count - 1, count, records, leader_epoch=epoch, base_timestamp_ms=0, max_timestamp_ms=0)


def shape(log):
    """What the model says, of a log."""
    settled = [offset for offset in range(log.next_offset) if offset in log.settled]
    return batches_of(log), settled, log.returns, log.next_offset, log.epochs.starts


class Life:
    """See the module; the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(f"life {seed}")
        self.commits = seed % 2  # Else truncations may go as deep as they like.
        self.disk = SimDisk(self.random.randrange)
        self.values = itertools.count(1)
        self.crashes = self.truncations = self.deep = 0
        self.model = {}
        self.open()
        for _ in range(LOGS):
            log = self.store.create_log(durable=True)
            self.model[log.uuid] = Replica()
        self.store.flush()
        self.open_ports()
        self.after = {self.store.synced_frame: self.copy()}

    def copy(self):
        return {uuid: one.copy() for uuid, one in self.model.items()}

    def open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)
        self.cut = self.steps = None
        self.written = False
        self.mirror = {}  # What frames have handed out for followers.

    def open_ports(self):
        """The models say how much is committed."""
        for uuid, log in self.store.by_uuid.items():
            log.replica = self.model[uuid]
            log.render = lambda raw: render_record(0, raw)
            self.mirror[uuid] = list(self.model[uuid].batches)

    def log(self):
        """Any, and its model."""
        uuid = self.random.choice(sorted(self.model))
        return self.store.by_uuid[uuid], self.model[uuid]

    # What a broker does.

    def follow(self):
        log, model = self.log()
        for _ in range(self.random.randint(1, 3)):
            octets = b""
            for _ in range(self.random.randint(1, 2)):
                first, count = model.end, self.random.randint(1, 4)
                value = b"%d" % next(self.values) + bytes(self.random.choice((0, 10, 300)))
                one = encoded(first, count, model.epoch, value)
                model.batches.append(identity(parse_header(one)))
                octets += one
            log.append_replica(octets)

    def lead(self):
        """One message, in an epoch of its own."""
        log, model = self.log()
        model.epoch += 1
        log.begin_epoch(model.epoch)
        value = b"%d" % next(self.values)
        if log.dirty or log.alone is not None:
            log.append(render_record(0, value), 1, 0)
        else:
            log.append_alone(value, 0)
        model.batches.append(identity(parse_header(encoded(model.end, 1, model.epoch, value))))

    def meet_a_leader(self):
        """Of a later epoch; what it does not have is cut, at times more than once in a frame."""
        log, model = self.log()
        model.epoch += self.random.randint(1, 2)
        for _ in range(self.random.choice((1, 1, 1, 2))):
            lost = [index for index, one in enumerate(model.batches) if one[0] >= model.high_watermark]
            if not lost or self.random.random() < 0.2:
                return
            keep = self.random.choice(lost if self.random.random() < 0.3 else lost[-3:])
            offset = model.batches[keep][0]
            self.truncations += 1
            self.deep += bool(log.segments and offset < log.segments[-1].end)
            log.truncate(offset)
            model.cut(keep)
            model.epoch += 1
            if self.random.random() < 0.5:
                self.follow()

    def commit(self):
        """The high watermark of a log moves, and some of what is below it is settled, or comes back."""
        log, model = self.log()
        if not self.commits or model.end <= model.high_watermark:
            return
        if self.random.random() < 0.5:
            model.high_watermark = self.random.randint(model.high_watermark, model.end)
        for _ in range(self.random.randint(0, 3)):
            if not model.high_watermark:
                return
            first = self.random.randrange(model.high_watermark)
            end = min(first + self.random.randint(1, 6), model.high_watermark)
            if self.random.random() < 0.2:
                if first not in model.settled:
                    log.note_return(first, 1 + first % 5)
                    model.returns[first] = 1 + first % 5
            elif end == first + 1:
                log.settle_one(first)
                model.settle(first, end)
            else:
                log.settle(first, end)
                model.settle(first, end)

    def move_away_and_back(self):
        """A replica that is dropped, and later assigned here again."""
        log, _ = self.log()
        self.store.drop_log(log)
        log = self.store.create_log(durable=True, uuid=log.uuid)
        self.model[log.uuid] = log.replica = Replica()
        log.render = lambda raw: render_record(0, raw)
        self.mirror[log.uuid] = []

    # What the disk does, a step at a time.

    def write(self):
        if self.cut is None:
            self.after[self.store.frame] = self.copy()
            self.cut = self.store.cut()
            self.written = False
            self.ship(self.cut.shipped if self.cut is not None else ())
        elif not self.written:
            self.cut.write.write()
            self.written = True
        else:
            self.cut.write.flush()
            self.store.finish(self.cut)
            self.cut = None

    def ship(self, shipped):
        """What has come to a follower is what the log has."""
        for one in shipped:
            mirror = self.mirror[one.log.uuid]
            mirror[:] = [batch for batch in mirror if batch[0] < one.first]
            for octets in one.octets:
                header = parse_header(octets)
                check_batch(bytes(octets), 0, header)
                mirror.append(identity(header))
            model = self.model[one.log.uuid]
            assert mirror[-1][1] == one.end if one.octets else True
            assert [batch for batch in mirror if batch[0] >= one.first] == [
                batch for batch in model.batches if batch[0] >= one.first
            ]
            assert all(model.settled.issuperset(range(*each)) for each in one.settled)
            assert one.returns.items() <= model.returns.items()

    def go_on_with_checkpoint(self):
        if self.steps is None:
            self.steps = checkpoint.Checkpoint(self.store).steps()
        for _ in range(self.random.randint(1, 6)):
            try:
                job = next(self.steps)
            except StopIteration:
                self.steps = None
                return
            if job:
                job()

    # How it ends.

    def crash(self):
        self.crashes += 1
        power = self.random.random() < 0.7
        if self.random.random() < 0.6:
            # In the middle of whatever comes next.
            self.disk.left = self.random.randint(0, 12)
            try:
                for _ in range(6):
                    self.write()
                    self.go_on_with_checkpoint()
            except PowerCut:
                power = True
            self.disk.left = None
        promised = self.store.synced_frame
        ends = {uuid: (log.synced_offset, self.model[uuid].copy()) for uuid, log in self.store.by_uuid.items()}
        (self.disk.power_cut if power else self.disk.kill)()
        if self.random.random() < 0.3:
            # And once more while recovering.
            self.disk.left = self.random.randint(0, 9)
            try:
                self.open()
            except PowerCut:
                self.disk.power_cut()
            else:
                self.disk.kill()
            self.disk.left = None
        self.open()
        found = {uuid: shape(log) for uuid, log in self.store.by_uuid.items()}
        possible = [model for frame, model in self.after.items() if frame >= promised]
        fitting = [model for model in possible if {uuid: one.shape() for uuid, one in model.items()} == found]
        assert fitting, f"after frame {promised} something else was promised"
        for uuid, (end, model) in ends.items():
            kept = [one for one in fitting[-1][uuid].batches if one[0] < end]
            assert kept == [one for one in model.batches if one[0] < end], f"{end} was promised"
        self.model = {uuid: one.copy() for uuid, one in fitting[-1].items()}
        for one in self.model.values():
            one.epoch += 1
            one.high_watermark = min(one.high_watermark, one.end)
        self.after = {self.store.synced_frame: self.copy()}
        self.open_ports()

    def it_reads_back(self):
        for uuid, model in self.model.items():
            assert shape(self.store.by_uuid[uuid]) == model.shape()

    def run(self, steps=200):
        """So many steps; returns itself."""
        actions = [
            (8, self.follow),
            (2, self.lead),
            (4, self.meet_a_leader),
            (4, self.commit),
            (0.3, self.move_away_and_back),
            (8, self.write),
            (4, self.go_on_with_checkpoint),
            (1, self.crash),
        ]
        for _, action in self.random.choices(actions, [weight for weight, _ in actions], k=steps):
            action()
            if self.random.random() < 0.3:
                self.it_reads_back()
        return self
