"""kombu over py-amqp, as Celery and its other users drive it, against Jackalope and RabbitMQ."""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import kombu
import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from compat_brokers import Target
from kombu.exceptions import OperationalError
from waiting import HANG_S, wait_until


def connected(url: str, **options: Any) -> kombu.Connection:
    """A connection, which kombu opens when it is first used; a context manager."""
    return kombu.Connection(url, connect_timeout=HANG_S, **options)


def drain(connection: kombu.Connection, done: Callable[[], bool]) -> None:
    """Drain events until `done`."""
    deadline_s = time.monotonic() + HANG_S
    while not done():
        assert time.monotonic() < deadline_s, f"not done after {HANG_S:.0f} s"
        try:
            connection.drain_events(timeout=0.1)
        except TimeoutError:
            connection.heartbeat_check()


def test_simple_queue(broker: Target) -> None:
    """SimpleQueue: put, get, ack, requeue, qsize, clear."""
    with connected(broker.url) as connection, connection.SimpleQueue("simple") as queue:
        queue.put({"n": 0}, serializer="json")
        first = queue.get(timeout=HANG_S)
        assert first.payload == {"n": 0}
        first.requeue()
        again = queue.get(timeout=HANG_S)
        assert (again.payload, again.delivery_info["redelivered"]) == ({"n": 0}, True)
        again.ack()
        for number in (1, 2):
            queue.put({"n": number}, serializer="json", compression="gzip")
        for number in (1, 2):
            message = queue.get(timeout=HANG_S)
            assert message.payload == {"n": number}
            message.ack()
        with pytest.raises(queue.Empty):
            queue.get(timeout=0.1)
        assert queue.qsize() == 0
        assert queue.clear() == 0


def test_producer_and_consumer_declare_what_they_need(broker: Target) -> None:
    """A Producer with `declare` and a Consumer on queues bound to a topic exchange; rejects and acks."""
    exchange = kombu.Exchange("media", "topic", durable=True)
    video = kombu.Queue("video", exchange, routing_key="video.#")
    audio = kombu.Queue("audio", exchange, routing_key="audio.*", queue_arguments={"x-max-priority": 5})
    got: list[tuple[str, Any]] = []

    def on_message(body: Any, message: kombu.Message) -> None:
        got.append((message.delivery_info["routing_key"], body))
        if body == "reject":
            message.reject()
        else:
            message.ack()

    with connected(broker.url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        for key, body in (("video.a.b", {"id": 1}), ("audio.x", "reject"), ("audio.y", [1, 2.5, None]), ("none", "-")):
            producer.publish(body, exchange=exchange, routing_key=key, declare=[video, audio], retry=True, priority=0)
        with connection.Consumer([video, audio], callbacks=[on_message], prefetch_count=1):
            drain(connection, lambda: len(got) == 3)
        assert sorted(got, key=lambda one: one[0]) == [
            ("audio.x", "reject"), ("audio.y", [1, 2.5, None]), ("video.a.b", {"id": 1}),
        ]  # fmt: skip
        assert audio(connection).queue_declare(passive=True).message_count == 0


def test_fanout_and_exclusive_auto_delete_queues(broker: Target) -> None:
    """Broadcast queues as Celery's control commands use them: fanout, auto-delete, expiring."""
    exchange = kombu.Exchange("celery.pidbox", "fanout", durable=False, delivery_mode="transient")
    got: list[str] = []
    with connected(broker.url) as connection, connected(broker.url) as publisher:
        queues = [
            kombu.Queue(f"box-{number}", exchange, durable=False, auto_delete=True, expires=3600.0, message_ttl=300.0)
            for number in range(3)
        ]
        with connection.Consumer(queues, callbacks=[lambda body, message: got.append(body)], no_ack=True):
            publisher.Producer(exchange=exchange).publish("ping")
            drain(connection, lambda: len(got) == 3)
        assert got == ["ping"] * 3


def test_mandatory_return(broker: Target) -> None:
    """An unroutable mandatory publish comes back through on_return."""
    returned: list[tuple[int, str]] = []
    with connected(broker.url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        producer = kombu.Producer(
            channel, on_return=lambda error, exchange, key, message: returned.append((error.reply_code, key))
        )
        producer.publish("x", routing_key="nowhere", mandatory=True)
        assert returned == [(312, "nowhere")]


def test_channel_errors(broker: Target) -> None:
    """404 and 406 raise py-amqp's own exceptions, and the connection serves a new channel."""
    with connected(broker.url) as connection:
        with pytest.raises(NotFound):
            kombu.Queue("absent", channel=connection.channel()).queue_declare(passive=True)
        kombu.Queue("q", channel=connection.channel(), durable=True).queue_declare()
        with pytest.raises(PreconditionFailed):
            kombu.Queue("q", channel=connection.channel(), durable=False).queue_declare()
        kombu.Queue("q", channel=connection.channel(), durable=True).queue_declare()
        assert connection.connected


def test_publish_retry_after_connection_loss(broker: Target) -> None:
    """With its socket gone, publish(retry=True) reconnects and publishes; an unacked delivery comes again."""
    with connected(broker.url, transport_options={"confirm_publish": True}) as connection:
        queue = kombu.Queue("survives", durable=True)
        producer = connection.Producer(auto_declare=True)
        producer.publish("before", routing_key="survives", declare=[queue], retry=True)
        assert queue(connection.default_channel).get(no_ack=False).payload == "before"
        connection.connection.transport.sock.shutdown(socket.SHUT_RDWR)
        producer.publish("after", routing_key="survives", declare=[queue], retry=True)
        bound = queue(connection.default_channel)
        wait_until(lambda: bound.queue_declare(passive=True).message_count >= 2)
        got = [bound.get(no_ack=True) for _ in range(2)]
        assert [(one.payload, one.delivery_info["redelivered"]) for one in got] == [("before", True), ("after", False)]


def test_heartbeat(broker: Target) -> None:
    """A client that checks its heartbeat stays connected; one that does not is dropped."""
    with (
        connected(broker.url, heartbeat=4) as checks,
        connected(broker.url, heartbeat=4) as silent,
        connected(broker.url) as watcher,
    ):
        checks.connect()
        consumed = kombu.Queue("consumed", channel=silent.channel())
        consumed.queue_declare()
        consumed.consume(callback=lambda _: None)
        watched = kombu.Queue("consumed", channel=watcher.channel())

        def silent_is_gone() -> bool:
            checks.heartbeat_check(rate=2)
            with contextlib.suppress(TimeoutError):
                checks.drain_events(timeout=0.2)
            return watched.queue_declare(passive=True).consumer_count == 0

        wait_until(silent_is_gone)
        assert kombu.Queue("alive", channel=checks.channel()).queue_declare().message_count == 0
        with pytest.raises((*silent.connection_errors, OperationalError)):
            kombu.Queue("dead", channel=silent.channel()).queue_declare()


def test_global_qos_as_celery_uses_it(broker: Target) -> None:
    """Celery raises prefetch while it holds ETA tasks: basic.qos again on a running consumer's channel."""
    with connected(broker.url, transport_options={"confirm_publish": True}) as connection:
        queue = kombu.Queue("eta")
        producer = connection.Producer()
        for number in range(6):
            producer.publish(number, routing_key="eta", declare=[queue])
        held: list[kombu.Message] = []
        channel = connection.channel()
        consumer = kombu.Consumer(channel, [queue], callbacks=[lambda body, message: held.append(message)])
        consumer.qos(prefetch_count=2, apply_global=True)
        consumer.consume()
        drain(connection, lambda: len(held) == 2)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.2)
        consumer.qos(prefetch_count=4, apply_global=True)
        drain(connection, lambda: len(held) == 4)
        for message in held[:4]:
            message.ack()
        drain(connection, lambda: len(held) == 6)
        assert [message.payload for message in held] == list(range(6))


def test_large_body_and_tls(broker: Target) -> None:
    """5 MB over TLS with the host name checked."""
    body = b"x" * (5 * 1024 * 1024)
    ssl = {"ca_certs": str(broker.ca_file), "server_hostname": "localhost"}
    with connected(broker.tls_url, ssl=ssl, transport_options={"confirm_publish": True}) as connection:
        queue = kombu.Queue("large")
        connection.Producer().publish(
            body, routing_key="large", declare=[queue], content_type="application/data", content_encoding="binary"
        )
        message = queue(connection.default_channel).get(no_ack=True)
        assert bytes(message.body) == body
