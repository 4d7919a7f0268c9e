"""conf/jackalope.yaml, the dataclasses and the JSON schema are one thing."""

import re
from pathlib import Path

import pytest
import yaml

from broker.config import Config, check, load
from broker.config.reference import render, schema
from broker.config.schema import field_kinds

FILE = Path(__file__).parent.parent / "conf" / "jackalope.yaml"
SECTIONS = [name for name, (kind, _, _) in field_kinds(Config).items() if kind.schema == {}]


def test_it_is_the_defaults():
    """Starting with the file is starting without it."""
    assert load([FILE], (), {}) == Config()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_both_ways(section):
    """Every key of the dataclass stands in the file, every key of the file in the dataclass, in the same order."""
    written = yaml.safe_load(FILE.read_text())
    kind = field_kinds(Config)[section][0]
    assert list(written[section]) == list(field_kinds(kind.children))


def test_every_section_both_ways():
    """The same for the sections themselves."""
    assert list(yaml.safe_load(FILE.read_text())) == list(field_kinds(Config))


def test_every_key_has_its_reason():
    """The file is what the code renders: each key under the reason that the code gives. (To write it anew:
    python -c "from broker.config.reference import render; print(render(), end='')" > conf/jackalope.yaml)
    """
    assert FILE.read_text() == render()
    for section in SECTIONS:
        for key, (_, why, _) in field_kinds(field_kinds(Config)[section][0].children).items():
            assert len(why) > 8, key


def test_the_examples_in_it_work(tmp_path):
    """What stands in comments below vhosts and users is valid once the comment signs are gone."""
    text = FILE.read_text()
    start = text.index("vhosts:\n")
    uncommented = re.sub(r"(?m)^  # ( *[^ ].*)$", r"  \1", text[start:])
    file = tmp_path / "c.yaml"
    file.write_text(uncommented)
    assert check([file], (), {}).errors == ()
    config = load([file], (), {})
    assert set(config.vhosts) == {"/", "shop"}
    assert set(config.users) == {"guest", "alice"}
    assert len(config.vhosts["shop"].all_bindings()) == 2


@pytest.mark.parametrize("name", ["vhosts", "users"])
def test_every_inner_key_is_shown(name):
    """What stands below names is in the examples: each key of every dataclass there, in its place."""
    text = FILE.read_text()
    text = re.sub(r"(?m)^  # ( *[^ ].*)$", r"  \1", text[text.index("vhosts:\n") :])
    written = yaml.safe_load(text)[name].values()
    assert missing(field_kinds(Config)[name][0].children, written) == []


def missing(cls, written):
    """The keys of a dataclass, and of those below it, that none of these mappings has."""
    found = []
    for key, (kind, _, _) in field_kinds(cls).items():
        below = [one[key] for one in written if key in one]
        if not below and key not in ("password", "password_hash"):  # A user has one of them.
            found.append(f"{cls.__name__}.{key}")
        if kind.children is not None:
            entries = [entry for one in below for entry in (one if isinstance(one, list) else one.values())]
            while entries and not any(set(entry) & set(field_kinds(kind.children)) for entry in entries):
                entries = [entry for one in entries for entry in one.values()]
            found += missing(kind.children, entries)
    return found


def test_the_inner_keys_would_be_missed():
    """The look is one that can fail."""
    assert missing(field_kinds(Config)["vhosts"][0].children, [{"queues": {"q": {"durable": True}}}])


def keys_of(section, path=""):
    """Dotted paths of all properties of a schema."""
    for name, one in section.get("properties", {}).items():
        yield path + name
        yield from keys_of(one, f"{path}{name}.")


def test_the_schema_knows_the_same_keys():
    """An editor that validates by the schema accepts what the broker accepts: unknown keys nowhere."""
    described = schema()
    assert described["additionalProperties"] is False
    known = set(keys_of(described))
    for section in SECTIONS:
        assert described["properties"][section]["additionalProperties"] is False
        for key in field_kinds(field_kinds(Config)[section][0].children):
            assert f"{section}.{key}" in known
    queue = described["properties"]["vhosts"]["additionalProperties"]["properties"]["queues"]["additionalProperties"]
    assert queue["additionalProperties"] is False
    assert queue["properties"]["bindings"]["items"]["required"] == ["source"]
    user = described["properties"]["users"]["additionalProperties"]["properties"]
    topic = user["topic_permissions"]["additionalProperties"]["additionalProperties"]
    assert set(topic["properties"]) == {"write", "read"}
