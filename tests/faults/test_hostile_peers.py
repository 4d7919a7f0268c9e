"""Hostile peers against a broker process: memory bounded, a prompt end, and a polite client served meanwhile."""

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque

import pika
import pytest
from cli_sessions import patient
from steps import loop_is_free
from waiting import HANG_S, wait_until

from protocol.amqp import content
from protocol.amqp.frames import PROTOCOL_HEADER, method_frame
from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

MIB = 2**20
SHORT = os.environ.get("JACKALOPE_FAULTS") == "short"


@pytest.fixture(scope="module")
def broker():
    """One broker for all attacks: whatever came before must not have hurt it, and no timeout ends what it would not
    have ended by itself."""
    with running_jackalope(settings=["limits.handshake_timeout_s=600"]) as started:
        yield started


def resident(broker):
    """Resident memory of the broker in bytes."""
    with open(f"/proc/{broker.root_pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def handles(broker):
    """Open file descriptors of the broker."""
    return len(os.listdir(f"/proc/{broker.root_pid}/fd"))


def connect(broker):
    """A blocking socket."""
    return socket.create_connection((broker.host, broker.port), timeout=HANG_S)


def logged_in(broker):
    """A raw socket with channel 1 open."""
    sock = connect(broker)
    sock.sendall(
        PROTOCOL_HEADER
        + method_frame(0, "connection.start-ok", {}, "PLAIN", b"\0guest\0guest", "en_US")
        + method_frame(0, "connection.tune-ok", 2047, 131_072, 0)
        + method_frame(0, "connection.open", "/", "", False)
        + method_frame(1, "channel.open", "")
    )
    received = b""
    while b"\x00\x14\x00\x0b" not in received:
        received += sock.recv(65536)
    return sock


def polite(broker):
    """A normal client connects, publishes and gets."""
    connection = pika.BlockingConnection(patient(broker))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x")
    assert channel.basic_get(queue, auto_ack=True)[2] == b"x"
    connection.close()


def until_closed(sock):
    """Everything up to the close."""
    sock.settimeout(HANG_S)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            received += part
            if b"\x00\x0a\x00\x32" in received:  # connection.close: agree to it.
                sock.sendall(method_frame(0, "connection.close-ok"))
    return received


def nested(depth, letter):
    """A table with that much nesting."""
    raw = b""
    for _ in range(depth):
        raw = (b"\x01a" if letter == b"F" else b"") + letter + struct.pack(">I", len(raw)) + raw
    return raw if letter == b"F" else b"\x01a" + raw


def declare_with(table):
    """queue.declare with these octets as its arguments."""
    payload = struct.pack(">HHH", 50, 10, 0) + b"\x01q\x00" + struct.pack(">I", len(table)) + table
    return struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce"


LYING = [2**32 - 1, 2**31, 2**31 - 1]


@pytest.mark.parametrize("size", LYING)
@pytest.mark.parametrize("kind", [1, 2, 3, 8, 9])
def test_lying_frame_sizes(broker, kind, size):
    """A frame size beyond frame_max is refused at once, before and after login, and nothing is allocated for it."""
    before = resident(broker)
    fresh = connect(broker)
    fresh.sendall(PROTOCOL_HEADER)
    with loop_is_free(broker.root_pid):
        for sock in (fresh, logged_in(broker)):
            with sock:
                sock.sendall(struct.pack(">BHI", kind, 1, size) + b"x" * 100)
                assert b"frame_too_large" in until_closed(sock)
        polite(broker)
    assert resident(broker) - before < 2 * MIB


@pytest.mark.parametrize("letter", [b"S", b"x", b"F", b"A"])
@pytest.mark.parametrize("length", [*LYING, 0])
def test_lying_lengths_inside_tables(broker, letter, length):
    """Lengths inside an argument table: 502 or an answer, never memory."""
    before = resident(broker)
    with loop_is_free(broker.root_pid), logged_in(broker) as sock:
        sock.sendall(declare_with(b"\x01a" + letter + struct.pack(">I", length)))
        assert sock.recv(65536)
        polite(broker)
    assert resident(broker) - before < MIB


@pytest.mark.parametrize("depth", [33, 1000, 15_000])
@pytest.mark.parametrize("letter", [b"F", b"A"])
def test_nesting(broker, depth, letter):
    """Deep nesting is refused with 502; no stack is touched."""
    with loop_is_free(broker.root_pid), logged_in(broker) as sock:
        table = nested(depth, letter)
        assert len(table) < 131_072
        sock.sendall(declare_with(table))
        assert b"SYNTAX_ERROR" in until_closed(sock)
        polite(broker)


def test_amplification_before_and_after_login(broker):
    """A frame full of elements without width is refused; memory does not multiply."""
    before = resident(broker)
    voids = b"\x01aA" + struct.pack(">I", 100_000) + b"V" * 100_000
    for _ in range(20):
        with loop_is_free(broker.root_pid), logged_in(broker) as sock:
            sock.sendall(declare_with(voids))
            assert b"too many elements" in until_closed(sock)
    with connect(broker) as sock:
        table = b"\x01aA" + struct.pack(">I", 8000) + b"V" * 8000
        payload = struct.pack(">HHI", 10, 11, len(table)) + table + b"\x05PLAIN" + bytes(4) + b"\x05en_US"
        sock.sendall(PROTOCOL_HEADER + struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")
        until_closed(sock)
    assert resident(broker) - before < 4 * MIB


def test_half_open_flood(broker):
    """Ten thousand sockets that say nothing, and more all the time: under 200 MiB, and a normal client gets in before
    many times as many have come, although it comes from the same address: past the limit the oldest goes."""
    count = 2_500 if SHORT else 10_000
    socks = deque(connect(broker) for _ in range(count))
    over = threading.Event()
    more = itertools.count()

    def go_on():
        while not over.is_set():
            socks.popleft().close()
            socks.append(connect(broker))
            next(more)

    flood = threading.Thread(target=go_on)
    flood.start()
    try:
        for _ in range(5):
            came = next(more)
            polite(broker)
            assert next(more) - came < 5 * count
        grown = resident(broker)
    finally:
        over.set()
        flood.join()
        for sock in socks:
            sock.close()
    assert grown < 200 * MIB


def test_slow_handshake_is_ended():
    """One octet a while does not keep a handshake alive: it ends after handshake_timeout_s, long before the last."""
    with running_jackalope(settings=["limits.handshake_timeout_s=3"]) as hasty:
        began = time.monotonic()
        with connect(hasty) as sock:
            for octet in PROTOCOL_HEADER[:-1]:
                sock.sendall(bytes([octet]))
                if select.select([sock], [], [], 2)[0]:
                    break
            else:
                pytest.fail("it may say one octet after the other")
            assert until_closed(sock) == b""
        assert time.monotonic() - began > 2.5


def test_a_publisher_that_never_reads_its_returns(broker):
    """Unroutable mandatory publishes fill nothing: the connection is not read while its replies wait."""
    before = resident(broker)
    one = method_frame(1, "basic.publish", 0, "", "nowhere", True, False) + content.encode_content(
        1, b"", 0, b"x" * 1000, 131_072
    )
    with logged_in(broker) as sock:
        sock.settimeout(2)
        chunk = one * 100
        sent = 0
        try:
            for _ in range(2000):
                sock.sendall(chunk)
                sent += len(chunk)
        except TimeoutError:
            sent += 0
        assert sent < 100 * MIB
        assert resident(broker) - before < 30 * MIB
        polite(broker)


def test_a_consumer_that_never_reads(broker):
    """Deliveries stop when its socket is full; messages stay in the queue, others are served."""
    publisher = pika.BlockingConnection(patient(broker))
    channel = publisher.channel()
    channel.queue_declare("stalled")
    with logged_in(broker) as sock:
        sock.sendall(method_frame(1, "basic.consume", 0, "stalled", "c", False, True, False, False, {}))
        channel.confirm_delivery()
        for _ in range(400):
            channel.basic_publish("", "stalled", b"x" * 50_000)
        assert channel.queue_declare("stalled", passive=True).method.message_count > 100
        polite(broker)
    channel.queue_delete("stalled")
    publisher.close()


def test_garbage_in_every_state(broker):
    """Random octets before, during and after the handshake end that connection and nothing else."""
    import random

    chance = random.Random(7)
    for round_number in range(60 if SHORT else 300):
        with logged_in(broker) if round_number % 2 else connect(broker) as sock, contextlib.suppress(OSError):
            sock.sendall(chance.randbytes(chance.randrange(1, 3000)))
            sock.shutdown(socket.SHUT_WR)
            until_closed(sock)
    polite(broker)


def test_churn_leaves_nothing_behind(broker):
    """Connections that come and go, half of them without a word, give back memory and handles."""
    for _ in range(30):
        polite(broker)
    base_handles, base = handles(broker), resident(broker)
    for number in range(200 if SHORT else 1000):
        sock = logged_in(broker) if number % 2 else connect(broker)
        if number % 4 == 1:
            sock.sendall(method_frame(1, "queue.declare", 0, "", False, False, True, False, False, {}))
        sock.close()
    wait_until(lambda: handles(broker) <= base_handles + 2, lambda: handles(broker) - base_handles)
    assert resident(broker) - base < 8 * MIB


def test_the_loop_is_not_held(broker):
    """While small publishes fan out to 1,000 queues somebody else makes many round trips, not one before and one after
    (best of three floods)."""
    qos = method_frame(1, "basic.qos", 0, 10, False)
    one = method_frame(1, "basic.publish", 0, "fan", "", False, False) + content.encode_content(
        1, b"", 0, b"x", 131_072
    )
    trips = []
    with logged_in(broker) as sock, logged_in(broker) as other:
        sock.sendall(method_frame(1, "exchange.declare", 0, "fan", "fanout", False, False, False, False, True, {}))
        for number in range(1000):
            name = f"fan{number}"
            sock.sendall(
                method_frame(1, "queue.declare", 0, name, False, False, True, False, True, {})
                + method_frame(1, "queue.bind", 0, name, "fan", "", True, {})
            )
        for _ in range(3):
            sock.sendall(qos)
            assert sock.recv(100)  # All that came before is done.
            sock.sendall(one * 200 + qos)
            trips.append(0)
            while not select.select([sock], [], [], 0)[0]:
                other.sendall(qos)
                assert other.recv(100)
                trips[-1] += 1
            assert sock.recv(100)
    assert max(trips) >= 10, trips


def test_sigterm_drains_and_a_second_one_does_not_wait():
    """SIGTERM: connection.close 320 to everybody and exit 0. A second one while a peer hangs: exit at once."""
    command = [sys.executable, "-m", "tools.cli.main", "serve", "--set", "listeners.amqp=127.0.0.1:0",
               "--set", "listeners.http=off", "--data", "memory", "--set", "limits.drain_timeout_s=3600",
               "--set", "limits.close_timeout_s=600"]  # fmt: skip

    def start():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        address = process.stdout.readline().decode().split("amqp=")[1].split()[0]
        host, _, port = address.rpartition(":")
        return process, type("Broker", (), {"host": host, "port": int(port)})

    process, broker = start()
    with logged_in(broker) as sock:
        process.send_signal(signal.SIGTERM)
        assert b"CONNECTION_FORCED" in until_closed(sock)
    assert process.wait(HANG_S) == 0
    process.stdout.close()

    process, broker = start()
    with logged_in(broker) as sock:
        process.send_signal(signal.SIGTERM)
        assert b"CONNECTION_FORCED" in sock.recv(65536)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 1
    process.stdout.close()


def test_the_port_is_free_again_after_a_kill():
    """SIGKILL, start again on the same port, and clients connect."""
    with running_jackalope() as first:
        port = first.port
        connection = pika.BlockingConnection(patient(first))
        os.kill(first.root_pid, signal.SIGKILL)
        with pytest.raises(pika.exceptions.AMQPError):
            connection.process_data_events(HANG_S)
    with running_jackalope(settings=[f"listeners.amqp=127.0.0.1:{port}"]) as second:
        assert second.port == port
        polite(second)
