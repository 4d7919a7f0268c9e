"""`headers` (spec 3.1.3.4; matches as RabbitMQ 3.10 and 4.0.5 answered them)."""

from decimal import Decimal

import pytest
from exchange_helpers import NoHeaders, Publishing, Target, bind, binding, made
from hypothesis import given
from hypothesis import strategies as st

from broker.core.exchange.headers import HeadersRouter
from broker.errors import Refused
from protocol.amqp.fields import Timestamp

X_ALL, X_ANY = {"x-match": "all-with-x"}, {"x-match": "any-with-x"}
ANY = {"x-match": "any"}


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        pytest.param({}, {}, True, id="no arguments: always"),
        pytest.param({}, {"a": 1}, True, id="no arguments: always, also with headers"),
        pytest.param(ANY, {"a": 1}, False, id="any of none: never"),
        pytest.param(X_ALL, {}, True, id="all-with-x of none: always"),
        pytest.param(X_ANY, {"a": 1}, False, id="any-with-x of none: never"),
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, True, id="absent x-match is all"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, False, id="all needs all"),
        pytest.param({"a": 1, "b": 2}, {"a": 1, "b": 3}, False, id="all needs equal values"),
        pytest.param(ANY | {"a": 1, "b": 2}, {"b": 2}, True, id="any needs one"),
        pytest.param(ANY | {"a": 1, "b": 2}, {"a": 2, "b": 1}, False, id="any needs an equal value"),
        pytest.param({"a": None}, {"a": 5}, True, id="void is presence"),
        pytest.param({"a": None}, {"a": None}, True, id="void is presence of void, too"),
        pytest.param({"a": None}, {"b": 5}, False, id="void is not absence"),
        pytest.param({"a": 5}, {"a": None}, False, id="a void header equals nothing"),
        pytest.param(ANY | {"a": None, "b": 1}, {"a": 7}, True, id="void counts for any"),
        pytest.param({"x-foo": 1, "a": 1}, {"a": 1}, True, id="all ignores x-"),
        pytest.param(ANY | {"x-foo": 1}, {"x-foo": 1}, False, id="any ignores x-"),
        pytest.param(X_ALL | {"x-foo": 1, "a": 1}, {"a": 1}, False, id="all-with-x counts x-"),
        pytest.param(X_ALL | {"x-foo": 1, "a": 1}, {"a": 1, "x-foo": 1}, True, id="all-with-x met"),
        pytest.param(X_ANY | {"x-foo": 1, "a": 1}, {"x-foo": 1}, True, id="any-with-x counts x-"),
        pytest.param({"a": 5}, {"a": 5.0}, True, id="int equals float"),
        pytest.param({"a": 2**53 + 1}, {"a": float(2**53)}, False, id="int against float is exact"),
        pytest.param({"a": 5}, {"a": Timestamp(5)}, True, id="timestamp equals its seconds"),
        pytest.param({"a": True}, {"a": 1}, False, id="true is not 1"),
        pytest.param({"a": 0}, {"a": False}, False, id="0 is not false"),
        pytest.param({"a": True}, {"a": True}, True, id="true is true"),
        pytest.param({"a": 1}, {"a": "1"}, False, id="1 is not '1'"),
        pytest.param({"a": "z"}, {"a": b"z"}, True, id="text equals bytes"),
        pytest.param({"a": b"\xff"}, {"a": b"\xff"}, True, id="bytes that are no text"),
        pytest.param({"a": [1, "z"]}, {"a": [1, b"z"]}, True, id="lists"),
        pytest.param({"a": [1]}, {"a": [True]}, False, id="lists keep types"),
        pytest.param({"a": [1]}, {"a": 1}, False, id="a list is not its element"),
        pytest.param({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}, True, id="tables"),
        pytest.param({"a": {"b": 1}}, {"a": {"b": True}}, False, id="tables keep types"),
        pytest.param({"a": Decimal("1.0")}, {"a": Decimal("1.0")}, True, id="decimals"),
        pytest.param({"a": Decimal("1.0")}, {"a": Decimal("1.00")}, False, id="decimals of other scale"),
        pytest.param({"a": Decimal(5)}, {"a": 5}, False, id="a decimal is not an int"),
        pytest.param({"a": "a"}, {"A": "a"}, False, id="names are compared as they are"),
    ],
)
def test_matching(arguments, headers, matches):
    """What matches, alone and among 50 bindings that share headers with it."""
    router, target = made(HeadersRouter), Target("t")
    bind(router, target, "ignored", arguments)
    assert router.route(Publishing("k", headers)) == ((target,) if matches else ())
    for number in range(50):
        bind(router, Target(number), "", arguments | {"a": f"no. {number}", "never": number})
        bind(router, Target(number), "", {"a": 1, "never": None, "number": number})
    assert (target in router.route(Publishing("k", headers))) == matches


@pytest.mark.parametrize(
    ("x_match", "text"),
    [
        ("foo", 'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x'),
        ("ALL", 'Invalid x-match field value <<"ALL">>; expected all, any, all-with-x, or any-with-x'),
        (1, "Invalid x-match field type signedint (value 1); expected longstr"),
        (True, "Invalid x-match field type bool (value true); expected longstr"),
        (None, "Invalid x-match field type void (value undefined); expected longstr"),
    ],
)
def test_other_x_match_is_refused(x_match, text):
    """406 in RabbitMQ's words."""
    with pytest.raises(Refused) as refusal:
        made(HeadersRouter).check_binding("", {"x-match": x_match})
    assert (refusal.value.reply_code, refusal.value.text) == (406, text)


def test_a_refusal_fits_a_reply_text():
    """A hostile value is cut: 255 bytes are the end of a reply-text."""
    for x_match in ("f" * 100_000, ["f" * 100_000]):
        with pytest.raises(Refused) as refusal:
            made(HeadersRouter).check_binding("", {"x-match": x_match})
        assert len(refusal.value.text) < 200


@pytest.mark.parametrize("x_match", ["all", "any", "all-with-x", "any-with-x"])
def test_the_four_modes_are_taken(x_match):
    """And so is no x-match at all."""
    made(HeadersRouter).check_binding("", {"x-match": x_match, "a": 1})
    made(HeadersRouter).check_binding("", {"a": 1})


def test_headers_are_parsed_only_if_a_binding_looks_at_them():
    """No binding, or only such as take everything: the content stays unparsed."""
    router, target = made(HeadersRouter), Target("t")
    assert router.route(NoHeaders()) == ()
    bind(router, target)
    assert router.route(NoHeaders()) == (target,)


def test_binding_order_and_no_repetition():
    """In binding order, each destination once, however many of its bindings match."""
    router, one, other = made(HeadersRouter), Target("one"), Target("other")
    bind(router, other, "", ANY | {"a": 1, "b": 2})
    bind(router, one, "", {"b": 2})
    bind(router, other)
    assert router.route(Publishing(headers={"b": 2, "a": 1})) == (other, one)


def test_a_publication_meets_only_bindings_that_share_a_header():
    """10,000 bindings of one tenant each, all for `format` pdf: the tenant's own one is compared, not all."""
    router = made(HeadersRouter)
    targets = [Target(number) for number in range(10_000)]
    for number, target in enumerate(targets):
        bind(router, target, "", {"format": "pdf", "tenant": number})
    assert router.route(Publishing(headers={"format": "pdf", "tenant": 77})) == (targets[77],)
    assert max(map(len, router._index.values())) <= 2


VALUES = st.sampled_from([None, True, False, 0, 1, 1.0, "1", b"1", "", [1], [True], {"a": 1}])
NAMES = st.sampled_from(["a", "b", "x-a"])
MODES = st.sampled_from([{}, {"x-match": "all"}, ANY, X_ALL, X_ANY])


def plain_equal(one, other):
    """The rule on values, without stand-ins."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (str, bytes)) and isinstance(other, (str, bytes)):
        return (one.encode() if isinstance(one, str) else one) == (other.encode() if isinstance(other, str) else other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(plain_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(plain_equal(one[key], other[key]) for key in one)
    return one == other


def plain_match(arguments, headers):
    """The rule on bindings, one argument after another."""
    mode = arguments.get("x-match", "all")
    results = [
        name in headers and (value is None or plain_equal(value, headers[name]))
        for name, value in arguments.items()
        if name != "x-match" and (mode.endswith("-with-x") or not name.startswith("x-"))
    ]
    return any(results) if mode.startswith("any") else all(results)


TABLES = st.dictionaries(NAMES, VALUES, max_size=3)


@given(st.lists(st.tuples(MODES, TABLES), max_size=6), st.lists(TABLES, min_size=1, max_size=4), st.data())
def test_index_like_the_rule(bound, publications, data):
    """Any bindings, some removed again: the index finds what comparing each finds; nothing stays at the end."""
    router = made(HeadersRouter)
    alive = []
    for mode, arguments in bound:
        one = binding(Target(len(alive)), "", arguments | mode)
        router.add(one)
        alive.append(one)
    for gone in data.draw(st.permutations(alive)):
        for headers in publications:
            expected = tuple(one.destination for one in alive if plain_match(one.arguments, headers))
            assert router.route(Publishing(headers=headers)) == expected
        router.remove(gone)
        alive.remove(gone)
    assert (router._index, router._always, router._rules) == ({}, {}, {})
