"""Consuming, acknowledging, prefetch and direct reply-to: one rule of RabbitMQ's behaviour a test."""

import pytest
from amqp_harness import answer, deliveries, publish, refusal

from broker.server.amqp.ack_timeout import close_overdue
from protocol.amqp.content import parse_properties
from protocol.amqp.frames import method_frame


@pytest.fixture
def filled(client):
    """A client with queue q holding 0 to 9."""
    client.declare("q")
    for number in range(10):
        client.publish("q", b"%d" % number)
    return client


def bodies(frames):
    """What was delivered, as one string of digits."""
    return b"".join(body for *_, body in deliveries(frames)).decode()


def ack(client, tag, multiple=False, channel=1):
    """basic.ack; returns the frames that come."""
    return client.call(channel, "basic.ack", tag, multiple)


def qos(client, count, everywhere=False, channel=1):
    """basic.qos."""
    return client.call(channel, "basic.qos", 0, count, everywhere)


def test_a_consumer_tag_is_used_once_a_channel(filled):
    """A second use on the channel is 530 on the connection; another channel may."""
    filled.call(2, "channel.open", "")
    filled.declare("other")
    assert answer(filled.consume("other", "dup")) == "basic.consume-ok"
    assert answer(filled.consume("other", "dup", channel=2)) == "basic.consume-ok"
    assert refusal(filled.consume("other", "dup")) == (530, "attempt to reuse consumer tag 'dup'")


def test_the_server_names_consumers(client):
    """An empty tag gives amq.ctag- and something nobody else has."""
    client.declare("q")
    tags = [client.consume("q")[0][2][0] for _ in range(3)]
    assert len(set(tags)) == 3
    assert all(tag.startswith("amq.ctag-") for tag in tags)


def test_cancel_keeps_what_is_unacknowledged(filled):
    """Also for a tag that nobody knows: cancel-ok; deliveries stay the channel's and can be acknowledged."""
    qos(filled, 2)
    filled.consume("q", "c")
    assert answer(filled.call(1, "basic.cancel", "unknown", False)) == "basic.cancel-ok"
    assert answer(filled.call(1, "basic.cancel", "c", False)) == "basic.cancel-ok"
    assert filled.get("q")[2] == b"2"
    assert ack(filled, 2, multiple=True) == []


def test_exclusive_consumers(world, client):
    """Exclusive and any other exclude each other: 403, in both directions, and always on a single-active queue."""
    text = "queue 'q' in vhost '/' in exclusive use"
    client.declare("q")
    client.consume("q", "first")
    other = world.connect()
    assert refusal(other.consume("q", exclusive=True)) == (403, text)
    client.call(1, "basic.cancel", "first", False)
    client.consume("q", "alone", exclusive=True)
    assert refusal(world.connect().consume("q")) == (403, text)
    client.declare("single", x_single_active_consumer=True)
    assert refusal(client.consume("single", exclusive=True))[0] == 403


def test_prefetch_is_per_consumer_for_those_that_follow(filled):
    """basic.qos global=false: 2, then 3, gives 2 and 3 outstanding; basic.get is not counted."""
    qos(filled, 2)
    assert bodies(filled.consume("q", "two")) == "01"
    qos(filled, 3)
    assert bodies(filled.consume("q", "three")) == "234"
    assert filled.get("q")[2] == b"5"
    assert bodies(ack(filled, 1)) == "6"


def test_the_channels_prefetch_comes_on_top(filled):
    """global=true caps the whole channel; limits of single consumers still hold."""
    qos(filled, 3, everywhere=True)
    assert bodies(filled.consume("q", "a")) + bodies(filled.consume("q", "b")) == "012"
    qos(filled, 1)
    filled.consume("q", "c")
    assert bodies(ack(filled, 3, multiple=True)) == "345"
    assert bodies(qos(filled, 4, everywhere=True)) == "6"


@pytest.mark.parametrize("alone", [True, False], ids=["one ack a read", "ack and publish in one read"])
@pytest.mark.parametrize("siblings", [1, 2])
def test_the_room_of_a_channel_goes_round_its_queues(client, alone, siblings):
    """A queue that is never dry does not starve the others (rabbit_limiter.erl, notify_queues: an equal chance)."""
    client.declare("busy")
    client.declare("other")
    qos(client, 4, everywhere=True)
    for number in range(8):
        client.publish("busy", b"0")
        client.publish("other", b"%d" % (number + 1))
    tags = []
    for sibling in range(siblings):
        tags += deliveries(client.consume("busy", f"busy-{sibling}"))
    tags += deliveries(client.consume("other", "other"))
    seen = []
    while len(seen) < 40:
        tag, number, _, body = tags.pop(0)
        seen.append(body)
        again = publish(1, "", "busy", b"0") if tag.startswith("busy") else b""
        done = method_frame(1, "basic.ack", number, False)
        if alone:
            client.feed(again)
            client.feed(done)
        else:
            client.feed(done + again)
        tags += deliveries(client.frames())
    assert [body for body in seen if body != b"0"] == [b"%d" % (number + 1) for number in range(8)]


def test_what_is_not_acknowledged_waits_for_a_full_channel_but_takes_no_room(client):
    """rabbit_limiter.erl, can_send: without acknowledgements a delivery is not counted, but held while it is full."""
    client.declare("acked")
    client.declare("not")
    qos(client, 2, everywhere=True)
    client.consume("acked", "acked")
    client.consume("not", "not", no_ack=True)
    client.publish("acked", b"1")
    for body in (b"a", b"b", b"c"):
        client.publish("not", body)
    assert {body for *_, body in deliveries(client.frames())} == {b"1", b"a", b"b", b"c"}
    client.publish("acked", b"2")
    client.publish("not", b"d")
    assert [body for *_, body in deliveries(client.frames())] == [b"2"]
    assert [body for *_, body in deliveries(ack(client, 1))] == [b"d"]


def test_basic_get_of_a_quorum_queue_with_a_single_active_consumer_is_locked(client):
    """405 (rabbit_channel.erl, basic.get: unsupported with single_active_consumer); a classic queue gives it."""
    client.declare("classic", x_single_active_consumer=True)
    client.publish("classic", b"0")
    assert client.get("classic")[2] == b"0"
    client.declare("q", durable=True, x_queue_type="quorum", x_single_active_consumer=True)
    client.publish("q", b"1")
    code, text = refusal(client.call(1, "basic.get", 0, "q", False))
    assert code == 405
    assert text.startswith("cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are not")
    assert bodies(client.world.connect().consume("q")) == "1"


def test_a_quorum_queue_knows_no_global_qos(client):
    """540 on the connection, as in RabbitMQ; a consumer's own prefetch is fine."""
    client.declare("q", durable=True, x_queue_type="quorum")
    qos(client, 5)
    assert client.consume("q")[0][0] == "basic.consume-ok"
    qos(client, 5, everywhere=True)
    assert refusal(client.consume("q")) == (540, "queue 'q' in vhost '/' does not support global qos")


def test_only_a_stream_has_offsets(client):
    """`x-stream-offset` on a queue is 406: who asks for it believes to read a stream."""
    client.declare("q")
    text = "invalid arg 'x-stream-offset' for queue 'q' in vhost '/' of queue type rabbit_classic_queue"
    assert refusal(client.consume("q", x_stream_offset="first")) == (406, text)


def test_prefetch_0_and_no_ack_are_unlimited(filled):
    """No-ack consumers are not limited by basic.qos."""
    qos(filled, 1)
    assert bodies(filled.consume("q", no_ack=True)) == "0123456789"


def test_prefetch_by_size_is_not_implemented(client):
    """540 on the connection."""
    assert refusal(client.call(1, "basic.qos", 10, 0, False)) == (540, "prefetch_size!=0 (10)")


def test_delivery_tags_count_from_1_a_channel(filled):
    """Shared by get and consume; another channel's tag is unknown there."""
    assert filled.get("q")[0] == 1
    qos(filled, 1)
    assert [tag for _, tag, _, _ in deliveries(filled.consume("q"))] == [2]
    filled.call(2, "channel.open", "")
    assert filled.get("q", channel=2)[0] == 1
    assert refusal(ack(filled, 2, channel=2)) == (406, "unknown delivery tag 2")


@pytest.mark.parametrize("multiple", [False, True])
def test_a_tag_is_settled_once(filled, multiple):
    """A second ack is 406, as is a tag that was never given, also with multiple."""
    filled.get("q")
    ack(filled, 1)
    assert refusal(ack(filled, 1, multiple)) == (406, "unknown delivery tag 1")


def test_tag_0_means_all_with_multiple_only(filled):
    """With nothing outstanding it is fine as well; alone it is 406."""
    assert ack(filled, 0, multiple=True) == []
    filled.get("q")
    filled.get("q")
    assert ack(filled, 0, multiple=True) == []
    assert refusal(ack(filled, 0)) == (406, "unknown delivery tag 0")


def test_requeued_messages_go_back_to_their_places(filled):
    """Whatever the order of the nacks; they come back redelivered."""
    for _ in range(3):
        filled.get("q")
    for tag in (1, 3, 2):
        filled.send(1, "basic.nack", tag, False, True)
    assert [filled.get("q")[1:] for _ in range(4)] == [(True, b"0"), (True, b"1"), (True, b"2"), (False, b"3")]


@pytest.mark.parametrize("how", ["cancel", "channel", "connection"])
def test_what_a_lost_consumer_held_is_redelivered_in_order(world, filled, how):
    """The end of a channel or connection requeues; a cancel does not."""
    qos(filled, 4)
    filled.consume("q", "c")
    filled.frames()
    if how == "connection":
        filled.drop()
    elif how == "channel":
        filled.call(1, "channel.close", 200, "", 0, 0)
    else:
        filled.call(1, "basic.cancel", "c", False)
    other = world.connect()
    redelivered = how != "cancel"
    assert other.get("q")[1:] == (redelivered, b"0" if redelivered else b"4")


def test_reject_without_requeue_drops(world, filled):
    """Nothing to dead-letter to: gone."""
    filled.get("q")
    filled.send(1, "basic.reject", 1, False)
    filled.drop()
    assert world.connect().get("q")[1:] == (False, b"1")


def test_recover(filled):
    """requeue=true gives everything back; false was never implemented: 540; recover-async has no answer."""
    filled.get("q")
    assert answer(filled.call(1, "basic.recover", True)) == "basic.recover-ok"
    assert filled.get("q")[1:] == (True, b"0")
    assert filled.call(1, "basic.recover-async", True) == []
    assert filled.get("q")[1:] == (True, b"0")
    assert refusal(filled.call(1, "basic.recover", False))[0] == 540


def test_no_local_is_ignored(client):
    """A connection gets what it published."""
    client.declare("q")
    client.call(1, "basic.consume", 0, "q", "c", True, True, False, False, {})
    assert bodies(client.publish("q", b"mine").frames()) == "mine"


def test_flow(client):
    """active=true is answered; false, which would pause deliveries, is 540."""
    assert client.call(1, "channel.flow", True) == [("channel.flow-ok", 1, (True,))]
    assert refusal(client.call(1, "channel.flow", False)) == (540, "active=false")


@pytest.mark.parametrize("notified", [True, False])
def test_consumers_of_a_deleted_queue_are_told_if_they_can_hear_it(world, client, notified):
    """basic.cancel with nowait, to those with consumer_cancel_notify only."""
    consumer = world.connect(capabilities={"consumer_cancel_notify": notified})
    consumer.declare("q")
    consumer.consume("q", "c")
    client.call(1, "queue.delete", 0, "q", False, False, False)
    assert consumer.frames() == ([("basic.cancel", 1, ("c", True))] if notified else [])


def test_a_consumers_priority_is_an_integer(client):
    """406 for anything else."""
    client.declare("q")
    assert refusal(client.consume("q", x_priority="high"))[0] == 406


def test_a_higher_priority_gets_all_until_its_prefetch_is_full(client):
    """The others get the rest."""
    client.declare("q")
    qos(client, 2)
    client.consume("q", "low")
    client.consume("q", "high", x_priority=5)
    for number in range(4):
        client.publish("q", b"%d" % number)
    given = deliveries(client.frames())
    assert [(tag, body) for tag, _, _, body in given] == [
        ("high", b"0"), ("high", b"1"), ("low", b"2"), ("low", b"3"),
    ]  # fmt: skip


def test_equals_take_turns(client):
    """Round robin, one message each."""
    client.declare("q")
    for tag in "ab":
        client.consume("q", tag, no_ack=True)
    for number in range(4):
        client.publish("q", b"%d" % number)
    assert [tag for tag, *_ in deliveries(client.frames())] == ["a", "b", "a", "b"]


def test_single_active_consumer(world, client):
    """The first gets everything; when it goes, the next in order of registration takes over."""
    client.declare("q", x_single_active_consumer=True)
    for tag in "abc":
        client.consume("q", tag, no_ack=True)
    taken = []
    for gone in "abc":
        client.publish("q", b"0").publish("q", b"1")
        taken.append([tag for tag, *_ in deliveries(client.frames())])
        client.call(1, "basic.cancel", gone, False)
    assert taken == [["a", "a"], ["b", "b"], ["c", "c"]]


def test_a_higher_priority_takes_a_quorum_queue_over(world, client):
    """The single active consumer goes on until another of higher priority comes and what it holds is settled; then the
    other is served, in order. A classic queue's stays (RabbitMQ 4.0)."""
    client.declare("q", durable=True, x_queue_type="quorum", x_single_active_consumer=True)
    qos(client, 2)
    client.consume("q", "low")
    client.publish("q", b"0").publish("q", b"1").publish("q", b"2")
    client.frames()
    high, equal = world.connect(), world.connect()
    assert bodies(high.consume("q", "high", x_priority=1)) == ""
    assert bodies(equal.consume("q", "equal", x_priority=1)) == ""
    assert bodies(ack(client, 1)) == ""
    assert bodies(high.frames()) == ""
    client.send(1, "basic.nack", 2, False, True)
    assert bodies(high.frames()) == "12"
    high.call(1, "basic.cancel", "high", False)
    high.send(1, "basic.ack", 2, True)
    client.publish("q", b"3")
    assert bodies(equal.frames()) == "3"
    equal.send(1, "basic.ack", 1, False)
    equal.drop()
    client.publish("q", b"4")
    assert bodies(client.frames()) == "4"


def test_get_says_how_many_remain(filled):
    """get-ok carries what is left after it; get-empty an empty cluster-id."""
    assert filled.call(1, "basic.get", 0, "q", True)[0][2][4] == 9
    filled.call(1, "queue.purge", 0, "q", False)
    assert filled.call(1, "basic.get", 0, "q", True) == [("basic.get-empty", 1, ("",))]


REPLY_TO = "amq.rabbitmq.reply-to"


def test_direct_reply_to(world, client):
    """The request carries an address of the asking channel instead; the reply comes with it as its routing key."""
    service = world.connect()
    service.declare("service")
    assert answer(client.consume(REPLY_TO, no_ack=True)) == "basic.consume-ok"
    client.publish("service", b"question", reply_to=REPLY_TO, correlation_id="7")
    _, header, _ = service.call(1, "basic.get", 0, "service", True)
    properties = parse_properties(header[2])
    address = properties["reply-to"]
    assert address.startswith(f"{REPLY_TO}.")
    assert properties["correlation-id"] == "7"
    assert answer(service.declare(address, passive=True)) == "queue.declare-ok"
    service.publish(address, b"answer")
    (name, _, values), _, (_, _, body) = client.frames()
    assert (name, values[3:], body) == ("basic.deliver", ("", address), b"answer")


def test_direct_reply_to_without_acks_only(client):
    """Replies are not stored: a consumer that would acknowledge is 406."""
    assert refusal(client.consume(REPLY_TO)) == (406, "reply consumer cannot acknowledge")


def test_one_reply_consumer_a_channel(client):
    """A second is 406."""
    client.consume(REPLY_TO, no_ack=True)
    assert refusal(client.consume(REPLY_TO, no_ack=True)) == (406, "reply consumer already set")


def test_asking_before_listening(client):
    """A request without a reply consumer on the channel is 406."""
    assert refusal(client.publish("x", reply_to=REPLY_TO).frames()) == (406, "fast reply consumer does not exist")


def test_a_reply_that_comes_too_late_goes_nowhere(world, client):
    """The asker is gone: a mandatory reply is returned, and the address is no queue."""
    service = world.connect()
    service.declare("service")
    client.consume(REPLY_TO, no_ack=True)
    client.publish("service", b"question", reply_to=REPLY_TO)
    _, header, _ = service.call(1, "basic.get", 0, "service", True)
    address = parse_properties(header[2])["reply-to"]
    client.drop()
    assert service.publish(address, b"late", mandatory=True).frames()[0][0] == "basic.return"
    assert refusal(service.declare(address, passive=True))[0] == 404


def test_the_pseudo_queue_exists(client):
    """A passive declare of it succeeds, with one consumer."""
    assert client.declare(REPLY_TO, passive=True)[0][2] == (REPLY_TO, 0, 1)


def test_deliveries_stop_at_the_channels_end(filled):
    """A consumer's channel that the server closed gets nothing more, whatever is published."""
    filled.call(2, "channel.open", "")
    filled.consume("q", channel=2, no_ack=True)
    filled.feed(method_frame(2, "basic.ack", 99, False))
    filled.frames()
    assert filled.publish("q", b"x").frames() == []


def test_a_consumer_that_does_not_acknowledge_in_time(world):
    """x-consumer-timeout of consumer or queue, the lower: 406 closes the channel, the message goes to others."""
    client = world.connect()
    for channel in (2, 3, 4):
        client.call(channel, "channel.open", "")
    client.declare("q", x_consumer_timeout=5000)
    client.consume("q", "slow", channel=2, x_consumer_timeout=1000)
    client.publish("q", b"1")
    client.consume("q", "patient", channel=3, x_priority=-1)
    channel = client.machine.channels[2]
    for milliseconds in range(0, 900, 100):
        close_overdue(channel, milliseconds)
    assert [name for name, _, _ in client.frames() if name.startswith("channel")] == []
    close_overdue(channel, 1000)
    frames = client.frames()
    code, text = refusal(frames)
    assert (code, text.partition(".")[0]) == (406, "delivery acknowledgement on channel 2 timed out")
    assert [(name, number) for name, number, _ in frames if name == "basic.deliver"] == [("basic.deliver", 3)]
    frames = client.consume("q", "bad", channel=4, x_consumer_timeout=-1)
    assert refusal(frames)[0] == 406


def test_without_a_timeout_a_delivery_may_stay_for_ever(world):
    """Off by default; what is acknowledged in time never closes anything."""
    client = world.connect()
    client.declare("q")
    client.consume("q", "for ever")
    client.call(2, "channel.open", "")
    client.consume("q", "timed", channel=2, x_consumer_timeout=100)
    for _ in range(20):
        client.publish("q", b"x")
    client.send(2, "basic.ack", 0, True)
    for milliseconds in range(0, 10_000, 50):
        for channel in (1, 2):
            close_overdue(client.machine.channels[channel], milliseconds)
    assert not client.machine.channels[1].closing
    assert not client.machine.channels[2].closing
