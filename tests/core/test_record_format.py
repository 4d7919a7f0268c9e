"""Messages as records: they come back as they went in, whatever their shape, and Kafka's layout is kept."""

import hypothesis.strategies as st
from hypothesis import given

from broker.core.message import make_origin, origin_names
from broker.core.record_format import is_persistent, read, render
from protocol.amqp import content as wire
from protocol.kafka.records import encode_batch, parse_header, read_records

names = st.binary(max_size=60)
modes = st.sampled_from([(0, b""), (wire.DELIVERY_MODE, b"\x01"), (wire.DELIVERY_MODE, b"\x02")])
bodies = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 200, b"y" * 9000, b"z" * 300_000]))


@st.composite
def messages(draw):
    """Runs of equal shapes with others between them, as publishers send them."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        origin = make_origin(draw(names), draw(names))
        flags, octets = draw(modes)
        found += [
            (
                origin,
                wire.encode_content(
                    draw(st.integers(1, 9)), octets, flags, body, draw(st.sampled_from([4096, 131_072]))
                ),
            )
            for body in draw(st.lists(bodies, min_size=1, max_size=4))
        ]
    return found


def batch(records, count):
    return encode_batch(7, count - 1, count, records, leader_epoch=3, base_timestamp_ms=5, max_timestamp_ms=5)


@given(messages())
def test_they_come_back(some):
    """Origin, properties and body of each, in order, with their offsets."""
    data = batch(render(some), len(some))
    back = list(read(data, 0, parse_header(data)))
    assert [offset for offset, _ in back] == list(range(7, 7 + len(some)))
    for (origin, content), (_, (new_origin, new_content)) in zip(some, back, strict=True):
        assert new_origin == origin
        assert wire.header_payload(new_content) == wire.header_payload(content)
        assert wire.body(new_content) == wire.body(content)
        assert is_persistent(new_content) == is_persistent(content)


@given(messages())
def test_kafkas_layout(some):
    """Key, value and headers are those of the table in `record_format`."""
    data = batch(render(some), len(some))
    for record, (origin, content) in zip(read_records(data, 0, parse_header(data)), some, strict=True):
        exchange, routing_key = origin[2 : 2 + origin[1]], origin[3 + origin[1] : -1]
        assert (record.key, record.value) == (routing_key, wire.body(content))
        assert record.headers == ((b"p", wire.header_payload(content)[12:]), (b"x", exchange))


def test_persistence_behind_other_properties():
    """The delivery mode stands behind content type, encoding and headers."""
    for mode in (1, 2):
        octets = b"\x04text" + b"\x00\x00\x00\x00" + bytes([mode, 5])
        flags = wire.CONTENT_TYPE | wire.HEADERS | wire.DELIVERY_MODE | wire.PRIORITY
        assert is_persistent(wire.encode_content(1, octets, flags, b"b", 4096)) == (mode == 2)
    assert origin_names(make_origin(b"x", b"k")) == ("x", "k")
