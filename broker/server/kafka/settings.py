"""What Kafka connections are told and bound by; filled from the configuration by `broker.app`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The defaults are those of `broker.config`, which explains them.

    `advertised` is (host, port); None tells each client the address that it has dialled.
    """

    vhost: str = "/"
    node_id: int = 1
    cluster_id: str = ""
    advertised: tuple[str, int] | None = None
    listeners: str = ""
    """As Kafka writes them, with their protocols; empty where there are none but the client's own."""
    anonymous: str | None = "guest"
    request_bytes_max: int = 100 << 20
    fetch_bytes_max: int = 8 << 20
    answers_bytes_max: int = 256 << 20
    answers_per_connection_bytes_max: int = 1 << 20
    auto_create_topics: bool = True
    partitions_default: int = 1
    acls_max: int = 10_000
    login_timeout_ms: int = 10_000
    login_refused_delay_ms: int = 3000
    send_timeout_ms: int = 30_000
    idle_timeout_ms: int = 600_000
