"""`x-message-deduplication` (the plugin rabbitmq-message-deduplication)."""

import pytest
from exchange_helpers import Publishing, Target, bind, made

from broker.core.exchange import deduplication
from broker.core.exchange.deduplication import DeduplicationRouter
from broker.errors import Refused

ABSENT = object()


class Exchange:
    """A router with one destination, and a clock."""

    def __init__(self, **arguments):
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.router = made(DeduplicationRouter, {"x-cache-size": 100} | arguments)
        self.target = Target("t")
        bind(self.router, self.target, "whatever")
        self.wall_ms = 1_000_000

    def routed(self, value=ABSENT, **headers):
        """Publish; True if it came through."""
        headers = {name.replace("_", "-"): item for name, item in headers.items()}
        if value is not ABSENT:
            headers["x-deduplication-header"] = value
        answer = self.router.route(Publishing("k", headers, wall_ms=self.wall_ms))
        assert answer in ((), (self.target,))
        return bool(answer)


def test_a_value_passes_once_and_no_value_always():
    """Fanout, but for values that were seen."""
    exchange = Exchange()
    assert [exchange.routed("a"), exchange.routed("a"), exchange.routed("b"), exchange.routed("a")] == [1, 0, 1, 0]
    assert exchange.routed()
    assert exchange.routed()
    assert not exchange.router.cacheable


def test_values_of_other_types_are_other_values():
    """1, '1', true and 1.0 differ; text and bytes do not; a void header is a value, too."""
    exchange = Exchange()
    values = [1, "1", True, 1.0, None, "None", [1], "[1]", {"a": 1}]
    assert [exchange.routed(value) for value in values] == [True] * len(values)
    assert [exchange.routed(value) for value in values] == [False] * len(values)
    assert exchange.routed("text")
    assert not exchange.routed(b"text")


def test_long_values_are_told_apart_and_kept_small():
    """Values past the bound are remembered by digest."""
    exchange = Exchange()
    values = ["v" * 100_000 + str(number) for number in range(3)]
    assert [exchange.routed(value) for value in values * 2] == [True] * 3 + [False] * 3
    assert not exchange.routed(values[0].encode())
    assert all(len(raw) <= deduplication.VALUE_BYTES_MAX for _, raw in exchange.router._seen)


def test_ttl_of_the_exchange_and_of_the_message():
    """Milliseconds; the message's own counts more; a duplicate does not make the time longer."""
    exchange = Exchange(x_cache_ttl=1000)
    assert exchange.routed("a")
    assert exchange.routed("long", x_cache_ttl=5000)
    assert exchange.routed("default", x_cache_ttl="not a number")
    exchange.wall_ms += 999
    assert [exchange.routed(value) for value in ("a", "long", "default")] == [False, False, False]
    exchange.wall_ms += 1
    assert [exchange.routed(value) for value in ("a", "long", "default")] == [True, False, True]
    exchange.wall_ms += 4000
    assert exchange.routed("long")


def test_without_ttl_a_value_stays_until_others_need_the_room():
    """The oldest goes first, and memory ends at the size."""
    exchange = Exchange(x_cache_size=3)
    for value in ("a", "b", "c"):
        assert exchange.routed(value)
    exchange.wall_ms += 10**12
    assert not exchange.routed("a")
    assert exchange.routed("d")
    assert exchange.routed("a")
    assert [exchange.routed(value) for value in ("c", "d", "a")] == [False, False, False]
    assert len(exchange.router._seen) == 3


def test_expired_values_make_room_first():
    """A value that is alive is not forgotten while expired ones stand before it."""
    exchange = Exchange(x_cache_size=3, x_cache_ttl=1000)
    exchange.routed("old")
    exchange.routed("older")
    exchange.wall_ms += 2000
    exchange.routed("alive")
    for number in range(2):
        exchange.routed(number)
    assert not exchange.routed("alive")


@pytest.mark.parametrize("size", [ABSENT, 0, -1, "", "x", "12x", "-1", True, 1.5, None])
def test_bad_sizes_are_refused(size):
    """406: required, and an integer greater than 0 (or its digits)."""
    arguments = {} if size is ABSENT else {"x-cache-size": size}
    with pytest.raises(Refused, match="'x-cache-size' must be an integer greater than 0") as refusal:
        made(DeduplicationRouter, arguments)
    assert refusal.value.reply_code == 406


@pytest.mark.parametrize(
    ("argument", "value", "text"),
    [
        ("x-cache-size", deduplication.CACHE_SIZE_MAX + 1, "must be at most 1000000"),
        ("x-cache-ttl", 0, "'x-cache-ttl' must be an integer greater than 0"),
        ("x-cache-ttl", "soon", "'x-cache-ttl' must be an integer greater than 0"),
        ("x-cache-persistence", "tape", "'x-cache-persistence' must be either 'disk' or 'memory'"),
    ],
)
def test_other_bad_arguments_are_refused(argument, value, text):
    """406 at declaration."""
    with pytest.raises(Refused, match=text) as refusal:
        made(DeduplicationRouter, {"x-cache-size": 1} | {argument: value})
    assert refusal.value.reply_code == 406


def test_arguments_may_be_digits():
    """As the plugin takes them from policies and consoles."""
    exchange = Exchange(x_cache_size="2", x_cache_ttl="10", x_cache_persistence="disk")
    assert exchange.routed("a")
    exchange.wall_ms += 10
    assert exchange.routed("a")


class Notes:
    """A log that writes down what it is told."""

    def __init__(self):
        self.live = {}
        self.duplicates = []
        self.count = 0

    def note(self, value, expires_ms, wall_ms):
        self.count += 1
        self.live[self.count] = (value, expires_ms)
        return self.count

    def forget(self, number):
        del self.live[number]

    def dropped(self, number):
        self.duplicates.append(number)


def test_the_keeper_holds_what_the_router_remembers():
    """What is forgotten, for its time or for want of room, is forgotten there too; what it recalls is a duplicate."""
    exchange = Exchange(x_cache_size=3, x_cache_ttl=1000)
    notes = exchange.router.log = Notes()
    for number in range(5):
        exchange.routed(number)
    assert [value for value, _ in notes.live.values()] == [("int", b"2"), ("int", b"3"), ("int", b"4")]
    exchange.wall_ms += 1000
    assert exchange.routed(4)
    assert list(notes.live.values()) == [(("int", b"4"), exchange.wall_ms + 1000)]
    assert exchange.routed("huge", x_cache_ttl=2**63 - 1)
    assert exchange.routed("past", x_cache_ttl=-(2**62))
    assert list(notes.live.values())[1:] == [(("text", b"huge"), 2**63 - 1), (("text", b"past"), 0)]
    exchange.router.recall(("int", b"7"), None, 77)
    assert not exchange.routed(7)
    assert notes.duplicates == [77]


def test_what_nobody_took_was_not_seen():
    """The publisher of a message that no queue took may send it again; what others have sent since stays."""
    exchange = Exchange(x_cache_size=2)
    notes = exchange.router.log = Notes()
    first = Publishing("k", {"x-deduplication-header": "a"})
    assert exchange.router.route(first)
    first.undo[0]()
    assert not notes.live
    assert exchange.routed("a")
    first.undo[0]()
    assert not exchange.routed("a")
    again = Publishing("k", {"x-deduplication-header": "a"})
    assert exchange.router.route(again) == ()
    assert again.undo == []


def test_much_that_has_expired_goes_a_little_at_a_time():
    """One publication among ten thousand expired values costs what any does, and they end before the cache is full."""
    exchange = Exchange(x_cache_size=100_000, x_cache_ttl=1000)
    notes = exchange.router.log = Notes()
    for number in range(10_000):
        exchange.routed(number)
    exchange.wall_ms += 2000
    before = len(notes.live)
    assert exchange.routed("new")
    assert before - len(notes.live) < 10
    assert exchange.routed(9_999)
    for number in range(5_000):
        exchange.routed(("other", number))
    assert len(notes.live) == 5_002
