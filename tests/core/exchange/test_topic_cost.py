"""What routing costs on the path of a route cache's miss; the budgets in the modules' first lines.

The ratio is the promise: with 10,000 bindings a never-repeated key costs at most twice what it costs with 10. The two
sides are measured in turns, in CPU time, and the median of the rounds' ratios is compared, so that a neighbour's load
hits both; the limit is the promise itself, without margin (measured 1.1 to 1.4 on two busy cores).
Absolute budgets are for a quiet core (direct and fanout 0.3 µs, three words 2 µs); on shared ones the best of the
rounds is compared with three times the budget, which still tells a prebuilt answer from one that is made per message.
"""

from statistics import median
from time import process_time

import pytest
from exchange_helpers import Publishing, Target, bind, made

from broker.core.exchange.direct import DirectRouter
from broker.core.exchange.fanout import FanoutRouter
from broker.core.exchange.topic import TopicRouter

KEY_COUNT = 100_000
ROUNDS = 5
SHAPES = ("a.{}.c", "b.*.{}", "c.{}.#", "#.{}", "*.{}.*")


def topic_with(count):
    router = made(TopicRouter)
    for number in range(count):
        bind(router, Target(number), SHAPES[number % len(SHAPES)].format(number))
    return router


def cost_us(router, keys):
    """Microseconds a key, setting the key included."""
    publication, route = Publishing(), router.route
    start = process_time()
    for key in keys:
        publication.routing_key = key
        route(publication)
    return (process_time() - start) * 1e6 / len(keys)


def test_ten_thousand_bindings_at_most_double_the_cost_of_new_keys():
    """100,000 keys a round, none seen before, most with a word that some binding names."""
    few, many = topic_with(10), topic_with(10_000)
    ratios, best_us = [], 1e9
    for turn in range(ROUNDS):
        keys = [f"{'abc'[number % 3]}.{number}.{turn}" for number in range(KEY_COUNT)]
        few_us = cost_us(few, keys)
        many_us = cost_us(many, keys)
        ratios.append(many_us / few_us)
        best_us = min(best_us, few_us)
    print(f"topic: {best_us:.2f} us with 10 bindings, ratios {[round(ratio, 2) for ratio in ratios]}")
    assert median(ratios) <= 2
    assert best_us <= 3 * 2


@pytest.mark.parametrize("router_class", [DirectRouter, FanoutRouter])
def test_prebuilt_answers(router_class):
    """1,000 bindings; the answer is there already."""
    router = made(router_class)
    for number in range(1000):
        bind(router, Target(number), f"k{number}")
    keys = [f"k{number % 1000}" for number in range(KEY_COUNT)]
    best_us = min(cost_us(router, keys) for _ in range(ROUNDS))
    print(f"{router_class.type_name}: {best_us:.3f} us")
    assert best_us <= 3 * 0.3
