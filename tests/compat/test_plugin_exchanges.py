"""The exchange types that are plugins in RabbitMQ and built in here, by one script on both brokers."""

from collections.abc import Sequence
from typing import Any

import pika
import pytest
from compat_brokers import Target
from pika_sessions import bodies, opened

KEYS = [f"key-{number}" for number in range(2000)]


def _bound(channel: Any, exchange: str, routing_keys: Sequence[str]) -> list[str]:
    """A queue for each routing key, bound with it."""
    queues = []
    for key in routing_keys:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, exchange, key)
        queues.append(queue)
    return queues


def _shares(channel: Any, queues: Sequence[str]) -> list[list[bytes]]:
    return [bodies(channel, queue) for queue in queues]


def test_consistent_hash_by_weight_and_key(broker: Target) -> None:
    """Each message goes to one queue; equal keys to the same; shares follow the binding keys as weights."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("hash", "x-consistent-hash")
        queues = _bound(channel, "hash", ["10", "20", "10"])
        for key in KEYS:
            channel.basic_publish("hash", key, key.encode())
        first = _shares(channel, queues)
        assert sum(map(len, first)) == len(KEYS)
        shares = [len(one) / len(KEYS) for one in first]
        assert shares == pytest.approx([0.25, 0.5, 0.25], rel=0.4)
        for key in KEYS[:300]:
            channel.basic_publish("hash", key, key.encode())
        again = _shares(channel, queues)
        assert all(set(one) <= set(before) for one, before in zip(again, first, strict=True))


def test_consistent_hash_moves_few_keys(broker: Target) -> None:
    """A queue less: only its keys go elsewhere. (The last one: RabbitMQ 3.10 moves more when an earlier one goes.)"""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("hash", "x-consistent-hash")
        queues = _bound(channel, "hash", ["5"] * 4)
        for key in KEYS:
            channel.basic_publish("hash", key, key.encode())
        before = _shares(channel, queues)
        channel.queue_unbind(queues[-1], "hash", "5")
        for key in KEYS:
            channel.basic_publish("hash", key, key.encode())
        after = _shares(channel, queues)
        assert after[-1] == []
        assert all(set(one) <= set(later) for one, later in zip(before[:-1], after[:-1], strict=True))


@pytest.mark.parametrize(
    ("arguments", "properties"),
    [
        ({"hash-header": "who"}, lambda value: pika.BasicProperties(headers={"who": value})),
        ({"hash-property": "message_id"}, lambda value: pika.BasicProperties(message_id=value)),
        ({"hash-property": "correlation_id"}, lambda value: pika.BasicProperties(correlation_id=value)),
    ],
)
def test_consistent_hash_on_something_else(broker: Target, arguments: dict[str, str], properties: Any) -> None:
    """The routing key counts no more: a header or a property decides, and equal ones meet."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("hash", "x-consistent-hash", arguments=arguments)
        queues = _bound(channel, "hash", ["1"] * 3)
        for number in range(300):
            who = f"who-{number % 30}"
            channel.basic_publish("hash", f"key-{number}", who.encode(), properties(who))
        shares = _shares(channel, queues)
        assert sum(map(len, shares)) == 300
        assert sum(len(set(share)) for share in shares) == 30


@pytest.mark.parametrize("weight", ["nope", "-1", "1.5"])
def test_consistent_hash_weight_that_is_none(broker: Target, weight: str) -> None:
    """406 for a binding key that is no number."""
    with opened(broker) as channel:
        channel.exchange_declare("hash", "x-consistent-hash")
        queue = channel.queue_declare("", exclusive=True).method.queue
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
            channel.queue_bind(queue, "hash", weight)
        assert closed.value.reply_code == 406


def test_random_goes_to_one_of_all(broker: Target) -> None:
    """Each message to exactly one queue, all of them in the long run, whatever the keys say."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("dice", "x-random")
        queues = _bound(channel, "dice", ["a", "b", ""])
        for number in range(600):
            channel.basic_publish("dice", "any", b"%d" % number)
        shares = _shares(channel, queues)
        assert sum(map(len, shares)) == 600
        assert all(len(one) > 100 for one in shares)


def test_recent_history(broker: Target) -> None:
    """Who binds late gets the last messages first, in order; the length can be chosen; no-store is not kept."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("news", "x-recent-history", arguments={"x-recent-history-length": 3})
        for number in range(5):
            channel.basic_publish("news", "k", b"%d" % number)
        channel.basic_publish("news", "k", b"secret", pika.BasicProperties(headers={"x-recent-history-no-store": True}))
        (late,) = _bound(channel, "news", [""])
        assert bodies(channel, late) == [b"2", b"3", b"4"]
        channel.basic_publish("news", "other", b"5")
        assert bodies(channel, late) == [b"5"]


def test_recent_history_keeps_twenty(broker: Target) -> None:
    """The length when none is given."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("news", "x-recent-history")
        for number in range(30):
            channel.basic_publish("news", "k", b"%d" % number)
        (late,) = _bound(channel, "news", [""])
        assert bodies(channel, late) == [b"%d" % number for number in range(10, 30)]


@pytest.mark.parametrize("length", [0, -1, "many"])
def test_recent_history_length_that_is_none(broker: Target, length: Any) -> None:
    """406."""
    with opened(broker) as channel, pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        channel.exchange_declare("news", "x-recent-history", arguments={"x-recent-history-length": length})
    assert closed.value.reply_code == 406
