"""Ages and places as users write them."""

import pytest

from broker.core.intervals import OFFSET_MAX, Place, interval_ms, place_of

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7D", 604_800_000), ("5m", 300_000), ("1M", 2_592_000_000), ("0s", 0), ("5", None), ("5x", None), ("m", None),
     ("-5m", None), ("5m ", None), ("٥m", None)],
)  # fmt: skip
def test_intervals(text, expected):
    """A number and one of RabbitMQ's units, and nothing else."""
    assert interval_ms(text) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, Place("offset", 0)), ("17", Place("offset", 17)), (str(OFFSET_MAX), Place("offset", OFFSET_MAX)),
        ("20261128", Place("offset", 20_261_128)),
        ("2h", Place("time", NOW_MS - 7_200_000)), ("9999999999Y", Place("time", 0)),
        ("1970-01-01T00:00:01", Place("time", 1000)), ("1970-01-01T01:00:01+01:00", Place("time", 1000)),
        ("1969-01-01", Place("time", 0)), ("0001-01-01T00:00+23:59", Place("time", 0)),
    ],
)  # fmt: skip
def test_places(given, expected):
    """Digits are an offset, never a date; times are UTC unless they say otherwise, and never before 1970."""
    assert place_of(given, NOW_MS) == expected


@pytest.mark.parametrize(
    "given",
    ["", "soon", "-1", -1, OFFSET_MAX + 1, "٥", True, 1.5, None, [], {"a": 1}, "9" * 30, "x" * 100_000],
    ids=lambda given: repr(given)[:20],
)  # fmt: skip
def test_what_is_no_place(given):
    """ValueError with a short text, whatever a request may hold."""
    with pytest.raises(ValueError, match=r"is no offset") as found:
        place_of(given, NOW_MS)
    assert len(str(found.value)) < 200
