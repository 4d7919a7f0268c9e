"""Hostile octets: an error code or a closed connection, and nobody else notices."""

import socket
import struct

import pytest
from kafka_wire import BY_NAME, Closed, Wire, batch
from waiting import HANG_MS, HANG_S

from protocol.kafka.errors import ErrorCode
from tools.bench.processes import resident_bytes

SESSION_MS = min(HANG_MS, 1_800_000)
"""Long enough for any machine; no session may be longer (group.max.session.timeout.ms)."""


def is_closed(sock):
    """Whether the broker closes; raises TimeoutError when it says nothing at all."""
    sock.settimeout(HANG_S)
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


def test_what_is_not_advertised_is_not_served(kafka, wire):
    """An API that the codec knows and nobody answers ends the connection, and is no bug of the broker's."""
    served = {one.api_key for one in wire.ask("ApiVersions", 3).api_keys}
    for name, api in BY_NAME.items():
        if api.key not in served:
            with Wire(kafka.addresses["kafka"]) as other, pytest.raises(Closed):
                other.ask(name, api.max_version)
    assert "ended by a bug" not in (kafka.directory / "stderr.log").read_text()


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


def most_resident(kafka, wire):
    """The broker's memory at its largest, while everybody else gets turns of reading and writing."""
    found = 0
    for _ in range(300):
        assert wire.ask("ApiVersions", 3).error_code == 0
        found = max(found, resident_bytes([kafka.root_pid]))
    return found


def test_a_claimed_size_costs_nothing(kafka, wire):
    """200 connections that announce 100 MB and send a little: memory grows by what has come."""
    before = resident_bytes([kafka.root_pid])
    socks = []
    for _ in range(200):
        sock = socket.create_connection(kafka.addresses["kafka"])
        sock.sendall(struct.pack(">i", 100 << 20) + b"\x00\x00\x00\x09" + b"x" * 20_000)
        socks.append(sock)
    assert most_resident(kafka, wire) - before < 40 << 20
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("count", [100_001, 1_000_000, 5_000_000])
def test_arrays_of_next_to_nothing(kafka, wire, count):
    """Elements of two octets, which would be objects of hundreds: past 100,000 the request is not taken."""
    before = resident_bytes([kafka.root_pid])
    body = struct.pack(">hhihi", 3, 1, 1, -1, count) + bytes(2 * count)
    with socket.create_connection(kafka.addresses["kafka"]) as sock:
        sock.sendall(struct.pack(">i", len(body)) + body)
        assert is_closed(sock)
    assert wire.ask("ApiVersions", 3).error_code == 0
    assert resident_bytes([kafka.root_pid]) - before < 60 << 20


def join(wire, protocols=(("range", b""),), protocol_type="consumer", **fields):
    """The answer to a JoinGroup."""
    request = BY_NAME["JoinGroup"].request
    made = [request.SPECS["protocols"].of(name=name, metadata=metadata) for name, metadata in protocols]
    return wire.ask(
        "JoinGroup", 3, protocols=made, protocol_type=protocol_type,
        **{"group_id": "nonsense", "session_timeout_ms": SESSION_MS, "rebalance_timeout_ms": HANG_MS} | fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"protocols": ()}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": "\U0001f955"}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": (("\0", b"\xff" * 50),)}, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        ({"group_id": ""}, ErrorCode.INVALID_GROUP_ID),
        ({"session_timeout_ms": -1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"session_timeout_ms": 2**31 - 1}, ErrorCode.INVALID_SESSION_TIMEOUT),
        ({"member_id": "nobody"}, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_a_group_of_nonsense(kafka, wire, fields, code):
    """A member with protocols that are none, another type, no group, no sensible timeout: its code, and the members
    that are there stay together."""
    with Wire(kafka.addresses["kafka"]) as member:
        joined = join(member)
        assert joined.error_code == 0
        assert join(wire, **fields).error_code == code
        answer = member.ask(
            "SyncGroup", 1, group_id="nonsense", generation_id=joined.generation_id, member_id=joined.member_id
        )
        assert answer.error_code == 0
        assert (
            member.ask(
                "Heartbeat", 3, group_id="nonsense", generation_id=joined.generation_id, member_id=joined.member_id
            ).error_code
            == 0
        )
        assert member.ask("LeaveGroup", 1, group_id="nonsense", member_id=joined.member_id).error_code == 0


def test_assignments_of_nonsense(kafka, wire):
    """What members have for one another is theirs: octets of any kind come back, and more than a megabyte does not
    go in."""
    joined = join(wire, protocols=(("range", b"\xff" * 1000),))
    assert joined.members[0].metadata == b"\xff" * 1000
    request = BY_NAME["SyncGroup"].request
    made = request.SPECS["assignments"].of(member_id=joined.member_id, assignment=b"\x00\x07" * 1000)
    answer = wire.ask(
        "SyncGroup", 1, group_id="nonsense", generation_id=joined.generation_id, member_id=joined.member_id,
        assignments=[made],
    )  # fmt: skip
    assert (answer.error_code, answer.assignment) == (0, b"\x00\x07" * 1000)
    assert wire.ask("LeaveGroup", 1, group_id="nonsense", member_id=joined.member_id).error_code == 0
    large = join(wire, group_id="large", protocols=(("range", b"x" * (1 << 20)),))
    assert large.error_code != 0
    assert wire.ask("ApiVersions", 3).error_code == 0


def test_nothing_is_lost_by_any_of_this(kafka, wire, topic):
    """What was stored before hostile octets is there after them, and nothing else."""
    assert wire.produce(topic, batch([b"kept"])).base_offset == 0
    address = kafka.addresses["kafka"]
    for octets in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">ihhih", 10, 0, 9, 1, -1), bytes(100), b"\xff" * 100):
        with socket.create_connection(address) as sock:
            sock.sendall(octets)
            assert is_closed(sock)
    with Wire(address) as other:
        frames = []
        other.sock, real = _Tape(frames), other.sock
        other.send_produce(topic, batch([b"cut"]))
        other.sock = real
        other.sock.sendall(frames[0][:-1])  # All but the last octet of a request.
    assert wire.end(topic).offset == 1
    assert batch([b"kept"])[61:] in bytes(wire.fetch(topic).records)


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
        real.settimeout(HANG_S)
        real.sendall(b"".join(frames))
        assert most_resident(kafka, wire) - before < 40 << 20
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
