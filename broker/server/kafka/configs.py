"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources: what has a configuration, and changes.

Topics, this broker and all brokers (`broker_configs`), loggers (`loggers`). Groups and client metrics are resources of
Kafka's that nothing here follows: what they have by default is told, and setting it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from broker.core.access_lists import Operation
from broker.core.metadata import at_once
from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.broker_config import ALTERABLE, Sourced
from broker.core.topics.config import KEYS, ConfigType, Key
from broker.core.topics.errors import TopicRefused
from broker.core.topics.proposing import check_name
from broker.core.topics.topic import Topic
from broker.server.kafka.broker_configs import (
    IDLE,
    TOPIC_SOURCE,
    as_synonyms,
    describe_broker,
    scope_of,
    told,
    topic_sources,
)
from broker.server.kafka.handlers import Steps, each, handles
from broker.server.kafka.loggers import alter_loggers, describe_loggers
from broker.server.kafka.rights import may_with_cluster, require_of_cluster
from broker.server.kafka.topics import require
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
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
RESOURCE_TYPES = (TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP)
SET, DELETE, APPEND, SUBTRACT = range(4)
OPERATION_NAMES = {APPEND: "APPEND", SUBTRACT: "SUBTRACT"}
DESCRIBE_UNITS, ALTER_UNITS, LISTED_UNITS = 150, 150, 5
"""What the configuration of one resource costs, and its name."""
_GROUP_DEFAULTS = {
    "consumer.assignment.interval.ms": "1000",
    "consumer.heartbeat.interval.ms": "5000",
    "consumer.session.timeout.ms": "45000",
}
_METRICS_DEFAULTS = {
    "interval.ms": ("300000", ConfigType.INT), "match": ("", ConfigType.LIST), "metrics": ("", ConfigType.LIST),
}  # fmt: skip
_MALFORMED = (
    "This most likely occurs because of a request being malformed by the client library or the message was sent to an"
    " incompatible broker. See the broker logs for more details."
)

C = TypeVar("C", alter_configs.AlterableConfig, incremental_alter_configs.AlterableConfig)


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
    name = wanted.resource_name
    result = DescribeConfigsResult(error_message=None, resource_type=wanted.resource_type, resource_name=name)
    try:
        if is_again:
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"{name} is asked for twice")
        found = _values(connection, wanted.resource_type, name, synonyms=synonyms)
    except TopicRefused as refused:
        result.error_code, result.error_message = refused.code, refused.text
        return result
    names = frozenset(wanted.configuration_keys or ())  # None, and nothing, is all.
    result.configs = [one for one in found if not names or one.name in names]
    return result


def _values(
    connection: KafkaConnection, kind: int, name: str, *, synonyms: bool
) -> list[DescribeConfigsResourceResult]:
    """What a resource has (`ConfigHelper.describeConfigs`). Raises TopicRefused."""
    if kind == TOPIC:
        require(connection, "describe_configs", name)
        check_name(name)
        return _describe_topic(connection, _topic(connection, name), synonyms=synonyms)
    if kind == GROUP:
        _require_of_group(connection, "describe_configs", name)
        _check_named(name, "Group name must not be empty")
        return _describe_group(synonyms=synonyms)
    if kind not in RESOURCE_TYPES:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, _MALFORMED)
    require_of_cluster(connection, "describe_configs")
    if kind == BROKER:
        return describe_broker(connection, scope_of(connection, name, to_alter=False), synonyms=synonyms)
    if kind == BROKER_LOGGER:
        _check_named(name, "Broker id must not be empty")
        scope_of(connection, name, to_alter=False)
        return describe_loggers()
    _check_named(name, "Client metrics subscription name must not be empty")
    return [
        told(key, [Sourced(key, value, None)], kind, synonyms=synonyms, documentation=IDLE)
        for key, (value, kind) in _METRICS_DEFAULTS.items()
    ]


def _check_named(name: str, text: str) -> None:
    if not name:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, text)


def _require_of_group(connection: KafkaConnection, operation: Operation, name: str) -> None:
    if not connection.hub.can(connection, operation, name, "group"):
        raise TopicRefused(ErrorCode.GROUP_AUTHORIZATION_FAILED, f"no permission to {operation} group '{name}'")


def _topic(connection: KafkaConnection, name: str) -> Topic:
    """Raises TopicRefused 3."""
    topic = connection.hub.topics.get(name)
    if topic is None:
        raise TopicRefused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
    return topic


def _describe_topic(
    connection: KafkaConnection, topic: Topic, *, synonyms: bool
) -> list[DescribeConfigsResourceResult]:
    found = []
    for name, key in KEYS.items():
        own = topic.overrides.get(name)
        sources = topic_sources(connection, name) if topic.follows_broker else []
        # The broker's keys have other names, and where it has a default in hours the topic's is in milliseconds.
        above = next((one for one in sources if one.scope is not None), Sourced(name, key.default, None))
        result = told(
            name, [above._replace(name=name)], key.type, synonyms=False, documentation=None if key.works else IDLE
        )
        if own is not None:
            result.value, result.config_source = own, TOPIC_SOURCE
        if synonyms:
            owned = [] if own is None else [DescribeConfigsSynonym(name=name, value=own, source=TOPIC_SOURCE)]
            result.synonyms = owned + as_synonyms(sources)
        found.append(result)
    return found


def _describe_group(*, synonyms: bool) -> list[DescribeConfigsResourceResult]:
    found = []
    for key, value in _GROUP_DEFAULTS.items():
        result = told(key, [Sourced(key, value, None)], ConfigType.INT, synonyms=False, documentation=IDLE)
        result.synonyms = as_synonyms([Sourced("group." + key, value, None)]) if synonyms else []
        found.append(result)
    return found


# Changing.


@handles(33, changes=True)
def on_alter_configs(connection: KafkaConnection, slot: Slot, request: alter_configs.AlterConfigsRequest) -> Steps:
    """AlterConfigs replaces all that a topic, or a broker, has of its own."""

    def alter(one: alter_configs.AlterConfigsResource) -> alter_configs.AlterConfigsResourceResponse:
        answer = alter_configs.AlterConfigsResourceResponse(
            error_message=None, resource_type=one.resource_type, resource_name=one.resource_name
        )
        try:
            _check_once(one.configs)
            _check_values([config for config in one.configs if config.value is None])
            values: dict[str, str | None] = {config.name: config.value for config in one.configs}
            if one.resource_type == BROKER_LOGGER:
                raise TopicRefused(ErrorCode.INVALID_REQUEST, f"Unknown resource type {BROKER_LOGGER}")
            _change(connection, one.resource_type, one.resource_name, lambda *_: values, request.validate_only)
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    answers = yield from each(request.resources, alter, ALTER_UNITS)
    connection.hub.answer_when_durable(slot, alter_configs.AlterConfigsResponse(responses=answers))
    return None


@handles(44, changes=True)
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
            _check_once(one.configs)
            _check_values([one for one in one.configs if one.config_operation != DELETE and one.value is None])
            if one.resource_type == BROKER_LOGGER:
                require_of_cluster(connection, "alter_configs")
                if scope_of(connection, one.resource_name or " ", to_alter=True) == "this":
                    alter_loggers(one.configs, validate_only=request.validate_only)
            else:
                changes = one.configs
                _change(
                    connection,
                    one.resource_type,
                    one.resource_name,
                    lambda had, keys: _changed(had, keys, changes),
                    request.validate_only,
                )
        except TopicRefused as refused:
            answer.error_code, answer.error_message = refused.code, refused.text
        return answer

    answers = yield from each(request.resources, alter, ALTER_UNITS)
    response = incremental_alter_configs.IncrementalAlterConfigsResponse(responses=answers)
    connection.hub.answer_when_durable(slot, response)
    return None


def _check_once(configs: list[C]) -> None:
    """Raises TopicRefused 42 where a key is there twice (`ConfigAdminManager.preprocess`)."""
    if len({one.name for one in configs}) != len(configs):
        raise TopicRefused(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")


def _check_values(nulls: Iterable[C]) -> None:
    """Raises TopicRefused 42 where there is a null: the default is had by deleting."""
    names = ",".join([one.name for one in nulls])
    if names:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {names}")


Wanted = Callable[[Mapping[str, str], Mapping[str, Key]], Mapping[str, str | None]]
"""Of the overrides that are there, and the keys that there may be, the ones that are to be."""


def _change(connection: KafkaConnection, kind: int, name: str, wanted: Wanted, validate_only: bool) -> None:
    """Change what a topic or the broker has. Raises TopicRefused."""
    hub = connection.hub
    if kind == TOPIC:
        _check_named(name, "Default topic resources are not allowed.")
        require(connection, "alter_configs", name)
        topic = _topic(connection, name)
        overrides = wanted(topic.overrides, KEYS)
        if validate_only:
            hub.topics.propose_configuration(topic, overrides)
        else:
            hub.topics.configure(topic, overrides)
    elif kind == BROKER:
        require_of_cluster(connection, "alter_configs")
        scope = scope_of(connection, name, to_alter=True)
        config = hub.topics.broker_config
        overrides = wanted(config.overrides(scope), ALTERABLE)
        if validate_only:
            config.propose_replace(scope, overrides)
        else:
            at_once(hub.topics.metadata, config.propose_replace, scope, overrides)
    elif kind == GROUP:
        _require_of_group(connection, "alter_configs", name)
        _check_named(name, "Default group resources are not allowed.")
        _refuse(wanted({}, {}), _GROUP_DEFAULTS, "group config name", ErrorCode.INVALID_CONFIG)
    elif kind == CLIENT_METRICS:
        require_of_cluster(connection, "alter_configs")
        _check_named(name, "Subscription name can't be empty")
        _refuse(wanted({}, {}), _METRICS_DEFAULTS, "client metrics configuration", ErrorCode.INVALID_REQUEST)
    else:
        raise TopicRefused(ErrorCode.INVALID_REQUEST, f"Unknown resource type {kind}")


def _refuse(wanted: Mapping[str, str | None], known: Mapping[str, Any], what: str, unknown: ErrorCode) -> None:
    """Raises TopicRefused when anything is to be set that nothing here would follow."""
    for name in wanted:
        if name not in known:
            raise TopicRefused(unknown, f"Unknown {what}: {name}")
        raise TopicRefused(ErrorCode.INVALID_REQUEST, f"{name} cannot be set: it would change nothing here")


def _changed(
    overrides: Mapping[str, str], keys: Mapping[str, Key], changes: list[incremental_alter_configs.AlterableConfig]
) -> dict[str, str | None]:
    """The overrides with the changes; what is not there may be deleted, whatever it is. Raises TopicRefused 40, 42."""
    changed: dict[str, str | None] = dict(overrides)
    for change in changes:
        name, operation = change.name, change.config_operation
        if operation == DELETE:
            changed.pop(name, None)
            continue
        if change.value is None or operation not in (SET, APPEND, SUBTRACT):
            raise TopicRefused(ErrorCode.INVALID_REQUEST, f"Unknown operation {operation} on {name}")
        if operation == SET:
            changed[name] = change.value
            continue
        if name not in keys or keys[name].type is not ConfigType.LIST:
            text = f"Can't {OPERATION_NAMES[operation]} to key {name} because its type is not LIST."
            raise TopicRefused(ErrorCode.INVALID_CONFIG, text)
        words = [word for word in (changed.get(name) or keys[name].default).split(",") if word]
        given = change.value.split(",")
        kept = [word for word in words if word not in given]
        changed[name] = ",".join(kept + given if operation == APPEND else kept)
    return changed


@handles(74)
def on_list_config_resources(connection: KafkaConnection, slot: Slot, request: ListConfigResourcesRequest) -> Steps:
    """What has a configuration: topics, this broker and its loggers. Version 0 asks for client metrics alone, which are
    not kept (KIP-1142)."""
    if not may_with_cluster(connection, "describe_configs"):
        return ListConfigResourcesResponse(error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED)
    if slot.header.api_version == 0:
        return ListConfigResourcesResponse()
    wanted = frozenset(request.resource_types) or frozenset(RESOURCE_TYPES)
    if not wanted <= frozenset(RESOURCE_TYPES):
        return ListConfigResourcesResponse(error_code=ErrorCode.UNSUPPORTED_VERSION)
    return ListConfigResourcesResponse(config_resources=(yield from _resources(connection, wanted)))


def _resources(connection: KafkaConnection, wanted: frozenset[int]) -> Generator[int, None, list[ConfigResource]]:
    node_id = str(connection.hub.settings.node_id)
    kinds = [kind for kind in (BROKER_LOGGER, BROKER) if kind in wanted]
    found = [ConfigResource(resource_name=node_id, resource_type=kind) for kind in kinds]
    for number, topic in enumerate(connection.hub.topics.all() if TOPIC in wanted else (), 1):
        found.append(ConfigResource(resource_name=topic.name, resource_type=TOPIC))
        if number * LISTED_UNITS % SLICE_UNITS == 0:
            yield SLICE_UNITS
    return found
