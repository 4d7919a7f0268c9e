"""Topics on a real store, over a disk in memory that can be opened again."""

import itertools
import random
import struct

from crc32c import crc32c
from sim_disk import SimDisk

from broker.core.broker import Broker
from broker.log.checkpoint import Checkpoint
from broker.log.recovery import open_store
from protocol.kafka.records import CRC_START, encode_batch, parse_header, place_batch, render_record


def batch(count, timestamp_ms, *, size=10, key=None):
    """A producer's batch of `count` records."""
    records = b"".join(render_record(delta, b"v" * size, key) for delta in range(count))
    octets = bytearray(
        encode_batch(
            0, count - 1, count, records, leader_epoch=-1, base_timestamp_ms=timestamp_ms, max_timestamp_ms=timestamp_ms
        )
    )
    struct.pack_into(">i", octets, 53, -1)  # No producer, so no sequence.
    struct.pack_into(">I", octets, CRC_START - 4, crc32c(octets[CRC_START:]))
    return bytes(octets)


def append_unseen(partition, octets):
    """A batch as it was stored before its records were looked at."""
    octets = bytearray(octets)
    log = partition.log
    place_batch(octets, log.next_offset, log.leader_epoch)
    log.append_batch(octets, parse_header(octets).last_offset_delta + 1)


class World:
    """One broker's topics; `sync` makes what was done durable, `restart` opens the same disk again."""

    def __init__(self):
        self.disk = SimDisk(random.Random(0).randrange)
        self.names = map("t{}".format, itertools.count())
        self._open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.store.close()

    def _open(self):
        self.store = open_store(self.disk, self.disk.new_uuid)
        self.broker = Broker(lambda count: 0, None, self.store)
        self.broker.restore(0)
        self.topics = self.broker.add_vhost("/").topics

    def partition(self, overrides=None):
        """The only partition of a new topic."""
        return self.topics.create(next(self.names), 1, overrides or {}).partitions[0]

    def sync(self):
        """Write and sync what there is, and tell who waits."""
        self.store.flush()
        self.store.pledges.committed(self.store.synced_frame)
        self.broker.synced()

    def checkpoint(self):
        """One, to its end."""
        for job in Checkpoint(self.store).steps():
            if job is not None:
                job()
            self.store.flush()

    def restart(self, partition):
        """The same partition after a stop in order."""
        self.broker.close_in_order()
        self.store.flush()
        return self.crash(partition)

    def crash(self, partition):
        """The same partition after a stop of another kind: what was synced is there."""
        self.store.close()
        self.disk.locked = False
        self._open()
        return self.topics.get(partition.topic_name).partitions[partition.index]
