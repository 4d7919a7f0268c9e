"""`fanout` (spec 3.1.3.2)."""

from exchange_helpers import NoHeaders, Target, bind, made

from broker.core.exchange.fanout import FanoutRouter


def test_every_destination_once_in_binding_order_whatever_the_key():
    """Keys and arguments of publications and bindings play no part, but for making bindings different."""
    router, one, other = made(FanoutRouter), Target("one"), Target("other")
    assert router.route(NoHeaders("k")) == ()
    bind(router, other, "k")
    bind(router, one)
    bind(router, other, "elsewhere", {"a": 1})
    assert router.route(NoHeaders("k")) == (other, one)
    assert router.route(NoHeaders("")) is router.route(NoHeaders("k"))


def test_a_destination_goes_with_its_last_binding():
    """Two bindings to one destination are one copy, and each may go first."""
    router, one, other = made(FanoutRouter), Target("one"), Target("other")
    first, second = bind(router, one, "a"), bind(router, one, "b")
    bind(router, other)
    before = router.route(NoHeaders())
    router.remove(first)
    assert router.route(NoHeaders()) == (one, other)
    bind(router, one, "a")
    assert set(router.route(NoHeaders())) == set(before)
    router.remove(second)
    assert set(router.route(NoHeaders())) == {one, other}


def test_a_change_that_changes_nothing_keeps_the_object():
    """Equal answers are the same object also across changes of bindings."""
    router, one = made(FanoutRouter), Target("one")
    bind(router, one, "a")
    before = router.route(NoHeaders())
    bind(router, one, "b")
    assert router.route(NoHeaders()) is before
