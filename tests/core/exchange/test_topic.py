"""`topic` (spec 3.1.3.3; edge cases as RabbitMQ 4.0.5 answered them)."""

import pytest
from exchange_helpers import NoHeaders, Target, bind, binding, made
from hypothesis import given
from hypothesis import strategies as st

from broker.core.exchange import topic
from broker.core.exchange.topic import TopicRouter
from broker.errors import Refused

OBSERVED = {
    ("a.*", "a.b"): 1, ("a.*", "a"): 0, ("a.*", "a."): 1, ("a.*", "a.b.c"): 0, ("#", ""): 1, ("#", "a"): 1,
    ("#", "."): 1, ("a.#", "a"): 1, ("a.#", "a.b"): 1, ("a.#", "ab"): 0, ("a.#.b", "a.b"): 1, ("a.#.b", "a.x.b"): 1,
    ("a.#.b", "a.x.y.b"): 1, ("*", ""): 0, ("*", "a"): 1, ("*", "a.b"): 0, ("#.#", ""): 1, ("#.#", "a"): 1,
    ("*.#", ""): 0, ("*.#", "a"): 1,
}  # fmt: skip
"""(pattern, routing key) -> copies, recorded from RabbitMQ 4.0.5."""


def routed(router, key):
    return router.route(NoHeaders(key))


def matches(pattern, words):
    """The rule as the specification puts it, on lists of words; exponential and plainly right."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return matches(pattern[1:], words) or bool(words and matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


def split(key):
    return key.split(".") if key else []


@pytest.mark.parametrize(("pattern", "key"), OBSERVED)
def test_observed(pattern, key):
    """Recorded answers, from the router and from the rule that the other tests trust."""
    router, target = made(TopicRouter), Target("t")
    bind(router, target, pattern)
    assert len(routed(router, key)) == OBSERVED[pattern, key] == matches(split(pattern), split(key))


def test_the_empty_pattern_is_the_empty_key():
    """No words on either side; a key of empty words has words."""
    router, target = made(TopicRouter), Target("t")
    bind(router, target, "")
    assert routed(router, "") == (target,)
    assert routed(router, ".") == routed(router, "a") == ()


def test_wildcards_only_as_whole_words():
    """`a*` and `##` are ordinary words; a key may contain wildcard characters, which then are ordinary words too."""
    router, literal, hashes, star = made(TopicRouter), Target("a*"), Target("##"), Target("star")
    bind(router, literal, "a*")
    bind(router, hashes, "##")
    bind(router, star, "x.*")
    assert routed(router, "a*") == (literal,)
    assert routed(router, "ab") == ()
    assert routed(router, "##") == (hashes,)
    assert routed(router, "x.#") == routed(router, "x.*") == (star,)


WORDS = st.sampled_from(["a", "b", "", "*", "#"])
KEYS = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=6).map(".".join)
PATTERNS = st.lists(WORDS, max_size=6).map(".".join)


@given(st.lists(PATTERNS, max_size=8), st.lists(KEYS, max_size=8))
def test_trie_like_the_rule(patterns, keys):
    """For any patterns and keys: the destinations that the rule gives, in binding order, the same when asked again."""
    router = made(TopicRouter)
    bound = {pattern: Target(pattern) for pattern in patterns}
    for pattern, target in bound.items():
        bind(router, target, pattern)
    for key in keys:
        expected = tuple(target for pattern, target in bound.items() if matches(split(pattern), split(key)))
        assert routed(router, key) == expected
        assert routed(router, key) == expected


@given(st.lists(st.tuples(PATTERNS, st.integers(0, 2)), unique=True, max_size=12), st.data())
def test_round_trip_leaves_nothing(bound, data):
    """Bindings removed in any order leave the answers of those that stay, and at the end an empty trie."""
    router, targets = made(TopicRouter), [Target(n) for n in range(3)]
    alive = [binding(targets[number], pattern) for pattern, number in bound]
    for one in alive:
        router.add(one)
    for gone in data.draw(st.permutations(alive)):
        router.remove(binding(gone.destination, gone.routing_key))
        alive.remove(gone)
        for key in ("", "a", "a.b", "a..b"):
            hits = [one.destination for one in alive if matches(split(one.routing_key), split(key))]
            assert routed(router, key) == tuple(dict.fromkeys(hits))
    assert router.empty


def test_trie_is_not_empty_while_bound():
    """The round trip's last assertion can fail."""
    for pattern in ("", "a", "*", "#", "a.b.#"):
        router = made(TopicRouter)
        assert router.empty
        bind(router, Target("t"), pattern)
        assert not router.empty


def test_several_matching_bindings_are_one_copy():
    """Copies are per destination, not per binding (RabbitMQ, observed)."""
    router, one, other = made(TopicRouter), Target("one"), Target("other")
    bind(router, other, "#")
    for pattern in ("a.b", "a.*", "a.#", "*.b", "#.b"):
        bind(router, one, pattern)
    assert routed(router, "a.b") == (other, one)


def test_equal_answers_are_one_object():
    """Whatever keys and patterns led to them, also past the bound of the key cache; `#` alone has one answer."""
    router, one, other = made(TopicRouter), Target("one"), Target("other")
    bind(router, one, "#")
    everything = routed(router, "first")
    for number in range(topic.KEYS_MAX + 100):
        assert routed(router, f"key.{number}") is everything
    assert len(router._routes) <= topic.KEYS_MAX
    bind(router, other, "a.*")
    bind(router, other, "b")
    assert routed(router, "a.x") == (one, other)
    assert routed(router, "a.x") is routed(router, "b") is routed(router, "a.y")


def test_remembered_answers_are_bounded_by_size(monkeypatch):
    """Large answers push each other out, by the number of references they hold and not by their number."""
    monkeypatch.setattr(topic, "SLOTS_MAX", 1000)
    router = made(TopicRouter)
    many = [Target(n) for n in range(100)]
    for target in many:
        bind(router, target, "#")
    for number in range(50):
        bind(router, Target(f"own {number}"), f"k{number}")
    for number in range(50):
        assert len(routed(router, f"k{number}")) == 101
        held = sum(map(len, router._interned)) + sum(map(len, router._merged))
        assert held <= 1000
        assert set(router._routes.values()) <= set(router._interned)


def test_changes_are_seen_at_once():
    """No remembered answer outlives a change of bindings."""
    router, one, other = made(TopicRouter), Target("one"), Target("other")
    first = bind(router, one, "a.*")
    assert routed(router, "a.b") == (one,)
    bind(router, other, "#.b")
    assert routed(router, "a.b") == (one, other)
    router.remove(first)
    assert routed(router, "a.b") == (other,)


def test_many_hashes_in_one_pattern_cost_no_more_than_words():
    """A recursive walk takes longer than the age of the universe for this one."""
    router, target = made(TopicRouter), Target("t")
    bind(router, target, ".".join(["#", "a"] * 60))
    assert routed(router, ".".join("a" * 127)) == (target,)
    assert routed(router, ".".join("a" * 59)) == ()


def test_patterns_made_to_be_slow_are_refused():
    """Thousands of patterns alive at one word would hold the loop for seconds; the publisher is told instead."""
    router = made(TopicRouter)
    for number in range(2 * topic.STATES_MAX):
        bind(router, Target(number), ".".join("a*"[number >> bit & 1] for bit in range(14)) + ".z")
    with pytest.raises(Refused, match="more than 4096 patterns") as refusal:
        routed(router, ".".join("a" * 14))
    assert refusal.value.reply_code == 406
    assert routed(router, "b.c") == ()
