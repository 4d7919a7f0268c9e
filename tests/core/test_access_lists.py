"""Access lists: who may do what by them, against the plain reading of Kafka's rules."""

import itertools
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.access import Access
from broker.core.access_lists import AccessList, Acl, AclFilter


def allow(name, operation, *, kind="topic", pattern="literal", principal="User:bob", host="*", permission="allow"):
    return Acl(kind, name, pattern, principal, host, operation, permission)


def deny(*arguments, **named):
    return allow(*arguments, permission="deny", **named)


def world(*entries, permissions=("", "", "")):
    """(access, bob) with these entries in the vhost `/`."""
    access = Access()
    bob = access.put_user("bob")
    access.set_permissions("bob", "/", *permissions)
    for acl in entries:
        access.add_acl("/", acl)
    return access, bob


def can(entries, operation, name="orders", permissions=("", "", ""), kind="topic", host="10.0.0.1"):
    access, bob = world(*entries, permissions=permissions)
    return access.can(bob, "/", operation, name, kind, host)


def test_neither_permission_nor_entry_is_no():
    """Nothing is allowed that nobody has allowed."""
    assert not can([], "read")
    assert not can([allow("others", "read")], "read")


@pytest.mark.parametrize("operation", ["read", "write", "create", "delete", "alter", "describe", "alter_configs"])
def test_all_is_every_operation(operation):
    """ALL allows each, and denies each."""
    assert can([allow("orders", "all")], operation)
    assert not can([deny("orders", "all")], operation, permissions=(".*", ".*", ".*"))


@pytest.mark.parametrize(
    ("operation", "implied"),
    [("read", {"describe"}), ("write", {"describe"}), ("delete", {"describe"}), ("alter", {"describe"}),
     ("create", set()), ("alter_configs", {"describe_configs"}), ("describe", set()), ("describe_configs", set())],
)  # fmt: skip
def test_an_operation_allows_itself_and_what_it_implies(operation, implied):
    """To be allowed to create is not to be allowed to delete; READ, WRITE, DELETE and ALTER allow to DESCRIBE."""
    every = ("read", "write", "create", "delete", "alter", "describe", "alter_configs", "describe_configs")
    assert {one for one in every if can([allow("orders", operation)], one)} == {operation, *implied}


def test_a_denial_implies_nothing_and_wins():
    """Over an entry that allows, whichever was first, and over the vhost's permissions."""
    everything = (".*", ".*", ".*")
    for order in itertools.permutations([allow("orders", "all"), deny("orders", "read")]):
        assert not can(order, "read", permissions=everything)
        assert can(order, "describe")
        assert can(order, "write")
    assert not can([deny("orders", "read", principal="User:*")], "read", permissions=everything)
    assert can([deny("orders", "read", principal="User:alice")], "read", permissions=everything)


def test_permissions_of_the_vhost_hold_as_well():
    """Operations are its verbs; whoever may do anything may describe."""
    assert can([], "read", permissions=("", "", "^orders$"))
    assert can([], "describe", permissions=("", "", "^orders$"))
    assert not can([], "write", permissions=("", "", "^orders$"))
    for operation in ("create", "delete", "alter", "alter_configs"):
        assert can([], operation, permissions=("^orders$", "", ""))


def test_names_hosts_kinds():
    """Whole names, prefixes and `*`; hosts exactly; a topic's entries say nothing of a group of its name."""
    assert can([allow("ord", "read", pattern="prefixed")], "read")
    assert not can([allow("orders-", "read", pattern="prefixed")], "read")
    assert not can([allow("ord", "read")], "read")
    assert can([allow("*", "read")], "read")
    assert not can([allow("*", "read", pattern="prefixed")], "read")
    assert can([allow("orders", "read", host="10.0.0.1")], "read")
    assert not can([allow("orders", "read", host="10.0.0.2")], "read")
    assert not can([allow("orders", "read", kind="group")], "read")
    assert can([allow("orders", "read", kind="group")], "read", kind="group")


def test_exchanges_are_not_listed():
    """A topic's entries say nothing of an exchange of its name."""
    access, bob = world(deny("orders", "write"), permissions=(".*", ".*", ".*"))
    assert access.can(bob, "/", "write", "orders", None)
    assert not access.can(bob, "/", "write", "orders")


def test_configuring_is_creating():
    """What AMQP calls configure is CREATE to an access list."""
    assert can([allow("orders", "create")], "configure")
    assert not can([allow("orders", "delete")], "configure")


def test_changes_are_seen_at_once():
    """Decisions are remembered until the next change, and the epoch tells others who remember."""
    access, bob = world(permissions=("", "", ".*"))
    entry = deny("ord", "read", pattern="prefixed")
    for _ in range(2):
        assert access.can(bob, "/", "read", "orders")
        epoch = access.epoch
        access.add_acl("/", entry)
        assert access.epoch > epoch
        assert not access.can(bob, "/", "read", "orders")
        epoch = access.epoch
        access.remove_acl("/", entry)
        assert access.epoch > epoch
    assert access.can(bob, "/", "read", "orders")


def test_a_deleted_user_may_do_nothing():
    """Also one that a connection still holds, and by an entry for everybody."""
    access, bob = world(allow("orders", "read", principal="User:*"))
    assert access.can(bob, "/", "read", "orders")
    access.delete_user("bob")
    assert not access.can(bob, "/", "read", "orders")


def test_another_vhost_is_another_list():
    """Entries hold where they are."""
    access, bob = world(allow("orders", "read"))
    assert not access.can(bob, "other", "read", "orders")
    access.drop_vhost("/")
    assert not access.can(bob, "/", "read", "orders")


names = st.sampled_from(["*", "a", "ab", "abc", "b"])
entries = st.builds(
    Acl,
    st.sampled_from(["topic", "group"]),
    names,
    st.sampled_from(["literal", "prefixed"]),
    st.sampled_from(["User:*", "User:bob", "User:eve"]),
    st.sampled_from(["*", "h1", "h2"]),
    st.sampled_from(["all", "read", "write", "describe", "alter"]),
    st.sampled_from(["allow", "deny"]),
)


@given(st.lists(entries, max_size=12), st.data())
def test_against_a_plain_reading(listed, data):
    """Any entries, some of them removed again: decisions and filters are what going through all of them says."""
    real = AccessList()
    for acl in listed:
        real.add(acl)
    for acl in data.draw(st.lists(st.sampled_from(listed), unique=True) if listed else st.just([])):
        real.remove(acl)
        listed = [one for one in listed if one != acl]
    for name, operation in itertools.product(["a", "ab", "abcd", "b", "c"], ["read", "describe"]):
        holding = [
            one
            for one in listed
            if one.kind == "topic"
            and (one.name in ("*", name) if one.pattern == "literal" else name.startswith(one.name))
            and one.principal in ("User:*", "User:bob")
            and one.host in ("*", "h1")
        ]
        implies = {"read"} if operation == "read" else {"describe", "read", "write", "alter"}
        expected = None
        if any(one.permission == "allow" and one.operation in implies | {"all"} for one in holding):
            expected = True
        if any(one.permission == "deny" and one.operation in (operation, "all") for one in holding):
            expected = False
        assert real.decide("bob", "h1", operation, "topic", name) is expected
    assert set(chain.from_iterable(real.find(AclFilter()))) == set(listed)


def test_filters():
    """Null is any; `match` finds what holds for a name; the others find entries of just that name and pattern."""
    whole, prefix, any_name = allow("orders", "read"), allow("ord", "write", pattern="prefixed"), deny("*", "read")
    other = allow("billing", "read", principal="User:eve", host="h")
    entries = AccessList()
    for acl in (whole, prefix, any_name, other):
        entries.add(acl)

    def found(wanted):
        return list(chain.from_iterable(entries.find(wanted)))

    assert found(AclFilter()) == [whole, prefix, any_name, other]
    assert found(AclFilter(name="orders", pattern="match")) == [whole, prefix, any_name]
    assert found(AclFilter(name="orders")) == [whole]
    assert found(AclFilter(name="ord")) == [prefix]
    assert found(AclFilter(name="ord", pattern="literal")) == []
    assert found(AclFilter(pattern="prefixed")) == [prefix]
    assert found(AclFilter(name="*", pattern="literal")) == [any_name]
    assert found(AclFilter(principal="User:eve")) == [other]
    assert found(AclFilter(host="*", permission="deny")) == [any_name]
    assert found(AclFilter(operation="write")) == [prefix]
    assert found(AclFilter(kind="group")) == []
