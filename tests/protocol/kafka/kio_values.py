"""What kio (an independent codec) makes of a message, in our terms; and messages to try.

kio has classes of its own for each version, with Kafka's names; times are `timedelta` and `datetime`, errors an enum.
"""

import dataclasses
import datetime
import importlib
import re
import uuid

from hypothesis import strategies as st

from protocol.kafka.errors import ErrorCode
from protocol.kafka.schema import Spec

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
SMALL = {"int8": 7, "int16": 15, "int32": 31, "int64": 40, "uint16": 16, "uint32": 32}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)


def values(name, spec, version, *, flexible):
    """What a field may hold. Times stay where a calendar has them; error codes are Kafka's (kio knows no other)."""
    kind = spec.kind
    if kind == "array":
        inner = values(name, spec.of, version, flexible=flexible) if isinstance(spec.of, Spec) else structs(
            spec.of, version, flexible=flexible
        )  # fmt: skip
        found = st.lists(inner, max_size=2)
    elif kind == "struct":
        found = structs(spec.of, version, flexible=flexible)
    elif name.endswith("error_code"):
        found = st.sampled_from([int(code) for code in ErrorCode])
    elif kind in SMALL:
        found = st.integers(0, 2 ** SMALL[kind] - 1)
        if not ("ms" in name.split("_") or "timestamp" in name) and kind.startswith("int"):
            found |= st.integers(-(2 ** SMALL[kind]), -1)
    elif kind == "boolean":
        found = st.booleans()
    elif kind == "float64":
        found = st.floats(allow_nan=False)
    elif kind == "uuid":
        found = st.binary(min_size=16, max_size=16)
    elif kind == "string":
        found = TEXT
    else:
        found = st.binary(max_size=10)
    if spec.is_nullable(version):
        found |= st.none()
    if spec.tag is not None:
        found |= st.just([] if kind == "array" else spec.default)
    return found


def structs(cls, version, *, flexible):
    """Any struct of a class, as a version has it."""
    return st.builds(
        cls,
        **{
            name: values(name, spec, version, flexible=flexible)
            for name, spec in cls.SPECS.items()
            if spec.is_in(version) and (spec.tag is None or flexible)
        },
    )


def theirs(name, version, kind):
    """kio's class for a message; None where its Kafka has no such version any more."""
    package = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    try:
        module = importlib.import_module(f"kio.schema.{package}.v{version}.{kind}")
    except ImportError:
        return None
    return getattr(module, f"{name}{'' if kind == 'data' else kind.title()}")


def as_ours(value):
    """A value of theirs as we have it; structs as they are."""
    if isinstance(value, datetime.timedelta):
        return value // MILLISECOND
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, tuple):
        return [as_ours(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def assert_same(ours, other, version, *, flexible):
    """Every field that one of them has in the version the other has by the same name, with the same value."""
    fields = {field.name: field for field in dataclasses.fields(other)}
    specs = [
        (name, spec)
        for name, spec in type(ours).SPECS.items()
        if spec.is_in(version) and (spec.tag is None or flexible)
    ]
    for name, spec in specs:
        known = name if name in fields else name.removesuffix("_ms")
        assert known in fields, (type(ours), name, sorted(fields))
        field = fields.pop(known)
        assert_same_value(f"{type(ours).__name__}.{name}", spec, getattr(ours, name), as_ours(getattr(other, known)),
                          version, flexible=flexible)  # fmt: skip
        if field.default is not dataclasses.MISSING and spec.kind not in ("struct", "array"):
            assert is_same(spec.default, as_ours(field.default)), (type(ours), name, spec.default, field.default)
    assert not fields, (type(ours), sorted(fields))


def is_same(mine, other):
    """Whether a primitive is the same; kio has None for the zero UUID and for a time that is none."""
    return mine == other or (other is None and mine in (bytes(16), -1))


def assert_same_value(name, spec, mine, other, version, *, flexible):
    """Arrays element by element, structs field by field."""
    if mine is None:
        assert other is None or spec.tag is not None, name
    elif spec.kind == "struct":
        assert_same(mine, other, version, flexible=flexible)
    elif spec.kind == "array":
        assert len(mine) == len(other), name
        for one, another in zip(mine, other, strict=True):
            if isinstance(spec.of, Spec):
                assert_same_value(name, spec.of, one, another, version, flexible=flexible)
            else:
                assert_same(one, another, version, flexible=flexible)
    else:
        assert is_same(mine, other), (name, mine, other)
