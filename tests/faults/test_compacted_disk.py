"""A compacted topic under a million updates and SIGKILL: what is left on disk is what is left of the topic."""

import contextlib
import os
import random
import signal
import time

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import HANG_S, wait_until

from tests.faults.load import SHORT
from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

UPDATES = 200_000 if SHORT else 1_000_000
KEYS = 1000
RARE_EVERY = 1000
"""Each so many updates one of a key that does not come again: no stretch of the log is ever superseded as a whole."""
SETTINGS = ("listeners.kafka=127.0.0.1:0", "kafka.retention_check_s=2s")
MB = 1_000_000
BYTES_MAX = 8 * MB
"""4 MiB of it are room that the journal has reserved."""
UNSEEN_MAX = 20_000
"""Records of the last batch, which no pass may touch, and of those that were superseded since the pass before."""


def servers(broker):
    return "{}:{}".format(*broker.addresses["kafka"])


def on_disk(directory):
    """Octets that the data directory takes."""
    total = 0
    for path in (directory / "data").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Removed meanwhile.
            total += path.stat().st_blocks * 512
    return total


def update(broker, chance, numbers):
    """Updates by an idempotent producer; returns each key's last value when all are acknowledged."""
    latest = {}
    producer = Producer(
        {"bootstrap.servers": servers(broker), "enable.idempotence": True, "linger.ms": 20,
         "queue.buffering.max.messages": 200_000}
    )  # fmt: skip
    for number in numbers:
        key = b"rare-%d" % number if number % RARE_EVERY == 0 else b"key-%d" % chance.randrange(KEYS)
        latest[key] = value = b'{"number":%d,"state":"%s"}' % (number, b"x" * 100)
        while True:
            try:
                producer.produce("state", value, key)
                break
            except BufferError:
                producer.poll(0.05)
    assert producer.flush(HANG_S) == 0
    return latest


def read(broker):
    """Each key's last value, as a consumer that begins at the beginning finds it; and how many records that were."""
    reader = Consumer({"bootstrap.servers": servers(broker), "group.id": "reader", "enable.partition.eof": True})
    reader.assign([TopicPartition("state", 0, 0)])
    found, count = {}, 0
    while True:
        message = reader.poll(HANG_S)
        assert message is not None
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF
            break
        found[message.key()] = message.value()
        count += 1
    reader.close()
    return found, count


def wait_until_small(broker, directory):
    """The broker gives the disk back by itself, within some rounds of passes and checkpoints; returns what is left."""

    def small():
        found, count = read(broker)
        return found if on_disk(directory) <= BYTES_MAX and count <= len(found) + UNSEEN_MAX else None

    return wait_until(small, lambda: f"{on_disk(directory) / MB:.1f} MB on disk, {read(broker)[1]} records", 1)


@pytest.mark.parametrize("compression", ["producer", "zstd"])
def test_a_million_updates_of_a_thousand_keys(tmp_path, compression):
    """Over 100 MB come in, half of them, then a kill in the middle of compaction, then the rest; a few MB stay, over
    another kill, with every key's last value."""
    chance = random.Random(1)
    admin_settings = {"cleanup.policy": "compact", "compression.type": compression}
    with running_jackalope(directory=tmp_path, http=False, settings=SETTINGS) as broker:
        admin = AdminClient({"bootstrap.servers": servers(broker)})
        admin.create_topics([NewTopic("state", 1, config=admin_settings)])["state"].result(HANG_S)
        latest = update(broker, chance, range(UPDATES // 2))
        time.sleep(chance.uniform(0, 6))  # Whatever it is doing by then.
        os.kill(broker.root_pid, signal.SIGKILL)
    with running_jackalope(directory=tmp_path, http=False, settings=SETTINGS) as broker:
        assert read(broker)[0] == latest
        latest |= update(broker, chance, range(UPDATES // 2, UPDATES))
        assert wait_until_small(broker, tmp_path) == latest
        os.kill(broker.root_pid, signal.SIGKILL)
    with running_jackalope(directory=tmp_path, http=False, settings=SETTINGS) as broker:
        assert read(broker)[0] == latest
        assert wait_until_small(broker, tmp_path) == latest
