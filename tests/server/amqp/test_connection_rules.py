"""Handshake, framing and close: one rule of RabbitMQ's behaviour (or the specification) a test."""

import struct

import pytest
from amqp_harness import Client, Transport, World, publish, refusal

from broker.server.amqp.state import State
from protocol.amqp import content as wire
from protocol.amqp.frames import PROTOCOL_HEADER, frame, method_frame


def closed(frames):
    """(code, text, class, method) of the connection.close among frames."""
    return next(values for name, _, values in frames if name == "connection.close")


def start(client, **options):
    """Up to connection.tune."""
    properties = {"capabilities": options.get("capabilities", {})}
    client.feed(PROTOCOL_HEADER)
    client.feed(
        method_frame(
            0, "connection.start-ok", properties, options.get("mechanism", "PLAIN"),
            options.get("response", b"\0guest\0guest"), options.get("locale", "en_US"),
        )
    )  # fmt: skip
    return client.frames()


@pytest.mark.parametrize("header", [b"GET / HT", b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"])
def test_another_protocol_is_told_what_is_spoken(world, header):
    """A wrong protocol header is answered with ours, and the socket is closed (spec 4.2.2)."""
    client = Client(world).feed(header)
    assert client.raw() == b"AMQP\x00\x00\x09\x01"
    assert client.machine.finished


@pytest.mark.parametrize("header", [b"AMQP\x01\x01\x00\x09", b"AMQP\x01\x01\x08\x00", b"AMQP\x01\x01\x09\x01"])
def test_old_clients_headers_are_accepted(world, header):
    """RabbitMQ takes some old headers for 0-9-1."""
    assert Client(world).feed(header).frames()[0][0] == "connection.start"


def test_start_announces_version_0_9_and_capabilities_first(world):
    """connection.start says 0-9; capabilities come first; mechanisms in RabbitMQ's order."""
    ((_, _, values),) = Client(world).feed(PROTOCOL_HEADER).frames()
    assert values[:2] == (0, 9)
    assert next(iter(values[2])) == "capabilities"
    assert values[2]["product"] == "Jackalope"
    assert values[3:] == (b"AMQPLAIN PLAIN", b"en_US")


def test_the_locale_is_not_checked(world):
    """Any locale will do."""
    assert start(Client(world), locale="xx")[1][0] == "connection.tune"


def test_a_refused_login_is_told_to_those_who_can_hear_it(world):
    """With authentication_failure_close: 403 at once, class and method 0."""
    frames = start(Client(world), response=b"\0guest\0wrong", capabilities={"authentication_failure_close": True})
    code, text, class_id, method_id = closed(frames)
    assert (code, class_id, method_id) == (403, 0, 0)
    assert text.startswith("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")


@pytest.mark.parametrize("options", [{"response": b"\0guest\0wrong"}, {"mechanism": "NONSENSE"}])
def test_others_wait_three_seconds_for_nothing(world, options):
    """Without the capability: silence, then the socket is closed after 3 s."""
    client = Client(world)
    assert [name for name, _, _ in start(client, **options)] == ["connection.start"]
    assert client.machine.drop_at_ms == world.hub.now_ms + 3000


def test_tune_offers_rabbitmqs_figures(world):
    """channel_max 2047, frame_max 131072, heartbeat 60."""
    assert start(Client(world))[1] == ("connection.tune", 0, (2047, 131_072, 60))


@pytest.mark.parametrize("values", [(0, 131_072), (2047, 0), (2047, 1000), (2047, 200_000), (5000, 131_072)])
def test_tune_ok_may_only_lower(world, values):
    """Raising a limit, 0 for unlimited, or a frame_max below the least is refused (by a close, not a reset)."""
    client = Client(world)
    start(client)
    assert closed(client.call(0, "connection.tune-ok", *values, 0))[0] == 530


def test_the_whole_handshake_in_one_write(world):
    """tune-ok, open, channel.open and declare may be pipelined."""
    client = Client(world)
    start(client)
    client.feed(
        method_frame(0, "connection.tune-ok", 2047, 131_072, 0)
        + method_frame(0, "connection.open", "/", "", False)
        + method_frame(1, "channel.open", "")
        + method_frame(1, "queue.declare", 0, "q", False, False, False, False, False, {})
    )
    assert [name for name, _, _ in client.frames()] == ["connection.open-ok", "channel.open-ok", "queue.declare-ok"]


def test_vhost_errors(world):
    """An unknown vhost and one without permissions are both 530 on connection.open, not 402 or 403."""
    assert closed(Client(world).log_in(vhost="nope"))[:2] == (530, "NOT_ALLOWED - vhost nope not found")
    world.broker.add_vhost("other")
    text = "NOT_ALLOWED - access to vhost 'other' refused for user 'guest'"
    assert closed(Client(world).log_in(vhost="other")) == (530, text, 10, 40)


def test_channel_max_counts_channels(world):
    """Any channel number may be used; the number of open channels is what is limited."""
    client = Client(world)
    client.log_in(channel_max=3)
    for number in (7, 2048, 65_535):
        assert client.call(number, "channel.open", "")[0][0] == "channel.open-ok"
    text = "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)"
    assert closed(client.call(1, "channel.open", "")) == (530, text, 0, 0)


@pytest.mark.parametrize(
    ("channel", "method", "expected"),
    [
        (1, ("channel.open", ""), (504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10)),
        (5, ("queue.purge", 0, "q", False), (504, "CHANNEL_ERROR - expected 'channel.open'", 50, 30)),
        (5, ("channel.close", 200, "", 0, 0), (504, "CHANNEL_ERROR - expected 'channel.open'", 20, 40)),
        (0, ("channel.open", ""), (504, "CHANNEL_ERROR - unexpected method in connection state running", 20, 10)),
        (1, ("connection.close", 200, "", 0, 0), (503, "COMMAND_INVALID - unimplemented method", 10, 50)),
        (1, ("channel.close-ok",), (503, "COMMAND_INVALID - unimplemented method", 20, 41)),
        (1, ("basic.deliver", "c", 1, False, "", ""), (503, "COMMAND_INVALID - unimplemented method", 60, 60)),
    ],
)
def test_methods_out_of_place_end_the_connection(world, channel, method, expected):
    """A method on the wrong channel or in the wrong state is a connection error that names it."""
    assert closed(world.connect().call(channel, *method)) == expected


@pytest.mark.parametrize(("number", "code"), [((99, 10), 503), ((60, 199), 540)])
def test_unknown_methods_get_a_proper_close(world, number, code):
    """503 for an unknown class, 540 for an unknown method (RabbitMQ resets)."""
    client = world.connect()
    client.raw()
    assert closed(client.feed(frame(1, 1, struct.pack(">HH", *number))).frames())[0] == code


FRAMING_ERRORS = {
    "bad end": (b"\x01\x00\x01\x00\x00\x00\x04\x00\x14\x00\x28\x00", 501,
                "FRAME_ERROR - type 1, all octets = <<0,20,0,40>>: {invalid_frame_end_marker,0}"),
    "type 9": (frame(9, 1, b"abc"), 501, 'FRAME_ERROR - type 9, all octets = <<"abc">>: unknown_frame'),
    "filled heartbeat": (frame(8, 0, b"abc"), 501, 'FRAME_ERROR - type 8, all octets = <<"abc">>: unknown_frame'),
    "heartbeat on a channel": (frame(8, 1, b""), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>"),
    "too large": (frame(3, 1, bytes(131_073)), 501,
                  "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMING_ERRORS)
def test_octets_that_are_no_frame_end_the_connection(world, name):
    """501, 505 for a heartbeat out of place, with RabbitMQ's words and no class or method."""
    octets, code, text = FRAMING_ERRORS[name]
    client = world.connect()
    client.raw()
    assert closed(client.feed(octets).frames()) == (code, text, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b"\x00", (501, "FRAME_ERROR - cannot decode <<0>>", 50, 10)),
        (b"\x00\x00\x02\xff\xfe\x00\x00\x00\x00\x00", (501, "FRAME_ERROR - Malformed UTF-8 in shortstr", 0, 0)),
    ],
)
def test_arguments_that_cannot_be_decoded(world, arguments, expected):
    """501, whether they end too early or a name is no UTF-8."""
    client = world.connect()
    client.raw()
    assert closed(client.feed(frame(1, 1, struct.pack(">HH", 50, 10) + arguments)).frames()) == expected


def test_a_body_frame_may_take_the_whole_frame_max(world):
    """frame_max counts 8 octets around the payload; RabbitMQ lets senders forget them, and never does so."""
    client = world.connect()
    client.declare("q")
    for size in (131_065, 131_072):
        method = method_frame(1, "basic.publish", 0, "", "q", False, False)
        client.feed(method + frame(2, 1, struct.pack(">HHQH", 60, 0, size, 0)) + frame(3, 1, bytes(size)))
        frames = client.call(1, "basic.get", 0, "q", True)
        assert [len(octets) for kind, _, octets in frames if kind == "body"] == [131_064, size - 131_064]


CONTENT_ERRORS = {
    "expected method frame, got non method frame instead": (frame(3, 1, b"x"), 0, 0),
    "expected content header for class 60, got non content header frame instead": (
        method_frame(1, "basic.publish", 0, "", "q", False, False) + method_frame(1, "basic.get", 0, "q", False),
        60, 40,
    ),
    "expected content header for class 60, got one for class 50 instead": (
        method_frame(1, "basic.publish", 0, "", "q", False, False) + frame(2, 1, struct.pack(">HHQH", 50, 0, 1, 0)),
        60, 40,
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", CONTENT_ERRORS)
def test_content_out_of_order_is_505(world, text):
    """A body without a method, a method inside content, a header of another class: 505 with RabbitMQ's words."""
    octets, class_id, method_id = CONTENT_ERRORS[text]
    client = world.connect()
    client.raw()
    expected = (505, f"UNEXPECTED_FRAME - {text}", class_id, method_id)
    assert closed(client.feed(octets).frames()) == expected


def test_a_weight_in_the_content_header_is_505(world):
    """The unused field has to be 0 (spec 4.2.6.1); RabbitMQ takes another for no content header."""
    client = world.connect()
    method = method_frame(1, "basic.publish", 0, "", "q", False, False)
    client.feed(method + frame(2, 1, struct.pack(">HHQH", 60, 1, 1, 0)))
    assert closed(client.frames())[0] == 505


def test_a_truncated_property_list_is_541(world):
    """541 without further text."""
    client = world.connect()
    header = struct.pack(">HHQH", 60, 0, 0, wire.CONTENT_TYPE) + b"\x09abc"
    client.feed(method_frame(1, "basic.publish", 0, "", "q", False, False) + frame(2, 1, header))
    assert closed(client.frames())[:2] == (541, "INTERNAL_ERROR")


def test_zero_length_body_frames_and_longer_bodies_are_tolerated(world):
    """An empty body frame changes nothing; a body beyond its announced size is cut to it."""
    client = world.connect()
    client.declare("q")
    method = method_frame(1, "basic.publish", 0, "", "q", False, False)
    header = frame(2, 1, struct.pack(">HHQH", 60, 0, 2, 0))
    client.feed(method + header + frame(3, 1, b"") + frame(3, 1, b"ab") + method + header + frame(3, 1, b"abcdef"))
    assert client.get("q")[2] == b"ab"
    assert client.get("q")[2] == b"ab"


def test_an_oversized_message_is_counted_discarded_and_refused():
    """406 on the channel once the body has come whole; nothing of it was kept."""
    world = World(message_size_max_bytes=1000)
    client = world.connect()
    client.declare("q")
    client.feed(publish(1, "", "q", b"x" * 1001))
    (name, _, values) = client.frames()[0]
    text = "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000"
    assert (name, values) == ("channel.close", (406, text, 60, 40))


def test_unfinished_messages_of_a_connection_are_bounded_together():
    """Many channels with half a message each end the connection with 506 instead of filling memory."""
    world = World(message_size_max_bytes=1000)
    client = world.connect()
    for number in range(2, 12):
        client.send(number, "channel.open", "")
        begun = method_frame(number, "basic.publish", 0, "", "q", False, False)
        client.feed(begun + frame(2, number, struct.pack(">HHQH", 60, 0, 1000, 0)) + frame(3, number, b"x" * 900))
    assert closed(client.frames())[0] == 506


def test_an_empty_body_has_no_body_frame(world):
    """Content of size 0 is a header frame alone, in both directions."""
    client = world.connect()
    client.declare("q")
    client.publish("q", b"")
    frames = client.call(1, "basic.get", 0, "q", True)
    assert [kind for kind, _, _ in frames] == ["basic.get-ok", "header"]


@pytest.mark.parametrize("letter", list("bBsuIilLfdDTSxtVAF"))
def test_headers_come_back_octet_for_octet(world, letter):
    """Whatever field type a publisher uses, the consumer gets the same octets."""
    sizes = dict.fromkeys("bBt", 1) | dict.fromkeys("su", 2) | dict.fromkeys("Iif", 4) | dict.fromkeys("lLdT", 8)
    sizes |= {"D": 5, "V": 0}
    value = b"\x01" * sizes[letter] if letter in sizes else struct.pack(">I", 0)
    table = b"\x01h" + letter.encode() + value
    properties = struct.pack(">I", len(table)) + table
    client = world.connect()
    client.declare("q")
    client.publish("q", b"x", octets=wire.HEADERS.to_bytes(2, "big") + properties)
    header = client.call(1, "basic.get", 0, "q", True)[1][2]
    assert header[14:] == properties


def test_line_breaks_are_dropped_from_names(world):
    """CR and LF vanish from queue names."""
    assert world.connect().declare("p5\r\nq")[0][2][0] == "p5q"


def test_a_closing_channel_ignores_everything_but_close_ok(world):
    """After the server's channel.close: pipelined frames are dropped, after close-ok the number is free."""
    client = world.connect()
    client.declare("q")
    client.publish("q", b"good")
    wrong = method_frame(1, "basic.publish", 0, "nope", "q", False, False) + wire.encode_content(
        1, b"", 0, b"bad", 4096
    )
    client.feed(
        wrong
        + publish(1, "", "q", b"dropped")
        + method_frame(1, "queue.declare", 0, "z", False, False, False, False, False, {})
    )
    assert [name for name, _, _ in client.frames()] == ["channel.close"]
    client.send(1, "channel.close-ok")
    assert client.call(1, "channel.open", "")[0][0] == "channel.open-ok"
    assert client.declare("q", passive=True)[0][2][1] == 1


def test_methods_behind_the_peers_own_close_are_ignored(world):
    """Only close-ok comes back for what was pipelined behind channel.close."""
    client = world.connect()
    client.feed(method_frame(1, "channel.close", 200, "", 0, 0) + method_frame(1, "queue.purge", 0, "q", False))
    assert [name for name, _, _ in client.frames()] == ["channel.open-ok", "channel.close-ok"][1:]


def test_only_what_was_on_its_way_behind_the_peers_close_is_ignored(world):
    """A frame that begins behind the peer's read of close-ok is for no channel: 504 (rabbit_reader.erl)."""
    client = world.connect()
    late = method_frame(1, "queue.purge", 0, "q", False)
    client.feed(method_frame(1, "channel.close", 200, "", 0, 0) + late + late[:9])
    assert [name for name, _, _ in client.frames()] == ["channel.close-ok"]
    client.feed(late[9:])
    assert client.frames() == []
    client.feed(late)
    assert refusal(client.frames()) == (504, "expected 'channel.open'")


def test_the_number_of_a_closed_channel_is_free(world):
    """Also right behind the close; what comes once it is closed again is refused."""
    client = world.connect()
    close, reopen = method_frame(1, "channel.close", 200, "", 0, 0), method_frame(1, "channel.open", "")
    client.feed(close + reopen + close)
    assert [name for name, _, _ in client.frames()] == ["channel.close-ok", "channel.open-ok", "channel.close-ok"]
    client.feed(publish(1, "", "q", b"late"))
    assert refusal(client.frames()) == (504, "expected 'channel.open'")


def test_no_limit_of_channels():
    """channel_max 0: the client may take any number, also 0 for no limit (spec 1.4.2.6)."""
    world = World(channel_max=0)
    client = Client(world)
    tuned = [values for name, _, values in client.log_in(channel_max=0) if name == "connection.tune"]
    assert tuned[0][0] == 0
    for number in (1, 2048, 65_535):
        assert client.call(number, "channel.open", "")[0][0] == "channel.open-ok"
    other = Client(world)
    other.log_in(channel_max=1)
    other.call(1, "channel.open", "")
    assert refusal(other.call(2, "channel.open", ""))[0] == 530


def test_nowait_does_not_suppress_errors(world):
    """A failing nowait method still closes the channel, and names the culprit."""
    frames = world.connect().call(1, "queue.declare", 0, "nope", True, False, False, False, True, {})
    assert frames == [("channel.close", 1, (404, "NOT_FOUND - no queue 'nope' in vhost '/'", 50, 10))]


def test_a_dead_connection_returns_its_deliveries_to_their_places(world):
    """a and b are taken, the connection dies: a, b, c, d come in order, the first two marked."""
    client, other = world.connect(), world.connect()
    client.declare("q")
    for body in (b"a", b"b", b"c", b"d"):
        client.publish("q", body)
    client.get("q")
    client.get("q")
    client.drop()
    assert [other.get("q")[1:] for _ in range(4)] == [(True, b"a"), (True, b"b"), (False, b"c"), (False, b"d")]


def watch(world, client, seconds, talking=False):
    """Let a quarter of a second pass again and again, as the ticker does."""
    client.machine.transport = client.machine.transport or Transport()
    for _ in range(int(seconds * 4)):
        world.hub.now_ms += 250
        if talking:
            client.machine.received_octets += 1
        world.amqp._watch(client.machine, world.hub.now_ms)
    return client.machine.transport


def test_a_handshake_takes_ten_seconds_at_most(world):
    """Whoever has not opened a vhost by then is closed without a frame."""
    client = Client(world)
    assert not watch(world, client, 9.5).closed
    assert watch(world, client, 1).closed
    assert client.raw() == b""


def test_heartbeats(world):
    """Sent every half interval; a silent peer is dropped after three, any octet counts, 0 switches them off."""
    client = Client(world)
    client.log_in(heartbeat=1)
    assert not watch(world, client, 2.5).closed
    assert client.raw().count(b"\x08\x00\x00\x00\x00\x00\x00\xce") >= 4
    assert watch(world, client, 1).closed
    talking = Client(world)
    talking.log_in(heartbeat=1)
    assert not watch(world, talking, 20, talking=True).closed
    silent = Client(world)
    silent.log_in(heartbeat=0)
    assert not watch(world, silent, 1000).closed


def test_update_secret_is_acknowledged(world):
    """connection.update-secret gets its ok."""
    assert world.connect().call(0, "connection.update-secret", b"new", "expires")[0][0] == "connection.update-secret-ok"


def test_close_is_answered_and_ends_the_connection(world):
    """connection.close: leases return, exclusive queues go, close-ok is the last frame."""
    client = world.connect()
    client.declare("mine", exclusive=True)
    assert client.call(0, "connection.close", 200, "bye", 0, 0) == [("connection.close-ok", 0, ())]
    assert client.machine.state is State.DONE
    assert "mine" not in world.broker.vhosts["/"].queues
