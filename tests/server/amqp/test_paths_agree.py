"""The hot paths and the general path do the same, however the octets are cut."""

from amqp_harness import Client, World, parse, publish
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.server.amqp.channel import Channel
from protocol.amqp.frames import method_frame

BODIES = st.one_of(st.binary(max_size=5), st.just(b"x" * 100), st.just(b"y" * 5000))
PROPERTIES = st.sampled_from(
    [{}, {"delivery_mode": 2}, {"content_type": "text"}, {"headers": {"x-deduplication-header": "one"}}]
)
PUBLISH = st.builds(
    lambda exchange, key, body, properties, mandatory: publish(
        1, exchange, key, body, mandatory, frame_max=4096, **properties
    ),
    st.sampled_from(["", "amq.topic", "amq.fanout", "amq.headers", "seen"]),
    st.sampled_from(["a", "b", "a.b", "nowhere", "full"]),
    BODIES,
    PROPERTIES,
    st.booleans(),
)
OTHER = st.one_of(
    st.builds(lambda tag, multiple: method_frame(1, "basic.ack", tag, multiple), st.integers(0, 12), st.booleans()),
    st.builds(lambda queue: method_frame(1, "basic.get", 0, queue, False), st.sampled_from(["a", "b"])),
    st.just(method_frame(1, "queue.declare", 0, "a", True, False, False, False, False, {})),
    st.just(method_frame(1, "basic.nack", 0, True, True)),
    st.just(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x28\xce"),  # A publish without arguments.
    st.just(b"\x08\x00\x00\x00\x00\x00\x00\xce"),
)
# Publishers go round: what comes next is guessed from the last round.
ROUNDS = st.builds(
    lambda some, times: b"".join(some) * times, st.lists(PUBLISH, min_size=2, max_size=4), st.integers(3, 5)
)
STREAMS = st.lists(st.one_of(PUBLISH, ROUNDS, ROUNDS, OTHER), min_size=2, max_size=12).map(b"".join)


def run(stream, cuts, regular=None):
    """(frames out, what each publish was told, what is left in a queue, deliveries) of one stream, cut into pieces."""
    original = Channel.regular
    if regular is not None:
        Channel.regular = regular
    try:
        world = World()
        client = Client(world)
        client.log_in(frame_max=4096)
        client.call(1, "channel.open", "")
        for queue in ("a", "b"):
            client.declare(queue)
            client.call(1, "queue.bind", 0, queue, "amq.topic", f"{queue}.#", False, {})
            client.call(1, "queue.bind", 0, queue, "amq.fanout", "", False, {})
            client.call(1, "queue.bind", 0, queue, "amq.headers", "", False, {"x-match": "all"})
        client.declare("full", x_max_length=2, x_overflow="reject-publish")
        client.declare_exchange("seen", "x-message-deduplication", x_cache_size=10)
        client.bind("a", "seen", "a")
        client.call(1, "confirm.select", False)
        other = world.connect()
        other.consume("b", "c")
        position = 0
        for cut in [*sorted(cuts), len(stream)]:
            client.feed(stream[position:cut])
            position = max(position, cut)
        confirms, rest = {}, []
        for name, channel, values in parse(client.raw()):
            if name not in ("basic.ack", "basic.nack"):
                rest.append((name, channel, values))
                continue
            first = min(set(range(1, values[0] + 1)) - set(confirms)) if values[1] else values[0]
            confirms.update((number, name) for number in range(first, values[0] + 1) if number not in confirms)
        left = [message for _, message in sorted(world.queue("a").store.cursor.returned)] + list(
            world.queue("a").store.cursor.head
        )
        return rest, confirms, left, other.raw()
    finally:
        Channel.regular = original


@settings(max_examples=150, deadline=None)
@given(STREAMS, st.data())
def test_cuts_and_paths_make_no_difference(stream, data):
    """One piece, random pieces, single octets, hot paths on or off: the same frames, confirms and queue contents."""
    whole = run(stream, [])
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    assert run(stream, cuts) == whole
    assert run(stream, [], regular=property(lambda _: False)) == whole
    if len(stream) < 400:
        assert run(stream, range(len(stream))) == whole
