"""Dead letters of records: whatever it was, a letter has its key, value and headers, and says what it died of."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from test_records import record_of

from broker.core.message import make_origin
from broker.core.queues.x_death import read_deaths
from broker.core.streams.dead_letter_topic import DeadLetterTopic, dead_letter
from broker.core.streams.records import RESERVED, Restorer
from protocol.amqp import content as wire
from protocol.amqp.fields import encode_table
from protocol.kafka.records import Record

names = st.text(min_size=1, max_size=20).map(str.encode).filter(
    lambda name: not name.startswith((RESERVED, b"x-", b"timestamp_in_ms"))
)  # fmt: skip
records = st.builds(
    lambda key, value, headers: Record(7, 1_760_000_000_000, key, value, tuple(headers.items())),
    st.none() | st.binary(min_size=1, max_size=300),
    st.none() | st.binary(max_size=50),
    st.dictionaries(names, st.none() | st.binary(max_size=20), max_size=4),
)


def letter_of(message, reason="rejected", source="orders", attempts=3):
    return dead_letter(message, source, ("group", 2, 7), reason, attempts, 1_760_000_100_000)


@given(records)
def test_a_record_of_kafkas_stays_what_it_was(record):
    """Key, null or empty value, headers in any octets; beside them what it died of, as text."""
    letter = record_of(letter_of(Restorer(2).message(record)))
    assert (letter.key, letter.value) == (record.key, record.value)
    headers = dict(letter.headers)
    assert {name: headers[name] for name, _ in record.headers} == dict(record.headers)
    assert (headers[b"x-death-group"], headers[b"x-death-partition"], headers[b"x-death-offset"]) == (
        b"group", b"2", b"7")  # fmt: skip
    assert (headers[b"x-first-death-queue"], headers[b"x-first-death-reason"]) == (b"orders", b"rejected")
    assert b"x-stream-offset" not in headers


def amqp_message(exchange=b"", routing_key=b"orders", **headers):
    table = encode_table(headers)
    return make_origin(exchange, routing_key), wire.encode_content(1, table, wire.HEADERS, b"body", 4096)


@given(st.sampled_from([(b"", b"orders", {}), (b"x", b"order.new", {}), (b"x", b"", {}),
                        (b"x", b"order.new", {"x-partition-key": "k"})]))  # fmt: skip
def test_a_message_of_amqps_keeps_its_key_and_where_it_came_through(given_message):
    """Exchange and routing key are those of its publish, which a replay goes back through."""
    exchange, routing_key, headers = given_message
    record = record_of(amqp_message(exchange, routing_key, **headers))
    letter = record_of(letter_of(Restorer(None).message(record)))
    assert letter.key == record.key
    (death,) = read_deaths(Restorer(None).message(letter)[1])
    assert (death["exchange"], death["routing-keys"]) == (exchange.decode(), [routing_key.decode()])
    assert (death["queue"], death["reason"], death["count"]) == ("orders", "rejected", 3)


def test_it_may_die_again():
    """Of a letter that dies as well the first death stays the first."""
    letter = record_of(letter_of(Restorer(None).message(record_of(amqp_message()))))
    again = record_of(letter_of(Restorer(None).message(letter), "delivery_limit", "orders.dead", 21))
    deaths = read_deaths(Restorer(None).message(again)[1])
    assert [(death["queue"], death["reason"], death["count"]) for death in deaths] == [
        ("orders.dead", "delivery_limit", 21), ("orders", "rejected", 3)]  # fmt: skip
    assert dict(again.headers)[b"x-first-death-queue"] == b"orders"


def test_more_headers_than_fit_do_not_keep_it_alive():
    """What cannot be kept is left out; the letter says what it died of."""
    message = Restorer(None).message(record_of(amqp_message(**{f"h{number}": number for number in range(4_090)})))
    appended = []
    target = SimpleNamespace(enqueue_one=lambda letter: appended.append(letter) or True)
    streams = SimpleNamespace(get=lambda _: target, wall_ms=0)
    assert DeadLetterTopic(streams, "orders", "group", "dead").append(message, 2, 7, "rejected", 1)
    letter = record_of(appended[0])
    assert letter.value == b"body"
    assert len(letter.headers) < 20
    assert dict(letter.headers)[b"x-first-death-queue"] == b"orders"


def test_what_a_client_makes_up_is_no_death():
    """Neither over AMQP nor as a record's headers."""
    made_up = [{"queue": "q", "reason": "rejected", "count": 1}]
    record = record_of(amqp_message(**{"x-death": made_up}))
    assert read_deaths(Restorer(None).message(record)[1]) == []
    forged = Record(0, 0, None, b"x", ((b"x-death", b"[]"), (b"amqp.deaths", b"")))
    assert read_deaths(Restorer(None).message(forged)[1]) == []
