"""SaslHandshake and SaslAuthenticate: logging in with the users of the configuration, by PLAIN or SCRAM.

With handshake version 1 tokens come in SaslAuthenticate requests (KIP-152), with version 0 as frames of their own. A
refused login is answered after a delay, then the connection ends. Who has logged in may do so again, as the same user
(KIP-368). A password that takes a thread to be checked is checked in `log_in`, which the pump awaits. SCRAM takes two
tokens; the one that is expected next is the final one while `connection.exchange` is set.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.core.access import User
from broker.server.auth import EXTERNAL, PLAIN, LoginRefused
from broker.server.kafka.handlers import handles
from protocol.kafka.apis.sasl_authenticate import SaslAuthenticateRequest, SaslAuthenticateResponse
from protocol.kafka.apis.sasl_handshake import SaslHandshakeRequest, SaslHandshakeResponse
from protocol.kafka.errors import ErrorCode
from protocol.sasl.scram import HASHES, Exchange

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot

log = logging.getLogger("jackalope.kafka")

MECHANISMS = [PLAIN, *HASHES]
RAW_VERSION = 0
"""After a handshake of this version tokens have no request around them, and answers are frames of the token alone."""


@handles(17)
def on_sasl_handshake(connection: KafkaConnection, slot: Slot, request: SaslHandshakeRequest) -> SaslHandshakeResponse:
    """Agree on a mechanism; another than ours is UNSUPPORTED_SASL_MECHANISM, with the list."""
    if request.mechanism not in MECHANISMS:
        return SaslHandshakeResponse(error_code=ErrorCode.UNSUPPORTED_SASL_MECHANISM, mechanisms=MECHANISMS)
    connection.mechanism = request.mechanism
    connection.exchange = None
    connection.expects_token = slot.header.api_version == RAW_VERSION
    return SaslHandshakeResponse(mechanisms=MECHANISMS)


@handles(36)
def on_sasl_authenticate(
    connection: KafkaConnection, slot: Slot, request: SaslAuthenticateRequest
) -> SaslAuthenticateResponse | None:
    """One token of the mechanism that was agreed on."""
    if connection.mechanism is None:
        return SaslAuthenticateResponse(
            error_code=ErrorCode.ILLEGAL_SASL_STATE, error_message="SaslHandshake has to come first"
        )
    on_token(connection, slot, request.auth_bytes)
    return None


def certified(connection: KafkaConnection, name: str) -> User | None:
    """The user whose name a verified client certificate has, as EXTERNAL does it over AMQP.

    None where there is none, or it may not log in from there: who has a name is not anonymous, but may use SASL.
    """
    authenticator = connection.hub.hub.authenticator
    try:
        return authenticator.authenticate_nowait(EXTERNAL, b"", connection.peer[0], name)
    except LoginRefused as refused:
        text = "certificate of no user: peer=%s:%s reason=%s"
        connection.hub.log_lines.warning(log, text, *connection.peer[:2], refused)
        return None


def on_token(connection: KafkaConnection, slot: Slot, token: bytes) -> None:
    """Check it now, or have it checked off the loop."""
    assert connection.mechanism is not None
    hub, host = connection.hub, connection.peer[0]
    exchange, connection.exchange = connection.exchange, None
    try:
        if connection.mechanism == PLAIN:
            user = hub.hub.authenticator.authenticate_nowait(PLAIN, token, host)
        elif exchange is None:
            connection.exchange = hub.scram.begin(connection.mechanism, token)
            _answer(connection, slot, connection.exchange.server_first)
            return
        else:
            user = hub.scram.finish_nowait(exchange, token, host)
    except LoginRefused as refused:
        _refuse(connection, slot, refused)
        return
    if user is None:
        connection.login = slot, token, exchange
    else:
        _admit(connection, slot, user, exchange)


async def log_in(connection: KafkaConnection) -> None:
    """The check that takes a thread."""
    if connection.login is None:
        return
    slot, token, exchange = connection.login
    hub, host = connection.hub, connection.peer[0]
    try:
        if exchange is None:
            user = await hub.hub.authenticator.authenticate(PLAIN, token, host)
        else:
            user = await hub.scram.finish(exchange, token, host)
    except LoginRefused as refused:
        connection.login = None
        _refuse(connection, slot, refused)
    else:
        connection.login = None
        _admit(connection, slot, user, exchange)


def _answer(connection: KafkaConnection, slot: Slot, token: bytes) -> None:
    if connection.expects_token:
        slot.answer_raw((len(token).to_bytes(4, "big"), token))
    else:
        slot.answer(SaslAuthenticateResponse(error_message=None, auth_bytes=token))


def _admit(connection: KafkaConnection, slot: Slot, user: User, exchange: Exchange | None) -> None:
    if connection.has_logged_in and connection.user is not user:
        _refuse(connection, slot, LoginRefused(f"{user!r} on a connection of {connection.user!r}"))
        return
    connection.user = user
    connection.has_logged_in = True
    connection.hub.hub.half_open.discard(connection)
    _answer(connection, slot, exchange.server_final if exchange is not None else b"")
    connection.expects_token = False


def _refuse(connection: KafkaConnection, slot: Slot, refused: LoginRefused) -> None:
    """Say no after a while, then close: what was tried is in the log alone."""
    hub = connection.hub
    hub.log_lines.warning(log, "login refused: peer=%s:%s reason=%s", *connection.peer[:2], refused)
    is_raw = connection.expects_token
    connection.hold(slot, None)  # Nothing else is taken, and nobody releases it.

    def end() -> None:
        if not connection.finished:
            if not is_raw:
                text = "Authentication failed: wrong user or password"
                slot.answer(
                    SaslAuthenticateResponse(error_code=ErrorCode.SASL_AUTHENTICATION_FAILED, error_message=text)
                )
            connection.end("login refused")

    hub.at(hub.now_ms + hub.settings.login_refused_delay_ms, end)
