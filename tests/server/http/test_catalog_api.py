"""What a start has left aside is listed, and dropped by administrators."""

import pytest
from http_world import HttpWorld

from broker.core import catalog

QUEUE = catalog.key(catalog.QUEUE, "/", "odd")
TOPIC = catalog.key(catalog.TOPIC, "secret", "odd")


@pytest.fixture
def http():
    """A broker that could not use two entries, one of them with a log of its own."""
    before = HttpWorld()
    before.broker.vhosts["/"].declare_queue(
        "odd", durable=True, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
    )
    before.settle()
    before.store.put(QUEUE, b"")
    before.store.put(TOPIC, b"")
    before.settle()
    return before.next_run()


def ids(http):
    """Of all that are listed, by place."""
    return {row["place"]: row["id"] for row in http.good("GET", "catalog/aside")}


def test_listed(http):
    """With kind, place and reason, whatever vhost they are of."""
    rows = http.good("GET", "catalog/aside")
    assert {(row["kind"], row["place"]) for row in rows} == {
        ("queue", "queue 'odd' in vhost '/'"), ("topic", "topic 'odd' in vhost 'secret'"),
    }  # fmt: skip
    assert all(row["reason"] for row in rows)


def test_dropped_for_good(http):
    """One goes, the other stays; with the last, health is well and the next start frees the log."""
    places = ids(http)
    logs = len(http.store.logs)
    assert http.ask("DELETE", f"catalog/aside/{places[catalog.place_of(TOPIC)]}") == (204, None)
    assert list(ids(http)) == [catalog.place_of(QUEUE)]
    assert http.refused("GET", "health")[0] == 503
    assert http.ask("DELETE", f"catalog/aside/{places[catalog.place_of(QUEUE)]}") == (204, None)
    assert (ids(http), http.good("GET", "health")["status"]) == ({}, "ok")
    assert http.refused("DELETE", f"catalog/aside/{places[catalog.place_of(QUEUE)]}")[0] == 404
    again = http.next_run()
    assert ids(again) == {}
    assert len(again.store.logs) == logs - 1


def test_told_when_it_is_durable(http):
    """Who is told that an entry is gone does not find it again after a crash."""
    [wanted, *_] = ids(http).values()
    promised = http.store.promised_count
    assert http.ask("DELETE", f"catalog/aside/{wanted}") == (204, None)
    assert http.store.promised_count > promised  # That is what answers wait by.


@pytest.mark.parametrize("tags", [("management",), ("monitoring", "policymaker")])
def test_for_administrators_alone(http, tags):
    """Nobody else drops one, or learns the names of other vhosts."""
    [*wanted] = ids(http).values()
    http.allow("other", ".*", ".*", ".*", tags)
    assert http.refused("GET", "catalog/aside", user="other")[0] == 401
    for one in wanted:
        assert http.refused("DELETE", f"catalog/aside/{one}", user="other")[0] == 401
    assert len(ids(http)) == 2


def test_what_was_declared_under_the_name_stays(http):
    """Only what was left aside goes, not what has its name now."""
    http.broker.vhosts["/"].declare_queue(
        "odd", durable=True, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
    )
    http.settle()
    for one in ids(http).values():
        http.good("DELETE", f"catalog/aside/{one}")
    assert "odd" in http.next_run().broker.vhosts["/"].queues
