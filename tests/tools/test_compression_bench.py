"""`jackalope bench compression` publishes events into topics of every compression and says what that saves."""

from tools.bench.compression import KINDS, measure, orders


def test_it_measures_what_is_stored():
    """Every kind stores the same events; all but `producer` in less, the more of them are in a batch."""
    rows = list(measure(0.1, (1000, 0)))
    assert [(row.kind, row.rate) for row in rows] == [(kind, rate) for rate in (1000, 0) for kind in KINDS]
    for row in rows:
        assert row.messages == (100 if row.rate else 3000)
        assert (row.ratio == 1) == (row.kind == "producer")
    slow, fast = rows[: len(KINDS)], rows[len(KINDS) :]
    assert all(row.octets > row.plain for row in (slow[0], fast[0])), "headers, and AMQP's properties"
    assert all(row.ratio > 2 for row in fast[1:])
    assert all(one.ratio < other.ratio for one, other in zip(slow[1:], fast[1:], strict=True))


def test_the_events_are_realistic():
    """A few hundred octets each, no two alike, the same for the same seed."""
    events = orders(500)
    assert events == orders(500) != orders(500, seed=2)
    assert len(set(events)) == 500
    assert all(250 <= len(event) <= 700 for event in events)
