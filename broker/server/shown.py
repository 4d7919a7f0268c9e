"""What the management API shows of AMQP connections, channels and consumers, so that neither face imports the other.

The HTTP face reaches the AMQP face through `Hub.amqp`; the protocols here name the members that HTTP's views read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from broker.server.hub import Hub


class ShownConnection(Protocol):
    """One AMQP connection."""

    peer: tuple[str, int]
    hub: Hub
    user: Any
    vhost: Any
    held: Any
    state: Any
    tls: bool
    mechanism: str
    channels: Any
    channel_max: int
    frame_max: int
    heartbeat_s: int
    client_properties: dict[str, Any]
    received_octets: int
    sent_octets: int
    started_ms: int


class ShownChannel(Protocol):
    """One channel of one connection."""

    @property
    def connection(self) -> ShownConnection: ...

    @property
    def consumers(self) -> Sized: ...

    @property
    def unacked(self) -> Sized: ...

    number: int
    closing: bool
    confirming: bool
    transaction: Any
    next_consumer_prefetch: int
    prefetch: int
    publish_seq: int
    confirmed_seq: int


class ShownConsumer(Protocol):
    """One consumer of one channel."""

    @property
    def channel(self) -> ShownChannel: ...

    @property
    def queue(self) -> Any: ...

    @property
    def arguments(self) -> Mapping[str, Any]: ...

    tag: str
    no_ack: bool
    exclusive: bool
    prefetch: int
    priority: int
    in_flight: int
