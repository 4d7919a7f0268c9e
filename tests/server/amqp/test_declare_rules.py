"""Declare, bind and delete: one rule of RabbitMQ's behaviour (or the specification) a test."""

from decimal import Decimal

import pytest
from amqp_harness import Client, refusal

from protocol.amqp.fields import Long


def spelled(text):
    """The tables below say Q where RabbitMQ names queue and vhost."""
    return text.replace("for Q", "for queue 'q' in vhost '/'")


QUEUE_REFUSALS = [
    ({"x_message_ttl": -1}, "invalid arg 'x-message-ttl' for Q: {value_negative,-1}"),
    ({"x_message_ttl": "5"}, "invalid arg 'x-message-ttl' for Q: \"expected integer, got longstr\""),
    ({"x_expires": 0}, "invalid arg 'x-expires' for Q: {value_zero,0}"),
    ({"x_max_length": -1}, "invalid arg 'x-max-length' for Q: {value_negative,-1}"),
    ({"x_overflow": "foo"}, "invalid arg 'x-overflow' for Q: invalid_overflow"),
    ({"x_max_priority": 256}, "invalid arg 'x-max-priority' for Q: {max_value_exceeded,256}"),
    ({"x_dead_letter_routing_key": "k"},
     "invalid arg 'x-dead-letter-routing-key' for Q: routing_key_but_no_dlx_defined"),
    ({"x_dead_letter_exchange": "\u00fc" * 128}, "invalid arg 'x-dead-letter-exchange' for Q: {longer_than,255}"),
    ({"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "k" * 256},
     "invalid arg 'x-dead-letter-routing-key' for Q: {longer_than,255}"),
    ({"x_queue_type": "foo"}, "invalid arg 'x-queue-type' for Q: \"unsupported queue type 'foo'\""),
    ({"x_queue_type": 1}, "invalid arg 'x-queue-type' for Q: {unacceptable_type,signedint}"),
    ({"x_message_ttl": 315_360_000_001}, "invalid arg 'x-message-ttl' for Q: {value_too_large,315360000001}"),
    ({"x_quorum_initial_group_size": 0}, "invalid arg 'x-quorum-initial-group-size' for Q: {value_zero,0}"),
    ({"x_queue_leader_locator": "here"}, "invalid arg 'x-queue-leader-locator' for Q: invalid_queue_locator_arg"),
    ({"x_queue_leader_locator": "min-masters"},
     "invalid arg 'x-queue-leader-locator' for Q: invalid_queue_locator_arg"),
    ({"x_queue_version": 3}, "invalid arg 'x-queue-version' for Q: \"unsupported queue version '3'\""),
    ({"x_queue_version": -1}, "invalid arg 'x-queue-version' for Q: {value_negative,-1}"),
    ({"x_queue_version": 2, "x_queue_type": "quorum", "durable": True},
     "invalid arg 'x-queue-version' for Q of queue type rabbit_quorum_queue"),
    ({"x_max_age": "1h"}, "invalid arg 'x-max-age' for Q of queue type rabbit_classic_queue"),
    ({"x_max_age": "1h", "x_queue_type": "quorum", "durable": True},
     "invalid arg 'x-max-age' for Q of queue type rabbit_quorum_queue"),
    ({"x_max_priority": 5, "x_queue_type": "quorum", "durable": True},
     "invalid arg 'x-max-priority' for Q of queue type rabbit_quorum_queue"),
    ({"x_queue_type": "quorum", "durable": True, "auto_delete": True}, "invalid property 'auto-delete' for Q"),
    ({"x_queue_type": "quorum"}, "invalid property 'non-durable' for Q"),
    ({"x_queue_type": "quorum", "durable": True, "exclusive": True}, "invalid property 'exclusive-owner' for Q"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), QUEUE_REFUSALS)
def test_arguments_are_checked(client, arguments, text):
    """A bad argument is 406 in RabbitMQ's words, and nothing is declared."""
    assert refusal(client.declare("q", **arguments)) == (406, spelled(text))
    assert "q" not in client.world.broker.vhosts["/"].queues


EQUIVALENCE = [
    ({"durable": True}, {}, "inequivalent arg 'durable' for Q: received 'false' but current is 'true'"),
    ({}, {"auto_delete": True}, "inequivalent arg 'auto_delete' for Q: received 'true' but current is 'false'"),
    ({}, {"x_message_ttl": 5}, "inequivalent arg 'x-message-ttl' for Q: "
     "received the value '5' of type 'signedint' but current is none"),
    ({"x_max_length": 10}, {"x_max_length": 10.0},
     "inequivalent arg 'x-max-length' for Q: received '10.0' but current is '10'"),
    ({"x_max_length": 10}, {"x_max_length": Decimal(10)},
     "inequivalent arg 'x-max-length' for Q: received '10' but current is '10'"),
    ({"x_max_length": 1}, {"x_max_length": True},
     "inequivalent arg 'x-max-length' for Q: received 'true' but current is '1'"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second", "text"), EQUIVALENCE)
def test_redeclaring_must_be_equivalent(client, first, second, text):
    """durable, auto_delete and known arguments are compared."""
    client.declare("q", **first)
    assert refusal(client.declare("q", **second)) == (406, spelled(text))


def test_unknown_arguments_and_integer_widths_do_not_matter(client):
    """Arguments nobody knows are kept and ignored; 60000 is 60000 in any width."""
    client.declare("q", x_a=1, x_message_ttl=60_000)
    assert client.declare("q", x_a=2, x_message_ttl=60_000)[0][0] == "queue.declare-ok"
    assert client.declare("q", x_a=2, x_message_ttl=Long(60_000))[0][0] == "queue.declare-ok"
    assert refusal(client.declare("q", x_message_ttl=Long(60_001)))[0] == 406


def test_reserved_names(client):
    """`amq.` is 403 for an active declare, 404 for a passive one; a predeclared exchange may be redeclared as it is."""
    assert client.declare_exchange("amq.direct", durable=True)[0][0] == "exchange.declare-ok"
    assert refusal(client.declare("amq.x")) == (403, "queue name 'amq.x' contains reserved prefix 'amq.*'")


def test_passive_declare_only_looks(client):
    """Passive ignores all other fields, the type of an exchange included; a missing queue is 404."""
    assert client.declare_exchange("amq.direct", "topic", passive=True)[0][0] == "exchange.declare-ok"
    assert refusal(client.declare("nope", passive=True)) == (404, "no queue 'nope' in vhost '/'")


def test_counts_are_of_ready_messages(client):
    """declare-ok, purge-ok and delete-ok count what is ready; purge leaves what is unacknowledged."""
    client.declare("q")
    for _ in range(3):
        client.publish("q")
    client.get("q")
    assert client.declare("q", passive=True)[0][2][1:] == (2, 0)
    assert client.call(1, "queue.purge", 0, "q", False)[0][2] == (2,)
    assert client.world.queue("q").store.leased_count == 1
    assert client.call(1, "queue.delete", 0, "q", False, False, False)[0][2] == (0,)


OTHERS_ON_EXCLUSIVE = [
    ("queue.declare", 0, "mine", False, False, True, False, False, {}),
    ("queue.declare", 0, "mine", True, False, False, False, False, {}),
    ("basic.consume", 0, "mine", "", False, False, False, False, {}),
    ("basic.get", 0, "mine", False),
    ("queue.purge", 0, "mine", False),
    ("queue.delete", 0, "mine", False, False, False),
    ("queue.bind", 0, "mine", "amq.direct", "k", False, {}),
]


@pytest.mark.parametrize("method", OTHERS_ON_EXCLUSIVE, ids=lambda method: method[0])
def test_an_exclusive_queue_is_locked_for_others(world, client, method):
    """405 for every other connection."""
    client.declare("mine", exclusive=True)
    code, text = refusal(world.connect().call(1, *method))
    assert code == 405
    assert text.startswith("cannot obtain exclusive access to locked queue 'mine' in vhost '/'.")


def test_others_may_publish_to_an_exclusive_queue_and_its_owner_may_look(world, client):
    """Publishing is allowed; a passive declare by the owner needs no exclusive bit, an active one does."""
    client.declare("mine", exclusive=True)
    world.connect().publish("mine", b"hello")
    assert client.get("mine")[2] == b"hello"
    assert client.declare("mine", passive=True)[0][0] == "queue.declare-ok"
    assert refusal(client.declare("mine"))[0] == 405


def test_deleting_what_is_not_there_is_no_error(client):
    """queue.delete, exchange.delete, queue.unbind, exchange.unbind of missing things answer ok."""
    assert client.call(1, "queue.delete", 0, "nope", False, False, False) == [("queue.delete-ok", 1, (0,))]
    assert client.call(1, "exchange.delete", 0, "nope", False, False)[0][0] == "exchange.delete-ok"
    assert client.call(1, "queue.unbind", 0, "nope", "amq.direct", "k", {})[0][0] == "queue.unbind-ok"
    assert client.call(1, "exchange.unbind", 0, "nope", "amq.direct", "k", False, {})[0][0] == "exchange.unbind-ok"


@pytest.mark.parametrize(
    "method",
    [
        ("queue.purge", 0, "nope", False),
        ("basic.get", 0, "nope", False),
        ("queue.bind", 0, "nope", "amq.direct", "k", False, {}),
    ],
    ids=lambda method: method[0],
)
def test_using_what_is_not_there_is_404(client, method):
    """purge, get and bind of a missing queue."""
    assert refusal(client.call(1, *method)) == (404, "no queue 'nope' in vhost '/'")


def test_if_unused_and_if_empty(world, client):
    """406 with the queue's name while it is in use, or not empty."""
    client.declare("q")
    client.publish("q")
    other = world.connect()
    assert refusal(other.call(1, "queue.delete", 0, "q", False, True, False)) == (
        406,
        "queue 'q' in vhost '/' not empty",
    )
    client.consume("q", "c")
    other = world.connect()
    assert refusal(other.call(1, "queue.delete", 0, "q", True, False, False)) == (406, "queue 'q' in vhost '/' in use")


@pytest.mark.parametrize(
    "method",
    [
        ("exchange.declare", 0, "", "direct", False, False, False, False, False, {}),
        ("exchange.declare", 0, "", "direct", True, False, False, False, False, {}),
        ("exchange.delete", 0, "", False, False),
        ("queue.bind", 0, "q", "", "k", False, {}),
        ("queue.unbind", 0, "q", "", "k", {}),
        ("exchange.bind", 0, "amq.fanout", "", "k", False, {}),
    ],
    ids=lambda method: method[0],
)
def test_the_default_exchange_is_not_to_be_touched(client, method):
    """403 for every operation on it."""
    client.declare("q")
    assert refusal(client.call(1, *method)) == (403, "operation not permitted on the default exchange")


def test_predeclared_exchanges_cannot_be_deleted(client):
    """403 names the system exchange."""
    text = "deletion of system exchange 'amq.direct' in vhost '/' not allowed"
    assert refusal(client.call(1, "exchange.delete", 0, "amq.direct", False, False)) == (403, text)


def test_an_unknown_exchange_type_is_406_on_the_channel(client):
    """RabbitMQ 4's answer; 3.x closes the connection."""
    assert refusal(client.declare_exchange("x", "zz")) == (406, "unknown exchange type 'zz'")


def test_the_empty_queue_name_is_the_last_declared(client):
    """For bind, purge and the like; with an empty key too, bind takes the queue's name as the key (spec 1.7.2)."""
    name = client.declare("")[0][2][0]
    assert name.startswith("amq.gen-")
    assert len(name) == len("amq.gen-") + 22
    assert client.call(1, "queue.bind", 0, "", "amq.direct", "", False, {})[0][0] == "queue.bind-ok"
    client.publish(name, b"x", exchange="amq.direct")
    assert client.call(1, "queue.purge", 0, "", False)[0][2] == (1,)


def test_without_a_declared_queue_the_empty_name_is_404(client):
    """No previously declared queue on this channel."""
    assert refusal(client.call(1, "queue.purge", 0, "", False)) == (404, "no previously declared queue")


def test_auto_delete_needs_a_consumer_to_have_been_there(world, client):
    """basic.get does not count; the last consumer takes the queue with it."""
    client.declare("q", auto_delete=True)
    client.get("q")
    assert "q" in world.broker.vhosts["/"].queues
    client.consume("q", "c")
    client.call(1, "basic.cancel", "c", False)
    assert "q" not in world.broker.vhosts["/"].queues


def test_an_auto_delete_exchange_goes_with_its_last_binding(world, client):
    """The last binding that leads out of it."""
    client.declare_exchange("x", auto_delete=True)
    client.declare("q")
    for key in ("a", "b"):
        client.call(1, "queue.bind", 0, "q", "x", key, False, {})
    client.call(1, "queue.unbind", 0, "q", "x", "a", {})
    assert "x" in world.broker.vhosts["/"].exchanges
    client.call(1, "queue.delete", 0, "q", False, False, False)
    assert "x" not in world.broker.vhosts["/"].exchanges


def test_expires_counts_time_without_use(world, client):
    """Consumers, get and redeclaration reset x-expires; without them the queue goes."""
    client.declare("q", x_expires=1000)
    world.hub.now_ms += 900
    client.get("q")
    world.hub.now_ms += 900
    world.broker.tick(world.hub.now_ms)
    assert "q" in world.broker.vhosts["/"].queues
    world.hub.now_ms += 200
    world.broker.tick(world.hub.now_ms)
    assert "q" not in world.broker.vhosts["/"].queues


def test_a_queue_in_use_is_not_looked_at_for_its_expires(world, client):
    """x-expires of a millisecond and a consumer: nothing is timed until the consumer goes (rabbit_amqqueue_process.erl,
    ensure_expiry_timer: only of a queue that is unused)."""
    timers = world.broker.scheduler.timers
    client.declare("q", x_expires=1)
    client.consume("q", "c")
    world.advance(50)
    assert timers.next_ms is None
    assert "q" in world.broker.vhosts["/"].queues
    client.call(1, "basic.cancel", "c", False)
    assert timers.next_ms == world.hub.now_ms + 1
    world.advance(50)
    assert "q" not in world.broker.vhosts["/"].queues


PERMISSIONS = [
    (("queue.declare", 0, "new", False, False, False, False, False, {}), "configure access to queue 'new'"),
    (("queue.declare", 0, "q", False, False, False, False, False, {}), "configure access to queue 'q'"),
    (("queue.delete", 0, "q", False, False, False), "configure access to queue 'q'"),
    (("queue.bind", 0, "q", "amq.direct", "k", False, {}), "write access to queue 'q'"),
    (("exchange.declare", 0, "x", "direct", False, False, False, False, False, {}), "configure access to exchange 'x'"),
]


@pytest.mark.parametrize(
    ("method", "text"), PERMISSIONS, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_permissions_come_before_everything(world, client, method, text):
    """configure to declare (also what is there) and delete, write on the destination to bind, read to purge."""
    client.declare("q")
    world.allow("reader", "^$", "^$", ".*")
    reader = Client(world)
    reader.log_in(user="reader")
    reader.call(1, "channel.open", "")
    assert reader.declare("q", passive=True)[0][0] == "queue.declare-ok"
    assert reader.call(1, "queue.purge", 0, "q", False)[0][0] == "queue.purge-ok"
    assert refusal(reader.call(1, *method)) == (403, f"{text} in vhost '/' refused for user 'reader'")


READING = [
    (("basic.get", 0, "q", True), "read access to queue 'q'"),
    (("basic.consume", 0, "q", "", False, True, False, False, {}), "read access to queue 'q'"),
    (("queue.purge", 0, "q", False), "read access to queue 'q'"),
    (("queue.bind", 0, "q", "amq.direct", "k", False, {}), "read access to exchange 'amq.direct'"),
    (("exchange.bind", 0, "x", "amq.direct", "k", False, {}), "read access to exchange 'amq.direct'"),
    (("exchange.bind", 0, "amq.direct", "x", "k", False, {}), "write access to exchange 'amq.direct'"),
    (("queue.declare", 0, "dying", False, False, False, False, False, {"x-dead-letter-exchange": "x"}),
     "read access to queue 'dying'"),
    (("queue.declare", 0, "x", False, False, False, False, False, {"x-dead-letter-exchange": "amq.direct"}),
     "write access to exchange 'amq.direct'"),
    (("exchange.declare", 0, "x2", "direct", False, False, False, False, False, {"alternate-exchange": "x"}),
     "read access to exchange 'x2'"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "text"), READING, ids=lambda value: value if isinstance(value, str) else value[0])
def test_what_leads_messages_on_is_reading_and_writing(world, client, method, text):
    """read to get, consume and purge, and on what is bound; dead letters are read, and written to their exchange."""
    client.declare("q")
    client.declare_exchange("x", "direct")
    world.allow("writer", ".*", "^(q|x)$", "^x$")
    writer = Client(world)
    writer.log_in(user="writer")
    writer.call(1, "channel.open", "")
    assert refusal(writer.call(1, *method)) == (403, f"{text} in vhost '/' refused for user 'writer'")


def test_publishing_needs_write_on_the_exchange(world, client):
    """The default exchange is called amq.default; a permission that is taken away counts at once."""
    client.declare("q")
    world.allow("writer", "^$", "^amq.default$", "^$")
    writer = Client(world)
    writer.log_in(user="writer")
    writer.call(1, "channel.open", "")
    writer.publish("q", b"allowed")
    assert client.get("q")[2] == b"allowed"
    world.access.set_permissions("writer", "/", "^$", "^$", "^$")
    text = "write access to exchange 'amq.default' in vhost '/' refused for user 'writer'"
    writer.raw()
    assert refusal(writer.publish("q", b"refused").frames()) == (403, text)


def test_topic_permissions_narrow_routing_keys(world, client):
    """On a topic exchange write is asked with the key to publish, read with the key to bind."""
    world.allow("shop", ".*", ".*", ".*")
    world.access.set_topic_permissions("shop", "/", "amq.topic", "^shop\\.", "^shop\\.")
    shop = Client(world)
    shop.log_in(user="shop")
    shop.call(1, "channel.open", "")
    shop.declare("q")
    assert shop.call(1, "queue.bind", 0, "q", "amq.topic", "shop.#", False, {})[0][0] == "queue.bind-ok"
    shop.publish("shop.a", b"yes", exchange="amq.topic")
    assert shop.get("q")[2] == b"yes"
    assert refusal(shop.publish("other.a", b"no", exchange="amq.topic").frames())[0] == 403


def test_binding_twice_is_binding_once(world, client):
    """Key and arguments make a binding: the same again changes nothing, other arguments are another one."""
    client.declare("q")
    for arguments in ({}, {}, {"a": 1}, {"a": 1}, {"a": 2}):
        assert client.bind("q", "amq.headers", "k", arguments)[0][0] == "queue.bind-ok"
    bindings = world.broker.vhosts["/"].exchanges["amq.headers"].bindings
    assert [binding.arguments for binding in bindings.values()] == [{}, {"a": 1}, {"a": 2}]
    client.call(1, "queue.unbind", 0, "q", "amq.headers", "k", {"a": 1})
    assert len(bindings) == 2


def test_a_long_chain_of_auto_delete_exchanges_goes_at_once(world, client):
    """Each loses its last binding by the one before; their number is bounded by nothing but the vhost's."""
    client.declare_exchange("x0", "fanout")
    for number in range(1, 1500):
        client.declare_exchange(f"x{number}", "fanout", auto_delete=True)
        client.call(1, "exchange.bind", 0, f"x{number - 1}", f"x{number}", "", False, {})
    client.call(1, "exchange.delete", 0, "x0", False, False)
    assert not [name for name in world.broker.vhosts["/"].exchanges if name.startswith("x")]
    assert world.broker.vhosts["/"].binding_count == 0


def test_get_leaves_nothing_of_deleted_queues(world, client):
    """A client that polls ever new queues on one channel does not keep them alive."""
    for number in range(20):
        client.declare(f"q{number}")
        client.publish(f"q{number}")
        client.send(1, "basic.ack", client.get(f"q{number}")[0], False)
        client.call(1, "queue.delete", 0, f"q{number}", False, False, False)
    assert not client.machine.channels[1].get_holders
