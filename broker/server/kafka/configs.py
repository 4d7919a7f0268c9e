"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources: the configuration of topics.

Of a broker a few values are shown that tools look for; none can be changed over this protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.core.access_lists import Operation
from broker.core.topics.config import KEYS, ConfigType
from broker.core.topics.errors import TopicRefused
from broker.core.topics.topic import Topic
from broker.server.kafka.handlers import Steps, each, handles
from broker.server.kafka.topics import DEFAULT_SOURCE, TOPIC_SOURCE, require
from protocol.kafka.apis import alter_configs, incremental_alter_configs
from protocol.kafka.apis.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from protocol.kafka.apis.list_config_resources import (
    ConfigResource,
    ListConfigResourcesRequest,
    ListConfigResourcesResponse,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection, Slot
    from broker.server.kafka.hub import KafkaHub

TOPIC, BROKER = 2, 4
STATIC_BROKER_SOURCE = 4
SET, DELETE, APPEND, SUBTRACT = range(4)
DESCRIBE_UNITS, ALTER_UNITS = 150, 150
"""What the configuration of one resource costs."""


@handles(32)
def on_describe_configs(connection: KafkaConnection, slot: Slot, request: DescribeConfigsRequest) -> Steps:
    """Every value with where it comes from, its type, and what it would be otherwise.

    What is asked for again in the same request is INVALID_REQUEST: a resource has some forty values.
    """
    seen: set[tuple[int, str]] = set()

    def describe(one: DescribeConfigsResource) -> DescribeConfigsResult:
        resource = (one.resource_type, one.resource_name)
        is_again = resource in seen
        seen.add(resource)
        return _describe(connection, one, synonyms=request.include_synonyms, is_again=is_again)

    return DescribeConfigsResponse(results=(yield from each(request.resources, describe, DESCRIBE_UNITS)))


def _describe(
    connection: KafkaConnection, wanted: DescribeConfigsResource, *, synonyms: bool, is_again: bool
) -> DescribeConfigsResult:
    result = DescribeConfigsResult(
        error_message=None, resource_type=wanted.resource_type, resource_name=wanted.resource_name
    )
    try:
        if is_again:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"{wanted.resource_name} is asked for twice")
        if wanted.resource_type == TOPIC:
            found = _describe_topic(_topic(connection, "describe_configs", wanted.resource_name), synonyms=synonyms)
        elif wanted.resource_type == BROKER:
            if wanted.resource_name not in ("", str(connection.hub.settings.node_id)):
                raise TopicRefused(ErrorCode.INVALID_REQUEST, f"there is no broker {wanted.resource_name}")
            found = _describe_broker(connection.hub)
        else:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"resources of type {wanted.resource_type} have no values")
    except TopicRefused as refused:
        result.error_code, result.error_message = refused.code, refused.text
        return result
    names = wanted.configuration_keys
    result.configs = [one for one in found if names is None or one.name in names]
    return result


def _topic(connection: KafkaConnection, operation: Operation, name: str) -> Topic:
    """Raises TopicRefused 29, 3."""
    require(connection, operation, name)
    topic = connection.hub.topics.get(name)
    if topic is None:
        raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic '{name}' does not exist")
    return topic


def _describe_topic(topic: Topic, *, synonyms: bool) -> list[DescribeConfigsResourceResult]:
    found = []
    for name, key in KEYS.items():
        own = topic.overrides.get(name)
        sources = [] if own is None else [DescribeConfigsSynonym(name=name, value=own, source=TOPIC_SOURCE)]
        sources.append(DescribeConfigsSynonym(name=name, value=key.default, source=DEFAULT_SOURCE))
        found.append(
            DescribeConfigsResourceResult(
                name=name,
                value=sources[0].value,
                config_source=sources[0].source,
                synonyms=sources if synonyms else [],
                config_type=key.type,
                documentation=None if key.works else "Kept and shown; it changes nothing here.",
            )
        )
    return found


def _describe_broker(hub: KafkaHub) -> list[DescribeConfigsResourceResult]:
    settings = hub.settings
    values: dict[str, tuple[Any, ConfigType]] = {
        "auto.create.topics.enable": (str(settings.auto_create_topics).lower(), ConfigType.BOOLEAN),
        "broker.id": (settings.node_id, ConfigType.INT),
        "default.replication.factor": (1, ConfigType.INT),
        "fetch.max.bytes": (settings.fetch_bytes_max, ConfigType.INT),
        "node.id": (settings.node_id, ConfigType.INT),
        "num.partitions": (settings.partitions_default, ConfigType.INT),
        "socket.request.max.bytes": (settings.request_bytes_max, ConfigType.INT),
    }
    return [
        DescribeConfigsResourceResult(
            name=name,
            value=str(value),
            read_only=True,
            config_source=STATIC_BROKER_SOURCE,
            config_type=kind,
            documentation=None,
        )
        for name, (value, kind) in values.items()
    ]


@handles(33)
def on_alter_configs(connection: KafkaConnection, slot: Slot, request: alter_configs.AlterConfigsRequest) -> Steps:
    """AlterConfigs replaces all that a topic has of its own."""

    def alter(one: alter_configs.AlterConfigsResource) -> alter_configs.AlterConfigsResourceResponse:
        answer = alter_configs.AlterConfigsResourceResponse(
            error_message=None, resource_type=one.resource_type, resource_name=one.resource_name
        )
        try:
            topic = _alterable(connection, one.resource_type, one.resource_name)
            overrides = {config.name: config.value for config in one.configs}
            connection.hub.topics.configure(topic, overrides, validate_only=request.validate_only)
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    answers = yield from each(request.resources, alter, ALTER_UNITS)
    connection.hub.answer_when_durable(slot, alter_configs.AlterConfigsResponse(responses=answers))
    return None


@handles(44)
def on_incremental_alter_configs(
    connection: KafkaConnection, slot: Slot, request: incremental_alter_configs.IncrementalAlterConfigsRequest
) -> Steps:
    """IncrementalAlterConfigs changes what it names (KIP-339)."""

    def alter(
        one: incremental_alter_configs.AlterConfigsResource,
    ) -> incremental_alter_configs.AlterConfigsResourceResponse:
        answer = incremental_alter_configs.AlterConfigsResourceResponse(
            error_message=None, resource_type=one.resource_type, resource_name=one.resource_name
        )
        try:
            topic = _alterable(connection, one.resource_type, one.resource_name)
            overrides = _changed(topic.overrides, one.configs)
            connection.hub.topics.configure(topic, overrides, validate_only=request.validate_only)
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    answers = yield from each(request.resources, alter, ALTER_UNITS)
    response = incremental_alter_configs.IncrementalAlterConfigsResponse(responses=answers)
    connection.hub.answer_when_durable(slot, response)
    return None


def _alterable(connection: KafkaConnection, resource_type: int, name: str) -> Topic:
    """Raises TopicRefused 29, 3, and 42 for what is no topic."""
    if resource_type != TOPIC:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, "only the configuration of topics can be changed here")
    return _topic(connection, "alter_configs", name)


def _changed(
    overrides: Mapping[str, str], changes: list[incremental_alter_configs.AlterableConfig]
) -> dict[str, str | None]:
    """The overrides with the changes. Raises TopicRefused 40, 42."""
    changed: dict[str, str | None] = dict(overrides)
    if len({change.name for change in changes}) != len(changes):
        raise TopicRefused(ErrorCode.INVALID_REQUEST, "a configuration is changed twice")
    for change in changes:
        name, operation = change.name, change.config_operation
        if operation == DELETE:
            changed[name] = None
            continue
        if change.value is None or operation not in (SET, APPEND, SUBTRACT):
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"operation {operation} on {name} with value {change.value}")
        if operation == SET:
            changed[name] = change.value
            continue
        if name not in KEYS or KEYS[name].type is not ConfigType.LIST:
            raise TopicRefused(ErrorCode.INVALID_CONFIG, f"{name} is not a list")
        words = [word for word in (changed.get(name) or KEYS[name].default).split(",") if word]
        given = change.value.split(",")
        kept = [word for word in words if word not in given]
        changed[name] = ",".join(kept + given if operation == APPEND else kept)
    return changed


@handles(74)
def on_list_config_resources(
    connection: KafkaConnection, slot: Slot, request: ListConfigResourcesRequest
) -> ListConfigResourcesResponse:
    """What has a configuration: topics, and this broker. Version 0 asks for client metrics, which are not kept."""
    if slot.header.api_version == 0:
        return ListConfigResourcesResponse(config_resources=[])
    hub = connection.hub
    wanted = request.resource_types or (TOPIC, BROKER)
    found = []
    if TOPIC in wanted:
        names = [topic.name for topic in hub.topics.all() if hub.can(connection, "describe_configs", topic.name)]
        found += [ConfigResource(resource_name=name, resource_type=TOPIC) for name in names]
    if BROKER in wanted:
        found.append(ConfigResource(resource_name=str(hub.settings.node_id), resource_type=BROKER))
    return ListConfigResourcesResponse(config_resources=found)
