"""What the configuration declares, declared: exchanges, queues, bindings, policies and topics of each vhost."""

from __future__ import annotations

from broker.config import Config
from broker.config.schema import VHost as VHostConfig
from broker.core.policies import make_policy
from broker.core.topics.errors import TopicRefused
from broker.core.vhost import VHost
from broker.errors import ConfigError, Refused
from broker.server.hub import Hub


def declare_topology(hub: Hub, config: Config) -> None:
    """Vhosts and what is in them, of the configuration. Raises ConfigError for what cannot be declared."""
    broker = hub.broker
    for wanted in config.topology().vhosts:
        vhost = broker.add_vhost(wanted.name)
        try:
            for exchange in wanted.exchanges.values():
                vhost.declare_exchange(
                    exchange.name,
                    exchange.type,
                    durable=exchange.durable,
                    auto_delete=exchange.auto_delete,
                    internal=exchange.internal,
                    arguments=exchange.arguments,
                )
            for queue in wanted.queues.values():
                vhost.declare_queue(
                    queue.name,
                    durable=queue.durable,
                    exclusive=False,
                    auto_delete=queue.auto_delete,
                    arguments=queue.arguments,
                    connection=None,
                    now_ms=hub.now_ms,
                )
            for binding in wanted.all_bindings():
                destination = (
                    vhost.queue(binding.destination)
                    if binding.destination_type == "queue"
                    else vhost.exchange(binding.destination)
                )
                vhost.bind(binding.source, destination, binding.routing_key, binding.arguments)
            declare_topics(vhost, wanted)
            for operator, policies in ((False, wanted.policies), (True, wanted.operator_policies)):
                for one in policies.values():
                    policy = make_policy(
                        one.name, one.pattern, one.apply_to, one.priority, one.definition, operator=operator
                    )
                    vhost.policies.set(policy, operator=operator)
        except Refused as refused:
            raise ConfigError(f"topology of vhost {wanted.name!r}: {refused.text}") from None


def declare_topics(vhost: VHost, wanted: VHostConfig) -> None:
    """The topics of a vhost: created, grown and configured. Raises ConfigError for what cannot be."""
    topics = vhost.topics
    if topics is None:
        if wanted.topics:
            raise ConfigError(f"topology of vhost {vhost.name!r}: topics need a data directory")
        return
    for one in wanted.topics.values():
        config = {name: _config_text(value) for name, value in one.config.items()}
        try:
            topic = topics.get(one.name)
            if topic is None:
                topics.create(one.name, one.partitions, config)
                continue
            if one.partitions < len(topic.partitions):
                text = f"it has {len(topic.partitions)} partitions and cannot be given {one.partitions}"
                raise ConfigError(f"topology of vhost {vhost.name!r}: topic {one.name!r}: {text}")
            if one.partitions > len(topic.partitions):
                topics.add_partitions(topic, one.partitions)
            if dict(topic.overrides) != config:
                topics.configure(topic, config)
        except TopicRefused as refused:
            raise ConfigError(f"topology of vhost {vhost.name!r}: topic {one.name!r}: {refused.text}") from None


def _config_text(value: object) -> str:
    """A value as Kafka has it, in text: YAML has given us numbers and truths."""
    return str(value).lower() if isinstance(value, bool) else str(value)
