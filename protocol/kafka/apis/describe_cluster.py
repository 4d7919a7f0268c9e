"""DescribeCluster (API 60), versions 0 to 2."""

from __future__ import annotations

from protocol.kafka.schema import array, boolean, int8, int16, int32, message, string


@message
class DescribeClusterRequest:
    """What is asked."""

    include_cluster_authorized_operations: bool = boolean()
    endpoint_type: int = int8(since=1, default=1)
    include_fenced_brokers: bool = boolean(since=2)


@message
class DescribeClusterBroker:
    """DescribeClusterBroker of the response."""

    broker_id: int = int32()
    host: str = string()
    port: int = int32()
    rack: str | None = string(nullable=True, default=None)
    is_fenced: bool = boolean(since=2)


@message
class DescribeClusterResponse:
    """What is answered."""

    throttle_time_ms: int = int32()
    error_code: int = int16()
    error_message: str | None = string(nullable=True, default=None)
    endpoint_type: int = int8(since=1, default=1)
    cluster_id: str = string()
    controller_id: int = int32(default=-1)
    brokers: list[DescribeClusterBroker] = array(DescribeClusterBroker)
    cluster_authorized_operations: int = int32(default=-2147483648)
