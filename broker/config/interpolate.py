"""`${VAR}` in scalars of the configuration, replaced after parsing, so that a value can never become structure.

Pure: the environment is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(
    r"""\$(?:
        (?P<escaped>\$)
      | \{(?P<name>[A-Za-z_][A-Za-z0-9_]*) (?: :(?P<operator>[-?]) (?P<operand>[^}]*) )? \}
      | (?P<malformed>\{[^}]*\}?)
    )""",
    re.VERBOSE,
)


def is_utf8(text: str) -> bool:
    """False for text with lone surrogates: bytes of the environment or command line that are not UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """`text` with `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$` replaced; any other `$` stands for itself.

    As in the shell, the forms with a colon take an empty variable for one that is not set. What a variable holds is
    not looked at again. Raises ValueError, which names the variable but never its value.
    """
    if "$" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["malformed"]:
            raise ValueError("expected ${VAR}, ${VAR:-default} or ${VAR:?message}; write $${ for the characters")
        name, operator = match["name"], match["operator"]
        value = environ.get(name)
        if value or (value is not None and operator is None):
            if not is_utf8(value):
                raise ValueError(f"the environment variable {name} is not UTF-8")
            return value
        if operator == "-":
            return str(match["operand"])
        if operator == "?" and match["operand"]:
            raise ValueError(f"{name}: {match['operand']}")
        raise ValueError(f"the environment variable {name} is not set")

    return _REFERENCE.sub(replace, text)
