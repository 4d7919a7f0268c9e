"""Logins: guessing is slowed, the configuration's users, and what objects and logs give away."""

import logging
import struct
import tracemalloc

import pytest
import trio
from auth_world import FAST_N, LOCAL, REMOTE, World, amqplain, plain

from broker.config import Config, load
from broker.core.access import Access
from broker.core.passwords import make_hash
from broker.server.auth import Authenticator, LoginRefused, apply_users, new_hash

CANARY = "canary-91be"


@pytest.fixture
def world():
    return World()


# Guessing.


def refusal(world, name, password, host=LOCAL):
    with pytest.raises(LoginRefused) as caught:
        world.plain(name, password, host)
    return caught.value.reason_for_log


def test_guesses_are_slowed():
    """After a burst of failures even the right password is refused, until the bucket has filled a little."""
    world = World(login_failures_burst=5, login_failure_refill_s=2.0)
    for _ in range(5):
        assert "wrong password" in refusal(world, "alice", "x")
    assert "too many" in refusal(world, "alice", "x")
    assert "too many" in refusal(world, "alice", "pw-alice")
    assert world.plain("alice", "pw-alice", REMOTE).name == "alice"  # Another address,
    assert world.plain("rita", "pw-rita").name == "rita"  # another user: not concerned.
    world.clock.now += 2.0
    assert world.plain("alice", "pw-alice").name == "alice"
    assert "wrong password" in refusal(world, "alice", "x")
    assert "too many" in refusal(world, "alice", "pw-alice")


def test_unknown_names_are_slowed_alike():
    """The limit tells no more than time does: an unknown name runs out as a known one, guest from afar as well."""
    world = World(login_failures_burst=3)
    for name in ("nobody", "guest"):
        answers = ["too many" in refusal(world, name, "guest", REMOTE) for _ in range(5)]
        assert answers == [False, False, False, True, True]


def test_an_address_that_tries_names_is_slowed():
    """One password for many names: the address has a bucket of its own, ten times as large."""
    world = World(login_failures_burst=3)
    for n in range(30):
        assert "wrong password" in refusal(world, f"user{n}", "123456", REMOTE)
    assert "too many" in refusal(world, "alice", "pw-alice", REMOTE)
    assert world.plain("alice", "pw-alice", LOCAL).name == "alice"


async def test_guesses_at_once_are_slowed_too():
    """A hundred different guesses in flight do not all pass the check before the first has failed."""
    world = World(login_failures_burst=5).add_sam()
    ended = []

    async def one(password):
        try:
            await world.auth.authenticate("PLAIN", plain("sam", password), LOCAL)
        except LoginRefused as refused:
            ended.append(refused.reason_for_log)

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(one, f"guess{n}")
    assert sum("wrong password" in reason for reason in ended) == 5
    assert sum("too many" in reason for reason in ended) == 95


async def test_success_costs_nothing():
    """Right passwords never run into the limit, however many; nor do they leave anything in the table."""
    world = World(login_failures_burst=1).add_sam()
    for _ in range(50):
        assert world.plain("alice", "pw-alice").name == "alice"
        world.clock.now += 61  # so that sam is verified anew
        assert (await world.auth.authenticate("PLAIN", plain("sam", "pw-sam"), LOCAL)).name == "sam"
    assert not world.auth._failures._buckets


def test_the_table_of_failures_is_bounded():
    """A flood of names from many addresses does not fill the memory."""
    world = World(login_failures_tracked_max=100)
    tracemalloc.start()
    for n in range(5000):
        refusal(world, "n" * 200 + str(n), "x", f"10.0.{n // 250}.{n % 250}")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(world.auth._failures._buckets) <= 100
    assert size < 500_000


# Configuration, and secrets.


def test_apply_users():
    """The configuration's users can log in and may do what it says; what it no longer says is revoked."""
    access = Access()
    auth = Authenticator(access)
    sets = ["users.a.password=pa", "users.a.permissions./.read=.*", "users.a.topic_permissions./.t.write=^x",
            "users.b.password=pb", f"users.c.password_hash={make_hash(b'pc', b'0' * 16, n=16)}"]  # fmt: skip
    apply_users(load([], sets, {}).users.values(), access, auth)
    user = auth.authenticate_nowait("PLAIN", plain("a", "pa"), REMOTE)
    assert access.can(user, "/", "read", "q")
    assert not access.can(user, "/", "write", "q")
    assert not access.can_topic(user, "/", "write", "t", "y")
    assert auth.authenticate_nowait("PLAIN", plain("c", "pc"), REMOTE) is None
    apply_users(load([], ["users.a.password=pa2"], {}).users.values(), access, auth)
    assert not access.can(user, "/", "read", "q")
    assert not access.has_topic_permissions(user, "/")
    assert list(access.users) == ["a"]
    for name, password in (("a", "pa"), ("b", "pb"), ("c", "pc")):
        with pytest.raises(LoginRefused):
            auth.authenticate_nowait("PLAIN", plain(name, password), REMOTE)
    assert auth.authenticate_nowait("PLAIN", plain("a", "pa2"), REMOTE) is user


def test_the_default_configuration():
    """guest/guest with every permission on '/', from loopback only."""
    access = Access()
    auth = Authenticator(access)
    apply_users(Config().users.values(), access, auth)
    guest = auth.authenticate_nowait("PLAIN", plain("guest", "guest"), LOCAL)
    assert "administrator" in guest.tags
    assert all(access.can(guest, "/", verb, "") for verb in ("configure", "write", "read"))
    with pytest.raises(LoginRefused):
        auth.authenticate_nowait("PLAIN", plain("guest", "guest"), REMOTE)


def everything_reachable(root):
    """The repr of every object that hangs on one, through slots, dicts and sequences."""
    seen, todo, shown = set(), [root], []
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        shown.append(repr(one))
        if isinstance(one, dict):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set)):
            todo += one
        else:
            todo += [getattr(one, slot) for slot in getattr(type(one), "__slots__", ()) if hasattr(one, slot)]
    return "\n".join(shown)


async def test_no_password_is_kept_or_shown(caplog):
    """After logins of every kind, right and wrong, no object holds the password and no reason shows it."""
    world = World()
    world.auth.set_password("alice", CANARY)
    world.auth.set_hash("sam", make_hash(CANARY.encode(), b"s" * 16, n=FAST_N))
    reasons = []
    for mechanism, response in (
        ("PLAIN", plain("alice", CANARY)),
        ("PLAIN", plain("sam", CANARY)),
        ("PLAIN", plain("sam", CANARY + "x")),
        ("PLAIN", plain("nobody", CANARY)),
        ("PLAIN", plain("alice", CANARY, "bob")),
        ("PLAIN", plain("alice", CANARY) + b"\0"),
        ("PLAIN", CANARY.encode()),
        ("AMQPLAIN", amqplain(LOGIN="alice", PASSWORD=[CANARY])),
        ("AMQPLAIN", amqplain(LOGIN="nobody", PASSWORD=CANARY)),
        ("AMQPLAIN", struct.pack(">I", 99) + CANARY.encode()),
        ("EXTERNAL", CANARY.encode()),
        ("UNKNOWN", CANARY.encode()),
    ):
        try:
            await world.auth.authenticate(mechanism, response, LOCAL)
        except LoginRefused as refused:
            logging.getLogger("jackalope").info("login refused: %s", refused, exc_info=refused)
            reasons.append(refused.reason_for_log)
    assert len(reasons) == 10
    assert CANARY not in "\n".join(reasons)
    assert CANARY not in caplog.text
    assert CANARY not in everything_reachable(world.auth)
    assert CANARY not in everything_reachable(world.access)


def test_names_in_reasons_are_quoted(world):
    """A user name with a newline cannot forge a line in the log."""
    assert "\n" not in refusal(world, "a\nlogin ok: root", "x")


async def test_new_hash():
    """What `new_hash` gives can stand in the configuration; two of one password differ."""
    one, other = new_hash("pw"), new_hash("pw")
    assert one != other
    world = World()
    world.auth.set_hash("sam", one)
    assert (await world.auth.authenticate("PLAIN", plain("sam", "pw"), LOCAL)).name == "sam"
