"""examples/semantics: broker and readers are killed; at least once misses nothing, at most once doubles nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tools.bench.control import free_port, running_jackalope

pytestmark = pytest.mark.compat

PROGRAMS = Path(__file__).resolve().parents[2] / "examples" / "semantics"
COUNT, KEYS, READERS, KILLS = 400, 8, 2, 4
WAIT_S = 90


class Site:
    """A broker on one port and one directory, and readers, which are started again when they were killed."""

    def __init__(self, directory, semantics, protocol):
        self.directory, self.semantics, self.protocol = directory, semantics, protocol
        self.port, self.amqp_port = free_port(), free_port()
        self.server = f"127.0.0.1:{self.port}"
        self.ledger = directory / "ledger.db"
        self.readers = []
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
        if not self.ledger.exists():
            return []
        ledger = sqlite3.connect(self.ledger, timeout=30)
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
        admin.create_topics([NewTopic("numbers", 4, 1)])["numbers"].result(10)
        for _ in range(READERS):
            site.start_reader()
        writer = site.program("writer.py", site.server, str(COUNT))
        for number in range(KILLS):
            time.sleep(1.5 + chance.random())
            if number % 2:
                site.kill_broker()
            else:
                site.kill_reader(chance)
        assert writer.wait(WAIT_S) == 0
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
    """Wait until no reader finds anything any more."""
    deadline_s = time.monotonic() + WAIT_S
    seen, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < 8:  # A session of a killed reader is over by then, and its partitions read.
        assert time.monotonic() < deadline_s
        count = len(site.rows())
        if count != seen:
            seen, since_s = count, time.monotonic()
        time.sleep(0.2)


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
