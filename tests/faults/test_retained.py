"""SIGKILL at a random moment, again and again, of a broker whose queue keeps what it delivers."""

import base64
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel
from waiting import HANG_S

from tests.faults.load import HASTY, SHORT
from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

ROUNDS = 4 if SHORT else 25
SEED = int(os.environ.get("JACKALOPE_SEED", "1"))


def test_kills_lose_nothing_that_is_kept(tmp_path):
    """What was confirmed waits or is kept, once, at the offset where it was; each second broker checkpoints a lot."""
    chance = random.Random(SEED)
    confirmed: list[bytes] = []
    before: dict[int, str] = {}
    for number in range(ROUNDS):
        with running_jackalope(directory=tmp_path, command=HASTY if number % 2 else None) as broker:
            channel = open_channel(broker)
            channel.queue_declare("q", durable=True, arguments={"x-retain": "1D"})
            found = look(broker)
            assert before.items() <= found.items()
            assert set(confirmed) <= {body.encode() for body in found.values()}
            assert len(set(found.values())) == len(found)
            before = found
            killer = threading.Timer(chance.uniform(0, 0.05), os.kill, (broker.root_pid, signal.SIGKILL))
            killed_at = len(confirmed) + chance.randrange(21, 300)
            with contextlib.suppress(pika.exceptions.AMQPError):
                while True:
                    body = b"%d-%d" % (number, len(confirmed)) + bytes(chance.choice((0, 3000))).replace(b"\0", b"x")
                    channel.basic_publish("", "q", body, pika.BasicProperties(delivery_mode=2))
                    confirmed.append(body)
                    if len(confirmed) == killed_at:
                        killer.start()
                    if chance.random() < 0.7:
                        channel.basic_get("q", auto_ack=True)
            killer.join()
            close_all()
    print(f"seed {SEED}: {ROUNDS} kills, {len(confirmed)} messages confirmed, {len(before)} found before the last")
    assert len(confirmed) > 20 * ROUNDS


def look(broker):
    """{offset: body} of what waits and what is kept."""
    rows = []
    for more in ((), ("--retained",)):
        code, found, told = jackalope(broker, "queue", "peek", "q", "-n", "0", *more)
        assert code == 0, told
        rows += found
    bodies = {row["offset"]: row["payload"] for row in rows}
    assert len(bodies) == len(rows)
    return bodies


REPLAYED = 4000


def test_kills_of_broker_and_command_replay_each_once(tmp_path):
    """A replay into an exchange, which leads to a queue and a topic: however often either is killed, each comes once
    in both. Each second broker checkpoints a lot."""
    chance = random.Random(SEED)
    started, kills = 0, 0
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        channel.queue_declare("q", durable=True, arguments={"x-retain": "1D"})
        channel.queue_declare("copies", durable=True)
        channel.queue_declare("topic", durable=True, arguments={"x-queue-type": "stream", "x-partitions": 2})
        channel.exchange_declare("again", "fanout", durable=True)
        for name in ("copies", "topic"):
            channel.queue_bind(name, "again")
        quick = channel.connection.channel()
        for number in range(REPLAYED):
            quick.basic_publish("", "q", b"%d" % number, pika.BasicProperties(delivery_mode=2))
        taken = read(quick, "q", REPLAYED)
        assert taken == [b"%d" % number for number in range(REPLAYED)]
        close_all()
    for number in range(ROUNDS):
        with running_jackalope(directory=tmp_path, command=HASTY if number % 2 else None) as broker:
            url = f"http://guest:guest@{broker.host}:{broker.http_port}"
            asked = ("queue", "replay", "q", "--id", "r", "--into", "again", "--rate", "400")
            command = [sys.executable, "-m", "tools.cli.main", "--url", url, *asked]
            before = reached(broker)
            replaying = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            started += 1
            wanted = before + chance.randrange(1, 2 * REPLAYED // ROUNDS)
            while replaying.poll() is None and reached(broker) < wanted:
                pass
            if replaying.poll() is None:
                kills += 1
                os.kill(replaying.pid if number % 3 == 2 else broker.root_pid, signal.SIGKILL)
            replaying.kill()
            replaying.wait(HANG_S)
    with running_jackalope(directory=tmp_path) as broker:
        code, _, told = jackalope(broker, "queue", "replay", "q", "--id", "r", "--into", "again", "--rate", "400")
        assert (code, told.strip()) == (0, f"replayed {REPLAYED} of q")
        channel = open_channel(broker)
        for name, more in (("copies", {}), ("topic", {"x-stream-offset": "first"})):
            count = channel.queue_declare(name, passive=True).method.message_count
            found = sorted(map(int, read(channel, name, count, more)))
            assert found == list(range(REPLAYED)), name
        close_all()
    print(f"seed {SEED}: {kills} kills in the middle of {started} runs")
    assert kills


def reached(broker):
    """How many the replay has copied."""
    connection = http.client.HTTPConnection(broker.host, broker.http_port, timeout=HANG_S)
    login = base64.b64encode(b"guest:guest").decode()
    connection.request("GET", "/api/queues/%2F/q/replays", headers={"Authorization": f"Basic {login}"})
    rows = json.loads(connection.getresponse().read())
    connection.close()
    return rows[0]["copied"] if rows else 0


def read(channel, queue, count, arguments=None):
    """So many bodies, acknowledged."""
    found = []
    channel.basic_qos(prefetch_count=500)
    for method, _, body in channel.consume(queue, arguments=arguments, inactivity_timeout=HANG_S):
        assert method is not None, f"{len(found)} of {count} came from {queue}"
        found.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(found) == count:
            break
    channel.cancel()
    return found
