"""pika's blocking connections for the tests: opened against a `Target`, always closed, waited on until it happens."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
from compat_brokers import Target
from pika.adapters.blocking_connection import BlockingChannel
from waiting import HANG_S, wait_until


def parameters(target: Target, **options: Any) -> pika.ConnectionParameters:
    """pika's parameters for the target; `options` are pika's own."""
    credentials = pika.PlainCredentials(options.pop("user", target.user), options.pop("password", target.password))
    options.setdefault("virtual_host", target.vhost)
    return pika.ConnectionParameters(target.host, options.pop("port", target.port), credentials=credentials, **options)


@contextlib.contextmanager
def connected(target: Target, **options: Any) -> Iterator[pika.BlockingConnection]:
    """An open connection, closed at the end unless the broker or the test has closed it."""
    connection = pika.BlockingConnection(parameters(target, **options))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


@contextlib.contextmanager
def opened(target: Target, **options: Any) -> Iterator[BlockingChannel]:
    """A channel on a connection of its own."""
    with connected(target, **options) as connection:
        yield connection.channel()


def wait_for(connection: pika.BlockingConnection, done: Callable[[], bool]) -> None:
    """Process the connection's events until `done`. Raises AssertionError when that hangs."""
    deadline_s = time.monotonic() + HANG_S
    while not done():
        assert time.monotonic() < deadline_s, f"not done after {HANG_S:.0f} s"
        connection.process_data_events(0.02)


def stay(connection: pika.BlockingConnection, period_s: float) -> None:
    """Process the connection's events for the whole period: for asserting that something does not come."""
    deadline_s = time.monotonic() + period_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        connection.process_data_events(left_s)


def get(channel: BlockingChannel, queue: str, **options: Any) -> tuple[Any, Any, bytes]:
    """basic.get until a message is there: a publish without confirm may still be on its way."""

    def message() -> tuple[Any, Any, bytes] | None:
        found = channel.basic_get(queue, **options)
        return None if found[0] is None else found

    return wait_until(message, f"nothing in {queue}")


def bodies(channel: BlockingChannel, queue: str) -> list[bytes]:
    """Take everything that is ready."""
    found = []
    while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(message[2])
    return found


def depth(channel: BlockingChannel, queue: str) -> int:
    """Ready messages, as declare-ok counts them."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def no_consumers(channel: BlockingChannel, queue: str) -> bool:
    """Whether nobody consumes from it any more."""
    return int(channel.queue_declare(queue, passive=True).method.consumer_count) == 0


def drop(connection: pika.BlockingConnection) -> None:
    """Lose the connection as a crash would: the socket goes, no close method is sent."""
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError):
        wait_for(connection, lambda: connection.is_closed)
