"""What the broker makes of a dead message, whatever stands in it."""

from hypothesis import given
from hypothesis import strategies as st

from broker.core.message import make_origin
from broker.core.queues.x_death import (
    COUNT_MAX,
    EXPIRED,
    OWN_CHANNEL,
    REJECTED,
    DeadLetterMaker,
    is_cycle,
    make_dead_letter,
    read_deaths,
)
from protocol.amqp import content as wire
from protocol.amqp.fields import Long, encode_table

FRAME_MAX = 131_072

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(st.characters(codec="utf-8"), max_size=10),
    st.binary(max_size=10),
    st.floats(),
)
values = st.recursive(scalars, lambda one: st.lists(one, max_size=3), max_leaves=5)
names = st.sampled_from(["queue", "reason", "count", "exchange", "routing-keys", "time", "other"])
deaths = st.dictionaries(names, st.one_of(values, st.sampled_from(["q", "expired", "rejected", 1, Long(2)])))
histories = st.one_of(values, st.lists(st.one_of(deaths, values), max_size=4))


def message(headers, channel=OWN_CHANNEL, expiration=None):
    """A stored message with these headers and an expiration in octets."""
    octets, flags = encode_table(headers), wire.HEADERS
    if expiration is not None:
        octets, flags = octets + bytes([len(expiration)]) + expiration, flags | wire.EXPIRATION
    return make_origin(b"x", b"k"), wire.encode_content(channel, octets, flags, b"body", FRAME_MAX)


def dead_letter_of(stored):
    """The dead letter of a message that expires in `q`, and the deaths as the next one reads them."""
    letter = make_dead_letter(stored, "q", EXPIRED, "dlx", None, 5_000)
    return letter, read_deaths(letter.message[1])


@given(history=histories, copies=values, expiration=st.none() | st.binary(max_size=12), channel=st.sampled_from([0, 1]))
def test_nothing_in_a_message_stops_its_dead_letter(history, copies, expiration, channel):
    """Any x-death, CC and expiration: a letter with this death in front comes of it, and may die again."""
    letter, told = dead_letter_of(message({"x-death": history, "CC": copies, "mine": 1}, channel, expiration))
    assert told[0]["queue"] == "q"
    assert told[0]["reason"] == EXPIRED
    assert wire.body(letter.message[1]) == b"body"
    assert isinstance(is_cycle(letter.deaths, "other"), bool)
    counts = [death["count"] for death in told]
    assert all(isinstance(count, int) and 0 <= count <= COUNT_MAX for count in counts)
    assert dead_letter_of(letter.message)[1][0]["count"] == min(counts[0] + 1, COUNT_MAX)


def test_a_damaged_history_keeps_what_makes_sense():
    """What is no death is left out, a count that is none counts from the start, the others stay."""
    history = [5, {"queue": "q", "reason": "expired", "count": "many"}, {"queue": "p", "reason": "maxlen", "count": 7}]
    _, told = dead_letter_of(message({"x-death": history}))
    assert [(one["queue"], one["reason"], one["count"]) for one in told] == [("q", "expired", 1), ("p", "maxlen", 7)]
    assert read_deaths(message({"x-death": history}, channel=1)[1]) == []


def test_copies_are_a_list():
    """A CC header that is none names no routing keys, not its letters either."""
    assert dead_letter_of(message({"CC": "abc"}))[0].keys == ("k",)
    assert dead_letter_of(message({"CC": ["abc", 5]}))[0].keys == ("k", "abc")


kinds = st.tuples(
    st.sampled_from([{}, {"a": 1}, {"CC": ["other"]}, {"x-death": [{"queue": "q", "reason": EXPIRED, "count": 2}]}]),
    st.sampled_from([0, 1]),
    st.sampled_from([None, b"100"]),
    st.binary(max_size=300),
)
fates = st.tuples(st.sampled_from(["q", "p"]), st.sampled_from([EXPIRED, REJECTED]), st.sampled_from([None, "k2"]))


@given(st.lists(st.tuples(kinds, fates, st.sampled_from([1_000, 1_999, 2_000])), max_size=12))
def test_remembering_the_last_dead_letter_changes_nothing(dead_letters):
    """Whatever dies one behind the other is rewritten as if it were alone."""
    remembered = DeadLetterMaker()
    for (headers, channel, expiration, body), (queue, reason, key), wall_ms in dead_letters:
        origin, content = message(headers, channel, expiration)
        header = wire.header_payload(content)
        flags, properties = int.from_bytes(header[12:14], "big"), header[14:]
        one = origin, wire.encode_content(channel, properties, flags, body, 136)
        assert remembered.make(one, queue, reason, "dlx", key, wall_ms) == make_dead_letter(
            one, queue, reason, "dlx", key, wall_ms
        )
