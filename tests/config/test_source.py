"""Text to items: YAML, JSON, --set, merging, and what a file may make us build."""

import pytest
from steps import lines_of

from broker.config.source import ITEMS_MAX, Item, merge, overlay, parse_json, parse_set, parse_yaml, plain, resolve
from broker.errors import ConfigError


def yaml(text, environ=None):
    errors = []
    item = parse_yaml(text, "f.yaml", environ or {}, errors)
    assert not errors
    return item


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("True", "True"), ("yes", "yes"), ("no", "no"), ("off", "off"), ("on", "on"),
        ("null", None), ("~", None), ("", None), ("0", 0), ("-7", -7), ("012", "012"), ("0x1f", "0x1f"),
        ("1.5", 1.5), ("1e3", "1e3"), (".inf", ".inf"), ("10:30", "10:30"), ("2026-11-23", "2026-11-23"),
        ("9" * 5000, "9" * 5000), ("127.0.0.1:5672", "127.0.0.1:5672"),
    ],
)  # fmt: skip
def test_plain_scalars(text, value):
    """Booleans are true and false only, integers decimal, and nothing is a date, an octal or base 60."""
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_lines_are_those_of_keys():
    """Every item knows the line in which its key stands, also when the value begins below it."""
    root = yaml("a:\n  b: 1\n\n  c:\n    - x\n    - y: 2\n")
    assert root.value["a"].line == 1
    assert root.value["a"].value["b"].line == 2
    assert root.value["a"].value["c"].line == 4
    assert root.value["a"].value["c"].value[1].line == 6
    assert plain(root) == {"a": {"b": 1, "c": ["x", {"y": 2}]}}


def test_quoted_scalars_stay_strings():
    """Quotes make a string of anything; an interpolated plain scalar is resolved after replacing."""
    root = yaml("a: '5'\nb: ${N}\nc: '${N}'\nd: \"true\"\n", {"N": "5"})
    assert plain(root) == {"a": "5", "b": 5, "c": "5", "d": "true"}


def test_a_variable_cannot_become_structure():
    """Interpolation comes after parsing: braces and newlines in a variable are text."""
    assert plain(yaml("a: ${V}\n", {"V": "{b: 1}\nc: 2"})) == {"a": "{b: 1}\nc: 2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: the key 'a' is given twice, first in line 1"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: YAML tags are not supported"),
        ("a: !!str 1\n", "tags are not supported"),
        ("a: &x 1\n<<: *x\n", "f.yaml:2: merge keys"),
        ("? [a]\n: 1\n", "a key must be"),
        ("a: *nope\n", "no such anchor: 'nope'"),
        ("a: &a [*a]\n", "no such anchor: 'a'"),
        ("a: 1\n---\nb: 2\n", "more than one YAML document"),
        ("a: [1\n", "not YAML"),
        ("a: 1\n b: 2\n", "f.yaml:2: not YAML"),
        ("a: \"\\ud800\"", "not YAML"),
    ],
)  # fmt: skip
def test_refused(text, said):
    """What could hide a mistake, run code or name itself is refused, with file and line."""
    with pytest.raises(ConfigError) as caught:
        yaml(text)
    assert said in str(caught.value)


def test_a_syntax_error_shows_no_snippet():
    """The line with the mistake may be a password's."""
    with pytest.raises(ConfigError) as caught:
        yaml("password: canary-7f3a: x\n")
    assert "canary" not in str(caught.value)
    assert "f.yaml:1" in str(caught.value)


def test_aliases_share_and_merging_does_not_write_through_them():
    """An alias is the same value; what is merged over one use leaves the other as it was."""
    below = yaml("a: &x {n: 1}\nb: *x\n")
    assert plain(merge(below, yaml("a: {n: 2}\n"))) == {"a": {"n": 2}, "b": {"n": 1}}
    assert plain(below) == {"a": {"n": 1}, "b": {"n": 1}}


def test_alias_bomb_is_refused_at_once():
    """Aliases cost what they expand to: 10^12 items are refused without making them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    def refused():
        with pytest.raises(ConfigError, match=f"more than {ITEMS_MAX} values"):
            yaml("\n".join(lines))

    assert lines_of(refused) < ITEMS_MAX


@pytest.mark.parametrize("text", ["[" * 300_000, "{a: " * 100_000, "- " * 100_000])
def test_deep_nesting_is_refused(text):
    """libyaml's own composer recurses until the stack ends; depth is counted before descending."""
    with pytest.raises(ConfigError, match=r"nested deeper than 64 levels|not YAML"):
        yaml(text)


def test_a_chain_of_aliases_counts_as_depth():
    """Nesting through aliases is nesting."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100)]
    with pytest.raises(ConfigError, match="nested deeper"):
        yaml("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "a": 2}', "the key 'a' is given twice"),
        ('{"a": 1,\n}', "f.json:2: not JSON"),
        ("[" * 100_000, "nested deeper|not JSON"),
        ("[" * 70 + "]" * 70, "nested deeper"),
        ('{"a": "\\ud800"}', "not Unicode"),
        ('{"\\ud800": 1}', "not Unicode"),
        ('{"a": ' + "9" * 5000 + "}", "a number too long"),
    ],
)
def test_json_refused(text, said):
    """JSON has the same limits, and is never read as anything but JSON."""
    with pytest.raises(ConfigError, match=said):
        parse_json(text, "f.json")


def test_json_is_not_interpolated():
    """An export means what it says."""
    assert plain(parse_json('{"a": "${HOME} $$"}', "f.json")) == {"a": "${HOME} $$"}


@pytest.mark.parametrize(
    ("assignment", "tree"),
    [
        ("listeners.amqp=127.0.0.1:5700", {"listeners": {"amqp": "127.0.0.1:5700"}}),
        ("listeners.amqp=[::1]:0", {"listeners": {"amqp": "[::1]:0"}}),
        ("a.b=5", {"a": {"b": 5}}),
        ("a=x=y", {"a": "x=y"}),
        ("a.b=", {"a": {"b": None}}),
        ('users."a.b".tags=[x, y]', {"users": {"a.b": {"tags": ["x", "y"]}}}),
        ("vhosts./={queues: {q: {}}}", {"vhosts": {"/": {"queues": {"q": {}}}}}),
        ("a=${V}", {"a": "v"}),
        ("a=$$", {"a": "$"}),
    ],
)
def test_set(assignment, tree):
    """KEY=VALUE with dotted keys; the value is a scalar, or flow YAML in brackets."""
    errors = []
    assert plain(parse_set(assignment, {"V": "v"}, errors)) == tree
    assert not errors


@pytest.mark.parametrize("assignment", ["", "a", "=1", "a..b=1", ".a=1", 'a"b=1', "a.=1", '"a', "\udcff=1"])
def test_set_refused(assignment):
    """What is not KEY=VALUE is an error that says what was expected."""
    with pytest.raises(ConfigError, match="--set"):
        parse_set(assignment, {}, [])


def test_merging_by_key():
    """Mappings are merged, bindings appended, other lists and scalars replaced; null is no statement."""
    root = overlay(
        [
            yaml("v: {bindings: [1], tags: [a], n: 1, keep: x}\n"),
            yaml("v: {bindings: [2], tags: [b], n: 2, keep: null}\n"),
        ]
    )
    assert plain(root) == {"v": {"bindings": [1, 2], "tags": ["b"], "n": 2, "keep": "x"}}


def test_a_file_that_is_no_mapping():
    """A list or scalar at the top is an error; an empty file is nothing."""
    assert plain(overlay([yaml(""), yaml("# only a comment\n"), Item(None, "x")])) == {}
    with pytest.raises(ConfigError, match=r"f\.yaml:1: expected a mapping of sections"):
        overlay([yaml("- a\n")])
