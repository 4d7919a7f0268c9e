"""Publishing and getting over HTTP, without a socket in between."""

import pytest

from broker.core.access import Access
from broker.core.broker import Broker
from broker.core.message import make_origin
from broker.errors import Refused
from broker.server.http import messages
from protocol.amqp import content as wire


class World:
    """A vhost in memory with the queues `a`, `b` and `c`, and a user."""

    def __init__(self):
        self.broker = Broker(lambda _: 0)
        self.home = self.broker.add_vhost("/")
        for name in "abc":
            queue = self.home.declare_queue(
                name, durable=False, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
            )
            self.home.bind("amq.direct", queue, name, {})
        access = Access()
        access.put_user("guest")
        self.user = access.users["guest"]

    def queue(self, name):
        """The queue behind a name."""
        return self.home.queues[name]


@pytest.fixture
def world():
    """A world for each test."""
    return World()


def published(world, exchange="", key="a", size_max=1 << 20, **properties):
    """Publish as guest; whether it was routed."""
    body = {"routing_key": key, "payload": "x", "properties": properties}
    return messages.publish(world.home, exchange, body, world.user, size_max)


def counts(world):
    """Messages ready in `a`, `b` and `c`."""
    return [world.queue(name).ready_count for name in "abc"]


@pytest.mark.parametrize("exchange", ["", "amq.direct"])
def test_copies_go_where_those_of_amqp_go(world, exchange):
    """CC and BCC are further routing keys, and nobody sees BCC."""
    assert published(world, exchange, headers={"CC": ["b"], "BCC": ["c"]})
    assert counts(world) == [1, 1, 1]
    got = messages.get(world.queue("c"), 1, "ack_requeue_false", "auto", None)
    assert got[0]["properties"] == {"headers": {"CC": ["b"]}}
    assert published(world, exchange, "nowhere", headers={"CC": ["b"]})


def test_an_expiration_takes_effect(world):
    """A number, as JSON may write it, is the text that AMQP wants."""
    assert published(world, expiration=100)
    world.broker.scheduler.wall_ms += 1000
    world.broker.tick(1000)
    world.broker.scheduler.run_slice()
    assert counts(world) == [0, 0, 0]


def test_headers_that_an_exchange_cannot_route_by(world):
    """What a router refuses is refused, and nothing is published."""
    with pytest.raises(Refused, match="too many elements"):
        published(world, "amq.headers", headers={"many": [None] * 5000})


def test_what_was_not_routed_was_not_seen(world):
    """An exchange that drops duplicates lets it through once there is a queue."""
    world.home.declare_exchange("once", "x-message-deduplication", durable=False, auto_delete=False, internal=False,
                                arguments={"x-cache-size": 10})  # fmt: skip
    headers = {"x-deduplication-header": 1}
    assert not published(world, "once", headers=headers)
    world.home.bind("once", world.queue("a"), "", {})
    assert published(world, "once", headers=headers)
    assert not published(world, "once", headers=headers)
    assert counts(world) == [1, 0, 0]


def test_a_message_with_malformed_headers_can_be_seen(world):
    """Nobody looks inside when it is published over AMQP; here it comes without them."""
    octets = b"\x05plain\x00\x00\x00\x02\x09x"
    content = wire.encode_content(1, octets, wire.CONTENT_TYPE | wire.HEADERS, b"x", 131_072)
    world.queue("a").enqueue_one((make_origin(b"", b"a"), content))
    got = messages.get(world.queue("a"), 1, "ack_requeue_true", "auto", None)
    assert got[0]["properties"] == {"content_type": "plain"}


def test_what_cannot_be_shown_is_not_kept(world, monkeypatch):
    """A bug on the way to the answer: what was taken is back in its place."""
    published(world)
    published(world)
    view, shown = messages.message_view, []

    def failing(message, *arguments):
        if shown:
            raise RuntimeError
        shown.append(message)
        return view(message, *arguments)

    monkeypatch.setattr(messages, "message_view", failing)
    with pytest.raises(RuntimeError):
        messages.get(world.queue("a"), 5, "ack_requeue_false", "auto", None)
    cursor = world.queue("a").store.cursor
    assert (cursor.ready_count, cursor.leased_count) == (2, 0)
