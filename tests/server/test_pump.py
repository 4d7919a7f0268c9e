"""The end of a connection, octet by octet over real sockets: what was said arrives, whatever the peer still sends."""

import select
import socket
import ssl
from types import SimpleNamespace

import pytest
import trustme
from waiting import HANG_S

from broker.server.outbox import Outbox
from broker.server.pump import Pump, PumpLimits
from broker.server.tls import Tls

GOODBYE = b"close-ok"
LATE = b"x" * 100_000


class Poller:
    """What epoll was asked for."""

    def __init__(self):
        self.limits = PumpLimits()
        self.interest = select.EPOLLIN

    def modify(self, _pump, interest):
        self.interest = interest

    def add_bulk(self, _pump):
        """Each test takes the turns itself."""

    def remove(self, _pump):
        self.interest = 0


class Machine(SimpleNamespace):
    """One that says goodbye to the first octets it gets."""

    def __init__(self):
        super().__init__(outbox=Outbox([]), sent_octets=0, peer=("peer", 1), transport=None, tls=False, login=None)
        self.paused = self.more = self.finished = self.has_said_all = self.aborted = False
        self.received = b""

    def receive(self, data):
        self.received += data
        self.outbox.send(GOODBYE)
        self.finished = True

    def abort(self):
        self.aborted = True


def tcp_pair():
    """Two ends of a connection over loopback: a socket pair has no resets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(HANG_S)
    return ours, theirs


@pytest.fixture
def pair():
    """(pump, its peer's socket)."""
    ours, theirs = tcp_pair()
    yield Pump(SimpleNamespace(now_ms=0, remove=lambda _: None), Poller(), ours, Machine(), None), theirs
    ours.close()
    theirs.close()


def turn(pump):
    """Something has come: one turn, if it can still have any."""
    if not pump.closed:
        assert select.select([pump.sock], [], [], HANG_S)[0]
        pump.step(False)
    if not pump.closed:
        pump.flush()


def test_what_the_peer_still_sends_does_not_take_the_goodbye_away(pair):
    """close-ok, then the end; no reset, however much comes behind the close (rabbit_reader.erl, state closed)."""
    pump, peer = pair
    peer.sendall(b"connection.close")
    turn(pump)
    for _ in range(3):
        peer.sendall(LATE)
        turn(pump)
    assert peer.recv(100) == GOODBYE
    assert peer.recv(100) == b""
    peer.sendall(LATE)
    assert pump.machine.received == b"connection.close"
    assert not pump.closed
    peer.close()
    while not pump.closed:
        turn(pump)
    assert pump.machine.aborted


def test_the_peers_end_is_seen_by_a_machine_that_takes_no_more(pair):
    """One that stops, or has met a bug in the middle of its work: it is paused for good, and its peer closes all the
    same."""
    pump, peer = pair
    peer.sendall(b"connection.close")
    pump.step(False)
    pump.machine.paused = True
    pump.flush()
    assert peer.recv(100) + peer.recv(100) == GOODBYE
    peer.close()
    turn(pump)
    assert pump.closed
    assert pump.machine.aborted


def test_octets_that_wait_to_be_read_do_not_either(pair):
    """A socket that is closed with unread octets sends a reset at once (RFC 1122, 4.2.2.13)."""
    pump, peer = pair
    peer.sendall(b"connection.close" + LATE)
    turn(pump)
    assert peer.recv(100) == GOODBYE
    assert peer.recv(100) == b""


def test_nothing_is_said_behind_the_end(pair):
    """What a machine puts into its outbox later is dropped, in plain text above all."""
    pump, peer = pair
    peer.sendall(b"connection.close")
    turn(pump)
    pump.machine.outbox.send(b"late")
    pump.flush()
    assert pump.machine.outbox.parts == []
    assert peer.recv(100) + peer.recv(100) == GOODBYE


def test_over_tls_the_end_is_said_as_well():
    """close_notify behind the last octets (RFC 8446, 6.1), then as without TLS."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    ours, theirs = tcp_pair()
    machine = Machine()
    pump = Pump(SimpleNamespace(now_ms=0, remove=lambda _: None), Poller(), ours, machine, Tls(context))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")

    def try_until_done(step, *arguments):
        while True:
            try:
                found = step(*arguments)
            except ssl.SSLWantReadError:
                found = None
            said = outgoing.read()
            if said:
                theirs.sendall(said)
                turn(pump)
            if found is not None or (step == peer.do_handshake and peer.version() and not said):
                return found
            incoming.write(theirs.recv(65_536))

    with theirs:
        try_until_done(peer.do_handshake)
        try_until_done(peer.write, b"connection.close")
        assert try_until_done(peer.read, 100) == GOODBYE
        try:
            end = try_until_done(peer.read, 100)
        except ssl.SSLZeroReturnError:
            end = b""
        assert end == b""
        assert theirs.recv(100) == b""
        theirs.sendall(LATE)
        turn(pump)
        assert not pump.closed
    while not pump.closed:
        turn(pump)
    assert machine.received == b"connection.close"
