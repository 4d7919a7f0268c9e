"""Over TLS what lies in files is read as it is sent: an answer of many files is never in memory as a whole."""

import os
import socket
from types import SimpleNamespace

import pytest

from broker.log.disk import RealDisk
from broker.server.bulk import TLS_BYTES_MAX, BulkPump
from broker.server.log_lines import LogLines
from broker.server.outbox import Outbox
from broker.server.pump import PumpLimits

MIB = 1 << 20
SIZE = 5 * MIB + 123


class Cipher:
    """TLS that changes nothing, and keeps what it was given in one go."""

    established = True

    def __init__(self):
        self.pieces = []

    def send(self, data):
        self.pieces.append(len(data))
        return data


class Poller:
    """Does nothing."""

    limits = PumpLimits()

    def add(self, _pump):
        return None

    remove = modify = add_bulk = lambda *_: None


class Machine:
    """Has something to say."""

    paused = finished = has_said_all = more = False
    sent_octets = 0

    def __init__(self, out):
        self.peer = ("127.0.0.1", 1)
        self.outbox = Outbox([])
        self.outbox.put(out)
        self.wrote_octets = [0, 0]
        self.aborted = False

    def wrote(self, octets, held):
        self.wrote_octets[0] += octets
        self.wrote_octets[1] += held

    def drained(self):
        return None

    def abort(self):
        self.aborted = True


@pytest.fixture
def stored(tmp_path):
    """A file, its octets, and pieces of it."""
    octets = os.urandom(SIZE)
    (tmp_path / "file").write_bytes(octets)
    file = RealDisk(tmp_path).open("file")
    return octets, lambda position, size: file.range(position, size)


def pump_of(machine, cipher):
    """A pump, and the peer's socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    home = SimpleNamespace(now_ms=0, remove=lambda _: None, log_lines=LogLines())
    return BulkPump(home, Poller(), ours, machine, cipher), theirs


def read_all(pump, theirs, size):
    """What the peer gets when it reads."""
    got = b""
    while len(got) < size and not pump.closed:
        try:
            got += theirs.recv(MIB)
        except BlockingIOError:
            pump.drain()
    return got


def test_files_are_read_as_they_are_sent(stored):
    """In the order in which they stand, also where one is larger than what goes at once, and never much at a time."""
    octets, piece = stored
    out = [b"head", piece(0, 3 * MIB), memoryview(b"between"), piece(3 * MIB, SIZE - 3 * MIB), b"end"]
    machine, cipher = Machine(out), Cipher()
    size = machine.outbox.size
    pump, theirs = pump_of(machine, cipher)
    pump.flush()
    assert sum(cipher.pieces) <= 2 * TLS_BYTES_MAX
    got = read_all(pump, theirs, size)
    assert got == b"head" + octets[: 3 * MIB] + b"between" + octets[3 * MIB :] + b"end"
    assert max(cipher.pieces) <= TLS_BYTES_MAX
    assert (machine.outbox.parts, machine.outbox.size) == ([], 0)
    assert machine.wrote_octets == [size, len(b"headbetweenend")]
    pump.close()
    theirs.close()


def test_a_file_that_is_shorter_than_it_was(stored):
    """The connection is closed: half an answer would be taken for a whole one."""
    _, piece = stored
    machine = Machine([piece(0, SIZE), piece(SIZE - 10, 20)])
    pump, theirs = pump_of(machine, Cipher())
    pump.flush()
    read_all(pump, theirs, SIZE + 20)
    assert machine.aborted
    theirs.close()
