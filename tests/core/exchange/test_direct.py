"""`direct` (spec 3.1.3.1)."""

from exchange_helpers import NoHeaders, Target, bind, binding, made
from hypothesis import given
from hypothesis import strategies as st

from broker.core.exchange.direct import DirectRouter


def routed(router, key):
    return router.route(NoHeaders(key))


def test_equal_keys_match_and_nothing_else_does():
    """The routing key is compared as a whole; wildcards mean nothing."""
    router, one, other = made(DirectRouter), Target("one"), Target("other")
    bind(router, one, "a")
    bind(router, other, "#")
    assert routed(router, "a") == (one,)
    assert routed(router, "#") == (other,)
    assert routed(router, "") == routed(router, "a.b") == routed(router, "A") == ()


def test_binding_order_and_no_repetition():
    """Destinations come in binding order; two bindings that differ in arguments are one copy."""
    router, one, other = made(DirectRouter), Target("one"), Target("other")
    bind(router, other, "k")
    bind(router, one, "k")
    bind(router, other, "k", {"a": 1})
    assert routed(router, "k") == (other, one)


def test_removing_one_of_two_bindings_keeps_the_destination():
    """A destination goes with its last binding."""
    router, one = made(DirectRouter), Target("one")
    first, second = bind(router, one, "k"), bind(router, one, "k", {"a": 1})
    router.remove(first)
    assert routed(router, "k") == (one,)
    router.remove(binding(one, "k", {"a": 1}))
    assert second.key == binding(one, "k", {"a": 1}).key
    assert routed(router, "k") == ()


def test_equal_answers_are_one_object_across_keys():
    """Callers compare answers by `is`, also those of different keys."""
    router, one, other = made(DirectRouter), Target("one"), Target("other")
    for key in ("a", "b"):
        bind(router, one, key)
        bind(router, other, key)
    assert routed(router, "a") is routed(router, "b")
    assert routed(router, "a") is routed(router, "a")


def test_nothing_is_kept_for_unbound_keys_or_past_answers():
    """Neither publishers' keys nor bindings that came and went may grow memory."""
    router, one = made(DirectRouter), Target("one")
    for number in range(1000):
        routed(router, f"unbound {number}")
        passing = bind(router, Target(number), f"k{number}")
        routed(router, f"k{number}")
        router.remove(passing)
    bind(router, one, "k")
    assert not router._bindings.keys() - {"k"}
    assert not router._routes
    assert len(router._interned) <= 100


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from("abc"), st.booleans())))
def test_like_a_list_of_bindings(steps):
    """Any sequence of bind, unbind and publish answers as a plain list of bindings would, interning included."""
    router, targets, model = made(DirectRouter), [Target(n) for n in range(4)], {}
    for add, number, key, publish in steps:
        change = binding(targets[number], key)
        if add and change.key not in model:
            router.add(change)
            model[change.key] = change
        elif not add and change.key in model:
            router.remove(change)
            del model[change.key]
        if publish:
            answers = {k: routed(router, k) for k in "abc"}
            assert answers == {k: tuple(b.destination for b in model.values() if b.routing_key == k) for k in "abc"}
            assert len({id(answer) for answer in answers.values()}) == len(set(answers.values()))
