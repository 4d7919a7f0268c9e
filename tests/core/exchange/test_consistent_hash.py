"""`x-consistent-hash` (RabbitMQ's rabbitmq_consistent_hash_exchange)."""

import subprocess
import sys
from collections import Counter

import pytest
from exchange_helpers import NoHeaders, Publishing, Target, bind, binding, made
from hypothesis import given
from hypothesis import strategies as st

from broker.core.exchange.consistent_hash import WEIGHT_MAX, ConsistentHashRouter, jump
from broker.errors import Refused

KEYS = [f"key {number}" for number in range(4000)]


def spread(router):
    """Key -> destination."""
    answers = {}
    for key in KEYS:
        (answers[key],) = router.route(NoHeaders(key))
    return answers


def with_targets(weights):
    router, targets = made(ConsistentHashRouter), [Target(n) for n in range(len(weights))]
    bindings = [bind(router, target, str(weight)) for target, weight in zip(targets, weights, strict=True)]
    return router, targets, bindings


def test_one_destination_and_always_the_same():
    """Nothing bound: nowhere; else one destination, that depends on the key alone."""
    assert made(ConsistentHashRouter).route(NoHeaders("a")) == ()
    router, _, _ = with_targets([1, 1, 1])
    assert spread(router) == spread(router) == spread(with_same_targets(router))


def with_same_targets(router):
    """Another router, bound as that one was."""
    other = made(ConsistentHashRouter)
    for target, weights in router._bindings.items():
        for weight in weights.values():
            bind(other, target, str(weight))
    return other


def test_shares_follow_weights():
    """Each share is within five standard deviations of its weight's part."""
    router, targets, _ = with_targets([1, 2, 5])
    counts = Counter(spread(router).values())
    for target, weight in zip(targets, (1, 2, 5), strict=True):
        part = weight / 8
        assert abs(counts[target] - part * len(KEYS)) < 5 * (part * (1 - part) * len(KEYS)) ** 0.5


def test_a_new_binding_takes_keys_and_moves_no_other():
    """What changes its destination goes to the new one, and it is about its share."""
    router, _, _ = with_targets([1] * 9)
    before = spread(router)
    new = Target("new")
    bind(router, new, "1")
    moved = [target for key, target in spread(router).items() if target is not before[key]]
    assert set(moved) == {new}
    assert 300 < len(moved) < 500


@pytest.mark.parametrize("gone", [0, 4, 8])
def test_a_removed_binding_gives_its_keys_and_moves_no_other(gone):
    """Wherever it stood; the others share what it had, and one bound in its place gets it back."""
    router, targets, bindings = with_targets([3] * 9)
    before = spread(router)
    router.remove(bindings[gone])
    after = spread(router)
    for key, target in before.items():
        assert after[key] is target or target is targets[gone]
    heirs = Counter(after[key] for key, target in before.items() if target is targets[gone])
    assert len(heirs) == 8
    assert max(heirs.values()) < 3 * min(heirs.values())
    router.add(bindings[gone])
    assert spread(router) == before


def test_same_answer_in_another_process():
    """Nothing depends on the process's hash seed."""
    program = (
        "from broker.core.exchange.consistent_hash import jump, _hash;"
        "print([jump(_hash(value), 1000) for value in ('a', b'b', 5, True, None, 1.5, [1, 'x'])])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1
    assert runs.pop().startswith("[")


def test_the_oldest_binding_of_a_destination_gives_its_weight():
    """A second one changes nothing until the first is gone."""
    router, (one, other), bindings = with_targets([1, 1])
    before = spread(router)
    second = bind(router, one, "1000")
    assert spread(router) == before
    router.remove(bindings[0])
    assert Counter(spread(router).values())[one] > 0.98 * len(KEYS)
    router.remove(second)
    assert set(spread(router).values()) == {other}
    router.remove(bindings[1])
    assert router.route(NoHeaders("a")) == ()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", 'The binding key must be an integer: <<"">>'),
        ("abc", 'The binding key must be an integer: <<"abc">>'),
        ("1.5", 'The binding key must be an integer: <<"1.5">>'),
        (" 1", 'The binding key must be an integer: <<" 1">>'),
        ("1_0", 'The binding key must be an integer: <<"1_0">>'),
        ("\u0661", 'The binding key must be an integer: <<"\u0661">>'),
        ("0", "The binding key must be greater than 0"),
        ("-3", "The binding key must be greater than 0"),
        ("9" * 255, f"The binding key must be at most {WEIGHT_MAX}"),
    ],
)
def test_bad_weights_are_refused(key, text):
    """406 in RabbitMQ's words; what its Erlang takes for an integer is one."""
    with pytest.raises(Refused) as refusal:
        made(ConsistentHashRouter).check_binding(key, {})
    assert (refusal.value.reply_code, refusal.value.text) == (406, text)


def test_good_weights_are_taken():
    """Also with a plus sign, as in Erlang."""
    for key in ("1", "+7", "007", str(WEIGHT_MAX)):
        made(ConsistentHashRouter).check_binding(key, {})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"hash-header": "h", "hash-property": "message_id"}, "hash-header and hash-property are mutually exclusive"),
        ({"hash-property": "user_id"}, "Unsupported property: user_id"),
        ({"hash-property": "message-id"}, "Unsupported property: message-id"),
        ({"hash-property": 5}, "hash-property must be a string"),
        ({"hash-header": ["h"]}, "hash-header must be a string"),
    ],
)
def test_bad_arguments_are_refused(arguments, text):
    """406 at declaration."""
    with pytest.raises(Refused) as refusal:
        made(ConsistentHashRouter, arguments)
    assert (refusal.value.reply_code, refusal.value.text) == (406, text)


def hashed_on(arguments):
    router = made(ConsistentHashRouter, arguments)
    for number in range(50):
        bind(router, Target(number), "1")
    return router


def test_hash_header():
    """The header decides and nothing else; messages without it go to one destination; text and bytes are alike."""
    router = hashed_on({"hash-header": "h"})
    route = router.route
    answers = {route(Publishing(f"k{n % 3}", {"h": f"value {n}"})) for n in range(200)}
    assert len(answers) > 40
    assert route(Publishing("k", {"h": "v"})) == route(Publishing("l", {"h": b"v", "other": 1}))
    assert route(Publishing("k")) == route(Publishing("l", {"other": 1}))
    for value in (True, 5, 5.5, None, [1, [2]], {"a": {"b": 1}}):
        assert len(route(Publishing("k", {"h": value}))) == 1
    assert not router.cacheable


@pytest.mark.parametrize(
    ("argument", "name", "values"),
    [("message_id", "message-id", "abc"), ("correlation_id", "correlation-id", "abc"), ("timestamp", "timestamp", 5)],
)
def test_hash_property(argument, name, values):
    """The property decides and nothing else; messages without it go to one destination."""
    router = hashed_on({"hash-property": argument})
    route = router.route
    assert len({route(Publishing("k", properties={name: f"{values}{n}"})) for n in range(200)}) > 40
    assert route(NoHeaders("k", properties={name: values})) == route(NoHeaders("l", properties={name: values}))
    assert route(NoHeaders("k")) == route(NoHeaders("l"))
    assert not router.cacheable


def test_cacheable_is_the_truth_of_the_instance():
    """The routing key alone decides only without arguments."""
    assert made(ConsistentHashRouter).cacheable
    assert not made(ConsistentHashRouter, {"hash-header": "h"}).cacheable


@given(st.integers(0, 2**64 - 1), st.integers(1, 10**9), st.integers(1, 10**6))
def test_jump_moves_keys_to_new_buckets_only(key, count, more):
    """A bucket in range; with more buckets either the same or a new one."""
    before, after = jump(key, count), jump(key, count + more)
    assert 0 <= before < count
    assert after == before or count <= after < count + more


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), max_size=40), st.integers(0, 2**64 - 1))
def test_any_history_of_bindings(changes, key):
    """Whatever came and went: shares are the weights, memory follows the bindings, a key finds one that is bound."""
    router, targets, bound = made(ConsistentHashRouter), [Target(n) for n in range(6)], {}
    for number, weight in changes:
        if number in bound:
            router.remove(bound.pop(number))
        else:
            bound[number] = binding(targets[number], str(weight))
            router.add(bound[number])
        buckets = router._buckets
        assert buckets.owned_count == sum(int(one.routing_key) for one in bound.values())
        assert owned(buckets) == {targets[n]: int(one.routing_key) for n, one in bound.items()}
        assert buckets.count <= 2 * buckets.owned_count
        assert buckets.run_count <= 4 * len(bound) + 64
        if bound:
            assert buckets.find(key) in [targets[n] for n in bound]


def owned(buckets):
    """Destination -> how many buckets, counted one by one."""
    starts = [*buckets._starts, buckets.count]
    assert starts == sorted(set(starts)) or not buckets.count
    counts = Counter()
    for owner, start, end in zip(buckets._owners, starts[:-1], starts[1:], strict=True):
        counts[owner] += end - start
    counts.pop(None, None)
    return dict(counts)


def test_ten_thousand_bindings_come_and_go_in_time():
    """Neither direction walks all runs per change: 10,000 of each in far less than their square."""
    router, _, bindings = with_targets([WEIGHT_MAX] * 10_000)
    for one in bindings:
        router.remove(one)
    assert router._buckets.run_count == 0
