"""AlterReplicaLogDirs (API 34), versions 1 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, int16, int32, message, string


@message
class AlterReplicaLogDirTopic:
    """AlterReplicaLogDirTopic of the request."""

    name: str = string()
    partitions: list[int] = array(int32())


@message
class AlterReplicaLogDir:
    """AlterReplicaLogDir of the request."""

    path: str = string()
    topics: list[AlterReplicaLogDirTopic] = array(AlterReplicaLogDirTopic)


@message
class AlterReplicaLogDirsRequest:
    """What is asked."""

    dirs: list[AlterReplicaLogDir] = array(AlterReplicaLogDir)


@message
class AlterReplicaLogDirPartitionResult:
    """AlterReplicaLogDirPartitionResult of the response."""

    partition_index: int = int32()
    error_code: int = int16()


@message
class AlterReplicaLogDirTopicResult:
    """AlterReplicaLogDirTopicResult of the response."""

    topic_name: str = string()
    partitions: list[AlterReplicaLogDirPartitionResult] = array(AlterReplicaLogDirPartitionResult)


@message
class AlterReplicaLogDirsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    results: list[AlterReplicaLogDirTopicResult] = array(AlterReplicaLogDirTopicResult)
