"""The catalog: whatever may be written is read again, and what cannot be read keeps nothing else away.

An operator's "will not boot" is worse than one queue that is missing: RabbitMQ's `rabbit_vhost` starts a vhost whose
message store has failed as down, and the node with it; Kafka's LogManager takes a damaged log directory offline.
"""

import pytest
from topic_world import World

from broker.core import catalog
from broker.core.access import Access
from broker.core.access_lists import AclFilter, restore_access_lists
from protocol.amqp.fields import ELEMENTS_MAX

GARBAGE = b"\0\0\0\x05\x01aQ"


def declare(world):
    """An exchange, a queue with a binding, and a topic."""
    vhost = world.broker.vhosts["/"]
    vhost.declare_exchange("e", "direct", durable=True, auto_delete=False, internal=False, arguments={})
    queue = vhost.declare_queue(
        "q", durable=True, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
    )
    vhost.bind("e", queue, "k", {})
    world.topics.create("t", 2, {})
    return queue


def again(world):
    """The next run, after what was done is durable; returns what it was told."""
    world.store.flush()
    world.store.close()
    world.disk.locked = False
    world._open()
    return world.broker.left_aside


def test_more_than_a_peer_may_send():
    """A field table of a configuration file may have more elements than a frame's (AMQP: our ELEMENTS_MAX)."""
    arguments = {"list": list(range(2 * ELEMENTS_MAX))}
    with World() as world:
        vhost = world.broker.vhosts["/"]
        vhost.declare_exchange("e", "direct", durable=True, auto_delete=False, internal=False, arguments=arguments)
        assert again(world) == []
        assert world.broker.vhosts["/"].exchanges["e"].arguments == arguments


def key_of(world, kind):
    """The only key of a kind."""
    (found,) = [key for key in world.store.catalog if key[:1] == kind]
    return found


@pytest.mark.parametrize("damage", [GARBAGE, b"", catalog.value({}, {}), catalog.value({"log": 999, "id": "?"}, {})])
@pytest.mark.parametrize(
    ("kind", "gone", "place"),
    [
        (catalog.EXCHANGE, {"e"}, "exchange 'e' in vhost '/'"),
        (catalog.QUEUE, {"q"}, "queue 'q' in vhost '/'"),
        (catalog.TOPIC, {"t"}, "topic 't' in vhost '/'"),
    ],
)
def test_an_entry_that_cannot_be_used(kind, gone, place, damage):
    """It is named, all the others are there, its logs stay; once it can be used, it is as it was."""
    with World() as world:
        declare(world)
        world.store.flush()
        logs = set(world.store.logs)
        key = key_of(world, kind)
        whole = world.store.catalog[key]
        world.store.put(key, damage)
        told = again(world)
        assert told[0].startswith(place)
        vhost = world.broker.vhosts["/"]
        there = {name for name in ("e", "q") if name in vhost.exchanges or name in vhost.queues}
        there |= {topic.name for topic in world.topics.all()}
        assert there == {"e", "q", "t"} - gone
        assert set(world.store.logs) == logs
        assert again(world) == told, "each start says so"
        world.store.put(catalog.ASIDE + key, whole)
        assert again(world) == []
        vhost = world.broker.vhosts["/"]
        assert "q" in vhost.queues
        assert world.topics.get("t") is not None
        assert [one.routing_key for one in vhost.exchanges["e"].bindings.values()] == ["k"]


def test_a_name_that_was_given_again():
    """What a client declares under the name of what is left aside takes nothing from it."""
    with World() as world:
        declare(world)
        key = key_of(world, catalog.QUEUE)
        world.store.put(key, GARBAGE)
        again(world)
        logs = set(world.store.logs)
        vhost = world.broker.vhosts["/"]
        vhost.declare_queue(
            "q", durable=True, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
        )
        assert any("something else has its name" in one for one in again(world))
        assert "q" in world.broker.vhosts["/"].queues
        assert logs < set(world.store.logs)
        assert world.store.catalog[catalog.ASIDE + key] == GARBAGE


def test_a_key_that_is_no_text():
    """Neither do a key's own octets end the start."""
    with World() as world:
        declare(world)
        for kind in (catalog.QUEUE, catalog.TOPIC, catalog.BINDING, catalog.EXCHANGE, catalog.POLICY):
            world.store.put(kind + b"\0\x01\xff", catalog.value({}, {}))
        assert sum("of key" in one for one in again(world)) == 5
        assert "q" in world.broker.vhosts["/"].queues


def test_an_access_list_entry_of_too_few_parts():
    """The same for the entries that are read later."""
    with World() as world:
        world.store.put(catalog.key(catalog.ACL, "/", "topic"), catalog.value({}, {}))
        restore_access_lists(Access(), world.store.catalog, world.broker.leave_aside)
        assert world.broker.left_aside == ["access list entry 'topic' in vhost '/': not of seven parts"]


def test_an_access_list_entry_of_a_later_version():
    """One whose words are not known is left aside: DescribeAcls has no number for them (Kafka: AclEntry)."""
    parts = ["topic", "t", "literal", "User:a", "*", "read", "allow"]
    with World() as world:
        for index in (0, 2, 5, 6):
            odd = [*parts[:index], "odd", *parts[index + 1 :]]
            world.store.put(catalog.key(catalog.ACL, "/", *odd), catalog.value({}, {}))
        world.store.put(catalog.key(catalog.ACL, "/", *parts), catalog.value({}, {}))
        access = Access()
        restore_access_lists(access, world.store.catalog, world.broker.leave_aside)
        assert [list(acl) for some in access.acls("/").find(AclFilter()) for acl in some] == [parts]
        assert [one.endswith(": of a later version: odd") for one in world.broker.left_aside] == [True] * 4
