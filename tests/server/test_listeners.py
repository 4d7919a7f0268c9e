"""Where a face listens: several addresses, both families, one port. Sources: RFC 6761 6.3 (localhost is ::1 as well as
127.0.0.1), RFC 3493 5.3 (IPV6_V6ONLY), RabbitMQ's `listeners.tcp.N` (a list; `::` is both families).
"""

import errno
import json
import socket
import urllib.request

import pika
import pytest

from broker.errors import ConfigError
from broker.server import listener
from broker.server.listener import open_listeners
from tools.bench.control import running_jackalope

REAL = socket.socket


def has_ipv6():
    """Whether this machine's loopback has it."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


@pytest.fixture
def opened():
    """Opens listeners that are closed behind the test; gives their addresses."""
    kept = []

    def open_(*addresses):
        kept.extend(open_listeners(addresses))
        return [sock.getsockname()[:2] for sock in kept]

    yield open_
    for sock in kept:
        sock.close()


def without_ipv6(number):
    """A socket class of a machine that has none: either the kernel knows none, or no address is there."""

    class Socket(REAL):
        def __init__(self, family=-1, *rest, **more):
            if family == socket.AF_INET6 and number == errno.EAFNOSUPPORT:
                raise OSError(number, "Address family not supported by protocol")
            super().__init__(family, *rest, **more)

        def bind(self, address):
            if ":" in address[0]:
                raise OSError(number, "Cannot assign requested address")
            super().bind(address)

    return Socket


@needs_ipv6
@pytest.mark.parametrize(
    ("addresses", "hosts"),
    [
        ([("127.0.0.1", 0)], ["127.0.0.1"]),
        ([("127.0.0.1", 0), ("::1", 0)], ["127.0.0.1", "::1"]),
        ([("localhost", 0)], ["127.0.0.1", "::1"]),
        ([("::1", 0), ("localhost", 0)], ["::1", "127.0.0.1"]),
    ],
)
def test_a_list_shares_one_port(opened, addresses, hosts):
    """Whatever port 0 finds in the first family."""
    found = opened(*addresses)
    assert [host for host, _ in found] == hosts
    assert len({port for _, port in found}) == 1


def test_a_port_that_is_taken_in_the_other_family_is_not_the_one(monkeypatch, opened):
    """Another free one is tried."""
    real, refused = listener._open, []

    def open_(host, port):
        if host == "::1" and len(refused) < 3:
            refused.append(port)
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(host, port)

    monkeypatch.setattr(listener, "_open", open_)
    found = opened(("127.0.0.1", 0), ("::1", 0))
    assert len({port for _, port in found}) == 1
    assert len(refused) == 3


def test_every_address_is_both_families(opened, monkeypatch):
    """Two sockets: who comes over IPv4 has an IPv4 address, not one of IPv6 in disguise."""
    asked = []
    monkeypatch.setattr(listener, "_open", lambda host, port: asked.append(host) or REAL())
    opened(("::", 5672))
    assert asked == ["::", "0.0.0.0"]


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_listens_on_ipv4_alone(monkeypatch, opened, number):
    """A default must not keep it from starting; an address that is all there is, or that is mistyped, does."""
    monkeypatch.setattr(socket, "socket", without_ipv6(number))
    assert [host for host, _ in opened(("127.0.0.1", 0), ("::1", 0))] == ["127.0.0.1"]
    with pytest.raises(ConfigError, match=r"cannot listen on \[::1\]:0: "):
        open_listeners([("::1", 0)])
    with pytest.raises(ConfigError, match=r"cannot listen on \[2001:db8::5\]:[0-9]+: "):
        open_listeners([("127.0.0.1", 0), ("2001:db8::5", 0)])


@needs_ipv6
def test_a_port_in_use_is_named_and_nothing_stays_open(opened):
    """As before; the first socket is closed again when the second cannot be had."""
    ((_, port),) = opened(("127.0.0.1", 0))
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        open_listeners([("::1", 0), ("127.0.0.1", port)])


@needs_ipv6
def test_real_clients_in_both_families():
    """AMQP and HTTP; guest may log in from ::1, which is this machine as well."""
    both = '["127.0.0.1:0", "[::1]:0"]'
    with running_jackalope(settings=[f"listeners.amqp={both}", f"listeners.http={both}"], http=False) as broker:
        for host in ("127.0.0.1", "::1"):
            connection = pika.BlockingConnection(pika.ConnectionParameters(host, broker.port))
            channel = connection.channel()
            channel.queue_declare("q")
            channel.basic_publish("", "q", b"x")
            connection.close()
        port = broker.addresses["http"][1]
        for host in ("127.0.0.1", "[::1]"):
            request = urllib.request.Request(f"http://{host}:{port}/api/queues/%2F/q")
            request.add_header("authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["messages"] == 2
