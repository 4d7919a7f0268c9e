"""examples/semantics: broker and readers are killed; at least once misses nothing, at most once doubles nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from waiting import HANG_S, wait_until

from tools.bench.control import free_port, running_jackalope

pytestmark = pytest.mark.compat

PROGRAMS = Path(__file__).resolve().parents[2] / "examples" / "semantics"
COUNT, KEYS, READERS, KILLS, PARTITIONS = 400, 8, 2, 4, 4


class Site:
    """A broker on one port and one directory, and readers, which are started again when they were killed."""

    def __init__(self, directory, semantics, protocol):
        self.directory, self.semantics, self.protocol = directory, semantics, protocol
        self.port, self.amqp_port = free_port(), free_port()
        self.server = f"127.0.0.1:{self.port}"
        self.ledger = directory / "ledger.db"
        self.readers = []
        sqlite3.connect(self.ledger).execute(
            "PRAGMA journal_mode=WAL"
        ).connection.close()  # Who is first locks others out.
        self.start()

    def start(self):
        settings = (
            f"listeners.kafka={self.server}",
            f"listeners.amqp=127.0.0.1:{self.amqp_port}",
            "kafka.group_initial_rebalance_delay_s=0",
        )
        self.manager = running_jackalope(settings=settings, http=False, directory=self.directory)
        self.broker = self.manager.__enter__()

    def kill_broker(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.manager.__exit__(None, None, None)
        self.start()

    def program(self, name, where, *words):
        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / name), where, "numbers", *words], stderr=subprocess.DEVNULL
        )

    def start_reader(self):
        words = ("group", str(self.ledger), self.semantics)
        if self.protocol == "amqp":
            url = f"amqp://guest:guest@127.0.0.1:{self.amqp_port}/%2F"
            self.readers.append(self.program("amqp_reader.py", url, *words))
        else:
            self.readers.append(self.program("reader.py", self.server, *words))

    def kill_reader(self, chance):
        reader = self.readers.pop(chance.randrange(len(self.readers)))
        reader.kill()
        reader.wait()
        self.start_reader()

    def stop(self):
        for reader in self.readers:
            reader.kill()
            reader.wait()
        self.manager.__exit__(None, None, None)

    def rows(self):
        """(key, number, partition, offset) of all that was worked on, in the order in which it was noted."""
        ledger = sqlite3.connect(self.ledger, timeout=HANG_S)
        try:
            return ledger.execute("SELECT key, number, partition, position FROM done ORDER BY rowid").fetchall()
        except sqlite3.OperationalError:  # No reader has made the table yet.
            return []
        finally:
            ledger.close()


@pytest.mark.parametrize("protocol", ["kafka", "amqp"])
@pytest.mark.parametrize("semantics", ["least", "most"])
def test_killed_at_random(tmp_path, semantics, protocol):
    """Everything is written once and in order; least: each record is worked on; most: none is, twice."""
    chance = random.Random(1)
    site = Site(tmp_path, semantics, protocol)
    try:
        admin = AdminClient({"bootstrap.servers": site.server})
        admin.create_topics([NewTopic("numbers", PARTITIONS, 1)])["numbers"].result(HANG_S)
        for _ in range(READERS):
            site.start_reader()
        writer = site.program("writer.py", site.server, str(COUNT))
        for number in range(KILLS):
            some = number * 400 + chance.randrange(1, 400)
            wait_until(lambda some=some: len(site.rows()) >= some, lambda: f"{len(site.rows())} rows", 0.1)
            if number % 2:
                site.kill_broker()
            else:
                site.kill_reader(chance)
        assert writer.wait(HANG_S) == 0
        settle(site)
        rows = site.rows()
        places = [(partition, offset) for _, _, partition, offset in rows]
        if semantics == "least":
            assert {(key, number) for key, number, _, _ in rows} == {
                (f"key-{key}", number) for key in range(KEYS) for number in range(COUNT)
            }
        else:
            assert len(places) == len(set(places))
            assert len(rows) > COUNT * KEYS // 2
        in_order(rows)
    finally:
        site.stop()


def settle(site):
    """Wait until the readers have committed all that is there: `least` has worked on it before, `most` works on no more
    than the last of it."""
    asking = Consumer({"bootstrap.servers": site.server, "group.id": "group"})  # It asks, and does not join.
    places = [TopicPartition("numbers", index) for index in range(PARTITIONS)]
    ends = [asking.get_watermark_offsets(place, HANG_S)[1] for place in places]
    assert sum(ends) == COUNT * KEYS
    try:
        wait_until(lambda: [place.offset for place in asking.committed(places, HANG_S)] == ends, "not all is committed")
    finally:
        asking.close()


def in_order(rows):
    """A key is in one partition, in the order in which it was written, and was first worked on in that order."""
    by_key = {}
    for key, number, partition, offset in rows:
        by_key.setdefault(key, {}).setdefault(number, (partition, offset))
    for numbers in by_key.values():
        assert len({partition for partition, _ in numbers.values()}) == 1
        assert [offset for _, (_, offset) in sorted(numbers.items())] == sorted(
            offset for _, offset in numbers.values()
        )
        assert list(numbers) == sorted(numbers)
