"""Hostile peers on the Kafka port of a broker process: memory bounded, and a polite client served meanwhile."""

import contextlib
import itertools
import os
import socket
import ssl
import struct
import threading
import time
from collections import deque

import pytest
import trustme
from kafka_wire import Closed, Wire, batch
from scram_client import ScramClient
from steps import loop_is_free
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

MIB = 2**20
SHORT = os.environ.get("JACKALOPE_FAULTS") == "short"
COUNT = 1_500 if SHORT else 5_000
CONFIG = """
users:
  alice:
    password: wonder
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
"""


def running_site(directory, handshake_timeout_s):
    """A broker with both listeners. Nobody is anonymous."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    server.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "c.yaml").write_text(CONFIG)
    settings = (
        "listeners.kafka=127.0.0.1:0", "listeners.kafkas=127.0.0.1:0", "kafka.anonymous=null",
        f"limits.handshake_timeout_s={handshake_timeout_s}", f"tls.cert={directory}/cert.pem",
        f"tls.key={directory}/key.pem",
    )  # fmt: skip
    return running_jackalope("-c", str(directory / "c.yaml"), settings=settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One that ends nobody because time has passed."""
    with running_site(tmp_path_factory.mktemp("floods"), 600) as broker:
        yield broker


@pytest.fixture(scope="module")
def hasty_site(tmp_path_factory):
    """One that waits three seconds for logins."""
    with running_site(tmp_path_factory.mktemp("hasty"), 3) as broker:
        yield broker


@pytest.fixture(scope="module")
def open_site():
    """A broker that lets in from its own host who does not log in, as it is without a configuration."""
    with running_jackalope(settings=("listeners.kafka=127.0.0.1:0", "limits.handshake_timeout_s=600")) as broker:
        yield broker


def resident(broker):
    """Resident memory of the broker in bytes."""
    with open(f"/proc/{broker.root_pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def handles(broker):
    """Open file descriptors of the broker."""
    return len(os.listdir(f"/proc/{broker.root_pid}/fd"))


def polite(broker, *, locked=True):
    """A normal client logs in by SCRAM, creates a topic, produces and fetches."""
    name = f"t{time.monotonic_ns()}"
    with Wire(broker.addresses["kafka"], timeout_s=HANG_S) as wire:
        wire.ask("ApiVersions", 3)
        if locked:
            client = ScramClient("SCRAM-SHA-256", "alice", "wonder")
            wire.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")
            first = wire.ask("SaslAuthenticate", 2, auth_bytes=client.first()).auth_bytes
            assert wire.ask("SaslAuthenticate", 2, auth_bytes=client.final(first)).error_code == 0
        wire.create(name)
        assert wire.produce(name, batch([b"x"])).base_offset == 0
        assert wire.fetch(name).records


def silent(sock):
    """Says nothing."""


def halfway(sock):
    """Begins a request of 64 KB and leaves it at that."""
    sock.sendall(struct.pack(">ihhih", 60_000, 3, 9, 1, -1) + b"x" * 1000)


def in_mid_handshake(sock):
    """Begins a TLS handshake."""
    sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100)


def in_mid_login(sock):
    """Agrees on SCRAM, says who it is, and no more."""
    sock.sendall(struct.pack(">ihhih", 25, 17, 1, 1, -1) + struct.pack(">h13s", 13, b"SCRAM-SHA-256"))
    token = b"n,,n=alice,r=x"
    sock.sendall(struct.pack(">ihhih", 14 + len(token), 36, 0, 2, -1) + struct.pack(">i", len(token)) + token)


@contextlib.contextmanager
def flood(address, act, count=COUNT):
    """So many sockets that do this, and more all the time; gives an iterator that counts those."""

    def connect():
        sock = socket.create_connection(address, timeout=HANG_S)
        with contextlib.suppress(OSError):  # It may have been turned out by those behind it.
            act(sock)
        return sock

    socks = deque(connect() for _ in range(count))
    over = threading.Event()
    more = itertools.count()

    def go_on():
        while not over.is_set():
            socks.popleft().close()
            socks.append(connect())
            next(more)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield more
    finally:
        over.set()
        thread.join()
        for sock in socks:
            sock.close()


def polite_within(broker, more, *, locked=True):
    """Polite clients are done before the flood has come some times over."""
    for _ in range(5):
        came = next(more)
        polite(broker, locked=locked)
        assert next(more) - came < 5 * COUNT


def half_open(broker):
    """How many the broker counts."""
    import json
    import urllib.request

    request = urllib.request.Request(f"http://{broker.host}:{broker.http_port}/api/overview")
    request.add_header("Authorization", "Basic YWxpY2U6d29uZGVy")
    with urllib.request.urlopen(request, timeout=HANG_S) as response:
        return json.load(response)["half_open"]


@pytest.mark.parametrize(
    ("listener", "act"),
    [("kafka", silent), ("kafka", halfway), ("kafka", in_mid_login), ("kafkas", silent), ("kafkas", in_mid_handshake)],
)
def test_half_open_flood(site, listener, act):
    """Thousands of sockets from one address that never log in, and more all the time: no more than
    connections_unauthenticated_per_ip_max stay, memory is bounded, and a client from that address gets in."""
    before = resident(site)
    with flood(site.addresses[listener], act) as more:
        polite_within(site, more)
        grown = resident(site) - before
        held = handles(site)
    assert grown < 120 * MIB
    assert held < 1024 + 200
    wait_until(lambda: handles(site) <= 200, lambda: handles(site))  # Because their peers are gone.


@pytest.mark.parametrize("act", [silent, halfway])
def test_half_open_flood_where_no_login_is_needed(open_site, act):
    """The same where peers of this host are anonymous: without a request they are half open as well."""
    before = resident(open_site)
    with flood(open_site.addresses["kafka"], act) as more:
        polite_within(open_site, more, locked=False)
        grown = resident(open_site) - before
        held = handles(open_site)
    assert grown < 120 * MIB
    assert held < 1024 + 200


def test_floods_of_both_protocols_share_the_room(site):
    """What AMQP's half-open sockets take is not there for Kafka's: the limits are for the process."""
    with flood((site.host, site.port), silent, 800), flood(site.addresses["kafka"], silent, 800):
        polite(site)
        assert handles(site) < 1024 + 200


def trickle(address, octets, every_s):
    """Seconds until somebody who sends one octet after the other is closed; fails when all were sent."""
    began = time.monotonic()
    with socket.create_connection(address, timeout=every_s) as sock, contextlib.suppress(ConnectionError):
        for octet in octets:
            sock.sendall(bytes([octet]))
            with contextlib.suppress(TimeoutError):
                if sock.recv(1) == b"":
                    break
        else:
            pytest.fail("it may say one octet after the other")
    return time.monotonic() - began


@pytest.mark.parametrize("listener", ["kafka", "kafkas"])
def test_who_trickles_is_ended(hasty_site, listener):
    """One octet a while keeps neither a login nor a TLS handshake alive: it ends after handshake_timeout_s."""
    octets = struct.pack(">ihhih", 1000, 18, 3, 1, -1) if listener == "kafka" else b"\x16\x03\x01\x02\x00\x01\x00\x01"
    assert trickle(hasty_site.addresses[listener], octets + bytes(300), 0.2) > 2.5
    polite(hasty_site)


def test_who_trickles_without_a_login_being_needed():
    """The same for a first request of somebody anonymous."""
    octets = struct.pack(">ihhih", 1000, 18, 3, 1, -1) + bytes(300)
    with running_jackalope(settings=("listeners.kafka=127.0.0.1:0", "limits.handshake_timeout_s=3")) as broker:
        assert trickle(broker.addresses["kafka"], octets, 0.2) > 2.5


def test_large_requests_before_a_login(site):
    """More than 64 KiB is not waited for, whoever sends how much of it."""
    before = resident(site)
    socks = []
    for _ in range(500):
        sock = socket.create_connection(site.addresses["kafka"], timeout=HANG_S)
        with contextlib.suppress(OSError):
            sock.sendall(struct.pack(">ihhih", 50 << 20, 0, 9, 1, -1) + bytes(100_000))
        socks.append(sock)
    assert resident(site) - before < 30 * MIB
    for sock in socks:
        try:
            assert sock.recv(1) == b""
        except ConnectionResetError:
            assert sock.fileno() >= 0
        sock.close()
    polite(site)


def test_wrong_passwords_all_the_time(site):
    """Guesses by the hundred, which each cost keys, from one address: others of that address get in meanwhile, and the
    loop is not held."""

    def guess():
        with contextlib.suppress(OSError, Closed), Wire(site.addresses["kafka"], timeout_s=HANG_S) as wire:
            client = ScramClient("SCRAM-SHA-512", "mallory", "guess")
            wire.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-512")
            first = wire.ask("SaslAuthenticate", 2, auth_bytes=client.first()).auth_bytes
            assert wire.ask("SaslAuthenticate", 2, auth_bytes=client.final(first)).error_code == 58

    threads = [threading.Thread(target=guess) for _ in range(100)]
    with loop_is_free(site.root_pid, 250):
        for thread in threads:
            thread.start()
        polite(site)
        for thread in threads:
            thread.join()
    polite(site)


def test_garbage_in_every_state(site):
    """Random octets before, during and after the login end that connection and nothing else."""
    import random

    chance = random.Random(11)
    for number in range(60 if SHORT else 300):
        with contextlib.suppress(OSError, Closed), Wire(site.addresses["kafka"], timeout_s=HANG_S) as wire:
            if number % 3:
                wire.ask("SaslHandshake", 1, mechanism="PLAIN")
            if number % 3 == 2:
                wire.ask("SaslAuthenticate", 2, auth_bytes=b"\0alice\0wonder")
            wire.sock.sendall(chance.randbytes(chance.randrange(1, 3000)))
            wire.sock.shutdown(socket.SHUT_WR)
            while wire.sock.recv(65536):
                assert wire.sock
    polite(site)
    assert "ended by a bug" not in (site.directory / "stderr.log").read_text()


def test_churn_leaves_nothing_behind(site):
    """Connections that come and go, in every state of their login, give back memory and handles."""
    for _ in range(30):
        polite(site)
    base_handles, base = handles(site), resident(site)
    acts = (silent, halfway, in_mid_login, in_mid_handshake)
    for number in range(200 if SHORT else 1000):
        with socket.create_connection(site.addresses["kafkas" if number % 4 == 3 else "kafka"]) as sock:
            acts[number % 4](sock)
    wait_until(lambda: handles(site) <= base_handles + 2, lambda: handles(site) - base_handles)
    assert resident(site) - base < 8 * MIB


def test_renegotiating_and_ending_again_and_again(site):
    """Whole TLS sessions by the hundred, each with a login, leave nothing behind."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    base = resident(site)
    for _ in range(50 if SHORT else 300):
        with (
            socket.create_connection(site.addresses["kafkas"], timeout=HANG_S) as raw,
            context.wrap_socket(raw) as sock,
        ):
            sock.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))
            assert sock.recv(4)
    assert resident(site) - base < 16 * MIB
    assert handles(site) < 200
