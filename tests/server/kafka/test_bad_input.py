"""Hostile octets: an error code or a closed connection, and nobody else notices."""

import socket
import struct
import time

import pytest
from kafka_wire import Closed, Wire, batch

from tools.bench.processes import resident_bytes


def is_closed(sock):
    """Whether the broker closes within a while."""
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">i", -1) + b"x" * 20,
        struct.pack(">i", 0),
        struct.pack(">i", 3) + b"abc",
        struct.pack(">i", 2**31 - 1),
        struct.pack(">ihhih", 10, 999, 0, 1, -1),
        struct.pack(">ihhih", 10, 3, 99, 1, -1),
        struct.pack(">ihhih", 10, 3, 9, 1, 500),
        struct.pack(">ihhihi", 14, 3, 1, 1, -1, 2**31 - 1),
        struct.pack(">ihhihi", 14, 3, 1, 1, -1, -7),
        b"AMQP\x00\x00\x09\x01" + bytes(20),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(600),
    ],
)
def test_what_is_no_request_ends_the_connection(kafka, wire, octets):
    """HTTP, TLS, AMQP, sizes that are none or too large, unknown APIs and versions, lengths and counts that lie."""
    with socket.create_connection(kafka.addresses["kafka"]) as sock:
        sock.sendall(octets)
        assert is_closed(sock)
    assert wire.ask("ApiVersions", 3).error_code == 0


def test_api_versions_of_the_future(kafka):
    """It is answered in version 0, with error 35, and the connection goes on."""
    with Wire(kafka.addresses["kafka"]) as wire:
        wire.sock.sendall(struct.pack(">ihhih", 13, 18, 90, 5, -1) + b"\0\0\0")
        frame = wire.frame()
        assert struct.unpack(">ihi", frame[:10]) == (5, 35, 1)
        assert wire.ask("ApiVersions", 3).error_code == 0


def test_octet_by_octet(kafka, topic):
    """Requests may come in any pieces."""
    with Wire(kafka.addresses["kafka"]) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frames = []
        wire.sock, real = _Tape(frames), wire.sock
        wire.send_produce(topic, batch([b"slow"]))
        wire.send("ApiVersions", 3)
        wire.sock = real
        for octet in b"".join(frames):
            real.sendall(bytes((octet,)))
        assert wire.answer()[1].responses[0].partition_responses[0].base_offset == 0
        assert wire.answer()[1].error_code == 0


class _Tape:
    def __init__(self, frames):
        self.sendall = frames.append


def test_a_claimed_size_costs_nothing(kafka, wire):
    """200 connections that announce 100 MB and send a little: memory grows by what has come."""
    before = resident_bytes([kafka.root_pid])
    socks = []
    for _ in range(200):
        sock = socket.create_connection(kafka.addresses["kafka"])
        sock.sendall(struct.pack(">i", 100 << 20) + b"\x00\x00\x00\x09" + b"x" * 20_000)
        socks.append(sock)
    time.sleep(0.3)
    assert wire.ask("ApiVersions", 3).error_code == 0
    assert resident_bytes([kafka.root_pid]) - before < 40 << 20
    for sock in socks:
        sock.close()


def test_who_does_not_read(kafka, wire, topic):
    """Somebody who asks for megabytes again and again and takes nothing is not worked for any further."""
    wire.produce(topic, batch([b"x" * 900_000]))
    before = resident_bytes([kafka.root_pid])
    with Wire(kafka.addresses["kafka"]) as greedy:
        greedy.sock.setblocking(False)
        frames = []
        greedy.sock, real = _Tape(frames), greedy.sock
        for _ in range(300):
            greedy.send("Fetch", 11, request=greedy.fetch_request({topic: {0: 0}}))
        greedy.sock = real
        real.settimeout(5)
        real.sendall(b"".join(frames))
        time.sleep(0.5)
        assert wire.ask("ApiVersions", 3).error_code == 0
        assert resident_bytes([kafka.root_pid]) - before < 40 << 20
        for _ in range(300):
            assert len(greedy.answer()[1].responses[0].partitions[0].records) > 900_000


def test_pipelined_requests(kafka):
    """A thousand requests at once are answered in order."""
    with Wire(kafka.addresses["kafka"]) as wire:
        sent = [wire.send("ApiVersions", 0) for _ in range(1000)]
        assert [wire.answer()[0] for _ in range(1000)] == sent


def test_before_a_login(kafka):
    """Nothing but the login is answered where one is needed."""
    from tools.bench.control import running_jackalope

    settings = ("listeners.kafka=127.0.0.1:0", "kafka.anonymous=null")
    with running_jackalope(settings=settings, http=False) as broker:
        with Wire(broker.addresses["kafka"]) as wire:
            assert wire.ask("ApiVersions", 3).error_code == 0
            with pytest.raises(Closed):
                wire.ask("Metadata", 9, topics=[])
        with socket.create_connection(broker.addresses["kafka"]) as sock:
            sock.sendall(struct.pack(">i", 1 << 20))
            assert is_closed(sock)
