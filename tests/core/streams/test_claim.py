"""What of a partition may be committed: against a model, and the counts that are committed with it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import make_origin
from broker.core.streams.claim import METADATA_CHARS_MAX, OFFSET_MASK, Claim, read_counts, write_counts
from protocol.amqp import content as wire


class Position:
    """As much of a position as a claim looks at."""

    def __init__(self, offset):
        self.offset = offset
        self.has_more = True
        self.partition = SimpleNamespace(index=0)

    def move(self, offset):
        self.offset = offset


MESSAGE = make_origin(b"", b"t"), wire.encode_content(1, b"", 0, b"x", 4096)


@given(st.lists(st.tuples(st.sampled_from("dsrft"), st.integers(0, 50)), max_size=60))
def test_the_lowest_that_is_not_settled_is_committed(steps):
    """Whatever is delivered, settled, returned and skipped, in any order: nothing unsettled is below."""
    position = Position(0)
    claim = Claim(1, position, -1, "")
    open_offsets, away = set(), set()
    for step, number in steps:
        offset = number % (position.offset + 1)
        if step == "d":
            new = list(range(position.offset, position.offset + number % 4))
            position.offset += number % 4
            assert [lease & OFFSET_MASK for lease in claim.deliver(new)] == new
            open_offsets |= set(new)
            away |= set(new)
        elif step == "s" and offset in away:
            claim.settle(offset)
            open_offsets.discard(offset)
            away.discard(offset)
        elif step == "r" and offset in away & open_offsets:
            claim.fail(offset)
            claim.take_back(offset, MESSAGE)
            away.discard(offset)
        elif step == "t" and claim.returned:
            again, _ = claim.returned.popleft()
            claim.away += 1
            away.add(again)
        elif step == "f" and number == 50:
            claim.skip_to(offset)
            open_offsets = {one for one in open_offsets if one >= offset}
        assert claim.progress()[0] == min(open_offsets, default=position.offset)
        assert claim.away == len(away)


@given(st.dictionaries(st.integers(0, 2**62), st.integers(1, 1000)), st.integers(0, 2**62))
def test_counts_there_and_back(counts, lowest):
    """What is below is left out; what has no room are the lowest counts; never more than metadata may have."""
    written = write_counts(counts, lowest)
    assert len(written) <= METADATA_CHARS_MAX
    found = read_counts(written)
    wanted = {offset: count for offset, count in counts.items() if offset >= lowest}
    assert found.items() <= wanted.items()
    missing = [count for offset, count in wanted.items() if offset not in found]
    assert not missing or max(missing) <= min(found.values())


@pytest.mark.parametrize("metadata", ["", "NO_METADATA", "failed", "failed x", "failed 1:", "1:2", "failed ١:٢"])
def test_metadata_of_others_say_nothing(metadata):
    """Kafka's clients commit what they like."""
    assert read_counts(metadata) == {}
