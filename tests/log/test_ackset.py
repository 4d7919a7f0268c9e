"""The settled set, against a plain set of offsets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker.log.ackset import CHUNK, AckSet, runs

# Around chunk borders, where mistakes live.
offsets = st.one_of(
    st.integers(0, 40),
    st.integers(CHUNK - 20, CHUNK + 20),
    st.integers(3 * CHUNK - 20, 3 * CHUNK + 20),
    st.integers(0, 5 * CHUNK),
)
ranges = st.lists(st.tuples(offsets, st.one_of(st.integers(0, 40), st.integers(0, 3 * CHUNK))), max_size=40)


def filled(pairs, floor=0):
    ours, model = AckSet(floor), set(range(floor))
    for first, width in pairs:
        ours.add(first, first + width)
        model.update(range(first, first + width))
    return ours, model


@given(ranges, offsets, st.integers(0, 2 * CHUNK))
def test_it_is_the_set_of_what_was_added(pairs, first, width):
    """Membership, counts, gaps and the end are those of a plain set, for any ranges in any order."""
    ours, model = filled(pairs)
    end = first + width
    window = set(range(first, end))
    assert ours.count(first, end) == len(window & model)
    assert ours.covers(first, end) == (window <= model)
    assert (first in ours) == (first in model)
    gaps = list(ours.missing(first, end))
    assert set().union(*(range(*gap) for gap in gaps)) == window - model
    assert gaps == sorted(gaps)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(gaps))
    assert ours.end == max(model, default=-1) + 1


@given(ranges, offsets)
def test_truncation_forgets_what_lies_above(pairs, offset):
    """After a cut only what is below it is settled, and it can grow again."""
    ours, model = filled(pairs)
    ours.truncate(offset)
    model = {settled for settled in model if settled < offset}
    assert ours.count(0, 6 * CHUNK) == len(model)
    assert ours.end == max(model, default=-1) + 1
    ours.add(offset, offset + 3)
    assert ours.count(0, 6 * CHUNK) == len(model) + 3


@given(ranges)
def test_its_invariants(pairs):
    """The floor is the first offset not settled, and nothing below it is kept."""
    ours, model = filled(pairs)
    floor = next(offset for offset in range(len(model) + 1) if offset not in model)
    assert ours.floor == floor
    assert all((number + 1) * CHUNK > floor and bitmap for number, bitmap in ours.chunks.items())
    assert sum(bitmap.bit_count() for bitmap in ours.chunks.values()) == len(model) - floor


def test_in_order_costs_nothing_and_a_stuck_head_little():
    """Acknowledging in order keeps no bitmap; a million behind a stuck head share one integer a chunk."""
    ours = AckSet()
    for first in range(0, 100_000, 100):
        ours.add(first, first + 100)
    assert not ours.chunks
    assert ours.floor == 100_000
    for offset in range(100_001, 1_100_001, 10):
        ours.add(offset, offset + 10)
    assert ours.floor == 100_000
    assert len({id(bitmap) for bitmap in ours.chunks.values()}) <= 3
    ours.add(100_000, 100_001)
    assert ours.floor == 1_100_001
    assert not ours.chunks


@given(st.integers(0, 2**200))
def test_runs(bitmap):
    """The runs of an integer rebuild it."""
    assert sum((1 << end) - (1 << first) for first, end in runs(bitmap)) == bitmap


@given(ranges, ranges, offsets)
def test_a_union_is_the_set_of_both(pairs, others, offset):
    """With the same invariants, and neither of the two is changed; what is given back below an offset is gone."""
    ours, model = filled(pairs)
    theirs, other_model = filled(others)
    before = (ours.floor, dict(ours.chunks), theirs.floor, dict(theirs.chunks))
    both, expected = ours.union(theirs), model | other_model
    assert (ours.floor, ours.chunks, theirs.floor, theirs.chunks) == before
    assert both.count(0, 9 * CHUNK) == both.count(0, 20 * CHUNK) == len(expected)
    assert all(settled in both for settled in expected)
    assert both.floor == next(offset for offset in range(len(expected) + 1) if offset not in expected)
    assert all((number + 1) * CHUNK > both.floor and bitmap for number, bitmap in both.chunks.items())
    both.forget_below(offset)
    assert all((settled in both) == (settled in expected) for settled in range(offset, 9 * CHUNK))
    assert all((number + 1) * CHUNK > offset for number in both.chunks)
