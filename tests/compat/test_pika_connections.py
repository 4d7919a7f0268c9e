"""pika and the life of a connection: login, TLS, heartbeats, several channels, capabilities."""

import gc
import time

import pika
import pytest
from compat_brokers import Target
from pika_sessions import connected, depth, drop, no_consumers, opened, parameters, stay, wait_for
from waiting import HANG_S, wait_until


def test_capabilities(broker: Target) -> None:
    """The broker advertises connection.blocked and the other extensions that clients look for."""
    with connected(broker) as connection:
        capabilities = connection._impl.server_capabilities
        assert {name for name, on in capabilities.items() if on} >= {
            "basic.nack", "connection.blocked", "consumer_cancel_notify", "exchange_exchange_bindings",
            "publisher_confirms", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
            "direct_reply_to",
        }  # fmt: skip
        assert connection.basic_nack_supported
        assert connection.consumer_cancel_notify_supported
        assert connection.publisher_confirms_supported
        blocked: list[object] = []
        connection.add_on_connection_blocked_callback(lambda *frame: blocked.append(frame))
        channel = connection.channel()
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"1")
        stay(connection, 0.1)
        assert blocked == []


SILENCE_S = 2.5  # Both brokers keep quiet for 3 s before they drop a client that does not know refusals.
LEAKS_ON_FAILURE = pytest.mark.filterwarnings(
    "ignore:unclosed <socket:ResourceWarning"  # pika leaves its loop's wake-up sockets open when a connect fails.
)


@LEAKS_ON_FAILURE
def test_wrong_password_and_vhost(broker: Target) -> None:
    """A bad login is an authentication error (403), an unknown vhost is 530: each as a method, at once."""
    took_s = []
    for _ in range(5):
        began_s = time.monotonic()
        with pytest.raises(pika.exceptions.ProbableAuthenticationError) as login:
            pika.BlockingConnection(parameters(broker, password="wrong"))
        took_s.append(time.monotonic() - began_s)
    assert min(took_s) < SILENCE_S, "told at once, not after the silence for clients that cannot be told"
    assert login.value.args[0].startswith("ConnectionClosedByBroker: (403) 'ACCESS_REFUSED - Login was refused")
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as vhost:
        pika.BlockingConnection(parameters(broker, virtual_host="nowhere"))
    assert vhost.value.args == ("ConnectionClosedByBroker: (530) 'NOT_ALLOWED - vhost nowhere not found'",)
    gc.collect()


def test_tls(broker: Target) -> None:
    """The same over TLS, with the host name checked; a client that does not trust the authority refuses."""
    options = pika.SSLOptions(broker.ssl_context(), "localhost")
    with opened(broker, port=broker.tls_port, ssl_options=options) as channel:
        channel.queue_declare("secret")
        channel.confirm_delivery()
        body = b"x" * 300_000
        channel.basic_publish("", "secret", body)
        assert channel.basic_get("secret", auto_ack=True)[2] == body


@LEAKS_ON_FAILURE
def test_plain_client_on_the_tls_port_is_refused(broker: Target) -> None:
    """A protocol header in the clear is no TLS handshake: the connection ends and the next one works."""
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(parameters(broker, port=broker.tls_port, socket_timeout=HANG_S))
    gc.collect()
    options = pika.SSLOptions(broker.ssl_context(), "localhost")
    with opened(broker, port=broker.tls_port, ssl_options=options) as channel:
        assert channel.is_open


def test_heartbeats(broker: Target) -> None:
    """An idle client that answers heartbeats stays; one that sends nothing for two intervals is dropped.

    Intervals of four seconds: a machine on which this process stands still for eight is none to run tests on.
    """
    with connected(broker, heartbeat=4) as idle, connected(broker, heartbeat=4) as silent, opened(broker) as watcher:
        watcher.queue_declare("q")
        channel = silent.channel()
        channel.basic_consume("q", lambda *_: None)
        wait_for(idle, lambda: no_consumers(watcher, "q"))
        assert idle.is_open
        assert idle.channel().queue_declare("", exclusive=True).method.queue
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            wait_for(silent, lambda: False)


def test_heartbeat_off(broker: Target) -> None:
    """The client's 0 switches heartbeats off."""
    with connected(broker, heartbeat=0) as connection:
        assert connection._impl.params.heartbeat == 0
        assert connection._impl._heartbeat_checker is None
        stay(connection, 0.2)


def test_many_channels(broker: Target) -> None:
    """An error on one of a hundred channels closes that one; its number can be used again."""
    with connected(broker) as connection:
        channels = [connection.channel() for _ in range(100)]
        for number, channel in enumerate(channels):
            channel.queue_declare(f"q{number}", exclusive=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            channels[49].queue_declare("absent", passive=True)
        for number, channel in enumerate(channels):
            channel_is = channel.is_open
            assert channel_is is (number != 49)
        again = connection.channel(50)
        assert depth(again, "q49") == 0
        assert connection.is_open


def test_channel_max_is_negotiated(broker: Target) -> None:
    """A client may lower channel_max; the broker then refuses one more."""
    with connected(broker, channel_max=3) as connection:
        for _ in range(3):
            connection.channel()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
            connection.channel(4)
        assert closed.value.reply_code == 530


def test_update_secret(broker: Target) -> None:
    """connection.update-secret is answered, and the connection goes on."""
    with connected(broker) as connection:
        connection.update_secret("new-secret", "rotation")
        assert connection.channel().is_open


def test_connections_come_and_go(broker: Target) -> None:
    """Fifty connections opened, used and closed or dropped leave nothing behind."""
    with opened(broker) as watcher:
        watcher.queue_declare("q")
        for number in range(50):
            with connected(broker) as connection:
                channel = connection.channel()
                channel.basic_consume("q", lambda *_: None)
                if number % 5 == 0:
                    drop(connection)
        wait_until(lambda: no_consumers(watcher, "q"))
