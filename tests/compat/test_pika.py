"""pika, as its tutorials and its users use it: each test runs against Jackalope and against RabbitMQ."""

import threading
import uuid
from typing import Any

import pika
import pytest
from compat_brokers import Target
from pika_sessions import bodies, connected, depth, drop, get, opened, stay, wait_for
from waiting import HANG_S, wait_until

MEGABYTE = 1024 * 1024


def test_hello(broker: Target) -> None:
    """One message through the default exchange, its content and delivery facts as published."""
    with opened(broker) as channel:
        channel.queue_declare("hello")
        channel.basic_publish("", "hello", b"Hello World!")
        method, properties, body = get(channel, "hello", auto_ack=True)
        assert body == b"Hello World!"
        assert (method.exchange, method.routing_key, method.redelivered) == ("", "hello", False)
        assert method.message_count == 0
        assert properties.headers is None


def test_every_property_comes_back(broker: Target) -> None:
    """All fourteen properties and nested headers arrive as they were sent."""
    headers = {"text": "ä", "int": 7, "big": 2**40, "yes": True, "none": None, "list": [1, "x"]}
    headers["table"] = {"bytes": b"\x00v"}
    sent = pika.BasicProperties(
        content_type="application/json", content_encoding="utf-8", headers=headers, delivery_mode=2, priority=3,
        correlation_id="c-1", reply_to="answers", expiration="60000", message_id="m-1", timestamp=1_700_000_000,
        type="order", user_id="guest", app_id="shop", cluster_id="c",
    )  # fmt: skip
    with opened(broker) as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"{}", sent)
        _, got, body = get(channel, queue, auto_ack=True)
        assert body == b"{}"
        assert vars(got) == vars(sent)


def test_work_queue_with_prefetch_and_manual_acks(broker: Target) -> None:
    """With prefetch 1 a worker holds one task at a time; all are done once, by both workers."""
    with connected(broker) as first, connected(broker) as second, opened(broker) as boss:
        boss.queue_declare("tasks", durable=True)
        done: dict[str, list[bytes]] = {"first": [], "second": []}
        held = {"first": 0, "second": 0}
        held_most = 0

        def work(name: str, connection: pika.BlockingConnection) -> None:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=1)

            def on_task(channel: Any, method: Any, _: Any, body: bytes) -> None:
                nonlocal held_most
                held[name] += 1
                held_most = max(held_most, held[name])

                def finish() -> None:
                    held[name] -= 1
                    done[name].append(body)
                    channel.basic_ack(method.delivery_tag)

                connection.call_later(0.01, finish)

            channel.basic_consume("tasks", on_task)

        work("first", first)
        work("second", second)
        tasks = [b"task %d" % number for number in range(10)]
        for task in tasks:
            boss.basic_publish("", "tasks", task, pika.BasicProperties(delivery_mode=2))

        def all_done() -> bool:
            first.process_data_events(0.01)
            second.process_data_events(0.01)
            return len(done["first"]) + len(done["second"]) >= len(tasks)

        wait_until(all_done, lambda: done, pause_s=0)
        assert sorted(done["first"] + done["second"]) == tasks
        assert held_most == 1
        assert done["first"]
        assert done["second"]
        for connection in (first, second):
            connection.close()
        assert depth(boss, "tasks") == 0


def test_requeue_on_connection_loss(broker: Target) -> None:
    """What a lost consumer had not acknowledged comes again, first, in order and marked redelivered."""
    with connected(broker) as lost, opened(broker) as channel:
        channel.queue_declare("jobs")
        for body in (b"a", b"b", b"c", b"d"):
            channel.basic_publish("", "jobs", body)
        victim = lost.channel()
        get(victim, "jobs")
        get(victim, "jobs")
        drop(lost)
        wait_until(lambda: depth(channel, "jobs") >= 4, lambda: depth(channel, "jobs"))
        again = [get(channel, "jobs", auto_ack=True) for _ in range(4)]
        assert [body for _, _, body in again] == [b"a", b"b", b"c", b"d"]
        assert [method.redelivered for method, _, _ in again] == [True, True, False, False]


def test_publish_subscribe_over_fanout(broker: Target) -> None:
    """Every bound queue gets a copy; who is not bound gets none."""
    with opened(broker) as channel:
        channel.exchange_declare("logs", "fanout")
        subscribers = [channel.queue_declare("", exclusive=True).method.queue for _ in range(3)]
        other = channel.queue_declare("", exclusive=True).method.queue
        for queue in subscribers:
            channel.queue_bind(queue, "logs")
        channel.confirm_delivery()
        channel.basic_publish("logs", "ignored", b"news")
        assert [bodies(channel, queue) for queue in subscribers] == [[b"news"]] * 3
        assert bodies(channel, other) == []


def test_direct_and_topic_routing(broker: Target) -> None:
    """direct matches the whole key; in topic patterns * is one word and # any number of them."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        queues = {}
        patterns = {"kern": "kern.*", "critical": "*.critical", "all": "#", "tail": "a.#", "lazy": "*.*.rabbit"}
        for name, pattern in patterns.items():
            queues[name] = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(queues[name], "amq.topic", pattern)
        keys = ("kern.critical", "kern.info", "a", "a.b.c", "quick.orange.rabbit", "rabbit")
        for key in keys:
            channel.basic_publish("amq.topic", key, key.encode())
        got = {name: [body.decode() for body in bodies(channel, queue)] for name, queue in queues.items()}
        assert got == {
            "kern": ["kern.critical", "kern.info"],
            "critical": ["kern.critical"],
            "all": list(keys),
            "tail": ["a", "a.b.c"],
            "lazy": ["quick.orange.rabbit"],
        }
        for severity in ("info", "warning"):
            channel.queue_bind(queues["kern"], "amq.direct", severity)
        for severity in ("info", "warning", "error"):
            channel.basic_publish("amq.direct", severity, severity.encode())
        assert bodies(channel, queues["kern"]) == [b"info", b"warning"]


def test_headers_exchange(broker: Target) -> None:
    """x-match all wants every listed header, any wants one of them."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        queues = {}
        for match in ("all", "any"):
            queues[match] = channel.queue_declare("", exclusive=True).method.queue
            arguments = {"x-match": match, "format": "pdf", "type": "report"}
            channel.queue_bind(queues[match], "amq.headers", "", arguments)
        for body, headers in {
            b"both": {"format": "pdf", "type": "report"},
            b"one": {"format": "pdf", "type": "log"},
            b"none": {"format": "zip"},
        }.items():
            channel.basic_publish("amq.headers", "", body, pika.BasicProperties(headers=headers))
        assert bodies(channel, queues["all"]) == [b"both"]
        assert bodies(channel, queues["any"]) == [b"both", b"one"]


def _serve_squares(broker: Target, ready: threading.Event, requests: int) -> None:
    with opened(broker) as channel:
        channel.queue_declare("rpc")
        channel.basic_qos(prefetch_count=1)
        ready.set()
        for method, properties, body in channel.consume("rpc", inactivity_timeout=HANG_S):
            assert method is not None, "no request"
            answer = str(int(body) ** 2).encode()
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            channel.basic_publish("", properties.reply_to, answer, reply)
            channel.basic_ack(method.delivery_tag)
            requests -= 1
            if requests == 0:
                break
        channel.cancel()


@pytest.mark.parametrize("reply_to", ["exclusive queue", "amq.rabbitmq.reply-to"])
def test_rpc(broker: Target, reply_to: str) -> None:
    """Request and reply by correlation id, over an exclusive queue and over direct reply-to."""
    ready = threading.Event()
    server = threading.Thread(target=_serve_squares, args=(broker, ready, 5))
    server.start()
    try:
        assert ready.wait(HANG_S)
        with connected(broker) as connection:
            channel = connection.channel()
            queue = reply_to
            if reply_to == "exclusive queue":
                queue = channel.queue_declare("", exclusive=True).method.queue
            answers: dict[str, int] = {}

            def on_answer(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
                answers[properties.correlation_id] = int(body)

            channel.basic_consume(queue, on_answer, auto_ack=True)
            asked = {}
            for number in range(5):
                correlation_id = str(uuid.uuid4())
                asked[correlation_id] = number**2
                properties = pika.BasicProperties(reply_to=queue, correlation_id=correlation_id)
                channel.basic_publish("", "rpc", str(number).encode(), properties)
            wait_for(connection, lambda: len(answers) == 5)
            assert answers == asked
    finally:
        server.join(HANG_S)
    assert not server.is_alive()


def test_publisher_confirms_and_mandatory_returns(broker: Target) -> None:
    """A confirmed publish is in the queue when the call returns; an unroutable mandatory one raises with it."""
    with opened(broker) as channel:
        channel.queue_declare("confirmed")
        channel.confirm_delivery()
        for number in range(50):
            channel.basic_publish("", "confirmed", b"%d" % number, mandatory=True)
        assert depth(channel, "confirmed") == 50
        with pytest.raises(pika.exceptions.UnroutableError) as unroutable:
            channel.basic_publish("", "nowhere", b"lost?", mandatory=True)
        (returned,) = unroutable.value.messages
        assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
        assert returned.body == b"lost?"
        channel.basic_publish("", "nowhere", b"dropped")
        channel.basic_publish("", "confirmed", b"51", mandatory=True)
        assert depth(channel, "confirmed") == 51


def test_nack_reject_and_requeue(broker: Target) -> None:
    """Requeued messages come again at their place and marked; rejected ones are gone; multiple covers what is below."""
    with opened(broker) as channel:
        channel.queue_declare("q")
        channel.confirm_delivery()
        for body in (b"a", b"b", b"c"):
            channel.basic_publish("", "q", body)
        first, second, third = (get(channel, "q")[0] for _ in range(3))
        channel.basic_nack(third.delivery_tag, requeue=True)
        channel.basic_nack(second.delivery_tag, multiple=True, requeue=True)
        assert first.delivery_tag == 1
        again = [get(channel, "q") for _ in range(3)]
        assert [body for _, _, body in again] == [b"a", b"b", b"c"]
        assert all(method.redelivered for method, _, _ in again)
        channel.basic_reject(again[0][0].delivery_tag, requeue=False)
        channel.basic_reject(again[1][0].delivery_tag, requeue=True)
        channel.basic_ack(again[2][0].delivery_tag)
        assert bodies(channel, "q") == [b"b"]


def test_transactions(broker: Target) -> None:
    """Publishes and acks take effect at commit; a rollback forgets them and leaves the delivery unacknowledged."""
    with opened(broker) as channel, opened(broker) as watcher:
        channel.queue_declare("tx")
        channel.tx_select()
        channel.basic_publish("", "tx", b"1")
        assert depth(watcher, "tx") == 0
        channel.tx_commit()
        assert depth(watcher, "tx") == 1
        channel.basic_publish("", "tx", b"2")
        channel.tx_rollback()
        assert depth(watcher, "tx") == 1
        method, _, _ = get(channel, "tx")
        channel.basic_ack(method.delivery_tag)
        channel.tx_rollback()
        channel.basic_ack(method.delivery_tag)
        channel.tx_commit()
        channel.close()
        stay(watcher.connection, 0.2)  # What was not settled would come back.
        assert depth(watcher, "tx") == 0


def test_consumer_generator_and_cancel(broker: Target) -> None:
    """channel.consume ends with cancel; what it had been handed but not yielded goes back."""
    with opened(broker) as channel:
        channel.queue_declare("stream")
        channel.confirm_delivery()
        for number in range(5):
            channel.basic_publish("", "stream", b"%d" % number)
        taken = []
        for method, _, body in channel.consume("stream", inactivity_timeout=HANG_S):
            assert method is not None
            taken.append(body)
            channel.basic_ack(method.delivery_tag)
            if len(taken) == 2:
                break
        channel.cancel()
        assert taken == [b"0", b"1"]
        assert bodies(channel, "stream") == [b"2", b"3", b"4"]


def test_cc_and_bcc(broker: Target) -> None:
    """CC and BCC route copies to further keys; receivers see CC and never BCC."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        queues = [channel.queue_declare("", exclusive=True).method.queue for _ in range(3)]
        headers = {"CC": [queues[1], queues[0]], "BCC": [queues[2]]}
        channel.basic_publish("", queues[0], b"memo", pika.BasicProperties(headers=headers))
        for queue in queues:
            method, properties, body = get(channel, queue, auto_ack=True)
            assert (body, method.routing_key, method.message_count) == (b"memo", queues[0], 0)
            assert properties.headers == {"CC": [queues[1], queues[0]]}


def test_large_bodies(broker: Target) -> None:
    """5 MB cross frame limits of every size, both ways, with neighbours in order."""
    large = bytes(range(256)) * (5 * MEGABYTE // 256)
    with opened(broker) as publisher, connected(broker, frame_max=8192) as connection:
        publisher.queue_declare("large")
        publisher.confirm_delivery()
        for body in (b"before", large, b"", b"after"):
            publisher.basic_publish("", "large", body)
        got: list[bytes] = []
        connection.channel().basic_consume("large", lambda _c, _m, _p, body: got.append(body), auto_ack=True)
        wait_for(connection, lambda: len(got) == 4)
        assert [len(body) for body in got] == [6, len(large), 0, 5]
        assert got[1] == large
        publisher.queue_declare("back")
        connection.channel().basic_publish("", "back", large)
        assert get(publisher, "back", auto_ack=True)[2] == large


def test_no_message_comes_twice_under_flow(broker: Target) -> None:
    """Two thousand messages with multiple acks in steps: each once, in order."""
    with opened(broker) as publisher, connected(broker) as connection:
        publisher.queue_declare("flow")
        channel = connection.channel()
        channel.basic_qos(prefetch_count=100)
        got: list[int] = []

        def on_message(channel: Any, method: Any, _: Any, body: bytes) -> None:
            got.append(int(body))
            if len(got) % 50 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)

        channel.basic_consume("flow", on_message)
        for number in range(2000):
            publisher.basic_publish("", "flow", b"%d" % number)
        wait_for(connection, lambda: len(got) >= 2000)
        stay(connection, 0.1)
        assert got == list(range(2000))
        connection.close()
        assert depth(publisher, "flow") == 0
