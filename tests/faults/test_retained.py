"""SIGKILL at a random moment, again and again, of a broker whose queue keeps what it delivers."""

import contextlib
import os
import random
import signal
import threading

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel

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
