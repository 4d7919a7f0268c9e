"""Topics over HTTP: what is created is there after a kill, what is shown is so, what makes no sense is said to be."""

import pytest
from http_world import HttpWorld

from broker.core.topics.rates import ROLL_MS
from protocol.kafka.partitioner import partition_for_key

DAY = "86400000"


def test_created_once(http):
    """201 when it is new, 204 when it is there and the same, else 409 and the difference; a kill changes nothing."""
    body = {"partitions": 3, "config": {"retention.ms": 86_400_000, "cleanup.policy": "compact"}}
    assert http.ask("PUT", "topics/%2F/orders", body) == (201, None)
    http = http.next_run()
    assert http.ask("PUT", "topics/%2F/orders", body) == (204, None)
    assert http.ask("PUT", "topics/%2F/orders", {"config": body["config"]}) == (204, None)
    for other, reason in (
        (body | {"partitions": 4}, "with 3 partitions, not 4"),
        (body | {"config": {"cleanup.policy": "compact"}}, f"with retention.ms {DAY}, not at its default"),
        (body | {"config": body["config"] | {"segment.ms": 1}}, "with segment.ms at its default, not 1"),
    ):
        status, told = http.refused("PUT", "topics/%2F/orders", other)
        assert status == 409
        assert reason in told
    shown = http.good("GET", "topics/%2F/orders")
    assert (shown["partitions"], shown["config_overrides"]) == (
        3, {"retention.ms": DAY, "cleanup.policy": "compact"}
    )  # fmt: skip
    assert shown["config"]["segment.bytes"] == "1073741824"


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("a%2Fb", {}, "invalid"),
        ("%20", {}, "invalid"),
        ("x" * 300, {}, "invalid"),
        ("%FF", {}, "invalid"),
        ("t", {"partitions": 0}, "from 1"),
        ("t", {"partitions": -3}, "from 1"),
        ("t", {"partitions": True}, "from 1"),
        ("t", {"partitions": "many"}, "from 1"),
        ("t", {"partitions": 1.5}, "from 1"),
        ("t", {"partitions": 10**30}, "from 1"),
        ("t", {"partitions": 1_000_000_000}, "1 to 10000 partitions"),
        ("t", {"config": []}, "an object"),
        ("t", {"config": {"retention.ms": []}}, "a string, a number"),
        (
            "t",
            {"config": {"retention.ms": "soon"}},
            "Invalid value soon for configuration retention.ms: not a number of type LONG",
        ),
        ("t", {"config": {"min.cleanable.dirty.ratio": "most"}}, "not a number of type DOUBLE"),
        ("t", {"config": {"retention.mss": 1}}, "Unknown topic config name: retention.mss"),
        ("t", {"partitons": 3}, "unknown field 'partitons'"),
    ],
)
def test_what_cannot_be_created(http, name, body, reason):
    """400 with a reason, and there is no topic."""
    status, told = http.refused("PUT", f"topics/%2F/{name}", body)
    assert (status, reason in told) == (400, True), told
    assert http.good("GET", "topics") == []


def test_a_queue_has_the_name(http):
    """Topics and queues are named alike in AMQP, so one name is one of them."""
    http.connect().declare("q")
    assert http.refused("PUT", "topics/%2F/q")[0] == 400


def test_without_a_disk_there_are_no_topics():
    """409 says why; the lists are empty."""
    http = HttpWorld(in_memory=True)
    assert http.refused("PUT", "topics/%2F/t")[0] == http.refused("GET", "groups/%2F/g")[0] == 409
    assert http.good("GET", "topics") == http.good("GET", "groups/%2F") == []


def test_shown_as_it_is(http):
    """Start, end and high watermark of each partition, sizes, epoch, and who reads it, with the lag."""
    http.topic(partitions=2)
    http.produce(*({"value": "x" * 10, "partition": 0} for _ in range(5)))
    http.good("PUT", "groups/%2F/readers/offsets", {"topic": "t", "partitions": [0], "to": 2})
    http.good("DELETE", "topics/%2F/t/records?partition=0&before=1")
    shown = http.good("GET", "topics/%2F/t")
    first, second = shown["partition_details"]
    assert {name: first[name] for name in ("start_offset", "end_offset", "high_watermark", "messages_in", "share")} == {
        "start_offset": 1, "end_offset": 5, "high_watermark": 5, "messages_in": 5, "share": 1.0,
    }  # fmt: skip
    assert first["size_bytes"] == first["bytes_in"] > 50
    assert first["leader_epoch"] >= 0
    assert (second["end_offset"], second["share"], second["hot"]) == (0, 0.0, False)
    assert shown["messages"] == 4
    assert shown["groups"] == [{"group": "readers", "state": "Empty", "partitions": 1, "lag": 3}]
    row = http.good("GET", "topics/%2F?columns=name,partitions,messages,bytes_in")[-1]
    assert row == {"name": "t", "partitions": 2, "messages": 4, "bytes_in": first["bytes_in"]}
    assert {row["name"] for row in http.good("GET", "topics") if row["internal"]} == {"__consumer_offsets"}


def test_what_came_in_before_a_restart_counts_no_more(http):
    """Messages and octets that came in are those of this run, offsets go on."""
    http.topic()
    http.produce({"value": "x"})
    http = http.next_run()
    http.produce({"value": "x"}, {"value": "y"})
    [partition] = http.good("GET", "topics/%2F/t")["partition_details"]
    assert (partition["end_offset"], partition["messages_in"]) == (3, 2)


def test_a_hot_key_is_seen(http):
    """A partition that takes far more than its share is pointed at; where keys are even, none is."""
    http.topic("even", 4)
    http.topic("hot", 4)
    for start in range(0, 400, 100):
        http.produce(*({"key": f"key-{number}", "value": "x"} for number in range(start, start + 100)), name="even")
        http.produce(
            *({"key": "big customer" if number % 10 else f"key-{number}", "value": "x"}
              for number in range(start, start + 100)), name="hot",
        )  # fmt: skip
    even, hot = http.good("GET", "topics/%2F/even"), http.good("GET", "topics/%2F/hot")
    assert even["hot_partitions"] == []
    place = partition_for_key(b"big customer", 4)
    assert hot["hot_partitions"] == [place]
    assert [row["hot"] for row in hot["partition_details"]] == [index == place for index in range(4)]
    assert hot["partition_details"][place]["share"] > 0.8
    assert sum(row["share"] for row in hot["partition_details"]) == pytest.approx(1, abs=0.001)
    assert {row["name"]: row["hot_partitions"] for row in http.good("GET", "topics")} == {"even": [], "hot": [place]}


def test_a_few_records_make_nothing_hot(http):
    """All of one key, but a handful: it says nothing about who gets how much."""
    http.topic(partitions=4)
    http.produce(*({"key": "k", "value": "x"} for _ in range(20)))
    assert http.good("GET", "topics/%2F/t")["hot_partitions"] == []
    http.topic("alone", 1)
    http.produce(*({"value": "x"} for _ in range(500)), name="alone")
    assert http.good("GET", "topics/%2F/alone")["hot_partitions"] == []


def test_rates_are_of_the_last_seconds(http):
    """What comes in evenly has its rate whenever one looks; what has stopped has none; then the start is looked at."""
    http.topic(partitions=2)
    http.advance(50)
    for _ in range(30):
        http.produce(*({"key": "k", "value": "x" * 50} for _ in range(100)))
        http.advance(500)
    shown = http.good("GET", "topics/%2F/t")
    assert shown["messages_in_rate"] == pytest.approx(200, rel=0.15)
    assert shown["bytes_in_rate"] == pytest.approx(shown["bytes_in"] / 15, rel=0.15)
    assert shown["shares_of"] == "the last seconds"
    for _ in range(3):
        http.advance(ROLL_MS)
    shown = http.good("GET", "topics/%2F/t")
    assert (shown["messages_in_rate"], shown["messages_in"]) == (0, 3000)
    assert shown["shares_of"] == "the time since the start"
    http.produce(*({"key": "k", "value": "x"} for _ in range(100)))
    http.advance(ROLL_MS - 100)
    assert http.good("GET", "topics/%2F/t")["messages_in_rate"] == pytest.approx(100 / (2 * ROLL_MS / 1000), rel=0.1)


def test_altered_as_a_whole_or_not_at_all(http):
    """Keys are set and unset, partitions only grow; a change that is refused in part changes nothing."""
    topic = http.topic(partitions=2, retention_ms=1000)
    change = {"partitions": 4, "config": {"retention.ms": None, "segment.ms": 5000, "preallocate": False}}
    assert http.ask("PATCH", "topics/%2F/t", change) == (204, None)
    assert (len(topic.partitions), topic.overrides) == (4, {"segment.ms": "5000", "preallocate": "false"})
    for body in (
        {"partitions": 8, "config": {"segment.ms": "never"}},
        {"partitions": 3, "config": {"segment.ms": 1}},
        {"config": {"segment.ms": 1, "nope": None}},
        {"segment.ms": 1},
    ):
        assert http.refused("PATCH", "topics/%2F/t", body)[0] == 400
        assert (len(topic.partitions), topic.overrides["segment.ms"]) == (4, "5000")
    assert http.refused("PATCH", "topics/%2F/nope", {"partitions": 2})[0] == 404
    topic = http.next_run().broker.vhosts["/"].topics.get("t")
    assert (len(topic.partitions), topic.overrides["segment.ms"]) == (4, "5000")


def test_deleted_with_all_that_is_in_it(http):
    """204, then 404, also after a kill; groups have no offsets of it any more."""
    http.topic()
    http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": "earliest"})
    assert http.ask("DELETE", "topics/%2F/t") == (204, None)
    http = http.next_run()
    assert http.refused("DELETE", "topics/%2F/t")[0] == 404
    assert http.refused("GET", "topics/%2F/t")[0] == 404
    assert http.refused("GET", "groups/%2F/g")[0] == 404


def test_the_brokers_own_topic_is_left_alone(http):
    """It is shown, and may not be changed."""
    http.topic()
    http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": "earliest"})
    for method, target, body in (
        ("DELETE", "topics/%2F/__consumer_offsets", None),
        ("PATCH", "topics/%2F/__consumer_offsets", {"partitions": 60}),
        ("POST", "topics/%2F/__consumer_offsets/records", {"records": [{"value": "x"}]}),
        ("DELETE", "topics/%2F/__consumer_offsets/records?before=latest", None),
    ):
        status, reason = http.refused(method, target, body)
        assert (status, "the broker's own" in reason) == (400, True)
    assert http.good("GET", "topics/%2F/__consumer_offsets")["internal"]


def test_old_records_are_dropped(http):
    """Up to an offset or all of them; not what is not there yet; a kill changes nothing."""
    http.topic()
    http.produce(*({"value": str(number)} for number in range(10)))
    target = "topics/%2F/t/records?partition=0&before="
    assert http.good("DELETE", target + "4") == {"partition": 0, "start_offset": 4}
    assert http.good("DELETE", target + "2") == {"partition": 0, "start_offset": 4}
    assert http.refused("DELETE", target + "11") == (400, "before is 11, and partition 0 ends at 10")
    for wrong in (target + "-1", target + "x", "topics/%2F/t/records", "topics/%2F/t/records?before=1&partition=-1"):
        assert http.refused("DELETE", wrong)[0] == 400
    assert http.refused("DELETE", "topics/%2F/t/records?before=1&partition=1")[0] == 404
    http = http.next_run()
    assert [one["value"] for one in http.all_records()] == ["4", "5", "6", "7", "8", "9"]
    assert http.good("DELETE", target + "latest") == {"partition": 0, "start_offset": 10}


def test_offsets_by_time(http):
    """By milliseconds, ISO 8601 and age; none where nothing is that late; also when the index has to be made first."""
    http.topic(partitions=2)
    now_ms = http.hub.scheduler.wall_ms = 1_700_000_000_000
    for number in range(10):
        http.produce({"value": "x", "partition": 0, "timestamp": now_ms - 10_000 + number * 1000})
    for _ in range(2):
        for time in (now_ms - 5000, "2023-11-14T22:13:15Z", "2023-11-14T22:13:15", "2023-11-15T00:13:15%2B02:00", "5s"):
            first, second = http.good("GET", f"topics/%2F/t/offsets?time={time}")
            assert (first["offset"], first["timestamp"]) == (5, now_ms - 5000), time
            assert (second["offset"], second["timestamp"]) == (None, None)
        assert http.good("GET", f"topics/%2F/t/offsets?time={now_ms}")[0]["offset"] is None
        assert http.good("GET", "topics/%2F/t/offsets")[0] == {"partition": 0, "start_offset": 0, "end_offset": 10}
        http = http.next_run()
        http.hub.scheduler.wall_ms = now_ms
    for time in ("soon", "-5", "2023-13-45", "9" * 30, "1e3"):
        assert http.refused("GET", f"topics/%2F/t/offsets?time={time}")[0] == 400, time


def test_who_may_do_what(http):
    """The vhost's permissions: as over Kafka's protocol. Who monitors sees all; without a tag there is nothing."""
    http.allow("maker", "^t$", "", "")
    http.allow("writer", "", "^t$", "")
    http.allow("reader", "", "", "^t$")
    http.allow("watcher", "", "", "", tags=("monitoring",))
    http.allow("nobody", ".*", ".*", ".*", tags=())
    record = {"records": [{"value": "x"}]}
    for user, method, target, body, status in (
        ("reader", "PUT", "topics/%2F/t", None, 401),
        ("maker", "PUT", "topics/%2F/u", None, 401),
        ("maker", "PUT", "topics/%2F/t", None, 201),
        ("maker", "GET", "topics/%2F/t", None, 200),
        ("writer", "GET", "topics/%2F/t", None, 200),
        ("watcher", "GET", "topics/%2F/t", None, 200),
        ("reader", "POST", "topics/%2F/t/records", record, 401),
        ("writer", "POST", "topics/%2F/t/records", record, 200),
        ("writer", "GET", "topics/%2F/t/records", None, 401),
        ("watcher", "GET", "topics/%2F/t/records", None, 401),
        ("reader", "GET", "topics/%2F/t/records", None, 200),
        ("writer", "PATCH", "topics/%2F/t", {"partitions": 2}, 401),
        ("maker", "PATCH", "topics/%2F/t", {"partitions": 2}, 204),
        ("maker", "DELETE", "topics/%2F/t/records?before=latest", None, 401),
        ("writer", "DELETE", "topics/%2F/t", None, 401),
        ("nobody", "GET", "topics/%2F/t", None, 401),
        ("reader", "GET", "topics/elsewhere/t", None, 404),
    ):
        assert http.ask(method, target, body, user)[0] == status, (user, method, target)
    assert [row["name"] for row in http.good("GET", "topics", user="reader")] == ["t"]
    assert [row["name"] for row in http.good("GET", "topics", user="maker")] == ["t"]
    assert len(http.good("GET", "topics", user="watcher")) == 1


def test_many_partitions_hold_nobody_up(http):
    """Ten thousand partitions are shown and listed with pauses, a few hundred of them at a time."""
    http.topic(partitions=10_000)
    _, pauses = http.finish(http.steps("GET", "topics/%2F/t"))
    assert pauses >= 40
    assert len(http.good("GET", "topics/%2F/t")["partition_details"]) == 10_000
    assert http.good("GET", "topics/%2F")[0]["partitions"] == 10_000
    assert len(http.good("GET", "topics/%2F/t/offsets?time=5m")) == 10_000
