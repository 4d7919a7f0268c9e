"""Defaults of what is configured are those of `broker.config`, wherever else a default stands."""

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from broker.config import Config
from broker.config.schema import field_kinds
from broker.core.groups.settings import GroupSettings
from broker.core.vhosts.vhost import VHostLimits
from broker.server.amqp.door import amqp_settings
from broker.server.amqp.hub import AmqpHub
from broker.server.amqp.settings import AmqpSettings
from broker.server.hub import Hub
from broker.server.kafka.door import kafka_settings
from broker.server.kafka.settings import KafkaSettings
from broker.server.pump import PumpLimits
from broker.settings import group_settings, vhost_limits

CONFIG = Config()
BROKER = Path(__file__).resolve().parents[2] / "broker"
PREFIXES = "", "kafka_", "kafka_group_", "group_"
"""A key's, which a part of that name leaves out."""


@pytest.mark.parametrize(
    ("own", "made"),
    [
        (AmqpSettings(), amqp_settings(CONFIG, "0")),
        (KafkaSettings(), replace(kafka_settings(CONFIG, b""), listeners="")),
        (GroupSettings(), group_settings(CONFIG)),
        (VHostLimits(), vhost_limits(CONFIG)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_settings_are_what_the_configuration_makes(own, made):
    """What a part has without being told is what a broker without a configuration tells it."""
    assert own == made


def test_what_is_handed_over_singly():
    """The same of what is no settings of its own."""
    limits = CONFIG.limits
    of_pump = PumpLimits()
    assert of_pump.read_chunk_bytes == limits.read_chunk_bytes
    assert of_pump.read_chunk_bytes_max == limits.read_chunk_bytes_max
    assert of_pump.out_buffer_bytes_max == limits.out_buffer_bytes_max
    of_amqp = inspect.signature(AmqpHub).parameters
    assert of_amqp["handshake_timeout_ms"].default == limits.handshake_timeout_s * 1000
    assert of_amqp["send_timeout_ms"].default == limits.send_timeout_s * 1000
    assert inspect.signature(Hub).parameters["unfinished_bytes_max"].default == limits.unfinished_bytes_max


def configured():
    """Every number that has a key: by the names that a part may call it, in its unit or in ms, (key, value) each."""
    found = {}
    for section in ("limits", "kafka", "security", "storage"):
        for key, (_, _, default) in field_kinds(type(getattr(CONFIG, section))).items():
            if isinstance(default, bool) or not isinstance(default, (int, float)):
                continue
            for prefix in PREFIXES:
                if key.startswith(prefix):
                    name = key.removeprefix(prefix)
                    found.setdefault(name, (key, default))
                    if name.endswith("_s"):
                        found.setdefault(name[:-2] + "_ms", (key, default * 1000))
    return found


def defaults(tree):
    """(name, expression) of each parameter and each annotated attribute with a default."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            positional = [*given.posonlyargs, *given.args]
            yield from zip(positional[len(positional) - len(given.defaults) :], given.defaults, strict=True)
            yield from ((one, value) for one, value in zip(given.kwonlyargs, given.kw_defaults, strict=True) if value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target, node.value


def drifted(text):
    """Of a module's defaults those of a configured name and another value: (name, value, key)."""
    names = configured()
    found = []
    for target, value in defaults(ast.parse(text)):
        name = target.arg if isinstance(target, ast.arg) else target.id
        if name not in names or any(isinstance(one, (ast.Name, ast.Call)) for one in ast.walk(value)):
            continue
        number = eval(compile(ast.Expression(value), "", "eval"))
        if number is not None and number != names[name][1]:
            found.append((name, number, names[name][0]))
    return found


def test_no_default_drifts():
    """Outside `config/` a parameter or field of a configured name has the configuration's default or none."""
    paths = [path for path in sorted(BROKER.rglob("*.py")) if path.parent.name != "config"]
    assert {str(path): found for path in paths if (found := drifted(path.read_text()))} == {}


def test_drift_is_found():
    """In parameters, in fields, and in other units than the key's."""
    assert drifted("def f(queues_max: int = 5, *, send_timeout_ms: int = 30_000): ...") == [
        ("queues_max", 5, "queues_max")
    ]
    assert drifted("class A:\n    groups_max: int = 1 << 3\n") == [("groups_max", 8, "kafka_groups_max")]
    assert drifted("class A:\n    close_timeout_ms: int = 5\n") == [("close_timeout_ms", 5, "close_timeout_s")]
