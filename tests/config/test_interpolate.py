"""${VAR} in scalars."""

import pytest

from broker.config.interpolate import interpolate

ENV = {"HOST": "h", "EMPTY": "", "NESTED": "${HOST}", "BAD": "\udcff"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${HOST}", "h"),
        ("a-${HOST}-b-${HOST}", "a-h-b-h"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${NONE:-d}", "d"),
        ("${NONE:-}", ""),
        ("${HOST:-d}", "h"),
        ("${HOST:?no}", "h"),
        ("$$", "$"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$h"),
        ("${NESTED}", "${HOST}"),
        ("scrypt$1$2$x", "scrypt$1$2$x"),
        ("^a$", "^a$"),
        ("$HOST", "$HOST"),
    ],
)
def test_forms(text, expected):
    """Only the braced forms are references; what a variable holds is not looked at again."""
    assert interpolate(text, ENV) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${NONE}", "NONE is not set"),
        ("${NONE:?give a host}", "NONE: give a host"),
        ("${EMPTY:?}", "EMPTY is not set"),
        ("${", "expected"),
        ("${a b}", "expected"),
        ("${HOST:+x}", "expected"),
        ("${BAD}", "BAD is not UTF-8"),
    ],
)
def test_errors_name_the_variable(text, said):
    """A reference that cannot be resolved is an error, never an empty string."""
    with pytest.raises(ValueError, match=said):
        interpolate(text, ENV)
