"""Records over HTTP: what goes in comes out again, whatever it is; what cannot be shown is named; nobody is held up."""

import base64
import gzip
import io

import lz4.frame
import pytest
import zstandard
from kafka_wire import batch
from topic_world import append_unseen

from broker.server.http import fields as http_fields
from broker.server.http import records as module
from protocol.kafka.partitioner import partition_for_key
from protocol.kafka.records import render_record

NOW_MS = 1_000_000


def rows(items, *names):
    """Chosen columns of records."""
    return [tuple(one[name] for name in names) for one in items]


def compressed(kind, values, timestamp_ms=NOW_MS):
    """A batch as a client with compression sends it."""
    plain = b"".join(render_record(n, value) for n, value in enumerate(values))
    block = {1: gzip.compress, 3: lz4.frame.compress, 4: zstandard.compress}[kind](plain)
    return batch(values, attributes=kind, timestamp_ms=timestamp_ms, records=block)


def test_what_goes_in_comes_out(http):
    """Key, value, headers and time, as text where they are text and as base64 where not; null is not empty."""
    http.topic()
    raw = base64.b64encode(b"\xff\x00").decode()
    given = [
        {"key": "k", "value": "täxt", "headers": {"trace": "1", "none": None}, "timestamp": NOW_MS - 5},
        {"key": raw, "key_encoding": "base64", "value": raw, "value_encoding": "base64"},
        {"key": "gone", "value": None},
        {"key": "", "value": ""},
        {"value": "x", "headers": [{"name": "n", "value": "1"}, {"name": "n", "value": raw, "encoding": "base64"}]},
        {},
    ]
    assert http.produce(*given) == [{"partition": 0, "offset": offset} for offset in range(6)]
    items = http.next_run().records()["items"]
    assert rows(items, "offset", "key", "value", "value_bytes") == [
        (0, "k", "täxt", 5), (1, raw, raw, 2), (2, "gone", None, None), (3, "", "", 0), (4, None, "x", 1),
        (5, None, None, None),
    ]  # fmt: skip
    assert rows(items, "key_encoding", "value_encoding")[:2] == [("string", "string"), ("base64", "base64")]
    assert [items[at]["timestamp"] for at in (0, 1)] == [NOW_MS - 5, NOW_MS]
    assert [[(one["name"], one["value"]) for one in items[at]["headers"]] for at in (0, 4)] == [
        [("trace", "1"), ("none", None)], [("n", "1"), ("n", raw)]
    ]  # fmt: skip
    again = [{name: one[name] for name in module.FIELDS if name != "partition"} for one in items]
    http.topic("copy")
    http.produce(*again, name="copy")
    copied = http.records(name="copy")["items"]
    assert [{**one, "offset": 0} for one in copied] == [{**one, "offset": 0} for one in items]


def test_the_key_says_the_partition(http):
    """By murmur2, as Kafka's clients and AMQP have it; a partition that is named wins; else it is one for all."""
    http.topic(partitions=5)
    keys = [f"key-{number}" for number in range(50)]
    placed = http.produce(*({"key": key, "value": "x"} for key in keys))
    assert [one["partition"] for one in placed] == [partition_for_key(key.encode(), 5) for key in keys]
    assert http.produce({"key": "key-1", "partition": 3})[0]["partition"] == 3
    body = {"records": [{"value": "a"}, {"value": "b", "partition": 2}], "partition": 4}
    placed = http.good("POST", "topics/%2F/t/records", body)["offsets"]
    assert [one["partition"] for one in placed] == [4, 2]
    keyless = http.produce(*({"value": "x"} for _ in range(30)))
    assert len({one["partition"] for one in keyless}) == 1
    first = keyless[0]["offset"]
    assert [one["offset"] for one in keyless] == list(range(first, first + 30))


def test_pages_go_on_where_they_ended(http):
    """Every record once, by count and by size; from the end on there is nothing yet; behind it is a mistake."""
    http.topic()
    for start in range(0, 500, 100):
        http.produce(*({"value": str(number)} for number in range(start, start + 100)))
    for query in ("count=7", "count=1000", ""):
        assert [one["value"] for one in http.all_records(query)] == [str(number) for number in range(500)]
    page = http.records("from=490&count=1000")
    assert (len(page["items"]), page["next"], page["high_watermark"]) == (10, 500, 500)
    assert http.records("from=latest") == {"items": [], "next": 500, "start_offset": 0, "high_watermark": 500}
    assert http.refused("GET", "topics/%2F/t/records?from=501")[0] == 400
    http.good("DELETE", "topics/%2F/t/records?before=100")
    assert http.records("from=5&count=1")["items"][0]["offset"] == 100


def test_large_values(http):
    """A megabyte goes in and out, one in a page; `truncate` shows the beginning, and no half of a character."""
    http.topic()
    for _ in range(3):
        http.produce({"value": "€" * 300_000})
    page = http.records()
    assert (len(page["items"]), page["next"]) == (2, 2)  # 900 kB do not fill it.
    assert page["items"][0]["value"] == "€" * 300_000
    page = http.records("truncate=10")
    assert rows(page["items"], "value", "value_bytes", "value_encoding") == [("€€€", 900_000, "string")] * 3
    assert http.records("truncate=0&count=1")["items"][0]["value"] == ""
    status, reason = http.refused("POST", "topics/%2F/t/records", {"records": [{"value": "x" * 1_048_588}]})
    assert (status, "octets are more than 1048588" in reason) == (400, True)
    assert http.records("from=latest")["next"] == 3


def test_from_a_time(http):
    """`from` and `time` take ISO 8601 and ages, `time` milliseconds too; what is later than all is the end."""
    http.topic()
    now_ms = http.hub.scheduler.wall_ms = 1_700_000_000_000
    for age_s in (7200, 600, 60):
        http.produce({"value": str(age_s), "timestamp": now_ms - age_s * 1000})
    for query, found in (
        ("from=1h", ["600", "60"]), ("time=5m", ["60"]), ("from=2023-11-14T22:03:20Z", ["600", "60"]), ("from=1s", []),
        ("time=1699999400000", ["600", "60"]),
    ):  # fmt: skip
        assert [one["value"] for one in http.records(query)["items"]] == found, query


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_compressed_batches_are_opened(http, kind):
    """What a client has compressed is shown record by record, from anywhere in it."""
    partition = http.topic().partitions[0]
    partition.append(compressed(kind, [b"v%d" % number for number in range(50)]), NOW_MS)
    http.settle()
    assert [one["value"] for one in http.all_records("count=20")] == [f"v{number}" for number in range(50)]
    assert http.records("from=48")["items"][0]["value"] == "v48"


def test_a_batch_that_opens_to_too_much_is_passed_over(http):
    """A few kilobytes can hold gigabytes: it is named with what it would have been, and what is behind it is shown."""
    partition = http.topic().partitions[0]
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(bytes(module.OPENED_BYTES_MAX + 1))
    append_unseen(partition, batch([b""] * 7, attributes=1, timestamp_ms=NOW_MS, records=out.getvalue()))
    http.settle()
    http.produce({"value": "behind"})
    page = http.records()
    bomb, behind = page["items"]
    assert (bomb["offset"], bomb["records"]) == (0, 7)
    assert "opens to more than" in bomb["unreadable"]
    assert (behind["offset"], behind["value"], page["next"]) == (7, "behind", 8)


@pytest.mark.parametrize("inside", [b"garbage", gzip.compress(b"garbage"), gzip.compress(render_record(0, b"x"))[:-4]])
def test_a_batch_that_is_malformed_inside_is_passed_over(http, inside):
    """A broker does not open what it stores: who reads it is told."""
    partition = http.topic().partitions[0]
    http.produce({"value": "before"})
    append_unseen(partition, batch([b""] * 3, attributes=1, timestamp_ms=NOW_MS, records=inside))
    http.settle()
    http.produce({"value": "behind"})
    items = http.all_records()
    assert [one.get("value", one.get("records")) for one in items] == ["before", 3, "behind"]


def test_a_batch_of_very_many_records(http, monkeypatch):
    """From its middle: what is in front is skipped with pauses, and the topic may go meanwhile."""
    monkeypatch.setattr(http_fields, "PAUSE_S", 0)
    partition = http.topic().partitions[0]
    partition.append(batch([b"x"] * 60_000, timestamp_ms=NOW_MS), NOW_MS)
    http.settle()
    steps = http.steps("GET", "topics/%2F/t/records?from=59990")
    answer, pauses = http.finish(steps)
    assert pauses >= 1800  # Of 32 records each.
    assert [one["offset"] for one in answer["items"].rows] == list(range(59_990, 60_000))
    steps = http.steps("GET", "topics/%2F/t/records?from=59990")
    assert not steps.advance()
    http.good("DELETE", "topics/%2F/t")
    with pytest.raises(module.HttpError) as told:
        http.finish(steps)
    assert told.value.status == 404


def test_a_partition_refuses_its_part(http):
    """A compacted topic takes no record without a key: those say so, the others are in. If none is taken it is 400."""
    http.topic(partitions=2, cleanup_policy="compact")
    placed = http.produce({"key": "k", "partition": 0}, {"value": "x", "partition": 1}, {"key": "l", "partition": 0})
    assert [one.get("offset") for one in placed] == [0, None, 1]
    assert "without key" in placed[1]["error"]
    status, reason = http.refused("POST", "topics/%2F/t/records", {"records": [{"value": "x"}]})
    assert (status, "without key" in reason) == (400, True)
    http.topic("strict", message_timestamp_before_max_ms=1000)
    status, reason = http.refused("POST", "topics/%2F/strict/records", {"records": [{"value": "x", "timestamp": 1}]})
    assert (status, "too old" in reason) == (400, True)


def test_an_alarm_refuses_records(http):
    """Publishers wait while the broker is low on something; over HTTP they are told."""
    http.topic()
    http.hub.set_alarm("disk", active=True)
    assert http.refused("POST", "topics/%2F/t/records", {"records": [{}]}) == (503, "low on disk")
    http.hub.set_alarm("disk", active=False)
    http.produce({})


def test_the_time_of_the_log(http):
    """With LogAppendTime a record has the broker's time, whatever was said."""
    http.topic(message_timestamp_type="LogAppendTime")
    http.produce({"timestamp": 5}, {"timestamp": 10**12})
    assert rows(http.records()["items"], "timestamp") == [(NOW_MS,), (NOW_MS,)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "a list of 1 to"),
        ({"records": []}, "a list of 1 to"),
        ({"records": {}}, "a list of 1 to"),
        ({"records": [{}] * 1001}, "a list of 1 to"),
        ({"records": ["x"]}, "a record is an object"),
        ({"records": [{"vaule": "x"}]}, "unknown field 'vaule'"),
        ({"records": [{"value": 5}]}, "a string or null"),
        ({"records": [{"value": "x", "value_encoding": "hex"}]}, "'string' or 'base64'"),
        ({"records": [{"value": "x", "value_encoding": "base64"}]}, "not base64"),
        ({"records": [{"value": "x", "value_encoding": []}]}, "'string' or 'base64'"),
        ({"records": [{"headers": "x"}]}, "headers is an object"),
        ({"records": [{"headers": [["a", "b"]]}]}, "headers is an object"),
        ({"records": [{"headers": {"a": 5}}]}, "a string or null"),
        ({"records": [{"headers": dict.fromkeys(map(str, range(5001)), "x")}]}, "5000 headers at most"),
        ({"records": [{"partition": -1}]}, "partition is an integer"),
        ({"records": [{"partition": "x"}]}, "partition is an integer"),
        ({"records": [{"partition": 1.5}]}, "partition is an integer"),
        ({"records": [{"timestamp": -1}]}, "timestamp is an integer"),
        ({"records": [{"timestamp": 1 << 62}]}, "timestamp is an integer"),
        ({"records": [{"timestamp": 1 << 50}]}, "in the future"),
        ({"records": [{"key": "k" * 20_000}]}, "needs a partition"),
        (b'{"records":[{"value":"\\ud800"}]}', "not Unicode"),
        (b'{"records":[{"timestamp":NaN}]}', "not JSON"),
    ],
)  # fmt: skip
def test_what_makes_no_record(http, body, reason):
    """400 with a reason, and nothing is appended."""
    http.topic(partitions=2)
    status, told = http.refused("POST", "topics/%2F/t/records", body)
    assert (status, reason in told) == (400, True), told
    assert http.good("GET", "topics/%2F/t")["messages_in"] == 0


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("count=0", 400), ("count=-1", 400), ("count=1001", 400), ("count=x", 400), ("from=-1", 400),
        ("from=soon", 400), ("from=9223372036854775808", 400), ("from=1e3", 400), ("from=%2B5", 400),
        ("truncate=-1", 400),
        ("from=earliest&time=5m", 400), ("time=earliest", 400),
        ("partition=-1", 400), ("partition=x", 400), ("partition=1", 404),
        ("partition=99999999999", 400), ("from=99999999999Y", 400), ("from=2023-11-14T22:13:15%2B99:00", 400),
    ],
)  # fmt: skip
def test_what_makes_no_question(http, query, status):
    """400 or 404 with a reason."""
    http.topic()
    assert http.refused("GET", f"topics/%2F/t/records?{query}")[0] == status


def test_a_topic_that_is_not_there(http):
    """404, in and out; nothing is created by asking."""
    assert http.refused("GET", "topics/%2F/nope/records") == (404, "no topic 'nope' in vhost '/'")
    assert http.refused("POST", "topics/%2F/nope/records", {"records": [{}]})[0] == 404
    assert http.refused("GET", "topics/nowhere/t/records")[0] == 404
    assert http.good("GET", "topics") == []
