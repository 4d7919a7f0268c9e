"""Logins: mechanisms, the loopback rule, hashes and threads."""

import hashlib
import sys
import threading

import pytest
import trio
import trio.testing
from auth_world import FAST_N, LOCAL, REMOTE, World, amqplain, plain
from waiting import HANG_S

from broker.core.passwords import make_hash
from broker.server.auth import LoginRefused, is_loopback


@pytest.fixture
def world():
    return World()


# Mechanisms.


def test_mechanisms():
    """EXTERNAL is offered only to a peer with a certificate; names are separated by spaces."""
    assert World().auth.mechanisms(certificate=False) == "AMQPLAIN PLAIN"
    assert World().auth.mechanisms(certificate=True) == "AMQPLAIN PLAIN EXTERNAL"
    assert World(anonymous_user="guest").auth.mechanisms(certificate=False) == "AMQPLAIN PLAIN ANONYMOUS"


@pytest.mark.parametrize("mechanism", ["PLAIN", b"PLAIN"])
def test_plain(world, mechanism):
    """RFC 4616: authzid NUL authcid NUL password, the first empty or the second again."""
    assert world.auth.authenticate_nowait(mechanism, plain("alice", "pw-alice"), REMOTE).name == "alice"
    assert world.auth.authenticate_nowait(mechanism, plain("alice", "pw-alice", "alice"), REMOTE).name == "alice"


@pytest.mark.parametrize(
    "response",
    [
        b"", b"alice", b"\0alice", b"\0alice\0pw-alice\0", b"\0\0pw-alice", b"\0alice\0", b"guest\0alice\0pw-alice",
        b"\0\xff\0pw", b"\0" + b"a" * 256 + b"\0pw", b"\0alice\0" + b"x" * 5000, b"\0alice\0" + b"x" * 9000,
        b"\0alice\0pw-alicf", b"\0nobody\0pw-alice", b"\0alice\0\xff\xfe",
    ],
)  # fmt: skip
def test_plain_refused(world, response):
    """Malformed, for another (CVE-2017-12610), too long, without a password, wrong: refused."""
    with pytest.raises(LoginRefused):
        world.auth.authenticate_nowait("PLAIN", response, LOCAL)


def test_amqplain(world):
    """A field table without its length; a long string may be either kind of octets."""
    for password in ("pw-alice", b"pw-alice"):
        response = amqplain(LOGIN="alice", PASSWORD=password)
        assert world.auth.authenticate_nowait("AMQPLAIN", response, REMOTE).name == "alice"


@pytest.mark.parametrize(
    "response",
    [
        b"", b"\x05LOGIN", amqplain(LOGIN="alice"), amqplain(PASSWORD="pw"), amqplain(LOGIN=5, PASSWORD="pw-alice"),
        amqplain(LOGIN="alice", PASSWORD=None), amqplain(LOGIN="alice", PASSWORD=["pw-alice"]),
        amqplain(LOGIN="alice", PASSWORD="no"), amqplain(LOGIN="alice", PASSWORD=""), b"\x05LOGINS\xff\xff\xff\xff",
        amqplain(LOGIN="alice", PASSWORD="pw-alice", **{f"k{n}": None for n in range(100)}),
        b"\x05LOGIN" + b"F\x00\x00\x00\x06" * 500,
    ],
)  # fmt: skip
def test_amqplain_refused(world, response):
    """Malformed, incomplete, of other types, too many elements: refused, never another exception."""
    with pytest.raises(LoginRefused):
        world.auth.authenticate_nowait("AMQPLAIN", response, LOCAL)


@pytest.mark.parametrize("response", [b"", b"eve", b"\0\0"])
def test_external(world, response):
    """The verified certificate's name is the user; the response is empty, that name, or NULs (amqpstorm)."""
    assert world.auth.authenticate_nowait("EXTERNAL", response, REMOTE, "eve").name == "eve"


@pytest.mark.parametrize(
    ("response", "external_name"),
    [(b"", None), (b"eve", None), (b"", ""), (b"alice", "eve"), (b"", "nobody"), (b"", "x" * 256), (b"", "guest")],
)
def test_external_refused(world, response, external_name):
    """No certificate, another's name, an unknown name, or guest from elsewhere."""
    with pytest.raises(LoginRefused):
        world.auth.authenticate_nowait("EXTERNAL", response, REMOTE, external_name)


def test_a_certificate_does_not_replace_a_password(world):
    """With PLAIN the password decides, whatever the certificate says; a user without one has no password."""
    for name in ("eve", "alice"):
        with pytest.raises(LoginRefused):
            world.auth.authenticate_nowait("PLAIN", plain(name, "x"), REMOTE, "eve")


@pytest.mark.parametrize("mechanism", ["", "plain", "ANONYMOUS", "RABBIT-CR-DEMO", b"\xff\xfe", "X" * 5000, " PLAIN"])
def test_unknown_mechanism(world, mechanism):
    """Refused, with at most 32 characters of it in the log."""
    with pytest.raises(LoginRefused) as caught:
        world.auth.authenticate_nowait(mechanism, plain("alice", "pw-alice"), LOCAL)
    assert len(caught.value.reason_for_log) < 100


@pytest.mark.parametrize("response", [b"", b"someone@example.com", b"\0alice\0pw-alice", b"\xff"])
def test_anonymous_is_the_user_that_is_named_for_it(response):
    """rabbit_auth_mechanism_anonymous.erl: whatever the response says, from where that user may log in."""
    world = World(anonymous_user="guest")
    assert world.auth.authenticate_nowait("ANONYMOUS", response, LOCAL).name == "guest"
    with pytest.raises(LoginRefused):
        world.auth.authenticate_nowait("ANONYMOUS", response, REMOTE)
    with pytest.raises(LoginRefused):
        World(anonymous_user="nobody").auth.authenticate_nowait("ANONYMOUS", response, LOCAL)


# The loopback rule.


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::ffff:7f00:1", True),
        ("0:0:0:0:0:0:0:1", True), ("::1%lo", True), ("10.1.2.3", False), ("::ffff:10.1.2.3", False), ("::", False),
        ("::2", False), ("fe80::1%eth0", False), ("128.0.0.1", False), ("", False), ("localhost", False),
        ("127.0.0.1.evil.example", False), ("127.1", False), ("0127.0.0.1", False), ("::127.0.0.1", False),
        ("127.0.0.1\0", False), ("\udcff", False),
    ],
)  # fmt: skip
def test_is_loopback(host, loopback):
    """127.0.0.0/8, ::1, and the former mapped into IPv6; names and odd spellings are not."""
    assert is_loopback(host) is loopback


def test_guest_only_from_a_loopback_peer(world):
    """guest/guest works from 127.0.0.1, ::1 and ::ffff:127.0.0.1 and from nowhere else (CVE-2026-57216)."""
    for host in (LOCAL, "::1", "::ffff:127.0.0.1"):
        assert world.plain("guest", "guest", host).name == "guest"
    for host in (REMOTE, "::ffff:10.1.2.3", "192.168.0.1", ""):
        with pytest.raises(LoginRefused):
            world.plain("guest", "guest", host)
    assert world.plain("alice", "pw-alice", REMOTE).name == "alice"


# Hashes and threads.


def test_fast_hashes_never_leave_the_loop(world):
    """Plain text from the configuration and RabbitMQ's salted hashes are verified at once, right or wrong."""
    assert world.plain("alice", "pw-alice").name == "alice"
    assert world.plain("rita", "pw-rita").name == "rita"
    for name, password in (("alice", "pw-rita"), ("rita", "pw-alice"), ("nobody", "x")):
        with pytest.raises(LoginRefused):
            world.plain(name, password)


async def test_scrypt_needs_a_thread_once(world):
    """The first login of a scrypt user takes a thread, further ones are remembered for the configured time."""
    world.add_sam()
    assert world.plain("sam", "pw-sam") is None
    assert (await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)).name == "sam"
    assert world.plain("sam", "pw-sam").name == "sam"
    assert world.plain("sam", "pw-sam", REMOTE).name == "sam"
    world.clock.now += 59.9
    assert world.plain("sam", "pw-sam").name == "sam"
    world.clock.now += 0.2
    assert world.plain("sam", "pw-sam") is None


async def test_what_is_remembered_is_one_password(world):
    """A remembered login says nothing for another password or user."""
    world.add_sam()
    await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)
    assert world.plain("sam", "pw-sam2") is None
    with pytest.raises(LoginRefused):
        await world.auth.authenticate("PLAIN", plain("sam", "pw-sam2"), LOCAL)
    with pytest.raises(LoginRefused):
        await world.auth.authenticate("PLAIN", plain("sa", "mpw-sam"), LOCAL)


async def test_a_changed_user_is_forgotten(world):
    """A new hash, no hash, or deletion ends what was remembered, and the old password with it."""
    for change in (
        lambda: world.auth.set_hash("sam", make_hash(b"new", b"t" * 16, n=FAST_N)),
        lambda: world.auth.set_password("sam", "new"),
        lambda: world.auth.forget("sam"),
        lambda: world.access.delete_user("sam"),
    ):
        world.add_sam()
        await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)
        change()
        with pytest.raises(LoginRefused):
            await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)


async def test_a_change_during_the_verification_counts(world, monkeypatch):
    """A user that changes while its old hash is being verified is not let in with the old password."""
    world.add_sam()
    run = trio.to_thread.run_sync

    async def changed_meanwhile(*args, **kwargs):
        result = await run(*args, **kwargs)
        world.auth.forget("sam")
        return result

    monkeypatch.setattr(trio.to_thread, "run_sync", changed_meanwhile)
    with pytest.raises(LoginRefused):
        await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)
    world.add_sam()
    monkeypatch.undo()
    assert world.plain("sam", "pw-sam") is None  # Nothing was remembered.


async def test_a_cache_of_no_time_is_none():
    """auth_cache_ttl_s: 0 verifies every login."""
    world = World(auth_cache_ttl_s=0.0).add_sam()
    await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)
    assert world.plain("sam", "pw-sam") is None


async def logins(world, count, password, host=LOCAL):
    """How each of so many logins at once ended."""
    ended = []

    async def one():
        try:
            ended.append((await world.auth.authenticate("PLAIN", plain("sam", password), host)).name)
        except LoginRefused as refused:
            ended.append(refused.reason_for_log)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return ended


async def test_a_restarted_service_costs_one_verification(world, monkeypatch):
    """A thousand logins at once with one password: one scrypt, all are let in, none is taken for a guess."""
    world.add_sam()
    calls = []
    run = trio.to_thread.run_sync

    async def counted(*args, **kwargs):
        calls.append(args)
        return await run(*args, **kwargs)

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    assert await logins(world, 1000, "pw-sam") == ["sam"] * 1000
    assert len(calls) == 1


async def test_a_cancelled_login_leaves_the_others(world, monkeypatch):
    """Who waits for another's verification does it itself when that one's handshake timed out."""
    world.add_sam()
    run = trio.to_thread.run_sync
    gate = trio.Event()

    async def gated(*args, **kwargs):
        await gate.wait()
        return await run(*args, **kwargs)

    monkeypatch.setattr(trio.to_thread, "run_sync", gated)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leader():
            with scope:
                await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)

        nursery.start_soon(leader)
        await trio.testing.wait_all_tasks_blocked()
        ended = []

        async def follower():
            ended.extend(await logins(world, 3, "pw-sam"))

        nursery.start_soon(follower)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert ended == ["sam"] * 3


async def test_the_loop_runs_on(world, monkeypatch):
    """While scrypt works (80 ms with the cost that we write) the loop's other tasks are not held up by it: here it
    does not end before one of them has said so."""
    world.add_sam()
    scrypt, began, may_end = hashlib.scrypt, threading.Event(), threading.Event()

    def working(*args, **kwargs):
        began.set()
        assert may_end.wait(HANG_S), "the loop did not run on"
        return scrypt(*args, **kwargs)

    monkeypatch.setattr(hashlib, "scrypt", working)

    async def other():
        while not began.is_set():
            await trio.lowlevel.checkpoint()
        may_end.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)


async def test_an_unknown_user_costs_what_a_known_one_costs(monkeypatch):
    """Where any user has a scrypt hash, every failed login runs one: time does not tell who exists, or with what."""
    sure = World().add_sam()
    scrypt, works, costs = hashlib.scrypt, [], {}

    def counted(password, *, salt, n, r, p, maxmem, dklen):
        works.append((len(password), len(salt), n, r, p, dklen))
        return scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=maxmem, dklen=dklen)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    for name in ("sam", "alice", "rita", "eve", "nobody"):
        assert sure.plain(name, "wrong") is None  # Not refused on the loop, where it would be fast.
        works.clear()
        with pytest.raises(LoginRefused):
            await sure.auth.authenticate("PLAIN", plain(name, "wrong"), LOCAL)
        costs[name] = tuple(works)
    assert set(costs.values()) == {((5, 16, FAST_N, 8, 1, 32),)}, costs


def test_unknown_users_are_verified_against_something(world):
    """Without scrypt users the work on the loop is the same kind: a hash and a comparison, whoever it is."""
    counts = {}
    for name in ("alice", "rita", "eve", "nobody"):
        calls = []

        def note(_frame, event, function, calls=calls):
            if event == "c_call" and function.__module__ in ("_hashlib", "_operator"):
                calls.append(function.__name__)

        sys.setprofile(note)
        try:
            with pytest.raises(LoginRefused):
                world.plain(name, "wrong")
        finally:
            sys.setprofile(None)
        counts[name] = len(calls)
    assert counts["nobody"] >= counts["alice"] > 2, counts
    assert len(set(counts.values())) == 1, counts
