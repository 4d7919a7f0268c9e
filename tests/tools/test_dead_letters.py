"""`queue peek`, `dlq` and `policy` against a real broker with a real client."""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope


@pytest.fixture
def broker(tmp_path):
    """A fresh broker."""
    with running_jackalope(directory=tmp_path) as found:
        yield found
        close_all()


@pytest.fixture(autouse=True)
def _closes():
    """Close what a test has opened, whatever became of the broker."""
    yield
    close_all()


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
    """kill -9 of the broker in the middle, of 20 s: run again, every message is in one place, once."""
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        declare(channel)
        kill_all(channel, "charge", 400)
        url = f"http://guest:guest@{broker.host}:{broker.http_port}"
        command = [sys.executable, "-m", "tools.cli.main", "--url", url, "dlq", "replay", "dead", "--rate", "20"]
        replaying = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_until(lambda: channel.queue_declare("charge", passive=True).method.message_count >= 5)
        os.kill(broker.root_pid, signal.SIGKILL)
        replaying.wait(HANG_S)
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


def test_what_dies_again_is_not_replayed_again(broker):
    """Replayed messages expire at once and are back behind the end that the replay has seen: it ends."""
    channel = open_channel(broker)
    channel.queue_declare("dead", durable=True)
    back = {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("q", durable=True, arguments=back)
    for number in range(20):
        channel.basic_publish("", "q", b"%d" % number, pika.BasicProperties(delivery_mode=2))
    wait_until(lambda: channel.queue_declare("dead", passive=True).method.message_count == 20)
    code, _, told = jackalope(broker, "dlq", "replay", "dead", "--rate", "40")
    assert (code, told.strip()) == (0, "replayed 20 of dead")


def test_a_replay_writes_nowhere_that_its_user_may_not(tmp_path):
    """Permissions, and topic permissions, of whoever asks, as for basic.publish; what stays is told."""
    users = {
        "guest": {
            "password": "guest",
            "tags": ["administrator"],
            "permissions": {"/": {"configure": ".*", "write": ".*", "read": ".*"}},
        },
        "mender": {
            "password": "m",
            "tags": ["management"],
            "permissions": {"/": {"configure": "", "read": ".*", "write": "^(dead|jobs)$"}},
            "topic_permissions": {"/": {"jobs": {"write": "^charge", "read": ".*"}}},
        },
    }
    conf = tmp_path / "users.yaml"
    conf.write_text(json.dumps({"users": users}))
    with running_jackalope("-c", str(conf), directory=tmp_path) as broker:
        channel = open_channel(broker)
        declare(channel)
        kill_all(channel, "charge", 2)
        kill_all(channel, "ship", 3)
        url = f"http://mender:m@{broker.host}:{broker.http_port}"
        assert jackalope(broker, "--url", url, "dlq", "replay", "dead")[::2] == (
            3, "replayed 0 of dead, 5 left (not permitted)\n"
        )  # fmt: skip
        assert jackalope(broker, "--url", url, "dlq", "replay", "dead", "--to", "exchange")[::2] == (
            3, "replayed 2 of dead, 3 left (not permitted)\n"
        )  # fmt: skip
        assert channel.queue_declare("dead", passive=True).method.message_count == 3


def test_histories_that_clients_make_up(broker):
    """An `x-death` that a client sends is no death, whatever is in it."""
    channel = open_channel(broker)
    declare(channel)
    kill_all(channel, "charge", 1)
    for made_up in ([5], [{"time": "abc"}], "x", [{"queue": 1, "time": None}], [[]]):
        channel.basic_publish("", "dead", b"x", pika.BasicProperties(headers={"x-death": made_up}))
    code, rows, _ = jackalope(broker, "dlq", "ls")
    assert (code, [(row["queue"], row["source"], row["messages"]) for row in rows]) == (0, [("dead", "charge", 1)])


def test_peek_shows_what_waits_in_the_queue(broker):
    """For its next try, or for its dead letter queue to take it."""
    channel = open_channel(broker)
    retry = {"x-queue-type": "quorum", "x-delayed-retry-type": "all", "x-delayed-retry-min": 60_000}
    channel.queue_declare("retries", durable=True, arguments=retry)
    surely = {"x-dead-letter-exchange": "nowhere", "x-dead-letter-strategy": "at-least-once",
              "x-overflow": "reject-publish"}  # fmt: skip
    channel.queue_declare("surely", durable=True, arguments={"x-queue-type": "quorum", **surely})
    for name, again in (("retries", True), ("surely", False)):
        for number in range(3):
            channel.basic_publish("", name, b"%d" % number, pika.BasicProperties(delivery_mode=2))
        for _ in range(2):
            channel.basic_nack(channel.basic_get(name)[0].delivery_tag, requeue=again)
    for name, state in (("retries", "retrying"), ("surely", "dying")):
        shown = [(row["state"], row["payload"]) for row in jackalope(broker, "queue", "peek", name)[1]]
        assert shown == [(state, "0"), (state, "1"), ("ready", "2")]


def test_peek_goes_by_offset_through_priorities(broker):
    """Page after page, each message once, though they leave in another order."""
    channel = open_channel(broker)
    channel.queue_declare("q", arguments={"x-max-priority": 9})
    for number in range(3000):
        channel.basic_publish("", "q", b"%d" % number, pika.BasicProperties(priority=number * 7 % 10))
    rows = jackalope(broker, "queue", "peek", "q", "-n", "0")[1]
    assert [(row["offset"], row["payload"]) for row in rows] == [(number, str(number)) for number in range(3000)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("queue", "peek", "q", "-n", "-3"),
        ("queue", "peek", "q", "--from", "-1"),
        ("queue", "peek", "q", "--header", "n"),
        ("queue", "peek", "q", "--columns", "nope"),
        ("queue", "ls", "--columns", "name,nope"),
        ("message", "get", "q", "-n", "-1"),
        ("message", "publish", "x", "-p", "novalue"),
        ("dlq", "replay", "q", "--rate", "-1"),
        ("dlq", "replay", "q", "--rate", "nan"),
        ("dlq", "replay", "q", "--rate", "inf"),
        ("dlq", "replay", "q", "-n", "-1"),
        ("log", "dump", ".", "--from", "-5"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_mistake_of_usage(broker_with_one_message, arguments):
    """Exit 2 and a word about it, not an endless run."""
    code, _, told = jackalope(broker_with_one_message, *arguments)
    assert code == 2, told
    assert "Error" in told


@pytest.mark.parametrize("query", ["count=0", "count=-1", "from=-1", "count=x", "truncate=-1", "from=1e3"])
def test_browsing_by_numbers_that_make_no_sense(broker_with_one_message, query):
    """400 with a reason, not an answer without end."""
    broker = broker_with_one_message
    connection = http.client.HTTPConnection(broker.host, broker.http_port, timeout=HANG_S)
    login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
    connection.request("GET", f"/api/queues/%2F/q/browse?{query}", headers=login)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]) == (400, "bad_request")
    connection.close()


@pytest.fixture(scope="module")
def broker_with_one_message(tmp_path_factory):
    """A broker whose queue `q` has a message."""
    with running_jackalope(directory=tmp_path_factory.mktemp("one")) as found:
        channel = open_channel(found)
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"x")
        yield found


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
    assert jackalope(broker, "policy", "set", "limit", "^logs", '{"max-length": 9}', "--operator")[0] == 0
    shown = jackalope(broker, "queue", "ls", "--columns", "policy,operator_policy,effective_policy_definition")[1]
    assert shown == [
        {"policy": "short", "operator_policy": "limit", "effective_policy_definition": {"max-length": 2}}
    ]  # fmt: skip
    assert jackalope(broker, "policy", "rm", "short")[0] == 0
    assert jackalope(broker, "policy", "rm", "short")[0] == 4
