"""`queue peek`, `dlq` and `policy` against a real broker with a real client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pika
import pytest

from tools.bench.control import running_jackalope


def jackalope(broker, *arguments):
    """(exit code, parsed lines of stdout, stderr)."""
    url = f"http://guest:guest@{broker.host}:{broker.http_port}"
    command = [sys.executable, "-m", "tools.cli.main", "--url", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture
def broker(tmp_path):
    """A fresh broker."""
    with running_jackalope(directory=tmp_path) as found:
        yield found


OPEN = []


@pytest.fixture(autouse=True)
def _closes():
    """Close what a test has opened, whatever became of the broker."""
    yield
    while OPEN:
        with contextlib.suppress(pika.exceptions.AMQPError):
            OPEN.pop().close()


def open_channel(broker):
    """A connection's channel with confirms."""
    OPEN.append(pika.BlockingConnection(pika.ConnectionParameters(broker.host, broker.port)))
    channel = OPEN[-1].channel()
    channel.confirm_delivery()
    return channel


def declare(channel):
    """Two work queues behind an exchange, and their dead letters in `dead`."""
    channel.exchange_declare("jobs", "topic", durable=True)
    channel.queue_declare("dead", durable=True)
    for name in ("charge", "ship"):
        onward = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        channel.queue_declare(name, durable=True, arguments=onward)
        channel.queue_bind(name, "jobs", f"{name}.#")


PERSISTENT = {"delivery_mode": 2}


def kill_all(channel, queue, number):
    """Publish and reject so many."""
    for index in range(number):
        properties = pika.BasicProperties(delivery_mode=2, headers={"customer": f"c{index % 3}"})
        channel.basic_publish("jobs", f"{queue}.new", b"%s %d" % (queue.encode(), index), properties)
    for _ in range(number):
        channel.basic_reject(channel.basic_get(queue)[0].delivery_tag, requeue=False)


def test_peek_shows_and_takes_nothing(broker):
    """Ready and unacknowledged, by offset, with filters on headers and body; the queue is as it was."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True)
    for number in range(25):
        properties = pika.BasicProperties(delivery_mode=2, headers={"even": str(number % 2 == 0)})
        channel.basic_publish("", "q", b"message %d" % number, properties)
    channel.basic_get("q")
    code, rows, _ = jackalope(broker, "queue", "peek", "q", "-n", "3")
    assert code == 0
    assert [(row["offset"], row["state"], row["payload"]) for row in rows] == [
        (0, "unacknowledged", "message 0"), (1, "ready", "message 1"), (2, "ready", "message 2"),
    ]  # fmt: skip
    assert len(jackalope(broker, "queue", "peek", "q", "-n", "0", "--header", "even=True")[1]) == 13
    assert [row["offset"] for row in jackalope(broker, "queue", "peek", "q", "--body", "ge 7", "--from", "3")[1]] == [7]
    assert channel.queue_declare("q", passive=True).method.message_count == 24
    assert jackalope(broker, "queue", "peek", "nope")[0] == 4


def test_dead_letters_go_back(broker):
    """`ls` groups them, `replay` moves what is meant to where it died, as if it had never died."""
    channel = open_channel(broker)
    declare(channel)
    kill_all(channel, "charge", 6)
    kill_all(channel, "ship", 4)
    channel.basic_publish("", "dead", b"not a dead letter", pika.BasicProperties(delivery_mode=2))
    groups = {(row["source"], row["reason"]): row["messages"] for row in jackalope(broker, "dlq", "ls", "dead")[1]}
    assert groups == {("charge", "rejected"): 6, ("ship", "rejected"): 4}
    code, _, told = jackalope(broker, "dlq", "replay", "dead", "--source", "charge", "--header", "customer=c1")
    assert (code, told.strip()) == (0, "replayed 2 of dead")
    code, _, told = jackalope(broker, "dlq", "replay", "dead", "--to", "exchange")
    assert (code, told.strip()) == (3, "replayed 8 of dead, 1 left (no origin)")
    method, properties, body = channel.basic_get("charge", auto_ack=True)
    assert (method.exchange, method.routing_key, method.redelivered, body) == ("jobs", "charge.new", False, b"charge 1")
    assert properties.headers == {"customer": "c1", "x-replayed-from": "dead"}
    counts = [channel.queue_declare(name, passive=True).method.message_count for name in ("charge", "ship", "dead")]
    assert counts == [5, 4, 1]


def test_a_replay_that_is_killed_goes_on(tmp_path):
    """kill -9 of the broker and of the command in the middle: run again, every message is in one place, once."""
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        declare(channel)
        kill_all(channel, "charge", 400)
        url = f"http://guest:guest@{broker.host}:{broker.http_port}"
        command = [sys.executable, "-m", "tools.cli.main", "--url", url, "dlq", "replay", "dead", "--rate", "300"]
        replaying = subprocess.Popen(command, stderr=subprocess.PIPE)
        while channel.queue_declare("charge", passive=True).method.message_count < 40:
            time.sleep(0.02)
        os.kill(broker.root_pid, signal.SIGKILL)
        replaying.wait(30)
        assert replaying.returncode != 0
        replaying.stderr.close()
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        before = channel.queue_declare("charge", passive=True).method.message_count
        assert 0 < before < 400
        assert jackalope(broker, "dlq", "replay", "dead")[0] == 0
        found = []
        while (got := channel.basic_get("charge", auto_ack=True))[0] is not None:
            found.append(got[2])
        assert sorted(found) == sorted(b"charge %d" % number for number in range(400))
        assert channel.queue_declare("dead", passive=True).method.message_count == 0


def test_policies_from_the_command_line(broker):
    """set, ls, rm; a mistake is told in words."""
    channel = open_channel(broker)
    channel.queue_declare("logs.a", durable=True)
    assert jackalope(broker, "policy", "set", "short", "^logs", '{"max-length": 2}')[0] == 0
    for number in range(5):
        channel.basic_publish("", "logs.a", b"%d" % number)
    assert channel.queue_declare("logs.a", passive=True).method.message_count == 2
    assert jackalope(broker, "policy", "ls")[1] == [
        {"vhost": "/", "name": "short", "pattern": "^logs", "apply-to": "all", "priority": 0,
         "definition": {"max-length": 2}}
    ]  # fmt: skip
    code, _, told = jackalope(broker, "policy", "set", "bad", "x", '{"max-lenght": 2}')
    assert (code, "max-lenght" in told) == (1, True)
    assert jackalope(broker, "policy", "rm", "short")[0] == 0
    assert jackalope(broker, "policy", "rm", "short")[0] == 4
