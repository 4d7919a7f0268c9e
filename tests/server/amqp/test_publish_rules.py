"""Routing, publishing, confirms and transactions: one rule of RabbitMQ's behaviour (or the specification) a test."""

from dataclasses import replace

import pytest
from amqp_harness import Client, World, answer, deliveries, parse, publish, refusal

from protocol.amqp.content import parse_properties
from protocol.amqp.frames import method_frame


def depth(world, *names):
    """Messages ready in each queue."""
    world.settle()
    return [world.queue(name).ready_count for name in names]


def acked(frames):
    """The confirmed publish numbers among frames, expanding multiple; nacks are negative."""
    numbers, highest = [], 0
    for name, _, values in frames:
        if name in ("basic.ack", "basic.nack"):
            sign = 1 if name == "basic.ack" else -1
            numbers += [sign * tag for tag in range(highest + 1 if values[1] else values[0], values[0] + 1)]
            highest = max(highest, values[0])
    return numbers


def test_one_copy_a_queue_not_a_binding(world, client):
    """Two bindings that match, or a CC that repeats the routing key, give one copy."""
    client.declare("q")
    client.bind("q", "amq.topic", "a.*")
    client.bind("q", "amq.topic", "#")
    client.publish("a.b", exchange="amq.topic")
    client.publish("q", headers={"CC": ["q", "q"]})
    assert depth(world, "q") == [2]


@pytest.mark.parametrize("entries_max", [0, 1, 3, 40])
def test_a_route_cache_that_overflows_never_answers_for_bindings_that_were(world, client, entries_max):
    """More keys than the cache holds, again and again, while their bindings move from one queue to the other."""
    client.machine.settings = replace(world.settings, route_cache_entries_max=entries_max)
    keys = [f"k.{number % 60}" for number in range(200)] + ["k.0", "k.1"] * 20
    here, there = "q", "r"
    for name in (here, there):
        client.declare(name)
    for _ in range(4):
        client.bind(here, "amq.topic", "k.*")
        client.feed(b"".join(publish(1, "amq.topic", key, b"x") for key in keys))
        client.call(1, "queue.unbind", 0, here, "amq.topic", "k.*", {})
        here, there = there, here
    assert depth(world, "q", "r") == [2 * len(keys), 2 * len(keys)]


def test_cycles_of_exchange_bindings_end(world, client):
    """Exchanges bound in a ring deliver once."""
    for name in ("x", "y"):
        client.declare_exchange(name, "fanout")
    client.declare("q")
    client.bind("q", "y")
    client.call(1, "exchange.bind", 0, "x", "y", "", False, {})
    client.call(1, "exchange.bind", 0, "y", "x", "", False, {})
    client.publish("", exchange="x")
    assert depth(world, "q") == [1]


TOPICS = [
    ("a.*", "a.", True), ("*", "", False), ("#", "", True), ("a.#", "a", True), ("a.#", "ab", False),
    ("a.#.b", "a.b", True), ("#.#", "a", True), ("*.*", "a.b.c", False), ("a.*.c", "a.b.c", True),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "key", "matches"), TOPICS)
def test_topic_patterns(world, client, pattern, key, matches):
    """`#` is zero or more words; `*` is exactly one, which may be empty; the empty key has no word."""
    client.declare("q")
    client.bind("q", "amq.topic", pattern)
    client.publish(key, exchange="amq.topic")
    assert depth(world, "q") == [int(matches)]


HEADER_BINDINGS = [
    ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, True),  # No x-match means all.
    ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": 2}, {"a": 1}, True),
    ({"x-match": "all", "x-a": 1}, {}, True),  # x- does not count ...
    ({"x-match": "all-with-x", "x-a": 1}, {}, False),  # ... unless asked for.
    ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
    ({}, {}, True),  # `all` of nothing.
    ({"x-match": "any"}, {"a": 1}, False),  # `any` of nothing.
    ({"a": None}, {"a": "whatever"}, True),  # Void asks for the key alone.
    ({"a": 1}, {"a": "1"}, False),
    ({"a": 1}, {"a": True}, False),
    ({"a": 5}, {"a": 5.0}, True),
    ({"a": [1, 2]}, {"a": [1, 2]}, True),
]  # fmt: skip


@pytest.mark.parametrize(("binding", "headers", "matches"), HEADER_BINDINGS)
def test_headers_bindings(world, client, binding, headers, matches):
    """x-match and equality as RabbitMQ has them: numbers by value, never 1 for "1" or true."""
    client.declare("q")
    client.bind("q", "amq.headers", "", binding)
    client.publish("", exchange="amq.headers", headers=headers)
    assert depth(world, "q") == [int(matches)]


def test_an_unknown_x_match_is_refused(client):
    """Only all, any and their -with-x are known."""
    client.declare("q")
    assert refusal(client.bind("q", "amq.headers", "", {"x-match": "some"}))[0] == 406


def test_a_return_comes_before_the_ack(client):
    """mandatory and nowhere to go: basic.return 312 with header and body, then the confirm."""
    client.call(1, "confirm.select", False)
    client.publish("nowhere", b"back", mandatory=True)
    frames = client.frames()
    assert [name for name, _, _ in frames] == ["basic.return", "header", "body", "basic.ack"]
    assert frames[0][2] == (312, "NO_ROUTE", "", "nowhere")
    assert frames[2][2] == b"back"


def test_the_unroutable_are_acked_at_once(client):
    """Not mandatory: nobody is told but the confirm."""
    client.call(1, "confirm.select", False)
    assert acked(client.publish("nowhere").frames()) == [1]


def test_an_alternate_exchange_takes_what_routes_nowhere(world, client):
    """It is asked when no queue was found, the message is not returned, and loops are cut."""
    client.declare_exchange("first", alternate_exchange="second")
    client.declare_exchange("second", "fanout", alternate_exchange="first")
    client.declare("bound")
    client.declare("rest")
    client.bind("bound", "first", "k")
    assert client.publish("k", exchange="first").frames() == []
    names = [name for name, _, _ in client.publish("other", exchange="first", mandatory=True).frames()]
    assert names == ["basic.return", "header", "body"]  # The ring ends, with nobody found.
    client.bind("rest", "second")
    assert client.publish("other", exchange="first", mandatory=True).frames() == []
    assert depth(world, "bound", "rest") == [1, 1]


def test_a_missing_exchange_closes_the_channel(client):
    """404, also where the primary exchange of an alternate is missing."""
    frames = client.publish("k", exchange="nope").frames()
    assert refusal(frames) == (404, "no exchange 'nope' in vhost '/'")
    assert frames[0][2][2:] == (60, 40)


def test_internal_exchanges_take_nothing_from_clients(client):
    """403, but a binding from another exchange reaches it."""
    client.declare_exchange("inner", internal=True)
    text = "cannot publish to internal exchange 'inner' in vhost '/'"
    assert refusal(client.publish("k", exchange="inner").frames()) == (403, text)


def test_cc_and_bcc(world, client):
    """Both route; CC stays in the headers, BCC does not; the routing key of every copy is the publisher's."""
    for name in ("q", "cc", "bcc"):
        client.declare(name)
    client.publish("q", headers={"CC": ["cc", 5], "BCC": ["bcc"], "n": 1})
    for name in ("q", "cc", "bcc"):
        ok, header, _ = client.call(1, "basic.get", 0, name, True)
        assert ok[2][3] == "q"
        assert parse_properties(header[2])["headers"] == {"CC": ["cc", 5], "n": 1}


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_cc_is_a_list(client, name):
    """Anything but an array is 406 on the channel."""
    text = f'invalid message: {{unacceptable_type_in_header,"{name}",longstr}}'
    assert refusal(client.publish("q", headers={name: "q"}).frames()) == (406, text)


def test_immediate_is_not_implemented(client):
    """RabbitMQ dropped it: 540, and the connection ends."""
    wrong = method_frame(1, "basic.publish", 0, "", "q", False, True)
    assert refusal(client.feed(wrong + publish(1, "", "q", b"x")).frames()) == (540, "immediate=true")


def test_every_publish_counts_and_acks_come_together(client):
    """Numbers start at 1 and count unroutable and returned ones; what came in one read is acked with multiple."""
    client.declare("q")
    client.call(1, "confirm.select", False)
    frames = client.feed(publish(1, "", "q", b"x") * 20 + publish(1, "", "none", b"x", True)).frames()
    assert sorted(acked(frames)) == list(range(1, 22))
    assert sum(name == "basic.ack" for name, _, _ in frames) < 5
    assert acked(client.publish("q").frames()) == [22]


def test_selecting_confirms_twice_is_fine(client):
    """confirm.select-ok again, and counting goes on."""
    for _ in range(2):
        assert answer(client.call(1, "confirm.select", False)) == "confirm.select-ok"


MODES = [("confirm", "tx"), ("tx", "confirm")]


@pytest.mark.parametrize(("first", "second"), MODES)
def test_confirms_and_transactions_exclude_each_other(client, first, second):
    """406, whichever came first."""
    select = {"confirm": ("confirm.select", False), "tx": ("tx.select",)}
    client.call(1, *select[first])
    assert refusal(client.call(1, *select[second])) == (406, f"cannot switch from {first} to {second} mode")


@pytest.mark.parametrize("method", ["tx.commit", "tx.rollback"])
def test_a_transaction_is_selected_first(client, method):
    """406 without tx.select."""
    assert refusal(client.call(1, method)) == (406, "channel is not transactional")


def test_publishes_and_acks_wait_for_the_commit(world, client):
    """Nothing is seen before tx.commit; then all of it."""
    client.declare("q")
    client.publish("q", b"old")
    tag, _, _ = client.get("q")
    client.call(1, "tx.select")
    client.publish("q", b"new")
    client.send(1, "basic.ack", tag, False)
    other = world.connect()
    assert other.get("q") is None
    assert answer(client.call(1, "tx.commit")) == "tx.commit-ok"
    assert other.get("q", no_ack=True)[2] == b"new"
    client.drop()
    assert other.get("q") is None


def test_a_rollback_forgets_publishes_and_acks_and_requeues_nothing(world, client):
    """Delivered messages stay unacknowledged and can be acknowledged again."""
    client.declare("q")
    client.publish("q", b"old")
    tag, _, _ = client.get("q")
    client.call(1, "tx.select")
    client.publish("q", b"new")
    client.send(1, "basic.ack", tag, False)
    assert answer(client.call(1, "tx.rollback")) == "tx.rollback-ok"
    assert client.get("q") is None
    client.send(1, "basic.ack", tag, False)
    assert answer(client.call(1, "tx.commit")) == "tx.commit-ok"
    client.drop()
    assert depth(world, "q") == [0]


@pytest.mark.parametrize("wrong", [publish(1, "nope", "q", b"x"), method_frame(1, "basic.ack", 9, False)])
def test_errors_in_a_transaction_do_not_wait(client, wrong):
    """A missing exchange or an unknown delivery tag fails at once, not at the commit."""
    client.call(1, "tx.select")
    assert answer(client.feed(wrong).frames()) == "channel.close"


EXPIRATIONS = [("abc", "no_integer"), ("-1", "{value_negative,-1}"), ("1.5", ""), ("", "no_integer")]


@pytest.mark.parametrize(("expiration", "reason"), EXPIRATIONS)
def test_expiration_is_a_decimal_string(client, expiration, reason):
    """Anything else is 406 with RabbitMQ's term."""
    octets = b"\x01\x00%c%b" % (len(expiration), expiration.encode())
    code, text = refusal(client.feed(publish(1, "", "q", b"x", octets=octets)).frames())
    assert code == 406
    assert text.startswith(f"invalid expiration '{expiration}': ")
    assert text.endswith(reason)


def test_user_id_is_the_login(world, client):
    """Another's name is 406; who has the tag impersonator may."""
    client.declare("q")
    client.publish("q", user_id="guest")
    text = "user_id property set to 'bob' but authenticated user was 'guest'"
    assert refusal(client.publish("q", user_id="bob").frames()) == (406, text)
    world.access.put_user("guest", ["impersonator"])
    world.connect().publish("q", user_id="bob")
    assert depth(world, "q") == [2]


def test_an_unknown_delivery_mode_is_transient(client):
    """RabbitMQ 4 does not check it (3.x: 406); the octet comes back as it is."""
    client.declare("q")
    client.feed(publish(1, "", "q", b"x", octets=b"\x10\x00\x03"))
    assert parse_properties(client.call(1, "basic.get", 0, "q", True)[1][2])["delivery-mode"] == 3


def test_errors_of_a_publish_take_the_channels_consumers_along(world, client):
    """They are channel errors: consumers on the channel are gone, others stay."""
    client.declare("q")
    client.consume("q")
    other = world.connect()
    other.consume("q")
    client.publish("q", expiration="abc")
    other.frames()
    client.frames()
    other.publish("q", b"one").publish("q", b"two")
    assert [body for *_, body in deliveries(other.frames())] == [b"one", b"two"]


def test_property_octets_are_not_touched(client):
    """What was published is what is delivered, octet for octet."""
    octets = b"\xa0\x20" + b"\x04text" + b"\x00\x00\x00\x03\x01aV" + b"\x01t"  # content-type, headers, type
    client.declare("q")
    client.feed(publish(1, "", "q", b"x", octets=octets))
    header = client.call(1, "basic.get", 0, "q", True)[1][2]
    assert header[12:] == octets


def test_a_message_of_the_largest_size_and_one_more():
    """Larger than allowed is 406 after its last frame, as in RabbitMQ; none of it was kept meanwhile."""
    world = World(message_size_max_bytes=20_000)
    client = Client(world)
    client.log_in(frame_max=4096)
    client.call(1, "channel.open", "")
    client.declare("q")
    client.feed(publish(1, "", "q", bytes(20_000), frame_max=4096))
    assert client.get("q")[2] == bytes(20_000)
    whole = publish(1, "", "q", bytes(20_001), frame_max=4096)
    client.feed(whole[:-10])
    assert client.frames() == []
    assert not client.machine.channels[1].assembly.body
    text = "message size 20001 is larger than configured max size 20000"
    assert refusal(client.feed(whole[-10:]).frames()) == (406, text)


def test_the_connection_is_blocked_at_its_first_publish(world):
    """Under an alarm: told once, with the reason, at the first publish, which is held until the alarm is over."""
    publisher = world.connect(capabilities={"connection.blocked": True})
    consumer = world.connect()
    publisher.declare("q")
    consumer.consume("q", no_ack=True)
    world.hub.set_alarm("memory", active=True)
    assert publisher.frames() == []
    publisher.publish("q", b"held")
    assert publisher.frames() == [("connection.blocked", 0, ("low on memory",))]
    assert publisher.machine.paused
    assert deliveries(consumer.frames()) == []
    world.hub.set_alarm("memory", active=False)
    assert publisher.frames() == [("connection.unblocked", 0, ())]
    assert not publisher.machine.paused
    assert [body for *_, body in deliveries(consumer.frames())] == [b"held"]


def test_consumers_and_the_silent_go_on_under_an_alarm(world):
    """Declares, gets and acks work where nothing is published; who has not the capability is told nothing."""
    plain, consumer = world.connect(), world.connect()
    plain.declare("q")
    plain.publish("q", b"before")
    world.hub.set_alarm("disk", active=True)
    assert plain.publish("q", b"held").frames() == []
    assert consumer.get("q")[2] == b"before"
    consumer.send(1, "basic.ack", 1, False)
    assert world.connect().declare("other")[0][0] == "queue.declare-ok"
    assert parse(consumer.raw()) == []


BAD_EXPIRATIONS = {
    "--5": "no_integer",
    "-": "no_integer",
    "\u0665": "no_integer",
    "5-": '{leftover_string,"-"}',
    "5s": '{leftover_string,"s"}',
    "1.5": '{leftover_string,".5"}',
    "-1": "{value_negative,-1}",
    "315360000001": "{value_too_large,315360000001}",
    "9" * 20: "{value_too_large,99999999999999999999}",
}


@pytest.mark.parametrize("expiration", BAD_EXPIRATIONS)
def test_an_expiration_that_is_no_number(client, expiration):
    """406 with RabbitMQ's term, whatever stands there."""
    client.declare("q")
    text = f"invalid expiration '{expiration}': {BAD_EXPIRATIONS[expiration]}"
    assert refusal(client.publish("q", expiration=expiration).frames()) == (406, text)


def test_an_expiration_may_be_as_long_as_ten_years(client):
    """RabbitMQ's bound, as that of x-message-ttl; a sign in front is fine."""
    assert client.declare("q", x_message_ttl=315_360_000_000)[0][0] == "queue.declare-ok"
    for expiration in ("315360000000", "+5184000000"):
        client.publish("q", expiration=expiration)
    client.world.advance(5_184_000_001)
    assert client.world.queue("q").ready_count == 1


def test_properties_that_are_not_utf_8(client):
    """406 for an expiration and a user-id of other octets: the text says what can be said of them."""
    for channel, flag in ((1, 1 << 8), (2, 1 << 4)):
        if channel == 2:
            client.call(2, "channel.open", "")
        octets = flag.to_bytes(2, "big") + b"\x02\xff\xfe"
        assert refusal(client.feed(publish(channel, "", "q", b"x", octets=octets)).frames())[0] == 406


def test_a_message_with_several_keys_is_routed_once(world, client):
    """CC keys and its own reach a queue once; an alternate gets it only when no key leads anywhere (RabbitMQ)."""
    client.declare("a")
    client.declare("lost")
    client.declare_exchange("x", "direct", alternate_exchange="amq.fanout")
    client.bind("lost", "amq.fanout")
    client.bind("a", "x", "k")
    for key, cc in (("k", ["other"]), ("other", ["k"]), ("k", ["k"]), ("no", ["where"])):
        client.publish(key, exchange="x", headers={"CC": cc})
    assert depth(world, "a", "lost") == [3, 1]
    client.declare_exchange("history", "x-recent-history")
    client.publish("k", exchange="history", headers={"CC": ["1", "2"]})
    client.bind("lost", "history")
    assert depth(world, "lost") == [2]


def test_body_frames_of_any_size_come_out_as_the_consumer_takes_them(world, client):
    """What a publisher cut into frames of one octet, and then a large one, keeps to the consumer's frame_max."""
    client.declare("q")
    body = bytes(range(256)) * 80
    whole = publish(1, "", "q", body)
    header_end = len(whole) - 8 - len(body)
    cut = b"".join(b"\x03\x00\x01\x00\x00\x00\x01" + body[at : at + 1] + b"\xce" for at in range(10))
    rest = body[10:]
    cut += b"\x03\x00\x01" + len(rest).to_bytes(4, "big") + rest + b"\xce"
    client.feed(whole[:header_end] + cut)
    small = Client(world)
    small.log_in(frame_max=4096)
    small.call(1, "channel.open", "")
    small.send(1, "basic.get", 0, "q", True)
    frames = small.frames()
    assert b"".join(octets for kind, _, octets in frames if kind == "body") == body
    assert all(len(octets) <= 4088 for kind, _, octets in frames if kind == "body")


def test_a_method_of_another_channel_behind_a_publish_is_not_waited_with(client):
    """A publish whose content has not come does not hold what other channels say (spec 4.2.6)."""
    client.call(2, "channel.open", "")
    begin = method_frame(1, "basic.publish", 0, "", "q", False, False)
    assert client.feed(begin + method_frame(2, "tx.select")).frames() == [("tx.select-ok", 2, ())]
    client.machine.receive(begin[:-1])


def test_what_is_held_under_an_alarm_counts_when_the_channel_closes(world, client):
    """channel.close and tx.commit come after the publishes before them, alarm or not."""
    client.declare("q")
    client.consume("q", "c", no_ack=True)
    for channel in (2, 3):
        client.call(channel, "channel.open", "")
    client.call(3, "tx.select")
    world.hub.set_alarm("memory", active=True)
    client.publish("q", b"held", channel=2)
    client.publish("q", b"in tx", channel=3)
    assert client.frames() == []
    names = [name for name, _, _ in client.call(2, "channel.close", 200, "", 0, 0)]
    assert sorted(names) == ["basic.deliver", "body", "channel.close-ok", "header"]
    assert next(name for name, _, _ in client.call(3, "tx.commit")) == "tx.commit-ok"


def test_who_goes_round_many_queues_is_not_led_by_an_old_round(world, client):
    """The next queue is guessed from the last round: other orders, other channels and deleted queues are seen."""
    for name in "abc":
        client.declare(name, durable=True)
    client.call(2, "channel.open", "")

    def send(names, channel=1):
        client.feed(b"".join(publish(channel, "", name, b"x", delivery_mode=2) for name in names))

    send("abcabc")
    send("acbbca")
    send("abc", channel=2)
    assert depth(world, *"abc") == [5, 5, 5]
    client.call(1, "queue.delete", 0, "b", False, False, False)
    send("abcabc")
    assert depth(world, *"ac") == [7, 7]
    client.declare("b", durable=True)
    send("abc")
    assert depth(world, *"abc") == [8, 1, 8]


def test_what_is_looked_at_each_time_is_so_in_a_round_too(world, client):
    """A headers exchange, a full queue and mandatory to nowhere, between publishes with a known queue: none is lost."""
    for name in ("known", "matched"):
        client.declare(name)
    client.declare("full", x_max_length=1, x_overflow="reject-publish")
    client.bind("matched", "amq.headers", "", {"x-match": "all"})
    client.call(1, "confirm.select", False)
    for irregular in (
        publish(1, "amq.headers", "", b"x"),
        publish(1, "", "nowhere", b"x", True),
        publish(1, "", "full", b"x"),
    ):
        for _ in range(2):
            client.feed((publish(1, "", "known", b"x") + irregular * 2) * 3)
    found = client.frames()
    assert depth(world, "known", "matched", "full") == [18, 12, 1]
    assert sum(name == "basic.return" for name, *_ in found) == 12
    assert sum(name == "basic.nack" for name, *_ in found) == 11


def test_a_round_over_one_and_several_queues_keeps_each_in_order(world, client):
    """And a reply consumer among them has its own, at once."""
    replies = world.connect()
    replies.consume("amq.rabbitmq.reply-to", no_ack=True)
    address = next(iter(world.amqp.reply_sinks))
    client.call(1, "exchange.declare", 0, "both", "fanout", False, True, False, False, False, {})
    for name in "ab":
        client.declare(name, durable=True)
        client.call(1, "queue.bind", 0, name, "both", "", False, {})
    plan = [("", "a"), ("both", ""), ("", "b"), ("", address), ("", "a"), ("both", ""), ("", "b"), ("", "a")]
    client.feed(
        b"".join(publish(1, exchange, key, b"%d" % at, delivery_mode=2) for at, (exchange, key) in enumerate(plan))
    )
    assert [body for *_, body in deliveries(replies.frames())] == [b"3"]
    assert [body for *_, body in deliveries(client.consume("a", no_ack=True))] == [b"0", b"1", b"4", b"5", b"7"]
    assert [body for *_, body in deliveries(client.consume("b", no_ack=True))] == [b"1", b"2", b"5", b"6"]


def test_a_lone_message_waits_behind_what_is_there(world, client):
    """Straight to the consumer goes only what has nothing before it: a full consumer, a return, a second message."""
    client.declare("q", durable=True)
    client.call(1, "basic.qos", 0, 1, False)
    client.consume("q")
    for body in (b"0", b"1", b"2"):
        client.publish("q", body, delivery_mode=2)
    assert [(tag, body) for _, tag, _, body in deliveries(client.frames())] == [(1, b"0")]
    client.send(1, "basic.nack", 1, False, True)
    client.publish("q", b"3", delivery_mode=2)
    assert [(tag, redelivered, body) for _, tag, redelivered, body in deliveries(client.frames())] == [(2, True, b"0")]
    got = []
    for tag in range(2, 6):
        client.send(1, "basic.ack", tag, False)
        got += [body for *_, body in deliveries(client.frames())]
    assert got == [b"1", b"2", b"3"]
    assert depth(world, "q") == [0]
    client.publish("q", b"4", delivery_mode=2)
    assert [body for *_, body in deliveries(client.frames())] == [b"4"]
