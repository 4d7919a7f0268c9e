"""Whatever a request says: an answer, never a bug; what was there before is still there."""

from urllib.parse import quote

import pytest
from http_world import HttpWorld
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS = (
    ("PUT", "topics/%2F/{name}"),
    ("PATCH", "topics/%2F/t"),
    ("POST", "topics/%2F/t/records"),
    ("PUT", "groups/%2F/{name}/offsets"),
    ("PUT", "groups/%2F/g/offsets"),
)
QUERIES = (
    ("GET", "topics/%2F/t/records", ("partition", "from", "time", "count", "truncate")),
    ("DELETE", "topics/%2F/t/records", ("partition", "before")),
    ("GET", "topics/%2F/t/offsets", ("time",)),
    ("DELETE", "groups/%2F/g/offsets", ("topics", "topic")),
    ("GET", "topics/%2F", ("columns",)),
)
FIELDS = (
    "partitions", "config", "records", "partition", "topic", "topics", "to", "dry_run", "key", "value", "headers",
    "timestamp", "key_encoding", "value_encoding", "retention.ms", "cleanup.policy", "name", "encoding",
)  # fmt: skip
WORDS = (
    "t", "g", "earliest", "latest", "+1", "-1", "5m", "2026-01-01", "base64", "string", "compact", "0", "1", "true",
)  # fmt: skip
TEXTS = st.sampled_from(WORDS) | st.text(max_size=20)
LEAVES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | TEXTS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4) | st.dictionaries(
    st.sampled_from(("records", "partition")), st.lists(st.dictionaries(st.sampled_from(FIELDS), LEAVES), max_size=3)
)


@pytest.fixture(scope="module")
def http():
    """A topic, records in it, and a group."""
    http = HttpWorld()
    http.topic(partitions=2)
    http.produce({"key": "k", "value": "x"}, {"value": "y", "partition": 0})
    http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": "earliest"})
    return http


def still_works(http):
    """What this module began with is there."""
    assert http.good("GET", "topics/%2F/t")["name"] == "t"
    assert isinstance(http.good("GET", "groups"), list)


@settings(max_examples=150, deadline=None)
@given(where=st.sampled_from(TARGETS), name=TEXTS.filter(bool), body=BODIES)
def test_any_body(http, where, name, body):
    """Objects of the right names and wrong values: done, or 4xx with a reason."""
    method, target = where
    # One topic of ten thousand partitions is enough for a test.
    if body.get("partitions", 0) in range(10, 10_001):
        body["partitions"] = 3
    status, found = http.ask(method, target.format(name=quote(name, safe="")), body)
    assert status < 300 or (400 <= status < 500 and found["reason"]), found
    still_works(http)


@settings(max_examples=100, deadline=None)
@given(where=st.sampled_from(QUERIES), values=st.lists(TEXTS | st.integers().map(str), min_size=5, max_size=5))
def test_any_query(http, where, values):
    """The same of queries."""
    method, target, names = where
    query = "&".join(f"{name}={quote(value)}" for name, value in zip(names, values, strict=False) if value)
    status, found = http.ask(method, f"{target}?{query}")
    assert status < 300 or (400 <= status < 500 and found["reason"]), found
    still_works(http)
