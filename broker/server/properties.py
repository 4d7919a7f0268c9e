"""Properties that ask for more than being passed on: CC and BCC, user-id, expiration, direct reply-to.

The check of one message, on the general path of AMQP and over HTTP, of which neither knows the other. Errors are
RabbitMQ's texts (notes of its behaviour: 406 on the channel).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from broker.core.arguments import TIME_MS_MAX
from broker.core.message import pack_keys
from protocol.amqp import content as wire
from protocol.amqp.errors import PRECONDITION_FAILED, PeerError
from protocol.amqp.fields import without_entry

REPLY_TO_NAME = "amq.rabbitmq.reply-to"
"""The queue of direct replies, which is none (RabbitMQ)."""
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_DIGITS_MAX = 19
_WANTED = frozenset({"headers", "reply-to", "expiration", "user-id"})


def _refuse(text: str) -> PeerError:
    return PeerError(PRECONDITION_FAILED, text)


class Checked(NamedTuple):
    """What is to be stored and routed: the content, further routing keys from CC and BCC, and these as its origin has
    to know them (`core.message`), None where the content tells them."""

    content: bytes
    keys: tuple[str, ...] = ()
    known_keys: bytes | None = None


def check(user: Any, reply_address: str | None, flags: int, content: bytes) -> Checked:
    """A message that `user` publishes, as it is to be stored.

    `reply_address` is that of the publisher's reply consumer, if it has one. Raises PeerError 406, 502.
    """
    header = wire.header_payload(content)
    wanted = _WANTED
    if flags & wire.HEADERS and b"\x02CC" not in header and b"\x03BCC" not in header:
        wanted = _WANTED - {"headers"}
    values = wire.parse_properties(header, wanted)
    _check_user(user, values.get("user-id"))
    _check_expiration(values.get("expiration"))
    if values.get("reply-to") == REPLY_TO_NAME:
        content = _rewrite_reply_to(reply_address, content)
    headers = values.get("headers")
    if not headers:
        return Checked(content)
    shown, hidden = _keys(headers, "CC"), _keys(headers, "BCC")
    keys = (*shown, *hidden)
    if "BCC" in headers:
        visible = without_entry(wire.property_octets(content, "headers"), "BCC")
        content = wire.with_properties(content, {"headers": visible})
    return Checked(content, keys, pack_keys(keys) if hidden else None)


def _keys(headers: dict[str, Any], name: str) -> list[str]:
    value = headers.get(name)
    if value is None and name not in headers:
        return []
    if not isinstance(value, list):
        kind = {str: "longstr", int: "signedint", bool: "bool", dict: "table", bytes: "binary"}.get(type(value), "void")
        raise _refuse(f'invalid message: {{unacceptable_type_in_header,"{name}",{kind}}}')
    return [key for key in value if isinstance(key, str)]


def _check_user(user: Any, user_id: str | None) -> None:
    if user_id is not None and user_id != user.name and "impersonator" not in user.tags:
        raise _refuse(f"user_id property set to '{user_id}' but authenticated user was '{user.name}'")


def _check_expiration(expiration: str | None) -> None:
    if expiration is None:
        return
    number = _INTEGER.match(expiration)
    if number is None:
        raise _refuse(f"invalid expiration '{expiration}': no_integer")
    if number.end() < len(expiration):
        raise _refuse(f"invalid expiration '{expiration}': {{leftover_string,\"{expiration[number.end() :]}\"}}")
    if len(expiration) > _DIGITS_MAX:
        raise _refuse(f"invalid expiration '{expiration}': {{value_too_large,{expiration}}}")
    value = int(expiration)
    if value < 0:
        raise _refuse(f"invalid expiration '{expiration}': {{value_negative,{value}}}")
    if value > TIME_MS_MAX:
        raise _refuse(f"invalid expiration '{expiration}': {{value_too_large,{value}}}")


def _rewrite_reply_to(address: str | None, content: bytes) -> bytes:
    """Direct reply-to: the request carries the address of its publisher's reply consumer instead."""
    if address is None:
        raise _refuse("fast reply consumer does not exist")
    raw = address.encode()
    return wire.with_properties(content, {"reply-to": bytes([len(raw)]) + raw})
