"""`x-recent-history` (RabbitMQ's rabbitmq_recent_history_exchange)."""

import pytest
from exchange_helpers import Publishing, Target, bind, binding, made

from broker.core.exchange import recent_history
from broker.core.exchange.recent_history import RecentHistoryRouter
from broker.errors import Refused


def publish(router, number, headers=None):
    return router.route(Publishing("k", headers, message=(b"", b"%d" % number)))


def history(router):
    """What a new binding would get."""
    new = binding(Target("new"))
    messages = router.add(new)
    router.remove(new)
    return [int(content) for _, content in messages]


def test_fanout_and_the_last_messages_for_a_new_binding():
    """Routed to all; 20 kept unless said otherwise; oldest first; also what came while nothing was bound."""
    router, one = made(RecentHistoryRouter), Target("one")
    assert publish(router, 0) == ()
    bind(router, one, "whatever")
    for number in range(1, 25):
        assert publish(router, number) == (one,)
    assert history(router) == list(range(5, 25))
    assert not router.cacheable


def test_length():
    """`x-recent-history-length` messages, of any int width."""
    router = made(RecentHistoryRouter, {"x-recent-history-length": 3})
    for number in range(5):
        publish(router, number)
    assert history(router) == [2, 3, 4]
    huge = made(RecentHistoryRouter, {"x-recent-history-length": 2**64 - 1})
    publish(huge, 1)
    assert history(huge) == [1]


@pytest.mark.parametrize("length", [0, -1, "20", True, 2.0, None, [1]])
def test_bad_lengths_are_refused(length):
    """406: a positive integer it must be."""
    with pytest.raises(Refused, match="'x-recent-history-length' must be a positive integer") as refusal:
        made(RecentHistoryRouter, {"x-recent-history-length": length})
    assert refusal.value.reply_code == 406


def test_no_store():
    """The header keeps a message out when it is true, and only the boolean is true."""
    router, one = made(RecentHistoryRouter), Target("one")
    bind(router, one)
    for number, value in enumerate([True, False, "true", 1, None]):
        assert publish(router, number, {"x-recent-history-no-store": value}) == (one,)
    assert history(router) == [1, 2, 3, 4]


def test_memory_is_bounded_by_size(monkeypatch):
    """The oldest go when their bytes are too many, empty messages count as well, the newest always stays."""
    monkeypatch.setattr(recent_history, "HISTORY_BYTES_MAX", 10_000)
    router = made(RecentHistoryRouter, {"x-recent-history-length": 10**9})
    for _ in range(1000):
        router.route(Publishing(message=(b"", b"")))
    assert len(router.add(binding(Target("a")))) == 10_000 // recent_history.MESSAGE_OVERHEAD_BYTES
    large = (b"o", bytes(20_000))
    router.route(Publishing(message=large))
    assert router.add(binding(Target("b"))) == (large,)
    small = (b"o", b"small")
    router.route(Publishing(message=small))
    assert router.add(binding(Target("c"))) == (small,)
    assert router._history_bytes == len(b"osmall") + recent_history.MESSAGE_OVERHEAD_BYTES
