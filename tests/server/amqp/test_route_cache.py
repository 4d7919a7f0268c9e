"""The cache of routes: what it remembers, and that it never answers for what has changed."""

from dataclasses import replace

import pytest
from amqp_harness import World, publish

from broker.server.amqp.routes import MISSES_PER_ENTRY, Route, RouteCache


@pytest.fixture
def world():
    return World()


@pytest.fixture
def client(world):
    client = world.connect()
    client.declare("q")
    client.bind("q", "amq.topic", "#")
    return client


def send(client, *keys):
    client.feed(b"".join(publish(1, "amq.topic", key, b"x") for key in keys))


def test_the_next_route_is_found_by_the_last(client):
    """A publisher that goes round is led from one to the next, until everything is forgotten."""
    send(client, "a", "b", "a", "b")
    cache = client.machine.routes
    a, b = cache.entries.values()
    assert (a.following, b.following) == (b, a)
    cache.forget()
    assert (cache.entries, a.following, b.following) == ({}, None, None)


def test_it_forgets_when_an_epoch_has_moved():
    """Of the vhost or of the permissions, routes and ports alike; the same epochs once more change nothing."""
    cache = RouteCache()
    for epochs in ((1, 0), (1, 1), (2, 1)):
        route = cache.entries[b"x"] = Route(b"x", None, (), b"", 0)
        cache.ports[b"x"] = None
        cache.check(*epochs)
        assert (cache.entries, cache.ports) == ({}, {})
        cache.entries[b"x"], cache.ports[b"x"] = route, None
        cache.check(*epochs)
        assert (cache.entries, cache.ports) == ({b"x": route}, {b"x": None})


def test_a_cache_that_has_overflowed_learns_slowly(world, client):
    """One miss in MISSES_PER_ENTRY makes an entry: keys that never come again push nothing through memory."""
    client.machine.settings = replace(world.settings, route_cache_entries_max=4)
    send(client, *(f"k{number}" for number in range(4)))
    assert len(client.machine.routes.entries) == 4
    send(client, "k4")
    entries = client.machine.routes.entries
    assert len(entries) <= 1
    before = len(entries)
    send(client, *(f"more{number}" for number in range(2 * MISSES_PER_ENTRY)))
    assert len(entries) == before + 2
    assert world.queue("q").ready_count == 5 + 2 * MISSES_PER_ENTRY
