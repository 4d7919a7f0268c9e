"""Streams: one rule of RabbitMQ's behaviour (or of ours, where RabbitMQ has none) a test."""

import random
import struct

import pytest
from amqp_harness import World, answer, deliveries, publish, refusal
from pamqp.header import ContentHeader
from sim_disk import SimDisk
from topic_world import append_unseen, batch

from broker.core.streams.position import ITERATORS_KEPT
from broker.core.topics.compaction import Cleaned, compact
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition
from broker.server.amqp.delivery import Consumer
from protocol.amqp.fields import Timestamp
from protocol.kafka.partitioner import partition_for_key
from protocol.kafka.records import parse_header, with_records


@pytest.fixture
def world():
    """A broker with a disk: without one there are no streams."""
    return World(SimDisk(random.Random(1).randrange), wall_ms=1_760_000_000_000)


@pytest.fixture
def client(world):
    """An open connection with channel 1 open."""
    return world.connect()


@pytest.fixture
def other(world):
    """Another one, with a prefetch count of 100."""
    return reader(world)


def reader(world, prefetch=100):
    """An open connection whose next consumers have this prefetch count."""
    client = world.connect()
    client.call(1, "basic.qos", 0, prefetch, False)
    return client


def declare(client, name="s", **arguments):
    return client.declare(name, durable=True, x_queue_type="stream", **arguments)


def bodies(frames):
    return [body for _, _, _, body in deliveries(frames)]


def headers_of(frames):
    """The headers tables of the deliveries among frames."""
    found = []
    for kind, _, payload in frames:
        if kind == "header":
            header = ContentHeader()
            header.unmarshal(payload)
            found.append(header.properties.headers)
    return found


def ack(client, tag, multiple=False):
    return client.call(1, "basic.ack", tag, multiple)


def test_what_is_read_stays(world, client, other):
    """Two consumers get all of it, each from where it asked, and a restart finds it: nothing is taken away."""
    declare(client)
    for number in range(5):
        client.publish("s", b"%d" % number)
    assert bodies(other.consume("s", x_stream_offset="first")) == [b"0", b"1", b"2", b"3", b"4"]
    assert bodies(reader(world).consume("s", x_stream_offset=3)) == [b"3", b"4"]
    again = world.kill(wall_ms=1_760_000_100_000)
    assert bodies(reader(again).consume("s", x_stream_offset="first")) == [b"0", b"1", b"2", b"3", b"4"]


def test_the_default_offset_is_next(client, other):
    """A consumer without `x-stream-offset` gets what is published from now on."""
    declare(client)
    client.publish("s", b"old")
    assert bodies(other.consume("s")) == []
    client.publish("s", b"new")
    assert bodies(other.frames()) == [b"new"]


def test_every_delivery_says_its_offset(client, other):
    """`x-stream-offset` is a 64-bit header beside those that were sent, whatever other properties there are."""
    declare(client)
    client.publish("s", content_type="text/plain", headers={"a": 1}, message_id="7", delivery_mode=2)
    client.publish("s", b"bare")
    frames = other.consume("s", x_stream_offset="first")
    assert headers_of(frames) == [{"a": 1, "x-stream-offset": 0}, {"x-stream-offset": 1}]
    header = ContentHeader()
    header.unmarshal(next(payload for kind, _, payload in frames if kind == "header"))
    properties = header.properties
    assert (properties.content_type, properties.message_id, properties.delivery_mode) == ("text/plain", "7", 2)
    raw = next(payload for kind, _, payload in frames if kind == "header")
    assert b"\x0fx-stream-offsetl" + struct.pack(">q", 0) in raw


def test_redelivered_is_never_set_and_a_nack_requeues_nothing(client, other):
    """A nack or reject makes room for more, like an ack; nothing comes again (rule 97)."""
    declare(client)
    client.publish("s", b"a")
    frames = other.consume("s", x_stream_offset="first")
    assert [redelivered for _, _, redelivered, _ in deliveries(frames)] == [False]
    assert other.call(1, "basic.nack", 1, False, True) == []
    assert other.call(1, "basic.recover", True) == [("basic.recover-ok", 1, ())]
    client.publish("s", b"b")
    assert bodies(other.frames()) == [b"b"]


def test_prefetch_bounds_what_is_on_the_way(world, client):
    """As many as the prefetch count are unacknowledged; each ack makes room for one more."""
    declare(client)
    for number in range(7):
        client.publish("s", b"%d" % number)
    consumer = reader(world, prefetch=2)
    assert bodies(consumer.consume("s", x_stream_offset="first")) == [b"0", b"1"]
    assert bodies(ack(consumer, 1)) == [b"2"]
    assert bodies(ack(consumer, 3, multiple=True)) == [b"3", b"4"]
    assert bodies(consumer.call(1, "basic.reject", 4, False)) == [b"5"]


def test_a_prefetch_count_of_its_own_is_required(world, client):
    """Without one, consuming is refused with 406; under one of the channel with 540 (rabbit_stream_queue.erl)."""
    declare(client)
    assert refusal(world.connect().consume("s")) == (
        406, "consumer prefetch count is not set for stream queue 's' in vhost '/'")  # fmt: skip
    consumer = world.connect()
    consumer.call(1, "basic.qos", 0, 10, False)
    consumer.call(1, "basic.qos", 0, 10, True)
    assert refusal(consumer.consume("s")) == (540, "queue 's' in vhost '/' does not support global qos")


def test_methods_that_take_messages_away_are_not_for_streams(world, client):
    """Automatic acknowledgement, basic.get and queue.purge end the connection with 540 (rule 95)."""
    declare(client)
    assert refusal(reader(world).consume("s", no_ack=True)) == (
        540, "automatic acknowledgement not supported by stream queue 's' in vhost '/'")  # fmt: skip
    for name, arguments in (("basic.get", (0, "s", False)), ("queue.purge", (0, "s", False))):
        assert refusal(world.connect().call(1, name, *arguments)) == (
            540, f"{name} not supported by stream queues queue 's' in vhost '/'")  # fmt: skip


@pytest.mark.parametrize("offset", ["foo", "5x", "-5m", -1, True, 1.5, None, []])
def test_a_bad_offset_is_refused(client, other, offset):
    """406 that says which; the channel ends, the connection goes on."""
    declare(client)
    code, text = refusal(other.consume("s", x_stream_offset=offset))
    assert code == 406
    assert "x-stream-offset" in text
    assert answer(other.call(2, "channel.open", "")) == "channel.open-ok"


def test_offsets_by_time(world, client):
    """A timestamp or an interval begins at the first message that is not older."""
    declare(client)
    start_s = world.broker.scheduler.wall_ms // 1000
    for number in range(4):
        client.publish("s", b"%d" % number)
        world.advance(60_000)
    assert bodies(reader(world).consume("s", x_stream_offset=Timestamp(start_s + 60))) == [b"1", b"2", b"3"]
    assert bodies(reader(world).consume("s", x_stream_offset="2m")) == [b"2", b"3"]
    assert bodies(reader(world).consume("s", x_stream_offset="1h")) == [b"0", b"1", b"2", b"3"]
    assert bodies(reader(world).consume("s", x_stream_offset=Timestamp(start_s + 3600))) == []


def test_last_is_the_last_batch_and_an_offset_past_the_end_waits(world, client):
    """`last` begins with the last batch; a number that is not there yet is waited for, one that is gone is skipped."""
    declare(client)
    for number in range(3):
        client.publish("s", b"%d" % number)
    assert bodies(reader(world).consume("s", x_stream_offset="last")) == [b"2"]
    early = reader(world)
    assert bodies(early.consume("s", x_stream_offset=4)) == []
    client.publish("s", b"3")
    client.publish("s", b"4")
    assert bodies(early.frames()) == [b"4"]
    partition = world.broker.vhosts["/"].topics.partition("s", 0)
    partition.delete_before(2)
    assert bodies(reader(world).consume("s", x_stream_offset=0)) == [b"2", b"3", b"4"]


def test_filters(world, client):
    """`x-stream-filter` names values of `x-stream-filter-value`; what has none comes only if asked for."""
    declare(client)
    for value in ("eu", "us", None, "eu"):
        client.publish("s", (value or "-").encode(), headers={"x-stream-filter-value": value} if value else {"a": 1})
    arguments = {"x_stream_offset": "first"}
    assert bodies(reader(world).consume("s", x_stream_filter="eu", **arguments)) == [b"eu", b"eu"]
    assert bodies(reader(world).consume("s", x_stream_filter=["us", "x"], **arguments)) == [b"us"]
    assert bodies(reader(world).consume("s", x_stream_filter="us", x_stream_match_unfiltered=True, **arguments)) == [
        b"us",
        b"-",
    ]
    assert refusal(reader(world).consume("s", x_stream_filter=7, **arguments))[0] == 406


def test_what_a_stream_can_be_told(world, client):
    """Retention becomes the topic's; a second declaration has to agree in what it says; other types do not."""
    declare(client, x_max_age="7D", x_max_length_bytes=1_000_000, x_partitions=3)
    topic = world.broker.vhosts["/"].topics.get("s")
    assert (topic.config.retention_ms, topic.config.retention_bytes) == (7 * 86_400_000, 1_000_000)
    assert len(topic.partitions) == 3
    assert answer(declare(client)) == "queue.declare-ok"
    assert answer(declare(client, x_max_age="168h")) == "queue.declare-ok"
    assert refusal(declare(client, x_max_age="8D")) == (
        406, "inequivalent arg 'x-max-age' for queue 's' in vhost '/': received '8D' but current is '7D'")  # fmt: skip
    client = world.connect()
    assert refusal(client.declare("s", durable=True))[0] == 406
    client = world.connect()
    client.declare("q", durable=True)
    assert refusal(declare(client, "q"))[0] == 406


@pytest.mark.parametrize(("options", "arguments"), [
    ({"durable": False}, {}), ({"exclusive": True}, {}), ({"auto_delete": True}, {}),
    ({}, {"x_message_ttl": 5}), ({}, {"x_max_priority": 5}), ({}, {"x_dead_letter_exchange": "x"}),
    ({}, {"x_max_age": "soon"}), ({}, {"x_partitions": 0}), ({}, {"x_partitions": 10**6}), ({}, {"x_partitions": "3"}),
])  # fmt: skip
def test_what_a_stream_cannot_be_told(client, options, arguments):
    """It is durable, nobody's own, and keeps what it has: everything else is refused with 406."""
    frames = client.declare("s", x_queue_type="stream", **{"durable": True, **options}, **arguments)
    assert refusal(frames)[0] == 406


def test_names_of_streams_are_names_of_topics(client):
    """What Kafka's clients could not name is refused, with a reason."""
    assert "Topic name is invalid" in refusal(declare(client, "a stream"))[1]


def test_a_queue_and_a_topic_do_not_share_a_name(world, client):
    """A topic that Kafka's clients ask for is refused where a queue has its name."""
    client.declare("q", durable=True)
    with pytest.raises(TopicRefused):
        world.broker.vhosts["/"].topics.create("q", 1, {})


def test_a_topic_of_kafkas_is_a_stream(world, client, other):
    """Whoever made the topic: it is declared (passively or not), bound, published to and read like any stream."""
    world.broker.vhosts["/"].topics.create("t", 2, {})
    assert answer(client.declare("t", passive=True)) == "queue.declare-ok"
    assert answer(declare(client, "t")) == "queue.declare-ok"
    client.bind("t", "amq.topic", "#")
    client.publish("a.b", b"x", exchange="amq.topic")
    assert bodies(other.consume("t", x_stream_offset="first")) == [b"x"]


def test_an_exchange_routes_by_key_into_partitions(world, client, other):
    """The routing key, or `x-partition-key`, says the partition, by Kafka's murmur2; deliveries say which it was."""
    declare(client, x_partitions=5)
    client.bind("s", "amq.topic", "#")
    keys = [f"order.{number}" for number in range(40)]
    for key in keys:
        client.publish(key, key.encode(), exchange="amq.topic")
    client.publish("other", b"order.1", exchange="amq.topic", headers={"x-partition-key": "order.1"})
    frames = other.consume("s", x_stream_offset="first")
    found = dict(zip(bodies(frames), headers_of(frames), strict=True))
    assert len(bodies(frames)) == 41
    for key in keys:
        assert found[key.encode()]["x-stream-partition"] == partition_for_key(key.encode(), 5)
    routing_keys = {values[4] for name, _, values in frames if name == "basic.deliver"}
    assert routing_keys == {*keys, "other"}


def test_order_of_a_key(world, client):
    """Messages of one key stay in order, with any number of partitions and however they come in."""
    declare(client, x_partitions=3)
    client.bind("s", "amq.direct", "a")
    client.bind("s", "amq.direct", "b")
    client.feed(b"".join(publish(1, "amq.direct", "ab"[number % 2], b"%d" % number) for number in range(300)))
    frames = reader(world, prefetch=1000).consume("s", x_stream_offset="first")
    numbers = [int(body) for body in bodies(frames)]
    assert sorted(numbers) == list(range(300))
    for rest in (0, 1):
        mine = [number for number in numbers if number % 2 == rest]
        assert mine == sorted(mine)


def test_without_a_key_partitions_take_turns(world, client):
    """What comes over the default exchange has no key: its name would send all of it to one partition."""
    declare(client, x_partitions=3)
    for _ in range(9):
        client.publish("s")
    partitions = world.broker.vhosts["/"].topics.get("s").partitions
    assert [one.high_watermark for one in partitions] == [3, 3, 3]


def test_a_compacted_topic_refuses_messages_without_a_key(world, client):
    """They would stay for ever; on a confirm channel the publisher hears of it."""
    world.broker.vhosts["/"].topics.create("t", 1, {"cleanup.policy": "compact"})
    client.bind("t", "amq.direct", "k")
    client.call(1, "confirm.select", False)
    client.publish("t", b"x")
    assert [name for name, _, _ in client.frames()] == ["basic.nack"]
    client.publish("k", b"x", exchange="amq.direct")
    assert [name for name, _, _ in client.frames()] == ["basic.ack"]


def test_a_confirm_means_that_it_is_in_the_stream(world, client):
    """Whatever the delivery mode; killed right after the confirm, it is there."""
    declare(client)
    client.call(1, "confirm.select", False)
    client.publish("s", b"kept", delivery_mode=1)
    assert [name for name, _, _ in client.frames()] == ["basic.ack"]
    again = world.kill(wall_ms=1_760_000_100_000)
    assert bodies(reader(again).consume("s", x_stream_offset="first")) == [b"kept"]


def test_a_transaction_reaches_streams_and_queues_as_one(world, client, other):
    """Nothing of it is seen before the commit."""
    declare(client)
    client.declare("q", durable=True)
    client.bind("s", "amq.fanout")
    client.bind("q", "amq.fanout")
    client.call(1, "tx.select")
    client.publish("", b"x", exchange="amq.fanout")
    assert bodies(other.consume("s", x_stream_offset="first")) == []
    assert client.call(1, "tx.commit") == [("tx.commit-ok", 1, ())]
    assert bodies(other.frames()) == [b"x"]
    assert client.get("q")[2] == b"x"


def test_dead_letters_may_go_to_a_stream(world, client, other):
    """A queue's dead letters are kept there, with their deaths."""
    declare(client, "dead")
    client.declare("q", durable=True, x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.publish("q", b"bad")
    tag = client.get("q")[0]
    client.call(1, "basic.reject", tag, False)
    frames = other.consume("dead", x_stream_offset="first")
    assert bodies(frames) == [b"bad"]
    assert headers_of(frames)[0]["x-first-death-queue"] == "q"


def test_bindings_and_streams_come_back(world, client):
    """After a kill an exchange leads to its stream as before."""
    declare(client)
    client.declare_exchange("x", "direct", durable=True)
    client.bind("s", "x", "k")
    again = world.kill(wall_ms=1_760_000_100_000)
    client = again.connect()
    client.publish("k", b"x", exchange="x", mandatory=True)
    assert client.frames() == []
    assert bodies(reader(again).consume("s", x_stream_offset="first")) == [b"x"]


def test_deleting_a_stream_cancels_its_consumers(world, client):
    """They are told if they can be; bindings go, and a new stream of that name is empty."""
    declare(client)
    client.bind("s", "amq.fanout")
    client.publish("s", b"x")
    consumer = world.connect(capabilities={"consumer_cancel_notify": True})
    consumer.call(1, "basic.qos", 0, 10, False)
    consumer.consume("s", "c", x_stream_offset="first")
    assert refusal(world.connect().call(1, "queue.delete", 0, "s", True, False, False))[0] == 406
    assert client.call(1, "queue.delete", 0, "s", False, False, False) == [("queue.delete-ok", 1, (1,))]
    assert ("basic.cancel", 1, ("c", True)) in consumer.frames()
    assert ack(consumer, 1) == []
    client.publish("", b"y", exchange="amq.fanout", mandatory=True)
    assert answer(client.frames()) == "basic.return"
    assert declare(client)[0][2] == ("s", 0, 0)


def test_more_partitions_are_followed(world, client, other):
    """Consumers get what comes to partitions that the topic was given later."""
    declare(client)
    other.consume("s", x_stream_offset="next")
    topics = world.broker.vhosts["/"].topics
    topics.add_partitions(topics.get("s"), 4)
    for number in range(8):
        client.publish("s", b"%d" % number)
    assert sorted(bodies(other.frames())) == [b"%d" % number for number in range(8)]


def test_a_consumer_that_goes_leaves_nothing_behind(world, client):
    """Cancelled, its channel or its connection closed: no partition knows it any more."""
    declare(client)
    stream = world.broker.vhosts["/"].streams.get("s")
    waiters = world.broker.vhosts["/"].topics.partition("s", 0).waiters
    client.publish("s")
    one, two, three = reader(world), reader(world), reader(world)
    for consumer in (one, two, three):
        consumer.consume("s", "c", x_stream_offset="first")
    assert (len(waiters), len(stream.consumers)) == (3, 3)
    one.call(1, "basic.cancel", "c", False)
    two.call(1, "channel.close", 200, "", 0, 0)
    three.drop()
    world.settle()
    assert (len(waiters), len(stream.consumers)) == (0, 0)


def test_exclusive_consumers(world, client):
    """One that is exclusive has the stream to itself."""
    declare(client)
    reader(world).consume("s", exclusive=True)
    assert refusal(reader(world).consume("s"))[0] == 403


def test_large_messages_and_many(world, client):
    """Bodies of several frames, and more messages than fit a batch, come as they went, on any frame size."""
    declare(client)
    large = bytes(range(256)) * 1200
    client.publish("s", large)
    client.feed(publish(1, "", "s", b"x" * 10) * 5000)
    consumer = world.connect(frame_max=4096)
    consumer.call(1, "basic.qos", 0, 10_000, False)
    found = bodies(consumer.consume("s", x_stream_offset="first"))
    assert found[0] == large
    assert found[1:] == [b"x" * 10] * 5000


def test_many_readers_of_small_batches_read_them_once(world, client, monkeypatch):
    """Batches of one record, more readers than may keep their place: each batch is looked up once, not once for each
    reader (`jackalope bench kafka`, row amqp-fanout1000: 200 msg/s to 1,000 consumers)."""
    looked_up = []
    found = Partition.batches
    monkeypatch.setattr(Partition, "batches", lambda self, offset: looked_up.append(offset) or found(self, offset))
    declare(client)
    readers = [reader(world, 1000) for _ in range(ITERATORS_KEPT + 20)]
    for one in readers:
        one.consume("s", x_stream_offset="first")
    got = [[] for _ in readers]
    for number in range(10):
        client.publish("s", b"%d" % number)
        for each, one in zip(got, readers, strict=True):
            each += bodies(one.frames())
    assert got == [[b"%d" % number for number in range(10)]] * len(readers)
    assert len(looked_up) <= 10 + 1


def test_small_batches_that_wait_are_handed_out_together(world, client):
    """Who was behind gets them in a few writes, in order, and no more than the prefetch count."""
    declare(client)
    for number in range(200):
        client.publish("s", b"%d" % number)
    writes = []
    found = Consumer.deliver

    def deliver(self, messages, offsets):
        writes.append(len(messages))
        found(self, messages, offsets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Consumer, "deliver", deliver)
        other = reader(world, 150)
        assert bodies(other.consume("s", x_stream_offset="first")) == [b"%d" % number for number in range(150)]
    assert sum(writes) == 150
    assert len(writes) <= 20
    assert bodies(ack(other, 150, multiple=True)) == [b"%d" % number for number in range(150, 200)]


def test_what_was_settled_is_not_handed_out_from_what_others_have_read(world, client, other):
    """A letter that was replayed is gone for who comes after, whatever was decoded for others before."""
    declare(client)
    for number in range(5):
        client.publish("s", b"%d" % number)
    assert bodies(other.consume("s", x_stream_offset="first")) == [b"0", b"1", b"2", b"3", b"4"]
    world.broker.vhosts["/"].topics.get("s").partitions[0].settle(2)
    assert bodies(reader(world).consume("s", x_stream_offset="first")) == [b"0", b"1", b"3", b"4"]


def test_what_was_compacted_away_is_not_handed_out_from_what_others_have_read(world, client, other):
    """The same of a record that a later one of its key supersedes (Kafka: LogCleaner)."""
    topic = world.broker.vhosts["/"].topics.create("c", 1, {"cleanup.policy": "compact"})
    for number in range(5):
        client.publish("c", b"%d" % number, headers={"x-partition-key": "ab"[number % 2]})
    assert bodies(other.consume("c", x_stream_offset="first")) == [b"0", b"1", b"2", b"3", b"4"]
    for _ in compact(topic.partitions[0], Cleaned(0, 0, ()), world.hub.env.wall_ms + 10_000):
        pass
    assert bodies(reader(world).consume("c", x_stream_offset="first")) == [b"2", b"3", b"4"]


def test_what_can_be_read_comes_before_the_consumer_is_told(world, client, other):
    """Small batches go out together; one behind them that cannot be opened takes none of them along, and then the
    consumer is cancelled (RabbitMQ: rabbit_channel.erl, consumer_cancel_notify)."""
    declare(client)
    partition = world.broker.vhosts["/"].topics.get("s").partitions[0]
    for number in range(3):
        client.publish("s", b"%d" % number)
    append_unseen(partition, with_records(parse_header(batch(1, 1_760_000_000_000)), b"no gzip", 1, 1))
    client.publish("s", b"behind")
    reports = []
    world.broker.scheduler.report = lambda *what: reports.append(what)
    frames = other.consume("s", "c", x_stream_offset="first")
    assert bodies(frames) == [b"0", b"1", b"2"]
    assert [text for text, _ in reports] == ["stream 's' in vhost '/' cannot be read"]


def test_malformed_headers_harm_nobody(world, client, other):
    """A headers table that is malformed inside, which nobody has looked at, comes out as octets."""
    declare(client)
    octets = b"\x20\x00" + struct.pack(">I", 4) + b"\x02aZ\x00"
    client.publish("s", b"x", octets=octets)
    client.publish("s", b"y")
    frames = other.consume("s", x_stream_offset="first")
    assert bodies(frames) == [b"x", b"y"]
    assert headers_of(frames)[0]["amqp.properties"].encode() == octets
