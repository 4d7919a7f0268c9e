"""Nobody's connections may be all there are: a limit for one address, both protocols together (Kafka's
max.connections.per.ip, KIP-402)."""

import contextlib
import socket

from kafka_wire import Closed, Wire
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope
from tools.bench.link import Target, open_link


def is_taken(host, port, source):
    """Whether a connection from this address is served."""
    with socket.create_connection((host, port), timeout=HANG_S, source_address=(source, 0)) as sock:
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        with contextlib.suppress(ConnectionResetError):
            return sock.recv(1) == b"\x01"
    return False


def test_connections_of_one_address():
    """Those past it are closed, whichever protocol they speak, and other addresses are served; one that goes makes room
    for another one."""
    settings = ("listeners.kafka=127.0.0.1:0", "limits.connections_per_ip_max=4")
    with running_jackalope(settings=settings, http=False) as broker:
        links = [open_link(Target(broker.host, broker.port)) for _ in range(2)]
        wires = [Wire(broker.addresses["kafka"]) for _ in range(2)]
        for wire in wires:
            assert wire.ask("ApiVersions", 3).error_code == 0
        assert not is_taken(broker.host, broker.port, "127.0.0.1")
        with contextlib.suppress(Closed), Wire(broker.addresses["kafka"]) as wire:
            assert not wire.ask("ApiVersions", 3)
        assert is_taken(broker.host, broker.port, "127.0.0.2")
        wires[0].sock.close()
        wait_until(lambda: is_taken(broker.host, broker.port, "127.0.0.1"))
        for link in links:
            link.close()
        wires[1].sock.close()
