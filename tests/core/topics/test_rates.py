"""What comes in lately, and who takes too much of it: counters, notes of them, and arithmetic."""

import pytest
from topic_world import World, batch

from broker.core.topics.rates import ROLL_MS, Flow, hot, lately, shares, since_start


@pytest.mark.parametrize(
    ("octets", "found"),
    [
        ([100, 100, 100, 100], []),
        ([300, 100, 100, 100], []),
        ([301, 100, 100, 100], [0]),
        ([0, 0, 0, 500], [3]),
        ([500, 500, 0, 0], []),  # Three times, not more.
        ([0, 1000], [1]),
        ([310, 100], [0]),
        ([300, 100], []),
        ([1000], []),
        ([], []),
        ([0, 0], []),
    ],
)
def test_more_than_three_times_what_the_others_take(octets, found):
    """On average; a topic of one partition has none that is hot."""
    flows = [Flow(100, one) for one in octets]
    assert hot(flows) == found
    assert hot([Flow(1, one) for one in octets]) == []
    if any(octets):
        assert shares(flows) == [one / sum(octets) for one in octets]
    else:
        assert shares(flows) == [None] * len(octets)


def test_notes_are_taken_of_what_moves_only():
    """An idle partition is in no note after two rolls, its last seconds are empty; what comes then is seen at once."""
    with World() as world:
        rates = world.topics.rates
        idle, busy = world.partition(), world.partition()

        def roll(now_ms):
            assert rates.is_due(now_ms)
            return sum(rates.roll(now_ms))

        assert not rates.is_due(0)
        size = len(batch(3, 1000))
        for partition in (idle, busy):
            partition.append(batch(3, 1000), 1000)
        world.sync()
        assert lately(idle) == Flow(3, size) == since_start(idle)
        assert not rates.is_due(ROLL_MS - 1)
        assert roll(ROLL_MS) == 2
        assert lately(idle) == Flow(3, size)
        busy.append(batch(1, 1000), 1000)
        world.sync()
        assert roll(2 * ROLL_MS) == 2
        assert (lately(idle).messages, lately(busy).messages) == (0, 1)
        assert roll(3 * ROLL_MS) == 1
        assert roll(4 * ROLL_MS) == 0
        assert (lately(idle).messages, lately(busy).messages) == (0, 0)
        idle.append(batch(5, 1000), 1000)
        assert (lately(idle).messages, since_start(idle).messages) == (5, 8)
        assert rates.span_s(4 * ROLL_MS + 1000) == (ROLL_MS + 1000) / 1000
