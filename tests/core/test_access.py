"""Permissions: patterns, topic permissions, the epoch, and that no pattern or name takes long."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import HANG_S

from broker.core.access import PATTERN_LENGTH_MAX, RESULTS_MAX, Access, check_pattern, compile_pattern, escape

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture
def access():
    return Access()


def user_with(access, configure="", write="", read="", vhost="/", name="bob"):
    user = access.put_user(name)
    access.set_permissions(name, vhost, configure, write, read)
    return user


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        (".*", "anything", True), (".*", "", True), (".*", "a\nb", True), ("^.*", "x", True), (".*$", "x", True),
        ("", "x", False), ("", "", True), ("^$", "x", False), ("^$", "", True),
        ("orders", "my-orders-2", True), ("^orders", "my-orders", False), ("^orders$", "orders", True),
        ("^orders$", "orders2", False), ("^(a|b)$", "b", True), ("^(a|b)$", "ab", False), ("a.c", "abc", True),
        (r"^a\.c$", "abc", False), ("^é+$", "éé", True), ("(?i)^A$", "a", True), ("^x$", "x\n", False),
    ],
)  # fmt: skip
def test_a_pattern_is_searched(pattern, name, found):
    """RabbitMQ searches the pattern anywhere in the name; the empty pattern means `^$`, not everything."""
    assert compile_pattern(pattern)(name) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[a",
        "a**",
        "(?=a)b",
        "(?!a)b",
        r"(a)\1",
        "x{1001}",
        "((a{100}){100}){100}",
        "a" * (PATTERN_LENGTH_MAX + 1),
        "\ud800",
    ],
)
def test_refused_patterns(pattern, capfd):
    """Bad syntax, and what has no linear time, is a ValueError when it is set; re2 writes nothing to stderr."""
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|aa)+$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*)(.*)(.*)(.*)(.*)x$"]
)
def test_catastrophic_patterns_return(pattern):
    """Patterns on which a backtracking engine takes longer than the universe has are linear here: a million characters
    are no more than a moment. In a process of its own, since nothing else ends an engine that does not return."""
    script = (
        "import sys; from broker.core.access import compile_pattern;"
        "print(compile_pattern(sys.argv[1])('a' * 1_000_000 + '!'))"
    )
    command = [sys.executable, "-c", script, pattern]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANG_S).stdout == "False\n"


def test_trivial_patterns_do_not_import_re2():
    """`.*` and the empty pattern are what most users have: start-up does not pay for re2."""
    script = (
        "import sys; from broker.core.access import Access; a = Access(); u = a.put_user('u');"
        "a.set_permissions('u', '/', '.*', '', '^$'); print(a.can(u, '/', 'configure', 'q'), 're2' in sys.modules);"
        "a.set_permissions('u', '/', '^q', '', ''); print(a.can(u, '/', 'configure', 'q'), 're2' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["True", "False", "True", "True"]


def test_each_verb_has_its_pattern(access):
    """configure, write and read are separate, and belong to one vhost."""
    user = user_with(access, "^c-", "^w-", "^r-")
    for verb in ("configure", "write", "read"):
        assert [access.can(user, "/", verb, f"{letter}-q") for letter in "cwr"] == [verb[0] == x for x in "cwr"]
        assert not access.can(user, "/other", verb, f"{verb[0]}-q")


def test_no_permission_entry_is_no(access):
    """A user without an entry for a vhost may do nothing there and may not enter it; tags do not help."""
    user = access.put_user("root", ["administrator"])
    assert not access.can(user, "/", "read", "q")
    assert not access.may_enter(user, "/")
    assert access.vhosts_of(user) == ()
    access.set_permissions("root", "/", "", "", "")
    assert access.may_enter(user, "/")
    assert not access.can(user, "/", "read", "q")


def test_the_default_exchange_is_called_amq_default(access):
    """Publishing to '' asks for write on `amq.default`."""
    user = user_with(access, write="^amq\\.default$")
    assert access.can(user, "/", "write", "")
    assert access.can(user, "/", "write", "amq.default")
    assert not access.can(user_with(access, write="^$", name="eve"), "/", "write", "")


def test_changes_take_effect_at_once_and_raise_the_epoch(access):
    """No answer outlives a change: the epoch rises, remembered results are dropped, and all of one entry changes."""
    user = user_with(access, write="^a")
    epochs = [access.epoch]
    assert access.can(user, "/", "write", "a")
    for change in (
        lambda: access.set_permissions("bob", "/", "", "^b", ""),
        lambda: access.set_topic_permissions("bob", "/", "t", "x", "x"),
        lambda: access.clear_topic_permissions("bob"),
        lambda: access.clear_permissions("bob", "/"),
        lambda: access.put_user("bob", ["x"]),
        lambda: access.drop_vhost("/"),
        lambda: access.delete_user("bob"),
    ):
        change()
        assert not access.can(user, "/", "write", "a")
        epochs.append(access.epoch)
    assert epochs == sorted(set(epochs))


def test_a_bad_pattern_changes_nothing(access):
    """All three patterns are compiled before any is taken."""
    user = user_with(access, "^c", "^w", "^r")
    epoch = access.epoch
    with pytest.raises(ValueError, match="pattern"):
        access.set_permissions("bob", "/", ".*", ".*", "(")
    with pytest.raises(ValueError, match="pattern"):
        access.set_topic_permissions("bob", "/", "t", "a", "(")
    assert not access.can(user, "/", "configure", "x")
    assert not access.has_topic_permissions(user, "/")
    assert access.epoch == epoch


def test_a_deleted_user_may_do_nothing(access):
    """A connection keeps the user it logged in as: deleting takes everything from it, and a namesake is another."""
    old = user_with(access, ".*", ".*", ".*")
    old_tags = access.put_user("bob", ["administrator"])
    assert old is old_tags
    access.delete_user("bob")
    access.delete_user("bob")
    new = user_with(access, ".*", ".*", ".*")
    assert new is not old
    assert not access.can(old, "/", "read", "q")
    assert not access.may_enter(old, "/")
    assert old.tags == frozenset()
    assert access.can(new, "/", "read", "q")


def test_dropping_a_vhost_drops_its_permissions(access):
    """A vhost of the same name, made later by someone else, is not open to the old one's users."""
    user = user_with(access, ".*", ".*", ".*", vhost="shop")
    access.set_topic_permissions("bob", "shop", "t", "", "")
    access.drop_vhost("shop")
    assert not access.may_enter(user, "shop")
    assert not access.has_topic_permissions(user, "shop")


def test_unknown_users_are_key_errors(access):
    """Permissions are for users that exist."""
    for call in (
        lambda: access.set_permissions("x", "/", "", "", ""),
        lambda: access.clear_permissions("x", "/"),
        lambda: access.set_topic_permissions("x", "/", "t", "", ""),
        lambda: access.clear_topic_permissions("x"),
    ):
        with pytest.raises(KeyError):
            call()


def test_results_are_bounded(access):
    """A client that asks for a million names does not fill the memory."""
    user = user_with(access, write="^q")
    for n in range(3 * RESULTS_MAX):
        assert access.can(user, "/", "write", f"q{n}")
        assert len(user._results) <= RESULTS_MAX


def test_topic_permissions_narrow(access):
    """Without one for the exchange every routing key is allowed; with one, only what its pattern finds."""
    user = user_with(access, ".*", ".*", ".*")
    assert access.can_topic(user, "/", "write", "orders", "anything")
    assert not access.has_topic_permissions(user, "/")
    access.set_topic_permissions("bob", "/", "orders", "^eu\\.", "")
    assert access.has_topic_permissions(user, "/")
    assert access.can_topic(user, "/", "write", "orders", "eu.1")
    assert not access.can_topic(user, "/", "write", "orders", "us.1")
    assert not access.can_topic(user, "/", "read", "orders", "eu.1")
    assert access.can_topic(user, "/", "write", "other", "us.1")
    assert access.can_topic(user, "/other", "write", "orders", "us.1")
    access.clear_topic_permissions("bob", "/", "orders")
    assert access.can_topic(user, "/", "write", "orders", "us.1")
    assert not access.has_topic_permissions(user, "/")


def test_clearing_topic_permissions(access):
    """One exchange, all of a vhost, or all."""
    user = user_with(access)
    for vhost in ("/", "v"):
        for exchange in ("a", "b"):
            access.set_topic_permissions("bob", vhost, exchange, "", "")
    access.clear_topic_permissions("bob", "/", "a")
    assert access.can_topic(user, "/", "write", "a", "k")
    assert not access.can_topic(user, "/", "write", "b", "k")
    access.clear_topic_permissions("bob", "/")
    assert not access.has_topic_permissions(user, "/")
    assert access.has_topic_permissions(user, "v")
    access.clear_topic_permissions("bob", "nope")
    access.clear_topic_permissions("bob")
    assert not access.has_topic_permissions(user, "v")


@given(names)
def test_escape_matches_only_itself(name):
    """An escaped text is a pattern for that text and nothing else."""
    pattern = compile_pattern(f"^{escape(name)}$")
    assert pattern(name)
    assert not pattern(name + "x")
    assert not pattern("x" + name)


@given(names.filter(bool), names)
def test_substitutions_are_escaped(name, other):
    """A user name or client id that looks like a pattern matches its own characters only (CVE-2026-44838)."""
    access = Access()
    user = access.put_user(name)
    access.set_topic_permissions(name, "v.h", "t", "^{username}/{vhost}/{client_id}$", "^{username}$")
    assert access.can_topic(user, "v.h", "write", "t", f"{name}/v.h/{other}", client_id=other)
    assert access.can_topic(user, "v.h", "read", "t", name)
    if other != name:
        assert not access.can_topic(user, "v.h", "read", "t", other)
        assert not access.can_topic(user, "v.h", "write", "t", f"{other}/v.h/{other}", client_id=other)
    assert not access.can_topic(user, "v.h", "write", "t", f"{name}/vxh/{other}", client_id=other)


def test_without_a_client_id_the_variable_is_its_own_text(access):
    """AMQP has no client id: `{client_id}` is then these characters (RabbitMQ); `{2}` stays a repetition."""
    user = user_with(access)
    access.set_topic_permissions("bob", "/", "t", "^{client_id}$", "^a{2}$")
    assert access.can_topic(user, "/", "write", "t", "{client_id}")
    assert not access.can_topic(user, "/", "write", "t", "anything")
    assert access.can_topic(user, "/", "read", "t", "aa")


def test_client_ids_are_bounded(access):
    """Patterns filled in for client ids do not pile up, and one too long for a pattern is a no, not an error."""
    user = user_with(access)
    access.set_topic_permissions("bob", "/", "t", "^{client_id}$", "")
    for n in range(600):
        assert access.can_topic(user, "/", "write", "t", f"c{n}", client_id=f"c{n}")
    pattern = user._topics["/"]["t"]["write"]
    assert len(pattern._by_client) <= 256
    assert not access.can_topic(user, "/", "write", "t", "x", client_id="x" * 70_000)


def test_repr_is_the_name_only(access):
    """A user in a log line is its name."""
    assert repr(access.put_user("bob", ["administrator"])) == "User('bob')"
