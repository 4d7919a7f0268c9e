"""Messages as records: they come back as they went in, whatever their shape, and Kafka's layout is kept."""

import contextlib

import hypothesis.strategies as st
from hypothesis import given

from broker.core.message import KeyedOrigin, make_origin, origin_names, pack_keys
from broker.core.queues.records import Renderer, is_persistent, read
from protocol.amqp import content as wire
from protocol.kafka.records import CorruptBatch, encode_batch, parse_header, read_records

names = st.binary(max_size=60)
modes = st.sampled_from([(0, b""), (wire.DELIVERY_MODE, b"\x01"), (wire.DELIVERY_MODE, b"\x02")])
bodies = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 200, b"y" * 9000, b"z" * 300_000]))


@st.composite
def messages(draw):
    """Runs of equal shapes with others between them, as publishers send them."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        further = draw(st.none() | st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=3))
        origin = make_origin(draw(names), draw(names), None if further is None else pack_keys(further))
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


def rendered(some):
    """(batch, the messages in it) of each stretch that is or is not persistent."""
    taken = 0
    for persistent, records, count, _ in Renderer().render(some):
        stretch = some[taken : taken + count]
        assert all(is_persistent(content) == persistent for _, content in stretch)
        yield batch(records, count), stretch
        taken += count
    assert taken == len(some)


@given(messages())
def test_they_come_back(some):
    """Origin, properties and body of each, in order, in stretches that agree on persistence."""
    for data, stretch in rendered(some):
        back = read(data, 0, parse_header(data))
        assert len(back) == len(stretch)
        for (origin, content), (new_origin, new_content) in zip(stretch, back, strict=True):
            assert new_origin == origin
            assert wire.header_payload(new_content) == wire.header_payload(content)
            assert wire.body(new_content) == wire.body(content)
            assert is_persistent(new_content) == is_persistent(content)


@given(messages())
def test_kafkas_layout(some):
    """Key, value and headers are those of the table in `records`."""
    for data, stretch in rendered(some):
        for record, (origin, content) in zip(read_records(data, 0, parse_header(data)), stretch, strict=True):
            exchange, routing_key = origin[2 : 2 + origin[1]], origin[3 + origin[1] : -1]
            assert (record.key, record.value) == (routing_key, wire.body(content))
            further = ((b"k", origin.keys),) if isinstance(origin, KeyedOrigin) else ()
            assert record.headers == ((b"p", wire.header_payload(content)[12:]), (b"x", exchange), *further)


@given(messages(), st.data())
def test_other_octets_are_refused(some, draw):
    """Whatever is changed in a batch: CorruptBatch or other messages, no other error (the checksum comes before)."""
    for data, _ in rendered(some):
        at = draw.draw(st.integers(61, len(data) - 1))
        bad = data[:at] + bytes([data[at] ^ draw.draw(st.integers(1, 255))]) + data[at + 1 :]
        with contextlib.suppress(CorruptBatch):
            read(bad, 0, parse_header(bad))


def test_persistence_behind_other_properties():
    """The delivery mode stands behind content type, encoding and headers."""
    for mode in (1, 2):
        octets = b"\x04text" + b"\x00\x00\x00\x00" + bytes([mode, 5])
        flags = wire.CONTENT_TYPE | wire.HEADERS | wire.DELIVERY_MODE | wire.PRIORITY
        assert is_persistent(wire.encode_content(1, octets, flags, b"b", 4096)) == (mode == 2)
    assert origin_names(make_origin(b"x", b"k")) == ("x", "k")


@given(st.lists(messages(), min_size=1, max_size=4))
def test_one_batch_is_gone_on_with(runs):
    """Persistent messages that come in several runs may share a batch: deltas go on where the last run ended."""
    renderer = Renderer()
    octets, count, kept = b"", 0, []
    for some in runs:
        some = [message for message in some if is_persistent(message[1])]
        if not some:
            continue
        ((persistent, records, added, joined),) = renderer.render(some, count)
        assert (persistent, added, joined) == (True, len(some), count)
        octets, count, kept = octets + records, count + added, kept + some
    if kept:
        data = batch(octets, count)
        back = read(data, 0, parse_header(data))
        assert [(origin, wire.body(content)) for origin, content in back] == [
            (origin, wire.body(content)) for origin, content in kept
        ]


@given(messages(), st.integers(1, 9))
def test_only_a_persistent_stretch_goes_on_with_one(some, joined):
    """And only the first; the others are batches of their own."""
    found = [(persistent, start) for persistent, _, _, start in Renderer().render(some, joined)]
    assert found == [
        (persistent, joined if persistent and not index else 0) for index, (persistent, _) in enumerate(found)
    ]
