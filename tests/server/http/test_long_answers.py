"""Answers about very many things come in short steps: nobody else waits for them."""

from http_world import HttpWorld
from kafka_wire import batch
from steps import assert_short_steps

from broker.server.http.api import Listing
from broker.server.http.encoding import to_json

PARTITIONS = 10_000


def watched(counter, http, method, target, body=None):
    """Take an answer step by step, as the server does, and write it row by row."""
    steps = http.steps(method, target, body)
    done = []
    while not done:
        counter.run(lambda: steps.advance() and done.append(True))
        counter.run(http.hub.end_turn)
    values = steps.answer.values() if isinstance(steps.answer, dict) else [steps.answer]
    for listing in [one for one in values if isinstance(one, Listing)]:
        rows = iter(listing.rows)
        ended = []

        def write(rows=rows, view=listing.view, ended=ended):
            row = next(rows, ended)
            if row is ended:
                ended.append(True)
            elif row is not None:
                to_json(view(row))

        while not ended:
            counter.run(write)
    http.settle()
    return steps.answer


def wide():
    """A topic of many partitions."""
    http = HttpWorld()
    http.topic("wide", PARTITIONS)
    return http


def test_a_topic_of_many_partitions():
    """Shown, with its ends and with those at a time."""

    def scenario(counter):
        http = wide()
        for target in ("topics/%2F/wide", "topics/%2F/wide/offsets", "topics/%2F/wide/offsets?time=5m"):
            watched(counter, http, "GET", target)

    assert_short_steps(scenario)


def test_records_for_many_partitions():
    """A thousand records of as many keys."""

    def scenario(counter):
        http = wide()
        records = [{"key": f"key-{number}", "value": "x" * 50} for number in range(1000)]
        answer = watched(counter, http, "POST", "topics/%2F/wide/records", {"records": records})
        assert len({one["partition"] for one in answer["offsets"]}) > 900

    assert_short_steps(scenario)


def test_a_group_with_many_offsets():
    """Moved, shown, and its offsets deleted."""

    def scenario(counter):
        http = wide()
        watched(counter, http, "PUT", "groups/%2F/g/offsets", {"topic": "wide", "to": "earliest"})
        watched(counter, http, "PUT", "groups/%2F/g/offsets", {"to": "+1"})
        watched(counter, http, "GET", "groups/%2F/g")
        watched(counter, http, "GET", "topics/%2F/wide")
        assert watched(counter, http, "DELETE", "groups/%2F/g/offsets?topics=wide") == {"deleted": PARTITIONS}

    assert_short_steps(scenario)


def test_a_batch_of_many_records():
    """From its middle on."""

    def scenario(counter):
        http = HttpWorld()
        http.topic().partitions[0].append(batch([b"x"] * 60_000, timestamp_ms=1_000_000), 1_000_000)
        http.settle()
        watched(counter, http, "GET", "topics/%2F/t/records?from=50000&count=1000")

    assert_short_steps(scenario)
