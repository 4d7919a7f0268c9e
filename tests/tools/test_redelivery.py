"""`x-retain` and `queue replay` against a real broker with a real client."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope

KEEPING = {"x-retain": "1h"}


@pytest.fixture
def broker(tmp_path):
    """A fresh broker."""
    with running_jackalope(directory=tmp_path) as found:
        yield found
        close_all()  # A broker that stops waits for its clients.


def publish(channel, queue, numbers, *, exchange="", **properties):
    for number in numbers:
        channel.basic_publish(exchange, queue, b"%d" % number, pika.BasicProperties(delivery_mode=2, **properties))


def drain(channel, queue):
    """Everything that is ready, acknowledged: (routing key, body, headers)."""
    found = []
    while count := ready(channel, queue):
        for method, properties, body in channel.consume(queue, inactivity_timeout=HANG_S):
            assert method is not None, f"{count} more do not come"
            channel.basic_ack(method.delivery_tag)
            found.append((method.routing_key, body, properties.headers or {}))
            count -= 1
            if not count:
                break
        channel.cancel()
    return found


def ready(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def bodies(found):
    return [body for _, body, _ in found]


def test_what_was_delivered_is_delivered_once_more(broker):
    """Copies, with headers that say where they are from; what is still in the queue is not copied."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(10), headers={"a": 1})
    drain(channel, "q")
    publish(channel, "q", range(10, 12))
    rows = jackalope(broker, "queue", "peek", "q", "--retained", "-n", "0")[1]
    assert [(row["offset"], row["state"], row["payload"]) for row in rows] == [
        (number, "retained", str(number)) for number in range(10)
    ]
    code, _, told = jackalope(broker, "queue", "replay", "q")
    assert (code, told.strip()) == (0, "replayed 10 of q")
    found = drain(channel, "q")
    assert bodies(found) == [b"%d" % number for number in (10, 11, *range(10))]
    assert [headers for _, _, headers in found[2:]] == [
        {"a": 1, "x-replayed-from": "q", "x-replayed-offset": number} for number in range(10)
    ]


def test_a_range_does_not_meet_its_own_copies(broker):
    """Copies are settled by a consumer, and kept, while the replay goes on: it ends where it was to end."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(60))
    drain(channel, "q")
    seen = []
    other = open_channel(broker)
    other.basic_consume("q", lambda _channel, _method, _properties, body: seen.append(body), auto_ack=True)
    command = [sys.executable, "-m", "tools.cli.main", "--url", f"http://guest:guest@{broker.host}:{broker.http_port}",
               "queue", "replay", "q", "--rate", "100"]  # fmt: skip
    replaying = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while replaying.poll() is None:
        other.connection.process_data_events(0.05)
    assert replaying.communicate()[1].strip() == "replayed 60 of q"
    wait_until(lambda: other.connection.process_data_events(0.02) or len(seen) >= 60, lambda: f"{len(seen)} came")
    assert ready(other, "q") == 0  # Whatever else was on its way is here before the answer.
    other.connection.process_data_events(0)
    assert seen == [b"%d" % number for number in range(60)]


def test_ranges_filters_and_numbers(broker):
    """--from and --to by offset, time and interval; --header, --body, -n, --dry-run; what remains is told."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(5), headers={"of": "old"})
    middle_s = int(time.time()) + 2
    wait_until(lambda: time.time() > middle_s + 1, "the clock")
    middle = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle_s))
    publish(channel, "q", range(5, 10), headers={"of": "new"})
    drain(channel, "q")

    def dry(*arguments):
        code, _, told = jackalope(broker, "queue", "replay", "q", "--dry-run", *arguments)
        assert code == 0
        return int(told.split()[2])

    assert [dry(), dry("--from", "3"), dry("--to", "3"), dry("--from", "3", "--to", "4")] == [10, 7, 3, 1]
    assert [dry("--from", middle), dry("--to", middle), dry("--from", "1h"), dry("--to", "1h")] == [5, 5, 10, 0]
    assert [dry("--header", "of=old"), dry("--body", "7"), dry("--from", "2030-01-01")] == [5, 1, 0]
    assert ready(channel, "q") == 0
    code, _, told = jackalope(broker, "queue", "replay", "q", "-n", "4")
    assert (code, told.splitlines()) == (0, ["replayed 4 of q", "go on with --from 4 --to 10"])
    assert jackalope(broker, "queue", "replay", "q", "--from", "4", "--to", "10")[0] == 0
    assert bodies(drain(channel, "q")) == [b"%d" % number for number in range(10)]


def test_into_an_exchange(broker):
    """By the routing key that each had, or another; what nothing is bound for is told."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    channel.queue_declare("again", durable=True)
    channel.exchange_declare("replays", "topic", durable=True)
    channel.queue_bind("again", "replays", "order.#")
    channel.queue_bind("q", "amq.topic", "#")
    publish(channel, "order.new", range(3), exchange="amq.topic")
    publish(channel, "other", range(3, 5), exchange="amq.topic")
    drain(channel, "q")
    code, _, told = jackalope(broker, "queue", "replay", "q", "--into", "replays")
    assert (code, told.strip()) == (3, "replayed 3 of q, 2 left (unroutable)")
    assert [(key, body) for key, body, _ in drain(channel, "again")] == [("order.new", b"%d" % n) for n in range(3)]
    assert jackalope(broker, "queue", "replay", "q", "--into", "amq.default", "-r", "again")[0] == 0
    assert len(drain(channel, "again")) == 5
    assert jackalope(broker, "queue", "replay", "q", "--into", "nowhere")[0] == 4
    assert jackalope(broker, "queue", "replay", "q", "-r", "x")[0] == 2
    assert jackalope(broker, "queue", "replay", "again")[0] == 1


def start_replay(broker, *arguments):
    """`queue replay q`, of 15 s, which has copied something."""
    url = f"http://guest:guest@{broker.host}:{broker.http_port}"
    command = [sys.executable, "-m", "tools.cli.main", "--url", url, "queue", "replay", "q", "--rate", "20", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_replay_that_is_interrupted_goes_on_where_it_was(broker):
    """SIGTERM in the middle: with the --resume that it prints every message comes once."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(300))
    drain(channel, "q")
    replaying = start_replay(broker)
    wait_until(lambda: ready(channel, "q") >= 5)
    replaying.send_signal(signal.SIGTERM)
    told = replaying.communicate(timeout=HANG_S)[1]
    assert replaying.returncode == 3
    known = re.search(r"go on with --resume (\w+)", told).group(1)
    rows = jackalope(broker, "queue", "replays", "q")[1]
    assert [(row["id"], row["copied"], row["finished"]) for row in rows] == [(known, ready(channel, "q"), False)]
    assert jackalope(broker, "queue", "replay", "q", "--resume", known, "-n", "5")[0] == 2
    code, _, told = jackalope(broker, "queue", "replay", "q", "--resume", known)
    assert (code, told.strip()) == (0, "replayed 300 of q")
    assert bodies(drain(channel, "q")) == [b"%d" % number for number in range(300)]
    assert jackalope(broker, "queue", "replay", "q", "--resume", "unknown")[0] == 4


def test_a_replay_that_is_killed_goes_on_where_it_was(broker):
    """SIGKILL of the command, again and again: run with the same --id every message comes once."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(300))
    drain(channel, "q")
    for _ in range(3):
        before = ready(channel, "q")
        replaying = start_replay(broker, "--id", "nightly", "--from", "1h")
        wait_until(lambda before=before: ready(channel, "q") >= before + 3)
        replaying.kill()
        replaying.communicate(timeout=HANG_S)
    code, _, told = jackalope(broker, "queue", "replay", "q", "--id", "nightly", "--from", "1h")
    assert (code, told.strip()) == (0, "replayed 300 of q")
    assert bodies(drain(channel, "q")) == [b"%d" % number for number in range(300)]
    assert jackalope(broker, "queue", "replay", "q", "--id", "nightly")[0] != 0  # It asks for something else.


def test_a_replay_whose_broker_is_killed_goes_on_where_it_was(tmp_path):
    """kill -9 of the broker in the middle: what is kept is there again, and every message comes once."""
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        channel.queue_declare("q", durable=True, arguments=KEEPING)
        publish(channel, "q", range(300))
        drain(channel, "q")
        replaying = start_replay(broker)
        wait_until(lambda: ready(channel, "q") >= 5)
        os.kill(broker.root_pid, signal.SIGKILL)
        told = replaying.communicate(timeout=HANG_S)[1]
        assert replaying.returncode != 0
        known = re.search(r"go on with --resume (\w+)", told).group(1)
        close_all()
    with running_jackalope(directory=tmp_path) as broker:
        channel = open_channel(broker)
        before = ready(channel, "q")
        rows = jackalope(broker, "queue", "ls", "--columns", "messages,messages_retained")[1]
        assert rows == [{"messages": before, "messages_retained": 300}]
        assert [row["copied"] for row in jackalope(broker, "queue", "replays", "q")[1]] == [before]
        assert jackalope(broker, "queue", "replay", "q", "--resume", known)[0] == 0
        assert bodies(drain(channel, "q")) == [b"%d" % number for number in range(300)]
        close_all()


def test_a_policy_keeps_until_it_goes(broker):
    """Retention by policy is in force at once; when the policy goes, what was kept goes."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True)
    publish(channel, "q", range(3))
    drain(channel, "q")
    assert jackalope(broker, "policy", "set", "keep", "^q$", '{"retain-bytes": 1000000}')[0] == 0
    publish(channel, "q", range(3, 6))
    drain(channel, "q")
    assert [row["payload"] for row in jackalope(broker, "queue", "peek", "q", "--retained")[1]] == ["3", "4", "5"]
    assert jackalope(broker, "policy", "rm", "keep")[0] == 0
    assert jackalope(broker, "queue", "peek", "q", "--retained")[1] == []
    assert jackalope(broker, "queue", "ls", "--columns", "messages_retained")[1] == [{"messages_retained": 0}]


def test_a_purge_keeps_what_is_kept(broker):
    """What was ready is out of the queue, and may be replayed like what was delivered."""
    channel = open_channel(broker)
    channel.queue_declare("q", durable=True, arguments=KEEPING)
    publish(channel, "q", range(4))
    drain(channel, "q")
    publish(channel, "q", range(4, 6))
    assert jackalope(broker, "queue", "purge", "q")[0] == 0
    assert ready(channel, "q") == 0
    assert jackalope(broker, "queue", "replay", "q")[0] == 0
    assert len(drain(channel, "q")) == 6


def test_who_may_replay(tmp_path):
    """Read on the queue; write on the exchange, or on the queue itself; topic permissions of each routing key."""
    users = {
        "guest": {
            "password": "guest",
            "tags": ["administrator"],
            "permissions": {"/": {"configure": ".*", "write": ".*", "read": ".*"}},
        },
        "reader": {
            "password": "r",
            "tags": ["management"],
            "permissions": {"/": {"configure": "", "read": ".*", "write": "^jobs$"}},
            "topic_permissions": {"/": {"jobs": {"write": "^charge", "read": ".*"}}},
        },
        "writer": {
            "password": "w",
            "tags": ["management"],
            "permissions": {"/": {"configure": "", "read": "^other$", "write": ".*"}},
        },
    }
    conf = tmp_path / "users.yaml"
    conf.write_text(json.dumps({"users": users}))
    with running_jackalope("-c", str(conf), directory=tmp_path) as broker:
        channel = open_channel(broker)
        channel.exchange_declare("jobs", "topic", durable=True)
        channel.exchange_declare("inner", "fanout", durable=True, internal=True)
        channel.queue_declare("q", durable=True, arguments=KEEPING)
        channel.queue_bind("q", "jobs", "#")
        publish(channel, "charge.new", range(2), exchange="jobs")
        publish(channel, "ship.new", range(2, 5), exchange="jobs")
        drain(channel, "q")
        reader, writer = (f"http://{name}@{broker.host}:{broker.http_port}" for name in ("reader:r", "writer:w"))
        assert jackalope(broker, "--url", writer, "queue", "replay", "q")[0] == 5
        assert jackalope(broker, "--url", reader, "queue", "replay", "q")[0] == 5
        assert jackalope(broker, "--url", reader, "queue", "replay", "q", "--into", "amq.topic")[0] == 5
        assert jackalope(broker, "queue", "replay", "q", "--into", "inner")[0] == 5
        assert ready(channel, "q") == 0
        code, _, told = jackalope(broker, "--url", reader, "queue", "replay", "q", "--into", "jobs")
        assert (code, told.strip()) == (3, "replayed 2 of q, 3 left (not permitted)")
        close_all()


@pytest.mark.parametrize("arguments", [("--from", "-1"), ("--to", "soon"), ("--from", "1x"), ("--rate", "nan")])
def test_places_that_make_no_sense(arguments):
    """Exit 2 before anything is asked of a broker."""
    command = [sys.executable, "-m", "tools.cli.main", "--url", "http://127.0.0.1:1", "queue", "replay", "q"]
    assert subprocess.run([*command, *arguments], capture_output=True, timeout=HANG_S).returncode == 2
