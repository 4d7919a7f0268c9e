"""What a listener tells the connections it accepts: limits, and how the broker presents itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "consumer_priorities": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
    "direct_reply_to": True,
}
"""Exactly what is honoured; clients choose their behaviour by it."""


@dataclass(frozen=True, slots=True)
class AmqpSettings:
    """Limits of one connection; defaults are those of `broker.config`, which explains them."""

    product: str = "Jackalope"
    version: str = "0"
    cluster_name: str = "jackalope"
    frame_max_bytes: int = 131_072
    channel_max: int = 2047
    heartbeat_s: int = 60
    message_size_max_bytes: int = 16 * 1024 * 1024
    route_cache_entries_max: int = 4096
    prefetch_max: int = 65_535
    consumers_per_channel_max: int = 10_000
    tx_messages_max: int = 20_000
    tx_bytes_max: int = 64 * 1024 * 1024
    parked_bytes_max: int = 1024 * 1024
    frame_max_unauthenticated_bytes: int = 8192
    close_timeout_ms: int = 5_000
    login_refused_delay_ms: int = 3_000
    extra_properties: Mapping[str, Any] = field(default_factory=dict)

    def server_properties(self) -> dict[str, Any]:
        """The table of connection.start; capabilities come first, as in RabbitMQ."""
        return {
            "capabilities": CAPABILITIES,
            "cluster_name": self.cluster_name,
            "copyright": "Copyright (c) 2026 the Jackalope authors",
            "information": "Licensed under the Apache License 2.0",
            "platform": "Python",
            "product": self.product,
            "version": self.version,
            **self.extra_properties,
        }
