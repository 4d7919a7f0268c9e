"""Who comes in over AMQP, and what they are told: wiring, from the configuration to connections."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from broker.config import Config
from broker.server.amqp.connection import Connection
from broker.server.amqp.settings import AmqpSettings
from broker.server.half_open import AcceptLimits
from broker.server.hub import Hub
from broker.server.poller import Poller
from broker.server.pump import Pump
from broker.server.tls import Tls


@dataclass(frozen=True, slots=True)
class AmqpDoor:
    """An `Admit`."""

    hub: Hub
    poller: Poller
    settings: AmqpSettings
    limits: AcceptLimits

    def __call__(self, sock: socket.socket, peer: tuple[str, int], tls: Tls | None) -> bool:
        """Half open ones that are too many make room for new ones."""
        limits, hub = self.limits, self.hub
        if len(hub.connections) >= limits.connections_max or hub.hosts.count(peer[0]) >= limits.per_host_max:
            return False
        hub.half_open.make_room(peer[0], limits)
        hub.read_clock()
        connection = Connection(hub, self.settings, peer)
        hub.add(connection)
        self.poller.add(Pump(hub, self.poller, sock, connection, tls))
        return True


def amqp_settings(config: Config, version: str) -> AmqpSettings:
    """What connections are told."""
    limits = config.limits
    return AmqpSettings(
        product=config.compat.product,
        version=version,
        frame_max_bytes=limits.frame_max_bytes,
        frame_max_unauthenticated_bytes=limits.frame_max_unauthenticated_bytes,
        channel_max=limits.channel_max,
        heartbeat_s=int(limits.heartbeat_s),
        message_size_max_bytes=limits.message_size_max_bytes,
        route_cache_entries_max=limits.route_cache_entries_max,
        prefetch_max=limits.prefetch_max,
        consumers_per_channel_max=limits.consumers_per_channel_max,
        tx_messages_max=limits.tx_messages_max,
        tx_bytes_max=limits.tx_bytes_max,
        parked_bytes_max=limits.parked_bytes_max,
        close_timeout_ms=int(limits.close_timeout_s * 1000),
        login_refused_delay_ms=int(config.security.login_refused_delay_s * 1000),
    )
