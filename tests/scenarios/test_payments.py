"""examples/payments: a topic read by a group over AMQP, poison rejected, mended and replayed; killed throughout."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S, wait_until

from tools.bench.control import free_port, running_jackalope

pytestmark = pytest.mark.compat

PROGRAMS = Path(__file__).resolve().parents[2] / "examples" / "payments"
COUNT, BOOKKEEPERS = 1000, 3


class Site:
    """A broker on one directory, and its bookkeepers, through their lives."""

    def __init__(self, directory):
        self.directory = directory
        self.kafka, self.amqp = f"127.0.0.1:{free_port()}", free_port()
        self.books, self.mended = directory / "books.db", directory / "mended"
        self.programs = []
        sqlite3.connect(self.books).execute(
            "PRAGMA journal_mode=WAL"
        ).connection.close()  # Who is first locks others out.
        self.start()

    def start(self):
        settings = (f"listeners.kafka={self.kafka}", f"listeners.amqp=127.0.0.1:{self.amqp}")
        self.manager = running_jackalope(settings=settings, directory=self.directory)
        self.broker = self.manager.__enter__()

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.manager.__exit__(None, None, None)
        self.start()

    def run(self, name, *words):
        process = subprocess.Popen([sys.executable, str(PROGRAMS / name), *words], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        self.programs.append(process)
        return process

    def hire(self):
        url = f"amqp://guest:guest@127.0.0.1:{self.amqp}/%2F"
        return self.run("bookkeeper.py", str(self.books), str(self.mended), url)

    def booked(self):
        books = sqlite3.connect(self.books, timeout=HANG_S)
        try:
            return [row for (row,) in books.execute("SELECT id FROM booked ORDER BY id")]
        except sqlite3.OperationalError:  # No bookkeeper has made the table yet.
            return []
        finally:
            books.close()

    def jackalope(self, *arguments):
        url = f"http://guest:guest@127.0.0.1:{self.broker.http_port}"
        command = [sys.executable, "-m", "tools.cli.main", "--url", url, *arguments, "--vhost", "/"]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)

    def dead(self):
        """The ids among the dead letters, each once."""
        shown = self.jackalope("queue", "peek", "payments.dead", "-n", "0", "--format", "jsonl").stdout
        return {json.loads(json.loads(line)["payload"])["id"] for line in shown.splitlines()}

    def stop(self):
        for process in self.programs:
            process.kill()
            process.wait()
        self.manager.__exit__(None, None, None)


def test_every_payment_is_booked_once(tmp_path):
    """Broker and bookkeepers are killed; poison is set aside, and booked when it is mended and replayed."""
    chance = random.Random(1)
    site = Site(tmp_path)
    try:
        paying = site.run("pay.py", str(COUNT), site.kafka)
        keepers = [site.hire() for _ in range(BOOKKEEPERS)]
        for round_number in range(4):
            some = round_number * 150 + chance.randrange(10, 150)
            wait_until(lambda some=some: len(site.booked()) >= some, lambda: f"{len(site.booked())} booked", 0.1)
            if round_number % 2:
                site.kill()
            else:
                keepers.pop().kill()
                keepers.append(site.hire())
        assert paying.wait(HANG_S) == 0
        poison = list(range(0, COUNT, 10))
        wait_until(lambda: site.booked() == [number for number in range(COUNT) if number % 10])
        wait_until(lambda: site.dead() == set(poison))
        site.mended.touch()
        site.kill()
        assert site.jackalope("dlq", "replay", "payments.dead").returncode == 0
        site.kill()
        assert site.dead() == set()
        wait_until(lambda: site.booked() == list(range(COUNT)))
    finally:
        site.stop()
