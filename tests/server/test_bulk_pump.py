"""The pump of machines that move much: what is in the outbox goes, whatever the socket takes at a time."""

import os
import select
import socket
from types import SimpleNamespace

import pytest

from broker.log.disk import RealDisk
from broker.server import bulk
from broker.server.log_lines import LogLines
from broker.server.outbox import Outbox
from broker.server.pump import PumpLimits
from broker.server.receive_buffer import ReceiveBuffer


class Poller:
    """What epoll was asked for, and whose next turn was asked for."""

    def __init__(self):
        self.limits = PumpLimits()
        self.interest = select.EPOLLIN
        self.asked = []

    def modify(self, pump, interest):
        self.interest = interest

    def add_bulk(self, pump):
        self.asked.append(pump)

    def remove(self, pump):
        self.interest = 0


class Machine(SimpleNamespace):
    """One that only writes."""

    def __init__(self):
        super().__init__(outbox=Outbox([]), buffer=ReceiveBuffer(), sent_octets=0, peer=("peer", 1), transport=None)
        self.paused = self.more = self.finished = False
        self.wrote_octets = self.held_octets = 0

    def say(self, piece):
        self.outbox.send(piece)

    def drained(self):
        self.outbox.congested = False

    def wrote(self, octets, held):
        self.wrote_octets += octets
        self.held_octets += held

    def abort(self):
        self.finished = True


@pytest.fixture
def pair():
    """(pump, its peer's socket)."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    home = SimpleNamespace(now_ms=0, remove=lambda machine: None, log_lines=LogLines())
    yield bulk.BulkPump(home, Poller(), ours, Machine(), None), theirs
    ours.close()
    theirs.close()


def test_what_comes_while_more_is_unsent_is_sent_behind_it(pair, monkeypatch):
    """Also where the rest of what was unsent is all that a connection may send in one go: room is asked for again."""
    monkeypatch.setattr(bulk, "SENT_BYTES_MAX", 1)
    pump, peer = pair
    said = [os.urandom(1_000_000), b"behind it", b"and behind that"]
    pump.machine.say(said[0])
    pump.flush()
    for piece in said[1:]:
        pump.machine.say(piece)
        pump.flush()
    found = b""
    while len(found) < sum(map(len, said)):
        try:
            found += peer.recv(1 << 20)
        except BlockingIOError:
            assert pump._poller.interest & select.EPOLLOUT, "nobody will send the rest"
            pump.drain()
    assert found == b"".join(said)
    assert pump.machine.wrote_octets == pump.machine.held_octets == len(found)
    assert not pump._poller.interest & select.EPOLLOUT


def test_a_file_that_ends_too_early_ends_the_connection(pair, tmp_path):
    """Nothing is sent behind half an answer: the peer would take it for the other half."""
    pump, peer = pair
    file = RealDisk(tmp_path).open("file", create=True)
    file.write(0, [b"x" * 1000])
    pump.machine.say(file.range(0, 2000))
    pump.flush()
    pump.machine.say(b"the next answer")
    pump.flush()
    assert pump in pump._poller.asked
    pump.step(False)
    assert pump.closed
    assert peer.recv(4096) == b"x" * 1000
    assert peer.recv(4096) == b""
