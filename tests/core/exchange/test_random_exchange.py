"""`x-random` (RabbitMQ's rabbitmq_random_exchange)."""

from exchange_helpers import NoHeaders, Target, bind, made

from broker.core.exchange.random_exchange import RandomRouter


def test_the_injected_choice_picks_one_binding():
    """Among as many as there are bindings, in their order; a destination bound twice counts twice."""
    asked = []

    def choose(n):
        asked.append(n)
        return picks.pop()

    router, one, other = made(RandomRouter, {}, choose), Target("one"), Target("other")
    bind(router, one, "a")
    bind(router, other, "b")
    again = bind(router, one, "c")
    picks = [2, 1, 0]
    assert [router.route(NoHeaders(key)) for key in ("", "a", "b")] == [(one,), (other,), (one,)]
    assert asked == [3, 3, 3]
    router.remove(again)
    picks = [1]
    assert router.route(NoHeaders("c")) == (other,)
    assert asked[-1] == 2


def test_nothing_bound():
    """Nowhere, and no choice is asked for among none."""
    router = made(RandomRouter)
    assert router.route(NoHeaders("a")) == ()
    router.remove(bind(router, Target("t")))
    assert router.route(NoHeaders("a")) == ()


def test_each_message_is_a_new_choice():
    """The answer must not be cached."""
    assert not made(RandomRouter).cacheable
