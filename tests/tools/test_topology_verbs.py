"""`queue create|rm|purge`, `exchange create|rm`, `binding create|rm` against a broker process."""

import pika
import pytest
from cli_sessions import close_all, jackalope, open_channel

from tools.bench.control import running_jackalope


@pytest.fixture(scope="module")
def broker():
    """A fresh broker for the module."""
    with running_jackalope(settings=("listeners.kafka=127.0.0.1:0",)) as started:
        yield started
    close_all()


def good(broker, *words):
    """(lines of stdout, stderr) of a command that succeeds."""
    code, lines, told = jackalope(broker, *words)
    assert code == 0, told
    return lines, told


def test_from_nothing_to_a_topic_that_an_exchange_leads_to_and_back(broker):
    """Declared, bound, published through, read as a topic; then unbound and deleted; a second time is no error."""
    assert good(broker, "exchange", "create", "orders", "topic")[1] == "exchange orders is there now\n"
    assert good(broker, "exchange", "create", "orders", "topic")[1] == "exchange orders was there already\n"
    good(broker, "queue", "create", "events", "--type", "stream", "--partitions", "2", "-a", "x-max-age=7D")
    good(broker, "binding", "create", "orders", "events", "-r", "order.#")
    good(broker, "message", "publish", "-e", "orders", "-r", "order.eu", "one")
    rows, _ = good(broker, "topic", "consume", "events", "--from", "earliest", "--columns", "key,value")
    assert [(row["key"], row["value"]) for row in rows] == [("order.eu", "one")]
    bindings = [row for row in good(broker, "binding", "ls")[0] if row["source"]]
    assert [(row["source"], row["destination"], row["routing_key"]) for row in bindings] == [
        ("orders", "events", "order.#")
    ]
    good(broker, "binding", "rm", "orders", "events", "-r", "order.#")
    code, _, told = jackalope(broker, "binding", "rm", "orders", "events", "-r", "order.#")
    assert (code, told) == (4, "jackalope: no such binding of orders to events\n")
    good(broker, "queue", "rm", "events")
    good(broker, "exchange", "rm", "orders")
    assert jackalope(broker, "exchange", "rm", "orders")[0] == 4


def test_exchanges_lead_to_exchanges_and_arguments_are_json(broker):
    """`--to-exchange`; a value is a number where it is JSON's, else text."""
    good(broker, "exchange", "create", "outer", "headers")
    good(broker, "exchange", "create", "inner", "fanout", "-a", "alternate-exchange=amq.fanout")
    arguments = ("-a", "x-match=any", "-a", "n=5")
    good(broker, "binding", "create", "outer", "inner", "--to-exchange", *arguments)
    (row,) = [row for row in good(broker, "binding", "ls")[0] if row["source"] == "outer"]
    assert (row["destination_type"], row["arguments"]) == ("exchange", {"x-match": "any", "n": 5})
    good(broker, "binding", "rm", "outer", "inner", "--to-exchange", *arguments)
    good(broker, "exchange", "rm", "outer", "--if-unused")


def test_what_is_refused_says_why(broker):
    """In AMQP's words; usage that makes no sense is 2."""
    good(broker, "queue", "create", "strict")
    code, _, told = jackalope(broker, "queue", "create", "strict", "--transient")
    assert (code, "inequivalent arg 'durable'" in told) == (1, True)
    assert jackalope(broker, "queue", "create", "bad", "--partitions", "2")[0] == 2
    assert jackalope(broker, "exchange", "create", "bad", "nonsense")[0] == 1
    good(broker, "message", "publish", "-r", "strict", "x")
    assert jackalope(broker, "queue", "rm", "strict", "--if-empty")[0] == 1
    good(broker, "queue", "rm", "strict")


def test_a_purge_says_what_it_keeps(broker):
    """Of a queue with x-retain what is purged is retained; what is with consumers stays with them."""
    good(broker, "queue", "create", "keeping", "-a", "x-retain=1D")
    good(broker, "queue", "create", "plain")
    channel = open_channel(broker)
    for name in ("keeping", "plain"):
        for _ in range(5):
            channel.basic_publish("", name, b"x", pika.BasicProperties(delivery_mode=2))
    assert good(broker, "queue", "purge", "plain")[1] == "purged plain: 5 messages\n"
    method, _, _ = channel.basic_get("keeping")
    told = good(broker, "queue", "purge", "keeping")[1]
    assert told.startswith("purged keeping: 4 messages; 4 are retained (")
    assert told.endswith("see `queue peek --retained` and `queue replay`; 1 are with consumers\n")
    channel.basic_ack(method.delivery_tag)
    channel.connection.process_data_events(0)
    assert len(good(broker, "queue", "peek", "keeping", "--retained", "-n", "10")[0]) >= 4
