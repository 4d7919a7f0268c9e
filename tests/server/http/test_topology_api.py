"""Declaring, binding and deleting over HTTP: RabbitMQ's management API (rabbit_mgmt_wm_queue.erl, _exchange, _binding,
_bindings), with AMQP's rules (spec 1.6, 1.7). No socket."""

import pytest
from http_world import HttpWorld

from broker.core.vhosts.deduplication_log import DeduplicationLog

STREAM = {"x-queue-type": "stream", "x-partitions": 3}


@pytest.fixture
def world():
    """A broker with a disk."""
    return HttpWorld()


def bound(world):
    """(source, destination, its type, key, arguments) of every binding but those to the default exchange."""
    rows = world.good("GET", "bindings/%2F")
    return {(one["source"], one["destination"], one["destination_type"], one["routing_key"], str(one["arguments"]))
            for one in rows if one["source"]}  # fmt: skip


def test_an_exchange_leads_into_a_topic(world):
    """PUT and POST make what AMQP would have made: a message goes through, and all of it is there after a kill."""
    assert world.ask("PUT", "exchanges/%2F/orders", {"type": "topic", "durable": True})[0] == 201
    queue = {"durable": True, "arguments": STREAM}
    assert world.ask("PUT", "queues/%2F/events", queue) == (201, None)
    assert world.ask("PUT", "queues/%2F/events", queue) == (204, None)
    assert world.ask("POST", "bindings/%2F/e/orders/q/events", {"routing_key": "order.#"})[0] == 201
    sent = {"routing_key": "order.eu", "payload": "{}", "properties": {}}
    assert world.good("POST", "exchanges/%2F/orders/publish", sent) == {"routed": True}
    found = [one for at in range(3) for one in world.all_records(f"partition={at}", "events")]
    assert [(one["key"], one["value"]) for one in found] == [("order.eu", "{}")]
    later = world.next_run()
    assert bound(later) == {("orders", "events", "queue", "order.#", "{}")}
    assert later.good("POST", "exchanges/%2F/orders/publish", sent) == {"routed": True}


def test_rabbitmqadmin_writes_flags_as_text(world):
    """`"durable": "true"` is true (rabbit_mgmt_util:parse_bool); the rest is left alone; the default is false."""
    assert world.ask("PUT", "queues/%2F/q", {"durable": "true", "auto_delete": "false", "node": None})[0] == 201
    assert world.ask("PUT", "queues/%2F/r")[0] == 201
    assert [world.good("GET", f"queues/%2F/{name}")["durable"] for name in "qr"] == [True, False]
    assert world.refused("PUT", "queues/%2F/s", {"durable": 1}) == (400, "durable is true or false")
    assert world.refused("PUT", "queues/%2F/s", {"durable": [1]}) == (400, "durable is true or false")


@pytest.mark.parametrize(
    ("target", "body", "status", "told"),
    [
        ("queues/%2F/there", {"durable": False}, 400, "inequivalent arg 'durable' for queue 'there' in vhost '/'"),
        ("queues/%2F/amq.mine", {}, 401, "reserved prefix 'amq.*'"),
        ("queues/%2F/q", {"exclusive": True}, 400, "needs a connection"),
        ("queues/%2F/q", {"durable": True, "arguments": STREAM | {"x-max-age": "soon"}}, 400, "x-max-age"),
        ("queues/%2F/q", {"arguments": {"x-max-length": -1}}, 400, "x-max-length"),
        ("queues/%2F/q", {"arguments": [1]}, 400, "arguments are an object"),
        ("queues/%2F/q", {"arguments": {"n": 1 << 70}}, 400, "no field table can hold"),
        ("queues/%2F/q", {"arguments": {"n" * 300: 1}}, 400, "no field table can hold"),
        ("queues/%2F/q", {"arguments": {"n": "x" * 200_000}}, 400, "longer than 131072 octets"),
        ("queues/%2F/q", {"arguments": {"n": [None] * 5000}}, 400, "too many elements"),
        ("queues/%2F/" + "q" * 256, {}, 400, "1 to 255 octets"),
        ("queues/nowhere/q", {}, 404, "no vhost 'nowhere'"),
        ("exchanges/%2F/e", {"type": "nonsense"}, 400, "unknown exchange type 'nonsense'"),
        ("exchanges/%2F/e", {"type": 5}, 400, "type is a string"),
        ("exchanges/%2F/amq.topic", {"type": "topic"}, 400, "inequivalent arg 'durable'"),
        ("exchanges/%2F/amq.default", {"type": "direct"}, 401, "default exchange"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(world, target, body, status, told):
    """In AMQP's words, and nothing is made of it."""
    world.good("PUT", "queues/%2F/there", {"durable": True})
    got, reason = world.refused("PUT", target, body)
    assert (got, told in reason) == (status, True), reason
    assert [one["name"] for one in world.good("GET", "queues/%2F")] == ["there"]
    assert len(world.good("GET", "exchanges/%2F")) == 6


def test_bindings_have_names_of_their_own(world):
    """`properties_key` tells those with one routing key and different arguments apart (pack_binding_props)."""
    world.good("PUT", "queues/%2F/q", {})
    where = "bindings/%2F/e/amq.headers/q/q"
    given = [("", {}), ("a/b~c", {}), ("", {"x-match": "any", "n": 1}), ("", {"x-match": "any", "n": True})]
    for key, arguments in given:
        world.good("POST", where, {"routing_key": key, "arguments": arguments})
    rows = world.good("GET", where)
    names = {one["properties_key"]: (one["routing_key"], one["arguments"]) for one in rows}
    assert (len(names), names["~"], names["a%2Fb%7Ec"]) == (4, given[0], given[1])
    assert world.good("GET", "queues/%2F/q/bindings")[0]["source"] == ""
    assert len(world.good("GET", "queues/%2F/q/bindings")) == 5
    assert len(world.good("GET", "exchanges/%2F/amq.headers/bindings/source")) == 4
    for name, (key, arguments) in names.items():
        one = f"{where}/{name.replace('%', '%25')}"
        assert world.good("GET", one)["arguments"] == arguments
        assert world.ask("DELETE", one) == (204, None)
        assert world.refused("DELETE", one)[0] == 404
        left = [(row["routing_key"], row["arguments"]) for row in world.good("GET", where)]
        assert (key, arguments) not in [pair for pair in left if repr(pair) == repr((key, arguments))]
    assert world.good("GET", where) == []


def test_exchanges_lead_to_exchanges(world):
    """/e/SOURCE/e/DESTINATION; deleting an exchange takes its bindings along."""
    for name in ("outer", "inner"):
        world.good("PUT", f"exchanges/%2F/{name}", {"type": "fanout"})
    world.good("POST", "bindings/%2F/e/outer/e/inner")
    assert bound(world) == {("outer", "inner", "exchange", "", "{}")}
    assert len(world.good("GET", "exchanges/%2F/inner/bindings/destination")) == 1
    assert world.refused("DELETE", "exchanges/%2F/outer?if-unused=true")[0] == 400
    assert world.ask("DELETE", "exchanges/%2F/outer") == (204, None)
    assert bound(world) == set()
    assert world.refused("DELETE", "exchanges/%2F/outer") == (404, "no exchange 'outer' in vhost '/'")
    assert world.refused("DELETE", "exchanges/%2F/amq.topic")[0] == 401


def test_a_binding_needs_both_of_its_ends(world):
    """404 names the one that is not there; the default exchange takes no bindings."""
    world.good("PUT", "queues/%2F/q", {})
    assert world.refused("POST", "bindings/%2F/e/nope/q/q") == (404, "no exchange 'nope' in vhost '/'")
    assert world.refused("POST", "bindings/%2F/e/amq.topic/q/nope") == (404, "no queue 'nope' in vhost '/'")
    assert world.refused("POST", "bindings/%2F/e/amq.topic/e/nope")[0] == 404
    assert world.refused("POST", "bindings/%2F/e/amq.topic/q/q", {"routing_key": 5})[0] == 400
    assert world.refused("POST", "bindings/%2F/e/amq.default/q/q")[0] in (400, 401, 404)
    assert bound(world) == set()


def test_queues_are_deleted_as_amqp_deletes_them(world):
    """`if-empty` and `if-unused` are AMQP's; streams go as queues do; what is not there is 404."""
    world.good("PUT", "queues/%2F/q", {})
    world.good("POST", "exchanges/%2F/amq.default/publish", {"routing_key": "q", "payload": "x"})
    assert world.refused("DELETE", "queues/%2F/q?if-empty=true") == (400, "queue 'q' in vhost '/' not empty")
    assert world.ask("DELETE", "queues/%2F/q?if-unused=true") == (204, None)
    world.good("PUT", "queues/%2F/s", {"durable": True, "arguments": STREAM})
    assert world.ask("DELETE", "queues/%2F/s") == (204, None)
    assert world.good("GET", "topics/%2F") == []
    assert world.refused("DELETE", "queues/%2F/s")[0] == 404


RIGHTS = [
    ("PUT", "queues/%2F/q-new", {}, "configure"),
    ("DELETE", "queues/%2F/q", None, "configure"),
    ("PUT", "exchanges/%2F/x-new", {}, "configure"),
    ("DELETE", "exchanges/%2F/x", None, "configure"),
    ("POST", "bindings/%2F/e/x/q/q", {}, "write read"),
    ("DELETE", "bindings/%2F/e/x/q/q/k", None, "write read"),
    ("POST", "bindings/%2F/e/x/e/y", {}, "write read"),
    ("PUT", "queues/%2F/q-dead", {"arguments": {"x-dead-letter-exchange": "x"}}, "configure write read"),
    ("PUT", "exchanges/%2F/x-alt", {"arguments": {"alternate-exchange": "x"}}, "configure write read"),
]


@pytest.mark.parametrize(("method", "target", "body", "needed"), RIGHTS)
def test_each_verb_asks_for_the_rights_of_its_twin(world, method, target, body, needed):
    """As queue.declare, queue.bind and the like ask (rabbit_channel.erl): without one of them 401, and nothing done."""
    for name in "xy":
        world.good("PUT", f"exchanges/%2F/{name}", {"type": "direct"})
    world.good("PUT", "queues/%2F/q", {})
    world.good("POST", "bindings/%2F/e/x/q/q", {"routing_key": "k"})
    before = world.good("GET", "queues/%2F"), world.good("GET", "exchanges/%2F"), bound(world)
    for missing in needed.split():
        verbs = {verb: "" if verb == missing else ".*" for verb in ("configure", "write", "read")}
        world.allow(f"no-{missing}", verbs["configure"], verbs["write"], verbs["read"])
        assert world.refused(method, target, body, user=f"no-{missing}")[0] == 401
    assert (world.good("GET", "queues/%2F"), world.good("GET", "exchanges/%2F"), bound(world)) == before
    world.allow("may", *(".*" if verb in needed else "" for verb in ("configure", "write", "read")))
    world.good(method, target, body, user="may")


def test_topic_permissions_hold_for_bindings(world):
    """The routing key on a topic exchange needs `read` in the topic permissions, as over AMQP."""
    world.good("PUT", "queues/%2F/q", {})
    world.allow("narrow", ".*", ".*", ".*")
    world.access.set_topic_permissions("narrow", "/", "amq.topic", "^mine", "^mine")
    where = "bindings/%2F/e/amq.topic/q/q"
    assert world.refused("POST", where, {"routing_key": "theirs.#"}, user="narrow")[0] == 401
    world.good("POST", where, {"routing_key": "mine.#"}, user="narrow")
    assert bound(world) == {("amq.topic", "q", "queue", "mine.#", "{}")}


@pytest.mark.parametrize("what", ["queues/%2F/end", "queues/%2F/stream", "exchanges/%2F/x"])
def test_what_has_many_bindings_is_gone_with_them(world, what):
    """They go in slices, and the answer waits for the last: its name is free by then, and leads nowhere."""
    world.good("PUT", "exchanges/%2F/x", {"type": "topic", "durable": True})
    wanted = {"durable": True, "arguments": STREAM if "stream" in what else {}}
    name = "end" if "exchanges" in what else what.rpartition("/")[2]
    world.good("PUT", f"queues/%2F/{name}", wanted)
    home = world.broker.vhosts["/"]
    for number in range(1000):
        home.bind("x", home.target(name), f"k{number}", {})
    assert world.ask("DELETE", what) == (204, None)
    assert home.binding_count == 0
    assert world.ask("PUT", what, {"type": "topic", "durable": True} if "exchanges" in what else wanted)[0] == 201
    later = world.next_run()
    assert bound(later) == set()
    sent = {"routing_key": "k1", "payload": "{}", "properties": {}}
    assert later.good("POST", "exchanges/%2F/x/publish", sent) == {"routed": False}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("queues/%2F/gone", "no queue 'gone' in vhost '/'"),
        ("exchanges/%2F/gone", "no exchange 'gone' in vhost '/'"),
        ("policies/%2F/gone", "no policy 'gone' in vhost '/'"),
        ("operator-policies/%2F/gone", "no operator policy 'gone' in vhost '/'"),
        ("bindings/%2F/e/amq.topic/q/there/key", "no binding 'key' of exchange 'amq.topic' to 'there'"),
        ("queues/elsewhere/gone", "no vhost 'elsewhere'"),
    ],
)
def test_what_is_not_there_is_named(world, target, told):
    """404 says what is missing, as AMQP's 404 does (spec 1.2.2: reply-text); `Not Found` is for paths."""
    world.good("PUT", "queues/%2F/there")
    assert world.refused("DELETE", target) == (404, told)
    assert world.refused("DELETE", "nonsense/%2F") == (404, "Not Found")


def test_streams_count_as_queues(world):
    """A vhost counts what its list of queues has, as in RabbitMQ, where a stream is a type of queue."""
    world.good("PUT", "queues/%2F/plain")
    world.good("PUT", "queues/%2F/events", {"durable": True, "arguments": STREAM})
    assert len(world.good("GET", "queues")) == 2
    assert [one["queues"] for one in world.good("GET", "vhosts")] == [2]


def test_bindings_of_an_exclusive_queue_are_seen_and_not_changed(http):
    """RabbitMQ: rabbit_mgmt_wm_bindings.erl asks nothing of a queue that is listed; binding is queue.bind, which is
    locked to others (spec 1.7.2.1, exclusive)."""
    client = http.connect()
    client.declare("mine", exclusive=True)
    client.bind("mine", "amq.direct", "k")
    assert [one["routing_key"] for one in http.good("GET", "queues/%2F/mine/bindings")] == ["mine", "k"]
    for path, key in (("amq.direct", "k"), ("amq.default", "mine")):
        assert [one["routing_key"] for one in http.good("GET", f"bindings/%2F/e/{path}/q/mine")] == [key]
    assert http.good("GET", "bindings/%2F/e/amq.direct/q/mine/k")["routing_key"] == "k"
    assert http.refused("POST", "bindings/%2F/e/amq.direct/q/mine", {"routing_key": "other"})[0] == 400
    assert http.refused("DELETE", "bindings/%2F/e/amq.direct/q/mine/k")[0] == 400
    assert len(http.good("GET", "queues/%2F/mine/bindings")) == 2


def test_an_exchange_tells_what_waits_in_it(world):
    """`messages_delayed` (the plugin's) of an exchange that delays, and of no other, whatever else it keeps."""
    delaying = {"type": "x-delayed-message", "arguments": {"x-delayed-type": "fanout"}}
    forgetting = {"type": "x-message-deduplication", "arguments": {"x-cache-size": 10, "x-cache-persistence": "disk"}}
    world.good("PUT", "exchanges/%2F/later", {"durable": True, **delaying})
    world.good("PUT", "exchanges/%2F/once", {"durable": True, **forgetting})
    world.good("PUT", "queues/%2F/q", {"durable": True})
    world.good("POST", "bindings/%2F/e/later/q/q", {"routing_key": "", "arguments": {}})
    assert world.good("GET", "exchanges/%2F/later")["messages_delayed"] == 0
    properties = {"headers": {"x-delay": 60_000}}
    later = {"routing_key": "", "payload": "x", "payload_encoding": "string", "properties": properties}
    world.good("POST", "exchanges/%2F/later/publish", later)
    assert world.good("GET", "exchanges/%2F/later")["messages_delayed"] == 1
    assert world.good("GET", "queues/%2F/q")["messages"] == 0
    for name in ("once", "amq.fanout"):
        assert "messages_delayed" not in world.good("GET", f"exchanges/%2F/{name}")
    assert isinstance(world.broker.vhosts["/"].exchanges["once"].state, DeduplicationLog)
