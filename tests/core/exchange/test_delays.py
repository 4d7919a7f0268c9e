"""Which `x-delay` is a delay.

Source: rabbitmq-delayed-message-exchange, src/rabbit_delayed_message.erl (`get_delay`), which converts what clients
send as another type than an integer.
"""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from broker.core.exchange.delayed import DELAY_MS_MAX, delay_ms
from protocol.amqp.fields import Long, Timestamp, decode_table, encode_table

DELAYS = [
    (1500, 1500), (Long(1500), 1500), (1500.0, 1500), (1499.2, 1500), (Decimal(1500), 1500), (Decimal("0.1"), 1),
    ("1500", 1500), ("+1500", 1500), ("1499.5", 1500), (2**40, DELAY_MS_MAX), (float("inf"), DELAY_MS_MAX),
    ("9" * 20, DELAY_MS_MAX),
]  # fmt: skip
NO_DELAYS = [
    0, -1500, -0.5, Decimal(-1500), "-1500", "", "soon", " 1500", "1_500", "1e9", "١٥٠٠", "nan", "9" * 1000,
    float("nan"), float("-inf"), True, None, [1500], {"x": 1500}, b"1500", Timestamp(1500),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), DELAYS, ids=str)
def test_numbers_and_text_that_is_one(value, expected):
    """Whatever type a client's language makes of a number; a part of a millisecond counts whole."""
    assert delay_ms({"x-delay": value}) == expected


@pytest.mark.parametrize("value", NO_DELAYS, ids=lambda value: repr(value)[:20])
def test_everything_else_waits_for_nothing(value):
    """A moment is no delay, nor is what would only be one for a generous parser."""
    assert delay_ms({"x-delay": value}) == 0


def test_as_they_come_from_the_wire():
    """The codec's own types."""
    for value in (1500, 1500.0, "1500", Decimal(1500)):
        assert delay_ms(decode_table(encode_table({"x-delay": value}))[0]) == 1500
    moment = Timestamp(int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()))
    assert delay_ms(decode_table(encode_table({"x-delay": moment}))[0]) == 0
