"""The timetable: every offset comes once, when it is due and not before, for eight or sixteen octets."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from broker.core.timetable import STEP_MS, WINDOW_STEPS, Timetable, step_of

FAR_MS = STEP_MS * WINDOW_STEPS * 5


def taken(table, now_ms):
    """Everything that is due."""
    found = []
    while table.is_due(now_ms):
        step, offsets = table.take(now_ms, 3)
        assert offsets == sorted(offsets)
        found += [(offset, step) for offset in offsets]
    return found


@given(
    st.lists(st.tuples(st.integers(0, 1 << 63), st.integers(0, FAR_MS))),
    st.lists(st.integers(1, FAR_MS), max_size=20),
    st.integers(0, 10_000_000),
)
def test_each_comes_at_its_time(due, pauses, now_ms):
    """Neither early nor late, by more than a step; then nothing is left."""
    table = Timetable()
    for offset, after_ms in due:
        table.add(offset, now_ms + after_ms, now_ms)
    left = sorted((offset, step_of(now_ms + after_ms)) for offset, after_ms in due)
    for pause in [*pauses, FAR_MS + STEP_MS]:
        now_ms += pause
        assert sorted(taken(table, now_ms)) == [one for one in left if one[1] * STEP_MS <= now_ms]
        left = [one for one in left if one[1] * STEP_MS > now_ms]
    assert not table


def test_what_is_far_away_needs_no_bucket_each():
    """A hundred thousand expirations spread over a day take sixteen octets each, and some slack of growing arrays."""
    numbers = random.Random(1)
    table = Timetable()
    tracemalloc.start()
    for offset in range(100_000):
        table.add(offset, numbers.randrange(86_400_000), 0)
    octets = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert octets < 100_000 * 24
