"""`queue peek` and `dlq` on topics: records that consumers of a group rejected, sent back where they died."""

import os
import signal
import subprocess
import sys

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope

SETTINGS = ("kafka.group_initial_rebalance_delay_s=0",)


@pytest.fixture(autouse=True)
def _closes():
    """Close what a test has opened, whatever became of the broker."""
    yield
    close_all()


@pytest.fixture
def broker(tmp_path):
    """A fresh broker."""
    with running_jackalope(directory=tmp_path, settings=SETTINGS) as found:
        yield found
        close_all()


def declare(channel, partitions=3):
    """Orders through an exchange into a topic, and a topic for what is rejected."""
    channel.exchange_declare("shop", "topic", durable=True)
    channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "stream", "x-partitions": partitions})
    channel.queue_bind("orders", "shop", "#")


def publish(channel, count):
    for number in range(count):
        properties = pika.BasicProperties(headers={"customer": f"c{number % 3}"}, content_type="text/plain")
        channel.basic_publish("shop", f"order.{number}", b"%d" % number, properties)


def consume(broker, count, verdict, group="g", topic="orders", **arguments):
    """`count` deliveries to a consumer of a group, each given to `verdict(channel, method, body)`."""
    channel = open_channel(broker)
    channel.basic_qos(prefetch_count=50)
    table = {"x-group": group, **{name.replace("_", "-"): value for name, value in arguments.items()}}
    found = []
    for method, properties, body in channel.consume(topic, arguments=table, inactivity_timeout=HANG_S):
        assert method is not None, f"{len(found)} of {count} deliveries"
        verdict(channel, method, body)
        found.append((body, properties.headers, method))
        if len(found) == count:
            break
    channel.cancel()
    channel.close()
    return found


def reject(channel, method, _):
    channel.basic_reject(method.delivery_tag, requeue=False)


def ack(channel, method, _):
    channel.basic_ack(method.delivery_tag)


def peek(broker, topic):
    return jackalope(broker, "queue", "peek", topic, "-n", "0")[1]


def test_peek_shows_records_of_all_partitions(broker):
    """By partition and offset, page after page, from any place on."""
    channel = open_channel(broker)
    declare(channel)
    publish(channel, 1200)
    rows = peek(broker, "orders")
    assert [(row["partition"], row["offset"]) for row in rows] == sorted(
        (row["partition"], row["offset"]) for row in rows
    )
    assert sorted(int(row["payload"]) for row in rows) == list(range(1200))
    assert {row["partition"] for row in rows} == {0, 1, 2}
    assert [row["payload"] for row in jackalope(broker, "queue", "peek", "orders", "--body", "1199")[1]] == ["1199"]


def test_dead_letters_of_a_topic_go_back(broker):
    """`ls` groups them, `replay` appends what is meant where it died: same partition, as if it had never died."""
    channel = open_channel(broker)
    declare(channel)
    publish(channel, 9)
    consume(broker, 9, reject, x_dead_letter_topic="orders.dead")
    code, rows, _ = jackalope(broker, "dlq", "ls", "orders.dead")
    assert (code, [(row["source"], row["reason"], row["messages"]) for row in rows]) == (0, [("orders", "rejected", 9)])
    assert [row["queue"] for row in jackalope(broker, "dlq", "ls")[1]] == ["orders.dead"]
    code, _, told = jackalope(broker, "dlq", "replay", "orders.dead", "--header", "customer=c1")
    assert (code, told.strip()) == (0, "replayed 3 of orders.dead")
    assert len(peek(broker, "orders.dead")) == 6
    code, _, told = jackalope(broker, "dlq", "replay", "orders.dead", "--to", "exchange")
    assert (code, told.strip()) == (0, "replayed 6 of orders.dead")
    assert peek(broker, "orders.dead") == []
    rows = peek(broker, "orders")
    home = {row["payload"]: row["partition"] for row in rows if "x-replayed-from" not in row["properties"]["headers"]}
    again = [row for row in rows if "x-replayed-from" in row["properties"]["headers"]]
    assert {row["payload"]: row["partition"] for row in again} == home
    for row in again:
        headers = {name: value for name, value in row["properties"]["headers"].items() if "stream" not in name}
        assert headers == {"customer": f"c{int(row['payload']) % 3}", "x-replayed-from": "orders.dead"}
        assert (row["exchange"], row["routing_key"]) == ("shop", f"order.{row['payload']}")
    got = consume(broker, 9, ack)
    assert sorted(int(body) for body, _, _ in got) == list(range(9))


def test_what_was_replayed_stays_away_after_a_restart(tmp_path):
    """Also from those who read the topic for dead letters themselves, beside what was not replayed."""
    with running_jackalope(directory=tmp_path, settings=SETTINGS) as broker:
        channel = open_channel(broker)
        declare(channel, 1)
        publish(channel, 6)
        consume(broker, 6, reject, x_dead_letter_topic="dead")
        assert jackalope(broker, "dlq", "replay", "dead", "--header", "customer=c1")[0] == 0
        os.kill(broker.root_pid, signal.SIGKILL)
    with running_jackalope(directory=tmp_path, settings=SETTINGS) as broker:
        assert [row["payload"] for row in peek(broker, "dead")] == ["0", "2", "3", "5"]
        got = consume(broker, 4, ack, group="audit", topic="dead")
        assert [body for body, _, _ in got] == [b"0", b"2", b"3", b"5"]


def test_a_replay_out_of_a_topic_that_is_killed_goes_on(tmp_path):
    """kill -9 of the broker in the middle, of 20 s: run again, every letter was moved once."""
    with running_jackalope(directory=tmp_path, settings=SETTINGS) as broker:
        channel = open_channel(broker)
        declare(channel)
        publish(channel, 400)
        consume(broker, 400, reject, x_dead_letter_topic="dead")
        url = f"http://guest:guest@{broker.host}:{broker.http_port}"
        command = [sys.executable, "-m", "tools.cli.main", "--url", url, "dlq", "replay", "dead", "--rate", "20"]
        replaying = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_until(lambda: channel.queue_declare("orders", passive=True).method.message_count >= 405)
        os.kill(broker.root_pid, signal.SIGKILL)
        replaying.wait(HANG_S)
        assert replaying.returncode != 0
        replaying.stderr.close()
    with running_jackalope(directory=tmp_path, settings=SETTINGS) as broker:
        assert 0 < len(peek(broker, "dead")) < 400
        assert jackalope(broker, "dlq", "replay", "dead")[0] == 0
        assert peek(broker, "dead") == []
        rows = peek(broker, "orders")
        again = [int(row["payload"]) for row in rows if "x-replayed-from" in row["properties"]["headers"]]
        assert sorted(again) == list(range(400))


def test_what_dies_again_is_left_for_the_next_replay(broker):
    """A consumer that rejects everything: the replay ends, with what was there when it began."""
    channel = open_channel(broker)
    declare(channel, 1)
    publish(channel, 40)
    consume(broker, 40, reject, x_dead_letter_topic="dead")
    rejecting = open_channel(broker)
    rejecting.basic_qos(prefetch_count=10)
    rejecting.basic_consume(
        "orders", lambda channel, method, *_: channel.basic_reject(method.delivery_tag, requeue=False),
        arguments={"x-group": "g", "x-dead-letter-topic": "dead"},
    )  # fmt: skip
    url = f"http://guest:guest@{broker.host}:{broker.http_port}"
    command = [sys.executable, "-m", "tools.cli.main", "--url", url, "dlq", "replay", "dead", "--rate", "80"]
    replaying = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while replaying.poll() is None:
        rejecting.connection.process_data_events(0.05)
    assert replaying.stderr.read().strip() == "replayed 40 of dead"
    replaying.stderr.close()


def test_dead_letters_of_queues_in_a_topic(broker):
    """A queue's dead letter exchange may lead to a topic: its letters are listed and replayed from there."""
    channel = open_channel(broker)
    channel.queue_declare("dead", durable=True, arguments={"x-queue-type": "stream"})
    onward = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    channel.queue_declare("work", durable=True, arguments=onward)
    for number in range(3):
        channel.basic_publish("", "work", b"%d" % number, pika.BasicProperties(delivery_mode=2))
        channel.basic_reject(channel.basic_get("work")[0].delivery_tag, requeue=False)
    channel.basic_publish("", "dead", b"x", pika.BasicProperties(headers={"x-death": [{"queue": "work"}]}))
    rows = jackalope(broker, "dlq", "ls", "dead")[1]
    assert [(row["source"], row["messages"]) for row in rows] == [("work", 3)]
    assert jackalope(broker, "dlq", "replay", "dead")[::2] == (3, "replayed 3 of dead, 1 left (no origin)\n")
    assert channel.queue_declare("work", passive=True).method.message_count == 3


def test_consumers_show_their_group(broker):
    """`consumer ls`: the group's id and the partitions that it has been given."""
    channel = open_channel(broker)
    declare(channel)
    channel.basic_qos(prefetch_count=10)
    channel.basic_consume("orders", lambda *_: None, consumer_tag="c", arguments={"x-group": "g"})

    def shown():
        channel.connection.process_data_events(0.05)
        return [row for row in jackalope(broker, "consumer", "ls")[1] if row["group"]["partitions"]]

    (row,) = wait_until(shown, "no partitions")
    assert (row["group"]["id"], row["group"]["partitions"]) == ("g", [0, 1, 2])
    assert row["group"]["member_id"].startswith("amqp:c-")
