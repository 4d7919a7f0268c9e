"""What the tests of exchange types share: destinations, publications and bindings without a broker."""

from __future__ import annotations

from broker.core.exchange.base import Binding


class Target:
    """A destination; equal only to itself."""

    deleted = False

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"Target({self.name})"


class Publishing:
    """A publication with whatever a test gives it; properties by AMQP name."""

    def __init__(self, routing_key="", headers=None, properties=None, message=(b"", b""), wall_ms=0):
        self.routing_key = routing_key
        self.headers = headers or {}
        self.properties = properties or {}
        self.message = message
        self.wall_ms = wall_ms
        self.undo = []

    def remembered(self, forget):
        self.undo.append(forget)

    def property(self, name):
        return self.properties.get(name)


class NoHeaders(Publishing):
    """A publication whose headers nobody may parse."""

    @property
    def headers(self):
        raise AssertionError("headers were parsed without need")

    @headers.setter
    def headers(self, value):
        pass


def never(n):
    """For routers that must not use randomness."""
    raise AssertionError("choose was called")


def made(router_class, arguments=None, choose=never):
    return router_class(arguments or {}, choose)


def frozen(value):
    """As the vhost freezes arguments: bindings with different arguments differ."""
    return repr(sorted(value.items(), key=lambda item: item[0]))


def binding(target, routing_key="", arguments=None):
    arguments = arguments or {}
    return Binding("x", target, routing_key, arguments, frozen(arguments))


def bind(router, target, routing_key="", arguments=None):
    """Bind as a vhost does, checks first; returns the binding."""
    made_binding = binding(target, routing_key, arguments)
    router.check_binding(routing_key, made_binding.arguments)
    router.add(made_binding)
    return made_binding
