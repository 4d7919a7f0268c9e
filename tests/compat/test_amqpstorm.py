"""AMQPStorm: a threaded client with its own frame codec (pamqp), against Jackalope and RabbitMQ."""

import threading
import time
from collections.abc import Callable
from typing import Any

import amqpstorm
import pytest
from compat_brokers import Target
from waiting import HANG_S, wait_until


def connect(broker: Target, **options: Any) -> amqpstorm.Connection:
    """An open connection; a context manager."""
    options.setdefault("timeout", HANG_S)
    return amqpstorm.Connection(
        broker.host, broker.user, broker.password, port=broker.port, virtual_host=broker.vhost, **options
    )


def wait_for(done: Callable[[], bool], each: Callable[[], object] = lambda: None) -> None:
    """Call `each` until `done`."""

    def is_done() -> bool:
        each()
        return done()

    wait_until(is_done)


def test_publish_get_and_properties(broker: Target) -> None:
    """A message with properties, created and fetched by the client's own message class."""
    with connect(broker) as connection, connection.channel() as channel:
        channel.queue.declare("simple")
        channel.confirm_deliveries()
        properties = {"content_type": "text/plain", "headers": {"k": "v", "n": 5}}
        message = amqpstorm.Message.create(channel, "héllo", properties)
        message.correlation_id = "c-1"
        assert message.publish("simple", mandatory=True) is True
        got = channel.basic.get("simple")
        assert got is not None
        assert got.body == "héllo"
        assert got.properties["headers"] == {"k": "v", "n": 5}
        assert got.correlation_id == "c-1"
        got.ack()
        assert channel.basic.get("simple") is None


def test_consume_ack_reject_nack(broker: Target) -> None:
    """Prefetch, then each way to settle a delivery; rejected without requeue is gone, requeued comes again."""
    with connect(broker) as connection, connection.channel() as channel:
        channel.queue.declare("work")
        channel.basic.qos(3)
        for body in ("ack", "reject", "nack"):
            channel.basic.publish(body, "work")
        seen: list[tuple[str, bool]] = []

        def on_message(message: amqpstorm.Message) -> None:
            seen.append((message.body, message.redelivered))
            if message.body == "ack" or message.redelivered:
                message.ack()
            elif message.body == "reject":
                message.reject(requeue=False)
            else:
                message.nack(requeue=True)

        channel.basic.consume(on_message, "work", no_ack=False)
        wait_for(lambda: len(seen) == 4, lambda: channel.process_data_events(auto_decode=True))
        assert sorted(seen) == [("ack", False), ("nack", False), ("nack", True), ("reject", False)]
    with connect(broker) as connection, connection.channel() as channel:
        assert channel.queue.declare("work", passive=True)["message_count"] == 0


def test_exchanges(broker: Target) -> None:
    """Topic and fanout routing, and a binding between exchanges."""
    with connect(broker) as connection, connection.channel() as channel:
        channel.confirm_deliveries()
        channel.exchange.declare("events", "topic")
        channel.exchange.declare("copies", "fanout")
        channel.exchange.bind("copies", "events", "order.*")
        channel.queue.declare("orders")
        channel.queue.declare("copied")
        channel.queue.bind("orders", "events", "order.created")
        channel.queue.bind("copied", "copies", "")
        for key in ("order.created", "order.paid", "user.created"):
            channel.basic.publish(key, key, "events")

        def drain(queue: str) -> list[str]:
            found = []
            while (message := channel.basic.get(queue, no_ack=True)) is not None:
                found.append(message.body)
            return found

        assert drain("orders") == ["order.created"]
        assert drain("copied") == ["order.created", "order.paid"]


def test_mandatory_return_and_errors(broker: Target) -> None:
    """An unroutable mandatory publish raises 312, a missing queue 404, an unequal declare 406."""
    with connect(broker) as connection:
        with connection.channel() as channel:
            channel.confirm_deliveries()
            with pytest.raises(amqpstorm.AMQPMessageError) as returned:
                channel.basic.publish("lost", "nowhere", mandatory=True)
            assert returned.value.error_code == 312
        for code, arguments in ((404, {"passive": True}), (406, {"durable": True})):
            with connection.channel() as channel:
                if code == 406:
                    channel.queue.declare("q")
                with pytest.raises(amqpstorm.AMQPChannelError) as refused:
                    channel.queue.declare("q", **arguments)
                assert refused.value.error_code == code
        assert connection.is_open


def test_transactions(broker: Target) -> None:
    """tx.select, commit and rollback."""
    with connect(broker) as connection, connection.channel() as channel, connection.channel() as watcher:
        channel.queue.declare("tx")
        with channel.tx:
            channel.basic.publish("1", "tx")
            assert watcher.queue.declare("tx", passive=True)["message_count"] == 0
            channel.tx.commit()
        assert watcher.queue.declare("tx", passive=True)["message_count"] == 1
        with channel.tx:
            channel.basic.publish("2", "tx")
            channel.tx.rollback()
        assert watcher.queue.declare("tx", passive=True)["message_count"] == 1


def test_threads_with_channels_of_their_own(broker: Target) -> None:
    """Four threads publish with confirms on four channels of one connection; every message is there."""
    with connect(broker) as connection, connection.channel() as channel:
        channel.queue.declare("shared")
        failures: list[BaseException] = []

        def publish() -> None:
            try:
                with connection.channel() as own:
                    own.confirm_deliveries()
                    for number in range(50):
                        own.basic.publish(str(number), "shared")
            except BaseException as failure:  # noqa: BLE001  # Reported by the main thread.
                failures.append(failure)

        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
        assert failures == []
        assert channel.queue.declare("shared", passive=True)["message_count"] == 200


def test_direct_reply_to(broker: Target) -> None:
    """A request over amq.rabbitmq.reply-to is answered on the same channel."""
    with connect(broker) as connection, connection.channel() as client, connection.channel() as server:
        server.queue.declare("upper")
        answers: list[str] = []

        def serve(message: amqpstorm.Message) -> None:
            amqpstorm.Message.create(server, message.body.upper()).publish(message.reply_to)
            message.ack()

        server.basic.consume(serve, "upper")
        client.basic.consume(lambda message: answers.append(message.body), "amq.rabbitmq.reply-to", no_ack=True)
        client.basic.publish("ping", "upper", properties={"reply_to": "amq.rabbitmq.reply-to"})

        def each() -> None:
            server.process_data_events(auto_decode=True)
            client.process_data_events(auto_decode=True)

        wait_for(lambda: answers == ["PING"], each)


def test_cancelled_by_queue_delete(broker: Target) -> None:
    """The client sees the broker's basic.cancel: the tag leaves its list of consumers."""
    with connect(broker) as connection, connection.channel() as channel, connection.channel() as other:
        channel.queue.declare("doomed")
        channel.basic.consume(lambda _: None, "doomed")
        assert len(channel.consumer_tags) == 1
        other.queue.delete("doomed")
        wait_for(lambda: channel.consumer_tags == [])
        assert channel.is_open


def test_large_body_and_heartbeat(broker: Target) -> None:
    """5 MB there and back on a connection that was idle for three intervals of its heartbeat before."""
    large = "x" * (5 * 1024 * 1024)
    with connect(broker, heartbeat=4) as connection, connection.channel() as channel:
        channel.queue.declare("large")
        time.sleep(13)
        connection.check_for_errors()
        channel.confirm_deliveries()
        channel.basic.publish(large, "large")
        got = channel.basic.get("large", no_ack=True)
        assert got is not None
        assert got.body == large


def test_tls(broker: Target) -> None:
    """The same over TLS."""
    options = {"context": broker.ssl_context(), "server_hostname": "localhost"}
    with amqpstorm.Connection(
        "localhost", broker.user, broker.password, port=broker.tls_port, virtual_host=broker.vhost,
        ssl=True, ssl_options=options,
    ) as connection, connection.channel() as channel:  # fmt: skip
        channel.queue.declare("secret")
        channel.basic.publish("s", "secret")
        wait_for(lambda: channel.queue.declare("secret", passive=True)["message_count"] == 1)
