"""The configuration of this broker, as DescribeConfigs shows it and AlterConfigs changes it.

What may be changed while it runs is `core.topics.broker_config`; the rest comes from the configuration file, under the
names that Kafka's tools look for. A key is shown if its value is true here; where Kafka has a default, it is told too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from broker.core.groups.storage import PARTITIONS as OFFSETS_PARTITIONS
from broker.core.topics.broker_config import ALTERABLE, BROKER_NAMES, HOUR_MS, IN_HOURS, Scope, Sourced
from broker.core.topics.config import KEYS, ConfigType
from broker.core.topics.errors import TopicRefused
from broker.core.topics.producers import FORGOTTEN_AFTER_MS
from protocol.kafka.apis.describe_configs import DescribeConfigsResourceResult, DescribeConfigsSynonym
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection

TOPIC_SOURCE, THIS_BROKER_SOURCE, ALL_BROKERS_SOURCE, STATIC_SOURCE, DEFAULT_SOURCE = 1, 2, 3, 4, 5
"""Where a value comes from (KIP-226)."""
SOURCES: dict[Scope | None, int] = {"this": THIS_BROKER_SOURCE, "all": ALL_BROKERS_SOURCE, None: DEFAULT_SOURCE}
IDLE = "Kept and shown; it changes nothing here."
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


class Fixed(NamedTuple):
    """A key that the configuration file alone can change; `default` is Kafka's."""

    value: str | None
    type: ConfigType
    default: str | None


def scope_of(connection: KafkaConnection, name: str, *, to_alter: bool) -> Scope:
    """Which configuration a resource of type BROKER names. Raises TopicRefused 42, in Kafka's words."""
    if not name:
        return "all"
    node_id = connection.hub.settings.node_id
    if not _NUMBER.fullmatch(name):
        what = "Node" if to_alter else "Broker"
        raise TopicRefused(ErrorCode.INVALID_REQUEST, f"{what} id must be an integer, but it is: {name}")
    if int(name) != node_id:
        expected = str(node_id) if to_alter else f"{node_id} or empty string"
        raise TopicRefused(
            ErrorCode.INVALID_REQUEST, f"Unexpected broker id, expected {expected}, but received {int(name)}"
        )
    return "this"


def describe_broker(
    connection: KafkaConnection, scope: Scope, *, synonyms: bool
) -> list[DescribeConfigsResourceResult]:
    """All values of this broker, or for all brokers what was set for them."""
    config = connection.hub.topics.broker_config
    if scope == "all":
        return [
            told(name, [Sourced(name, value, "all")], ALTERABLE[name].type, synonyms=synonyms)
            for name, value in config.overrides("all").items()
        ]
    found = [_told_fixed(name, one, synonyms=synonyms) for name, one in fixed_values(connection).items()]
    for name, key in ALTERABLE.items():
        sources = _sources(connection, name)
        found.append(told(name, sources, key.type, synonyms=synonyms, documentation=None if key.works else IDLE))
    return found


def topic_sources(connection: KafkaConnection, name: str) -> list[Sourced]:
    """Where the value of a topic's key comes from that the topic itself does not have."""
    broker_name = BROKER_NAMES.get(name)
    return [] if broker_name is None else _sources(connection, broker_name)


def _sources(connection: KafkaConnection, name: str) -> list[Sourced]:
    """The values of a broker's key, and behind them what it is that was never set.

    Some have no value then, and what Kafka has in hours is only told behind one in milliseconds.
    """
    found = connection.hub.topics.broker_config.sources(name)
    if name == BROKER_NAMES["flush.ms"]:
        return found
    if name in _IN_HOURS:
        return [*found, Sourced(*_IN_HOURS[name], None)] if found else []
    return [*found, Sourced(name, ALTERABLE[name].default, None)]


_IN_HOURS = {
    BROKER_NAMES[topic]: (hours, str(int(KEYS[topic].default) // HOUR_MS)) for topic, hours in IN_HOURS.items()
}


def told(
    name: str,
    sources: Iterable[Sourced],
    kind: ConfigType,
    *,
    synonyms: bool,
    documentation: str | None = None,
) -> DescribeConfigsResourceResult:
    """A value that may be changed: the first of its sources that has its name."""
    known = list(sources)
    own = next((one for one in known if one.name == name), None)
    return DescribeConfigsResourceResult(
        name=name,
        value=own.value if own is not None else None,
        config_source=SOURCES[own.scope if own is not None else None],
        synonyms=as_synonyms(known) if synonyms else [],
        config_type=kind,
        documentation=documentation,
    )


def as_synonyms(sources: Iterable[Sourced]) -> list[DescribeConfigsSynonym]:
    """The same in a response."""
    return [DescribeConfigsSynonym(name=one.name, value=one.value, source=SOURCES[one.scope]) for one in sources]


def _told_fixed(name: str, one: Fixed, *, synonyms: bool) -> DescribeConfigsResourceResult:
    is_default = one.value == one.default
    values = [] if is_default else [DescribeConfigsSynonym(name=name, value=one.value, source=STATIC_SOURCE)]
    if one.default is not None:
        values.append(DescribeConfigsSynonym(name=name, value=one.default, source=DEFAULT_SOURCE))
    return DescribeConfigsResourceResult(
        name=name,
        value=one.value,
        read_only=True,
        config_source=DEFAULT_SOURCE if is_default else STATIC_SOURCE,
        synonyms=values if synonyms else [],
        config_type=one.type,
        documentation=None,
    )


def fixed_values(connection: KafkaConnection) -> Mapping[str, Fixed]:
    """What the configuration file says, in Kafka's terms."""
    hub = connection.hub
    settings, groups = hub.settings, hub.hub.group_settings
    host, port = hub.address(connection)
    directory = hub.durability.store.disk.path
    protocol = "SASL_SSL" if connection.tls else "SASL_PLAINTEXT"
    if settings.anonymous is not None:
        protocol = "SSL" if connection.tls else "PLAINTEXT"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def number(value: int, default: int | None, kind: ConfigType = ConfigType.INT) -> Fixed:
        return Fixed(str(value), kind, None if default is None else str(default))

    def text(value: str | None, default: str | None, kind: ConfigType = ConfigType.STRING) -> Fixed:
        return Fixed(value, kind, default)

    def boolean(value: bool, default: str) -> Fixed:
        return Fixed(str(value).lower(), ConfigType.BOOLEAN, default)

    return {
        "advertised.listeners": text(f"{protocol}://{where}", None, ConfigType.LIST),
        "auto.create.topics.enable": boolean(settings.auto_create_topics, "true"),
        "broker.id": number(settings.node_id, -1),
        "broker.rack": text(None, None),
        "connections.max.idle.ms": number(settings.idle_timeout_ms, 600_000, ConfigType.LONG),
        "default.replication.factor": number(1, 1),
        "delete.topic.enable": boolean(True, "true"),
        "fetch.max.bytes": number(settings.fetch_bytes_max, 57_671_680),
        "group.initial.rebalance.delay.ms": number(groups.initial_rebalance_delay_ms, 3000),
        "group.max.session.timeout.ms": number(groups.session_timeout_ms_max, 1_800_000),
        "group.max.size": number(groups.members_max, 2**31 - 1),
        "group.min.session.timeout.ms": number(groups.session_timeout_ms_min, 6000),
        "listeners": text(settings.listeners or f"{protocol}://{where}", "PLAINTEXT://:9092", ConfigType.LIST),
        "log.cleaner.enable": boolean(True, "true"),
        "log.dir": text(directory, "/tmp/kafka-logs", ConfigType.LIST),
        "log.dirs": text(directory, None, ConfigType.LIST),
        "log.retention.hours": number(168, 168),
        "log.retention.minutes": Fixed(None, ConfigType.INT, None),
        "log.roll.hours": number(168, 168),
        "log.roll.jitter.hours": number(0, 0),
        "node.id": number(settings.node_id, None),
        "num.partitions": number(settings.partitions_default, 1),
        "offset.metadata.max.bytes": number(groups.offset_metadata_chars_max, 4096),
        "offsets.retention.minutes": number(groups.offsets_retention_ms // 60_000, 10_080),
        "offsets.topic.num.partitions": number(OFFSETS_PARTITIONS, 50),
        "offsets.topic.replication.factor": number(1, 3, ConfigType.SHORT),
        "process.roles": text("broker,controller", "", ConfigType.LIST),
        "producer.id.expiration.ms": number(FORGOTTEN_AFTER_MS, 86_400_000),
        "socket.request.max.bytes": number(settings.request_bytes_max, 104_857_600),
    }
