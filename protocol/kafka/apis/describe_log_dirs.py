"""DescribeLogDirs (API 35), versions 1 to 4."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int16, int32, int64, message, string


@message
class DescribableLogDirTopic:
    """DescribableLogDirTopic of the request."""

    topic: str = string()
    partitions: list[int] = array(int32())


@message
class DescribeLogDirsRequest:
    """What is asked."""

    topics: list[DescribableLogDirTopic] | None = array(DescribableLogDirTopic, nullable=True)


@message
class DescribeLogDirsPartition:
    """DescribeLogDirsPartition of the response."""

    partition_index: int = int32()
    partition_size: int = int64()
    offset_lag: int = int64()
    is_future_key: bool = boolean()


@message
class DescribeLogDirsTopic:
    """DescribeLogDirsTopic of the response."""

    name: str = string()
    partitions: list[DescribeLogDirsPartition] = array(DescribeLogDirsPartition)


@message
class DescribeLogDirsResult:
    """DescribeLogDirsResult of the response."""

    error_code: int = int16()
    log_dir: str = string()
    topics: list[DescribeLogDirsTopic] = array(DescribeLogDirsTopic)
    total_bytes: int = int64(since=4, default=-1)
    usable_bytes: int = int64(since=4, default=-1)


@message
class DescribeLogDirsResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16(since=3)
    results: list[DescribeLogDirsResult] = array(DescribeLogDirsResult)
