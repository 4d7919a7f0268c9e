"""Poison orders (conf/examples/retries.yaml): tried again later and later, then dead; mended and replayed.

With the broker killed at random throughout, every order is charged, shipped and receipted once by the ledgers.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pika
import pytest
from waiting import HANG_S, wait_until

from tools.bench.control import free_port, running_jackalope

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "examples" / "orders" / "steady_worker.py"
CONFIG = ROOT / "conf" / "examples" / "retries.yaml"
STEPS = ("charge", "ship", "receipt")
COUNT, POISON = 300, 30


class Site:
    """The broker on one port and one data directory, through its lives."""

    def __init__(self, directory, port):
        self.directory, self.port = directory, port
        self.manager = self.broker = None

    def start(self):
        settings = [f"listeners.amqp=127.0.0.1:{self.port}"]
        self.manager = running_jackalope("-c", str(CONFIG), settings=settings, directory=self.directory)
        self.broker = self.manager.__enter__()

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.manager.__exit__(None, None, None)

    def stop(self):
        self.manager.__exit__(None, None, None)

    @property
    def url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def depth(self, queue):
        patient = f"{self.url}?heartbeat=0&socket_timeout={HANG_S}&stack_timeout={HANG_S}"
        with pika.BlockingConnection(pika.URLParameters(patient)) as connection:
            return connection.channel().queue_declare(queue, passive=True).method.message_count

    def jackalope(self, *arguments):
        url = f"http://guest:guest@127.0.0.1:{self.broker.http_port}"
        command = [sys.executable, "-m", "tools.cli.main", "--url", url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def place(url, numbers):
    """Place orders until each is confirmed, whatever happens to the broker meanwhile."""
    waiting = list(numbers)
    while waiting:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                while waiting:
                    order = {"id": waiting[0], "poison": waiting[0] < POISON}
                    properties = pika.BasicProperties(delivery_mode=2)
                    channel.basic_publish("orders", "order.created", json.dumps(order), properties, mandatory=True)
                    waiting.pop(0)
                    time.sleep(0.005)
        except (pika.exceptions.AMQPError, OSError):
            time.sleep(0.1)


def noted(ledger):
    """The orders in a worker's ledger, each as often as it stands there."""
    database = sqlite3.connect(ledger, timeout=HANG_S)
    try:
        return sorted(json.loads(body)["id"] for (body,) in database.execute("select body from done"))
    except sqlite3.OperationalError:  # The worker has not made the table yet.
        return []
    finally:
        database.close()


@pytest.mark.parametrize("seed", [1])
def test_poison_orders_are_retried_dead_lettered_mended_and_replayed(tmp_path, seed):
    """Nothing is lost and nothing is done twice; the dead letters say where they came from and why."""
    choose = random.Random(seed)
    site = Site(tmp_path, free_port())
    mended = tmp_path / "mended"
    ledgers = {step: tmp_path / f"{step}.db" for step in STEPS}
    site.start()
    command = [sys.executable, str(WORKER)]
    workers = [
        subprocess.Popen([*command, step, ledger, mended, site.url], stdout=subprocess.DEVNULL)
        for step, ledger in ledgers.items()
    ]
    placing = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n"
         f"from test_poison import place; place({site.url!r}, range({COUNT}))"]
    )  # fmt: skip
    try:
        for number in range(3):
            # Healthy orders: those that are not are all placed by then, each once.
            some = number * 60 + choose.randrange(1)
            wait_until(lambda some=some: len(noted(ledgers["charge"])) >= some, lambda: noted(ledgers["charge"]))
            site.kill()
            site.start()
        assert placing.wait(HANG_S) == 0
        healthy = list(range(POISON, COUNT))
        wait_until(lambda: noted(ledgers["receipt"]) == healthy)
        wait_until(lambda: site.depth("dead") == POISON)
        listed = [json.loads(line) for line in site.jackalope("dlq", "ls", "dead").stdout.splitlines()]
        assert {(row["source"], row["reason"]) for row in listed} == {("charge", "delivery_limit")}
        assert sum(row["messages"] for row in listed) == POISON
        mended.touch()
        site.kill()
        site.start()
        assert site.jackalope("dlq", "replay", "dead").returncode == 0
        site.kill()
        site.start()
        everything = list(range(COUNT))
        wait_until(lambda: all(noted(ledger) == everything for ledger in ledgers.values()))
        wait_until(lambda: [site.depth(queue) for queue in (*STEPS, "dead")] == [0, 0, 0, 0])
    finally:
        for process in (*workers, placing):
            process.kill()
            process.wait()
        site.stop()
