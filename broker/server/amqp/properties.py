"""Properties that ask for more than being passed on: CC and BCC, user-id, expiration, direct reply-to.

The general path's check of one message. Errors are RabbitMQ's texts (notes of its behaviour: 406 on the channel).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from broker.server.amqp.publish import REPLY_TO_NAME
from protocol.amqp import content as wire
from protocol.amqp.errors import PRECONDITION_FAILED, PeerError
from protocol.amqp.fields import without_entry

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel

_TIME_MS_MAX = 2**32 - 1
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_WANTED = frozenset({"headers", "reply-to", "expiration", "user-id"})


def _refuse(text: str) -> PeerError:
    return PeerError(PRECONDITION_FAILED, text)


def check(channel: Channel, flags: int, content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """(content as it is to be stored, further routing keys from CC and BCC). Raises PeerError 406, 502."""
    header = wire.header_payload(content)
    wanted = _WANTED
    if flags & wire.HEADERS and b"\x02CC" not in header and b"\x03BCC" not in header:
        wanted = _WANTED - {"headers"}
    values = wire.parse_properties(header, wanted)
    _check_user(channel, values.get("user-id"))
    _check_expiration(values.get("expiration"))
    if values.get("reply-to") == REPLY_TO_NAME:
        content = _rewrite_reply_to(channel, content)
    headers = values.get("headers")
    if not headers:
        return content, ()
    keys = (*_keys(headers, "CC"), *_keys(headers, "BCC"))
    if "BCC" in headers:
        visible = without_entry(wire.property_octets(content, "headers"), "BCC")
        content = wire.with_properties(content, {"headers": visible})
    return content, keys


def _keys(headers: dict[str, Any], name: str) -> list[str]:
    value = headers.get(name)
    if value is None and name not in headers:
        return []
    if not isinstance(value, list):
        kind = {str: "longstr", int: "signedint", bool: "bool", dict: "table", bytes: "binary"}.get(type(value), "void")
        raise _refuse(f'invalid message: {{unacceptable_type_in_header,"{name}",{kind}}}')
    return [key for key in value if isinstance(key, str)]


def _check_user(channel: Channel, user_id: str | None) -> None:
    user = channel.connection.user
    if user_id is not None and user_id != user.name and "impersonator" not in user.tags:
        raise _refuse(f"user_id property set to '{user_id}' but authenticated user was '{user.name}'")


def _check_expiration(expiration: str | None) -> None:
    if expiration is None:
        return
    if not _INTEGER.fullmatch(expiration):
        raise _refuse(f"invalid expiration '{expiration}': no_integer")
    value = int(expiration)
    if value < 0:
        raise _refuse(f"invalid expiration '{expiration}': {{value_negative,{value}}}")
    if value > _TIME_MS_MAX:
        raise _refuse(f"invalid expiration '{expiration}': {{value_too_big,{value}}}")


def _rewrite_reply_to(channel: Channel, content: bytes) -> bytes:
    """Direct reply-to: the request carries the address of this channel's reply consumer instead."""
    address = channel.connection.reply_address(channel)
    if address is None:
        raise _refuse("fast reply consumer does not exist")
    raw = address.encode()
    return wire.with_properties(content, {"reply-to": bytes([len(raw)]) + raw})
