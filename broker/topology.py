"""What the configuration declares, declared: exchanges, queues, bindings, topics and policies of each vhost.

What fits is applied, one thing at a time. What conflicts with what is there stays as it is there, and is told with its
file and line: one edited line must not keep everything else out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from broker.config import Config
from broker.config.schema import Binding, QueueBinding
from broker.config.schema import Topic as TopicConfig
from broker.config.schema import VHost as VHostConfig
from broker.config.source import Item, where
from broker.core.broker import Broker
from broker.core.topics.config import text_of
from broker.core.topics.errors import TopicRefused
from broker.core.vhosts.policies import make_policy
from broker.core.vhosts.vhost import VHost
from broker.errors import Refused

KEPT = "what is there stays as it is: write here what it has, or delete it and start again"
ADDED = "it is not there now: mend this line and start again"

Path = tuple[str, ...]


class Conflict(NamedTuple):
    """Something of the configuration that could not be declared."""

    path: Path
    text: str
    remedy: str

    def told(self, root: Item | None) -> str:
        """File, line, key, what, and what to do."""
        place = f"{where(root, self.path)}: " if root is not None else ""
        return f"{place}{'.'.join(self.path)}: {self.text}; {self.remedy}"


def declare_topology(broker: Broker, config: Config, now_ms: int) -> list[str]:
    """Vhosts and what is in them, of the configuration; returns what conflicts with what was there."""
    found: list[str] = []
    for wanted in config.declared().vhosts:
        declaration = _Declaration(broker.add_vhost(wanted.name), wanted, now_ms)
        declaration.run()
        found += [one.told(config.root) for one in declaration.conflicts]
    return found


class _Declaration:
    """One vhost."""

    def __init__(self, vhost: VHost, wanted: VHostConfig, now_ms: int) -> None:
        self.conflicts: list[Conflict] = []
        self._vhost = vhost
        self._wanted = wanted
        self._now_ms = now_ms

    def run(self) -> None:
        """Everything, in the order in which it needs one another."""
        wanted, vhost = self._wanted, self._vhost
        for exchange in wanted.exchanges.values():
            remedy = KEPT if exchange.name in vhost.exchanges else ADDED
            self._try(("exchanges", exchange.name), remedy, lambda exchange=exchange: vhost.declare_exchange(  # type: ignore[misc]
                exchange.name, exchange.type, durable=exchange.durable, auto_delete=exchange.auto_delete,
                internal=exchange.internal, arguments=exchange.arguments,
            ))  # fmt: skip
        for queue in wanted.queues.values():
            remedy = KEPT if vhost.target(queue.name) is not None else ADDED
            self._try(("queues", queue.name), remedy, lambda queue=queue: vhost.declare_queue(  # type: ignore[misc]
                queue.name, durable=queue.durable, exclusive=False, auto_delete=queue.auto_delete,
                arguments=queue.arguments, connection=None, now_ms=self._now_ms,
            ))  # fmt: skip
        for path, binding in self._bindings():
            self._try(path, ADDED, lambda binding=binding: self._bind(binding))  # type: ignore[misc]
        self.topics()
        for kind, policies in (("policies", wanted.policies), ("operator_policies", wanted.operator_policies)):
            for one in policies.values():
                self._try((kind, one.name), ADDED, lambda one=one, kind=kind: vhost.policies.set(  # type: ignore[misc]
                    make_policy(one.name, one.pattern, one.apply_to, one.priority, one.definition,
                                operator=kind == "operator_policies"),
                    operator=kind == "operator_policies",
                ))  # fmt: skip

    def _try(self, path: Path, remedy: str, declare: Callable[[], object]) -> None:
        try:
            declare()
        except (Refused, TopicRefused) as refused:
            self._note(path, refused.text, remedy)

    def _note(self, path: Path, text: str, remedy: str) -> None:
        self.conflicts.append(Conflict(("vhosts", self._vhost.name, *path), text, remedy))

    def _bindings(self) -> Iterator[tuple[Path, Binding]]:
        for position, binding in enumerate(self._wanted.bindings):
            yield ("bindings", str(position)), binding
        for queue in self._wanted.queues.values():
            for position, one in enumerate(queue.bindings):
                yield ("queues", queue.name, "bindings", str(position)), _of_queue(queue.name, one)

    def _bind(self, binding: Binding) -> None:
        vhost = self._vhost
        if binding.destination_type == "queue":
            vhost.bind(
                binding.source, vhost.destination(binding.destination, None), binding.routing_key, binding.arguments
            )
        else:
            vhost.bind(binding.source, vhost.exchange(binding.destination), binding.routing_key, binding.arguments)

    def topics(self) -> None:
        """The topics of a vhost: created, grown and configured."""
        topics = self._vhost.topics
        for one in self._wanted.topics.values():
            if topics is None:
                self._note(("topics", one.name), "topics need a data directory", "give storage.dir one, or --data DIR")
                continue
            there = topics.get(one.name) is not None
            for declare in (self._partitions, self._configuration) if there else (self._create,):
                self._try(("topics", one.name), KEPT if there else ADDED, lambda d=declare, one=one: d(one))  # type: ignore[misc]

    def _create(self, one: TopicConfig) -> None:
        assert self._vhost.topics is not None
        self._vhost.topics.create(one.name, one.partitions, _overrides(one))

    def _partitions(self, one: TopicConfig) -> None:
        topics = self._vhost.topics
        assert topics is not None
        topic = topics.get(one.name)
        assert topic is not None
        count = len(topic.partitions)
        if one.partitions < count:
            text = f"it has {count} partitions, which stay, and cannot be given {one.partitions}"
            self._note(("topics", one.name, "partitions"), text, f"write partitions: {count} here")
        elif one.partitions > count:
            topics.add_partitions(topic, one.partitions)

    def _configuration(self, one: TopicConfig) -> None:
        topics = self._vhost.topics
        assert topics is not None
        topic = topics.get(one.name)
        assert topic is not None
        overrides = {name: text for name, text in _overrides(one).items() if text is not None}
        if dict(topic.overrides) != overrides:
            topics.configure(topic, overrides)


def _overrides(one: TopicConfig) -> dict[str, str | None]:
    return {name: text_of(value) for name, value in one.config.items()}


def _of_queue(name: str, one: QueueBinding) -> Binding:
    return Binding(one.source, name, "queue", one.routing_key, one.arguments)
