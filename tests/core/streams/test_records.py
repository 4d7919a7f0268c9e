"""AMQP messages as records of a topic and back, and records as messages and back: nothing is lost on the way."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic

from broker.core.message import make_origin, origin_names
from broker.core.streams.records import Renderer, Restorer
from protocol.amqp import content as wire
from protocol.amqp.fields import encode_table
from protocol.kafka.records import HEADER_SIZE, Record, encode_batch, parse_header, read_records

FRAME_MAX = 131_072


def content(body=b"", octets=b"\x00\x00", frame_max=FRAME_MAX, channel=1):
    """A content with these property flags and properties."""
    return wire.encode_content(channel, octets[2:], int.from_bytes(octets[:2], "big"), body, frame_max)


def record_of(message, offset=7):
    """The record that a message becomes, read back as any Kafka client would."""
    rendered = Renderer().render(message, 0)
    batch = encode_batch(offset, 0, 1, rendered, leader_epoch=0, base_timestamp_ms=5000, max_timestamp_ms=5000)
    header = parse_header(batch)
    assert header.size == HEADER_SIZE + len(rendered)
    return next(iter(read_records(batch, 0, header)))


def properties_of(found):
    return wire.parse_properties(wire.header_payload(found[1]))


def octets_of(headers=None, **properties):
    """Flags and properties, with a table that our codec has encoded: it knows more types than pamqp's."""
    octets = Basic.Properties(headers={}, **properties).marshal()
    flags = int.from_bytes(octets[:2], "big")
    if headers is None:
        return Basic.Properties(**properties).marshal()
    at = 2
    for flag in (wire.CONTENT_TYPE, wire.CONTENT_ENCODING):
        at += 1 + octets[at] if flags & flag else 0
    rest = octets[at + 4 :] if flags & wire.HEADERS else octets[at:]
    return (flags | wire.HEADERS).to_bytes(2, "big") + octets[2:at] + encode_table(headers) + rest


short = st.text(max_size=40).filter(lambda text: len(text.encode()) <= 255)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20)
    | st.floats(allow_nan=False) | st.decimals(-1000, 1000, places=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3), max_leaves=6,
)  # fmt: skip
OURS = ("x-partition-key", "x-null-value", "x-record-headers", "x-left-out", "x-stream-offset", "x-stream-partition",
        "timestamp_in_ms")  # fmt: skip
"""Headers that the table gives a meaning."""
tables = st.dictionaries(short.filter(lambda name: not name.startswith("x-")), values, max_size=5)


@st.composite
def property_octets(draw):
    """Flags and properties as a client sends them."""
    options = {}
    if draw(st.booleans()):
        options["headers"] = draw(tables)
    for name in ("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "app_id"):
        if draw(st.booleans()):
            options[name] = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))
    if draw(st.booleans()):
        options["delivery_mode"] = draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        options["priority"] = draw(st.integers(0, 9))
    return octets_of(**options)


@given(short, short, property_octets(), st.binary(max_size=200), st.integers(0, 2**40))
def test_a_message_comes_back_as_it_went(exchange, routing_key, octets, body, offset):
    """Exchange, routing key, every property, every header with its type, and the body; and it says its offset."""
    message = (make_origin(exchange.encode(), routing_key.encode()), content(body, octets))
    found = Restorer(None).message(record_of(message, offset))
    assert origin_names(found[0]) == (exchange, routing_key)
    assert wire.body(found[1]) == body
    before, after = properties_of(message), properties_of(found)
    headers = after.pop("headers")
    assert headers.pop("x-stream-offset") == offset
    assert headers == before.pop("headers", {})
    assert after == before


@given(
    st.none() | st.binary(max_size=30) | short.map(str.encode),
    st.none() | st.binary(max_size=100),
    st.lists(st.tuples(st.text(max_size=20).filter(lambda name: not name.startswith("amqp.")) | st.sampled_from(OURS),
                       st.none() | st.binary(max_size=20) | st.text(max_size=20).map(str.encode)), max_size=6),
)  # fmt: skip
def test_a_record_comes_back_as_it_went(key, value, headers):
    """A Kafka client's record, read over AMQP and published again as it came: key, value, headers, also repeated."""
    pairs = tuple((name.encode(), octets) for name, octets in headers)
    if not {name.decode() for name, _ in pairs} & set(OURS):  # Where these are, all come as octets, in their order.
        pairs = tuple(pair for name in dict.fromkeys(name for name, _ in pairs) for pair in pairs if pair[0] == name)
    message = Restorer(None).message(Record(3, 1_760_000_000_123, key, value, pairs))
    exchange, routing_key = origin_names(message[0])
    again = record_of((make_origin(b"x", routing_key.encode()), message[1]))
    assert exchange == ""
    assert (again.key, again.value) == (key, value)  # An empty one is not the same as none.
    assert tuple(pair for pair in again.headers if not pair[0].startswith(b"amqp.")) == pairs


def test_nobody_claims_what_is_the_brokers_own():
    """`x-record-headers` spells no header under `amqp.`: `amqp.deaths` would make a letter's history be believed."""
    table = {"x-record-headers": ["amqp.deaths", "", "amqp.exchange", "elsewhere", "mine", "1"], "x-death": []}
    message = (make_origin(b"x", b"k"), content(b"body", octets_of(table)))
    record = record_of(message)
    own = {name for name, _ in record.headers if name.startswith(b"amqp.")}
    assert own == {b"amqp.exchange", b"amqp.properties"}
    assert dict(record.headers)[b"amqp.exchange"] == b"x"
    assert dict(record.headers)[b"mine"] == b"1"


def test_what_kafka_reads_of_a_message():
    """Routing key, body and headers in words; what only AMQP knows stands beside them under `amqp.`."""
    table = {"text": "é", "raw": b"\xff", "number": -5, "yes": True, "nothing": None, "price": Decimal("1.50"),
             "list": ["a", "b"], "deep": {"a": [1]}, "x-partition-key": "customer-7",
             "x-stream-offset": 9}  # fmt: skip
    octets = octets_of(table, content_type="application/json")
    record = record_of((make_origin(b"orders", b"order.eu"), content(b"{}", octets)))
    assert (record.key, record.value) == (b"customer-7", b"{}")
    assert record.headers == (
        (b"amqp.routing-key", b"order.eu"), (b"amqp.properties", octets), (b"amqp.exchange", b"orders"),
        (b"text", "é".encode()), (b"raw", b"\xff"), (b"number", b"-5"), (b"yes", b"true"), (b"nothing", None),
        (b"price", b"1.50"), (b"list", b"a"), (b"list", b"b"), (b"deep", b'{"a": [1]}'),
    )  # fmt: skip


def test_what_amqp_reads_of_a_record():
    """The key is the routing key, headers are headers, the time is `timestamp` and `timestamp_in_ms`."""
    message = Restorer(2).message(
        Record(3, 1_760_000_000_123, b"k", b"v", ((b"h", b"1"), (b"h", b"\xff"), (b"n", None)))
    )
    assert origin_names(message[0]) == ("", "k")
    assert properties_of(message) == {
        "headers": {"h": ["1", b"\xff"], "n": None, "timestamp_in_ms": 1_760_000_000_123, "x-stream-partition": 2,
                    "x-stream-offset": 3},
        "delivery-mode": 2, "timestamp": 1_760_000_000,
    }  # fmt: skip


def test_a_key_that_is_no_routing_key_and_a_tombstone():
    """Octets that are no text, or too long, come as `x-partition-key`; no value comes as `x-null-value`."""
    for key in (b"\xff\xfe", b"k" * 256):
        message = Restorer(None).message(Record(0, 0, key, None, ()))
        headers = properties_of(message)["headers"]
        assert origin_names(message[0]) == ("", "")
        assert (headers["x-partition-key"], headers["x-null-value"]) == (key, True)
        again = record_of(message)
        assert (again.key, again.value) == (key, None)


@pytest.mark.parametrize("headers", [
    ((b"amqp.properties", b""),), ((b"amqp.properties", b"\xff"),), ((b"amqp.properties", b"\xff\xff\x00"),),
    ((b"amqp.properties", b"\x20\x00\x00\x00\x00\x05\x01aZ\x00\x00"),), ((b"amqp.exchange", b"x" * 256),),
    ((b"amqp.exchange", b"\xff"),), ((b"amqp.routing-key", b"\xff"),), ((b"amqp.properties", None),),
    ((b"x" * 300, b"1"),), ((b"\xff", b"1"),), tuple((b"%d" % n, b"") for n in range(2000)),
])  # fmt: skip
def test_what_any_client_may_claim(headers):
    """Headers that are reserved, or that no table can have, make a message that every AMQP client can read."""
    found = Restorer(None).message(Record(1, 0, b"k", b"v", headers))
    properties = properties_of(found)
    assert properties["headers"]["x-stream-offset"] == 1
    assert wire.body(found[1]) == b"v"
    names = origin_names(found[0])
    assert all(len(name.encode()) <= 255 for name in names)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"", b"x", b"yy"]), st.sampled_from(
    [b"\x00\x00", b"\x10\x00\x02", b"\x10\x00\x01"])), max_size=12))  # fmt: skip
def test_the_shape_that_is_remembered_is_that_of_the_message(shapes):
    """Rendered one after the other by one renderer, and restored by one restorer, as each by its own."""
    renderer, restorer = Renderer(), Restorer(None)
    for key, body, octets in shapes:
        message = (make_origin(b"e", key), content(body, octets))
        assert renderer.render(message, 5) == Renderer().render(message, 5)
        record = record_of(message)
        assert restorer.message(record) == Restorer(None).message(record)


@pytest.mark.parametrize(
    ("key", "headers", "left_out"),
    [
        (b"k", ((b"h", b"v" * 200_000),), ["headers"]),
        (b"k", tuple((b"h%d" % number, None) for number in range(3000)), ["headers"]),
        (b"k" * 50_000, (), ["key"]),
        (b"k" * 200_000, ((b"h", b"v" * 200_000),), ["headers", "key"]),
        (b"k", ((b"amqp.properties", b"\x80\x00" + b"\xff" + b"x" * 255 + b"x" * 200_000),), ["headers"]),
    ],
)
def test_what_no_frame_has_room_for_is_left_out(key, headers, left_out):
    """A message's headers are one frame; a record with more comes without, and says so, and harms nobody."""
    found = Restorer(0).message(Record(7, 0, key, b"body", headers))
    assert properties_of(found)["headers"]["x-left-out"] == left_out
    assert len(found[1]) < FRAME_MAX
    assert wire.body(found[1]) == b"body"


@pytest.mark.parametrize("key", [b"k" * 300, b"\xff\xfe"])
def test_a_key_that_is_no_routing_key_behind_one_that_is(key):
    """Equal headers, which are looked at once: the keys are looked at each time."""
    restorer = Restorer(None)
    headers = ((b"amqp.exchange", b"e"),)
    assert origin_names(restorer.message(Record(0, 0, b"k", b"x", headers))[0]) == ("e", "k")
    found = restorer.message(Record(1, 0, key, b"x", headers))
    assert properties_of(found)["headers"]["x-partition-key"] == key
    assert origin_names(restorer.message(Record(2, 0, "ü".encode(), b"x", headers))[0]) == ("e", "ü")
