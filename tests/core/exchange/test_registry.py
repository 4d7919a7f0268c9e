"""The types on offer, and what all of them have in common."""

import ast
from pathlib import Path

import pytest
from exchange_helpers import Publishing, Target, bind, binding, made

import broker.core.exchange as package
from broker.core.exchange.registry import ROUTERS

ARGUMENTS = {"x-message-deduplication": {"x-cache-size": 10}, "x-delayed-message": {"x-delayed-type": "direct"}}


def test_exactly_the_types_on_offer():
    """Each under its own name."""
    assert list(ROUTERS) == [
        "direct", "fanout", "topic", "headers", "x-consistent-hash", "x-random", "x-recent-history",
        "x-message-deduplication", "x-delayed-message",
    ]  # fmt: skip
    assert all(router.type_name == name for name, router in ROUTERS.items())


@pytest.mark.parametrize("name", ROUTERS)
def test_bind_route_unbind(name):
    """Any type takes a binding with key 1, routes key 1 to it as a tuple, and to nobody once it is removed."""
    router, target = made(ROUTERS[name], ARGUMENTS.get(name), lambda n: 0), Target("t")
    assert router.route(Publishing("1")) == ()
    bind(router, target, "1")
    found = router.route(Publishing("1"))
    assert type(found) is tuple
    assert found == (target,)
    router.remove(binding(target, "1"))
    assert router.route(Publishing("1")) == ()
    assert isinstance(router.cacheable, bool)
    assert isinstance(router.remembers, bool)
    assert isinstance(router.keyed, bool)
    assert not (router.cacheable and router.remembers)


@pytest.mark.parametrize("name", ROUTERS)
def test_routers_have_no_dict(name):
    """State has slots: a misspelt attribute is an error."""
    assert not hasattr(made(ROUTERS[name], ARGUMENTS.get(name)), "__dict__")


def test_routers_are_pure():
    """No router reads a clock, randomness, files or sockets, or knows queues and vhosts; `routing` walks over them."""
    allowed = {"__future__", "bisect", "collections", "collections.abc", "decimal", "hashlib", "math", "re", "typing"}
    for path in {*Path(package.__path__[0]).glob("*.py")} - {Path(package.__path__[0]) / "routing.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = (
                    "broker.core.exchange.", "broker.core.arguments", "broker.errors", "protocol.amqp.errors",
                    "protocol.amqp.fields",
                )  # fmt: skip
                assert name in allowed or name.startswith(ours), (path.name, name)
