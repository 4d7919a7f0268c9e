"""CreateTopics (API 19), versions 2 to 7."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int8, int16, int32, message, string, uuid


@message
class CreatableReplicaAssignment:
    """CreatableReplicaAssignment of the request."""

    partition_index: int = int32()
    broker_ids: list[int] = array(int32())


@message
class CreatableTopicConfig:
    """CreatableTopicConfig of the request."""

    name: str = string()
    value: str | None = string(nullable=True)


@message
class CreatableTopic:
    """CreatableTopic of the request."""

    name: str = string()
    num_partitions: int = int32()
    replication_factor: int = int16()
    assignments: list[CreatableReplicaAssignment] = array(CreatableReplicaAssignment)
    configs: list[CreatableTopicConfig] = array(CreatableTopicConfig)


@message
class CreateTopicsRequest:
    """What is asked."""

    topics: list[CreatableTopic] = array(CreatableTopic)
    timeout_ms: int = int32(default=60000)
    validate_only: bool = boolean()


@message
class CreatableTopicConfigs:
    """CreatableTopicConfigs of the response."""

    name: str = string(since=5)
    value: str | None = string(since=5, nullable=True)
    read_only: bool = boolean(since=5)
    config_source: int = int8(since=5, default=-1)
    is_sensitive: bool = boolean(since=5)


@message
class CreatableTopicResult:
    """CreatableTopicResult of the response."""

    name: str = string()
    topic_id: bytes = uuid(since=7)
    error_code: int = int16()
    error_message: str | None = string(nullable=True)
    topic_config_error_code: int = int16(since=5, tag=0)
    num_partitions: int = int32(since=5, default=-1)
    replication_factor: int = int16(since=5, default=-1)
    configs: list[CreatableTopicConfigs] | None = array(CreatableTopicConfigs, since=5, nullable=True)


@message
class CreateTopicsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    topics: list[CreatableTopicResult] = array(CreatableTopicResult)
