"""Methods of a channel's own life: channel.open, close and flow, and access.request, which says 1 to everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.server.amqp.channel import handles
from protocol.amqp.errors import NOT_IMPLEMENTED, PeerError

if TYPE_CHECKING:
    from broker.server.amqp.channel import Answer, Channel


@handles("channel.open")
def _on_open(channel: Channel, _out_of_band: str) -> None:
    raise PeerError(504, "second 'channel.open' seen")


@handles("channel.close")
def _on_close(channel: Channel, _code: int, _text: str, _class_id: int, _method_id: int) -> None:
    if channel.connection.held is not None:
        channel.connection.held.let_go(channel)
    channel.send_confirms()
    channel.release_all()
    channel.reply("channel.close-ok")
    channel.closing = True
    channel.connection.forget_channel(channel, by_peer=True)


@handles("channel.flow")
def _on_flow(_channel: Channel, active: bool) -> Answer:
    if not active:
        raise PeerError(NOT_IMPLEMENTED, "active=false")
    return "channel.flow-ok", True


@handles("access.request")
def _on_access_request(_channel: Channel, *_: Any) -> Answer:
    return "access.request-ok", 1
