"""Queues that are open to Kafka's clients: what they see, and that it is theirs to read only."""

import itertools

import pika
import pytest
from kafka_wire import BY_NAME, NOW_MS, Wire, batch
from waiting import HANG_MS, PATIENT, wait_until

from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import parse_header, read_records

_NUMBERS = itertools.count(1)
PERSISTENT = pika.BasicProperties(delivery_mode=2)


@pytest.fixture(scope="module")
def channel(kafka):
    """A client of AMQP, whose publishes are confirmed."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(kafka.host, kafka.port, **PATIENT))
    found = connection.channel()
    found.confirm_delivery()
    yield found
    connection.close()


@pytest.fixture
def queue(channel):
    """A queue that is open, and keeps what it delivers."""
    name = f"queue-{next(_NUMBERS)}"
    channel.queue_declare(name, durable=True, arguments={"x-kafka-topic": True, "x-retain": "1h"})
    return name


def publish(channel, queue, *bodies):
    for body in bodies:
        channel.basic_publish("", queue, body, PERSISTENT)


def whole_records(octets):
    """The records of a fetch's batches."""
    data, position, found = bytes(octets or b""), 0, []
    while position < len(data):
        header = parse_header(data, position)
        found += read_records(data, position, header)
        position += header.size
    return found


def records(octets):
    """(offset, key, value, names of headers) of the same."""
    return [(one.offset, one.key, one.value, [name for name, _ in one.headers]) for one in whole_records(octets)]


def topics(wire, *names):
    """{name: (error, partitions, id)} of those that were asked for, or of all."""
    topic_class = BY_NAME["Metadata"].request.SPECS["topics"].of
    asked = [topic_class(name=name) for name in names] or None
    found = wire.ask("Metadata", 12, topics=asked, allow_auto_topic_creation=False).topics
    return {one.name: (one.error_code, len(one.partitions), one.topic_id) for one in found}


def test_what_readers_see(wire, channel, queue):
    """Messages by offset, delivered or not: the routing key, the body, and headers with the rest."""
    publish(channel, queue, b"a", b"b", b"c")
    channel.basic_ack(channel.basic_get(queue)[0].delivery_tag)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2
    expected = [(n, queue.encode(), body, [b"p", b"x"]) for n, body in enumerate((b"a", b"b", b"c"))]
    assert records(wire.fetch(queue).records) == expected
    assert records(wire.fetch(queue, 2).records)[-1] == expected[2]
    assert [wire.end(queue, timestamp=when).offset for when in (-2, -1)] == [0, 3]
    assert topics(wire)[queue][:2] == (0, 1)


def test_offsets_by_time(wire, channel, queue):
    """The first message from a time on; the last of all; none behind the end."""

    def times():
        publish(channel, queue, b"x")
        return [one.timestamp_ms for one in whole_records(wire.fetch(queue).records)]

    first_ms = times()[0]
    *earlier, last_ms = wait_until(lambda: (found := times())[-1] > first_ms and found)
    assert set(earlier) == {first_ms}
    assert wire.end(queue, timestamp=0).offset == 0
    assert wire.end(queue, timestamp=first_ms).offset == 0
    assert wire.end(queue, timestamp=first_ms + 1).offset == len(earlier)
    assert wire.end(queue, timestamp=last_ms).offset == len(earlier)
    assert wire.end(queue, timestamp=-3).offset == len(earlier)
    assert wire.end(queue, timestamp=last_ms + 1).offset == -1
    assert wire.fetch(queue, len(earlier) + 2).error_code == ErrorCode.OFFSET_OUT_OF_RANGE


def test_a_fetch_waits_for_what_comes(wire, channel, queue):
    """It is answered when a message is durable, not when its time is over; also in a session, by the topic's id."""
    topic_id = topics(wire, queue)[queue][2]
    publish(channel, queue, b"before")
    opened = wire.ask("Fetch", 13, request=wire.fetch_request({topic_id: {0: 0}}, session=(0, 0)))
    assert len(records(opened.responses[0].partitions[0].records)) == 1
    asked = wire.fetch_request({topic_id: {0: 1}}, session=(opened.session_id, 1), max_wait_ms=2 * HANG_MS)
    number = wire.send("Fetch", 13, request=asked)
    channel.queue_declare(queue, passive=True)
    publish(channel, queue, b"later")
    got, response = wire.answer()
    assert (got, records(response.responses[0].partitions[0].records)[-1][2]) == (number, b"later")


def test_without_retention_what_is_acknowledged_is_a_gap(wire, channel):
    """Readers get what waits; the start follows the queue, and who stands before it goes on with what there is."""
    channel.queue_declare("plain", durable=True, arguments={"x-kafka-topic": True})
    publish(channel, "plain", b"a", b"b", b"c")
    assert [value for _, _, value, _ in records(wire.fetch("plain").records)] == [b"a", b"b", b"c"]
    for _ in range(3):
        channel.basic_ack(channel.basic_get("plain")[0].delivery_tag)
    channel.queue_declare("plain", passive=True)
    publish(channel, "plain", b"d")
    assert [one[:3] for one in records(wire.fetch("plain", 1).records)] == [(3, b"plain", b"d")]
    assert wire.end("plain", timestamp=-2).offset == 3


def test_nothing_can_be_changed(wire, channel, queue):
    """Producing, growing, configuring, shortening, deleting: refused, and the queue is as it was."""
    publish(channel, queue, b"a")
    answer = wire.produce(queue, batch([b"x"]))
    assert answer.error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
    assert "for reading only" in answer.error_message
    grow = BY_NAME["CreatePartitions"].request
    one = grow.SPECS["topics"].of(name=queue, count=3, assignments=None)
    answers = [wire.ask("CreatePartitions", 3, topics=[one], timeout_ms=1000, validate_only=False).results[0]]
    state = BY_NAME["DeleteTopics"].request.SPECS["topics"].of(name=queue)
    answers.append(wire.ask("DeleteTopics", 6, topics=[state], timeout_ms=1000).responses[0])
    resource = BY_NAME["IncrementalAlterConfigs"].request.SPECS["resources"].of
    change = resource.SPECS["configs"].of(name="retention.ms", config_operation=0, value="5")
    altered = resource(resource_type=2, resource_name=queue, configs=[change])
    answers.append(wire.ask("IncrementalAlterConfigs", 1, resources=[altered], validate_only=False).responses[0])
    for refused in answers:
        assert refused.error_code == ErrorCode.POLICY_VIOLATION
        assert refused.error_message == f"'{queue}' is a queue, and open to Kafka's clients for reading only"
    shorter = BY_NAME["DeleteRecords"].request.SPECS["topics"].of
    part = shorter.SPECS["partitions"].of(partition_index=0, offset=1)
    asked = [shorter(name=queue, partitions=[part])]
    found = wire.ask("DeleteRecords", 2, topics=asked, timeout_ms=1000).topics[0].partitions[0]
    assert found.error_code == ErrorCode.POLICY_VIOLATION
    assert len(records(wire.fetch(queue).records)) == 1
    assert channel.queue_declare(queue, passive=True).method.message_count == 1


def test_its_configuration_is_shown(wire, queue):
    """Retention as the queue has it."""
    resource = (
        BY_NAME["DescribeConfigs"]
        .request.SPECS["resources"]
        .of(resource_type=2, resource_name=queue, configuration_keys=["retention.ms", "retention.bytes"])
    )
    [found] = wire.ask("DescribeConfigs", 4, resources=[resource], include_synonyms=False).results
    assert {one.name: one.value for one in found.configs} == {"retention.ms": "3600000", "retention.bytes": "-1"}


def test_names_that_are_taken(wire, channel, queue):
    """A topic cannot have the name of an open queue, nor one that collides with it; nor the other way round."""
    channel.queue_declare("open.queue", durable=True, arguments={"x-kafka-topic": True})
    for name, is_taken in ((queue, True), ("open_queue", True), ("open-queue", False)):
        create = BY_NAME["CreateTopics"].request.SPECS["topics"].of(name=name, num_partitions=1, replication_factor=1)
        [result] = wire.ask("CreateTopics", 7, topics=[create]).topics
        assert (result.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION) == is_taken
    wire.create("a_topic")
    for name in ("a.topic", "not a topic's name", "__mine"):
        channel.queue_declare(name, durable=True, arguments={"x-kafka-topic": True})
        publish(channel, name, b"x")
    assert not {"a.topic", "not a topic's name", "__mine"} & set(topics(wire))
    assert channel.queue_declare("a.topic", passive=True).method.message_count == 1


def test_a_queue_that_goes(kafka, wire, channel):
    """Who waits is told that there is no such topic; what a group has committed for it goes too."""
    channel.queue_declare("going", durable=True, arguments={"x-kafka-topic": True})
    commit = BY_NAME["OffsetCommit"].request.SPECS["topics"].of
    part = commit.SPECS["partitions"].of(partition_index=0, committed_offset=0, committed_metadata="")
    asked = {"group_id": "of-going", "topics": [commit(name="going", partitions=[part])]}
    assert wire.ask("OffsetCommit", 8, **asked).topics[0].partitions[0].error_code == 0
    number = wire.send("Fetch", 11, request=wire.fetch_request({"going": {0: 0}}, max_wait_ms=2 * HANG_MS))
    with Wire(kafka.addresses["kafka"]) as other:
        topics(other)
        channel.queue_delete("going")
        got, response = wire.answer()
        assert (got, response.responses[0].partitions[0].error_code) == (number, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        assert "going" not in topics(other)
        channel.queue_declare("going", durable=True, arguments={"x-kafka-topic": True})
        group_class = BY_NAME["OffsetFetch"].request.SPECS["groups"].of
        groups = [group_class(group_id="of-going", topics=None)]
        assert other.ask("OffsetFetch", 8, groups=groups).groups[0].topics == []


def test_by_default_nothing_is_open(wire, channel):
    """A durable queue is no topic; `x-kafka-topic: false` says the same."""
    channel.queue_declare("closed", durable=True)
    channel.queue_declare("also-closed", durable=True, arguments={"x-kafka-topic": False})
    assert not {"closed", "also-closed"} & set(topics(wire))
    assert topics(wire, "closed")["closed"][0] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert wire.produce("closed", batch([b"x"], timestamp_ms=NOW_MS)).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
