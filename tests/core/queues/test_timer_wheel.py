"""The timer wheel: every offset comes once, when it is due and not before, for eight or sixteen octets."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from broker.core.queues.timer_wheel import NEVER_MS, WIDTHS_MS, TimerWheel

FAR_MS = WIDTHS_MS[-1] * 5


def taken(table, now_ms):
    """Everything that is due."""
    found = []
    while table.is_due(now_ms):
        offsets = table.take(now_ms, 3)
        assert offsets == sorted(offsets)
        found += offsets
    return found


@given(
    st.lists(st.tuples(st.integers(0, 1 << 63), st.integers(0, FAR_MS))),
    st.lists(st.integers(1, FAR_MS), max_size=20),
    st.integers(0, 10_000_000),
)
def test_each_comes_at_its_time(due, pauses, now_ms):
    """To the millisecond, and `next_ms` is never after the next one; then nothing is left."""
    table = TimerWheel()
    for offset, after_ms in due:
        table.add(offset, now_ms + after_ms, now_ms)
    left = [(now_ms + after_ms, offset) for offset, after_ms in due]
    for pause in [*pauses, FAR_MS]:
        assert table.next_ms <= min(left, default=(NEVER_MS, 0))[0]
        now_ms += pause
        assert sorted(taken(table, now_ms)) == sorted(offset for due_ms, offset in left if due_ms <= now_ms)
        left = [one for one in left if one[0] > now_ms]
    assert not table
    assert table.next_ms == NEVER_MS


def test_what_is_far_away_needs_no_bucket_each():
    """A hundred thousand expirations spread over a day take sixteen octets each, and some slack of growing arrays."""
    numbers = random.Random(1)
    table = TimerWheel()
    tracemalloc.start()
    for offset in range(100_000):
        table.add(offset, numbers.randrange(86_400_000), 0)
    octets = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert octets < 100_000 * 24
