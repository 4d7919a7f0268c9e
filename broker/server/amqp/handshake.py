"""The connection class of methods: from the protocol header to running, and close (spec 1.4, 2.2.4).

One table says which method is expected in which state; everything else is 503 or 504 in RabbitMQ's words.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.server.amqp.state import State
from broker.server.auth import LoginRefused
from protocol.amqp.errors import (
    ACCESS_REFUSED,
    CHANNEL_ERROR,
    COMMAND_INVALID,
    NOT_ALLOWED,
    UNEXPECTED_FRAME,
    PeerError,
)
from protocol.amqp.frames import FRAME_MAX_MIN, METHOD, OLD_PROTOCOL_HEADERS, PROTOCOL_HEADER, method_frame
from protocol.amqp.methods import DECODERS, method_number

if TYPE_CHECKING:
    from broker.server.amqp.connection import Connection


UNLIMITED = 2**32
CHANNEL_NUMBER_MAX = 65_535
"""Numbers have two octets: what no limit of channels comes to."""


def on_protocol_header(connection: Connection, header: bytes) -> None:
    """The first eight octets; whoever speaks something else is told what is spoken here and closed (spec 4.2.2)."""
    if header != PROTOCOL_HEADER and header not in OLD_PROTOCOL_HEADERS:
        connection.outbox.send(PROTOCOL_HEADER)
        connection.finish()
        return
    settings = connection.settings
    connection.hub.half_open.heard(connection)
    connection.state = State.START
    offered = connection.hub.authenticator.mechanisms(certificate=connection.external_name is not None).encode()
    connection.outbox.send(method_frame(0, "connection.start", 0, 9, settings.server_properties(), offered, b"en_US"))


def on_connection_frame(connection: Connection, frame_type: int, number: int, payload: bytes) -> None:
    """A frame on channel 0, or any before the connection runs."""
    state = connection.state
    method = int.from_bytes(payload[:4], "big") if frame_type == METHOD else 0
    if state is State.CLOSING:
        if method == method_number("connection.close-ok"):
            connection.finish()
        elif method == method_number("connection.close"):
            connection.outbox.send(method_frame(0, "connection.close-ok"))
            connection.finish()
        return
    if frame_type != METHOD:
        raise PeerError(UNEXPECTED_FRAME, f"type {frame_type} on channel {number}")
    handler = _EXPECTED.get((state.value, method)) if number == 0 else None
    if handler is None:
        class_id, method_id = method >> 16, method & 0xFFFF
        if class_id == 10 and method in DECODERS and state is State.RUNNING:
            raise PeerError(COMMAND_INVALID, "unimplemented method", class_id, method_id)
        raise PeerError(CHANNEL_ERROR, f"unexpected method in connection state {state.value}", class_id, method_id)
    arguments = DECODERS[method](payload)
    connection.culprit = (method >> 16, method & 0xFFFF)
    handler(connection, *arguments)


def _start_ok(
    connection: Connection, properties: dict[str, Any], mechanism: str, response: bytes, _locale: str
) -> None:
    connection.client_properties = properties
    connection.mechanism = mechanism
    hub = connection.hub
    try:
        user = hub.authenticator.authenticate_nowait(mechanism, response, connection.peer[0], connection.external_name)
    except LoginRefused as refused:
        _login_refused(connection, refused)
        return
    if user is None:
        connection.login = (mechanism, response)
    else:
        _login_ok(connection, user)


async def log_in(connection: Connection) -> None:
    """Finish a login that has to be checked off the loop; returns at once when none is under way."""
    if connection.login is None:
        return
    hub = connection.hub
    mechanism, response = connection.login
    try:
        user = await hub.authenticator.authenticate(mechanism, response, connection.peer[0], connection.external_name)
        hub.read_clock()
    except LoginRefused as refused:
        hub.read_clock()
        if connection.state is State.START:
            _login_refused(connection, refused)
    else:
        if connection.state is State.START:  # Else it was closed meanwhile.
            _login_ok(connection, user)


def _login_ok(connection: Connection, user: Any) -> None:
    """The peer is who it says: tune."""
    connection.login = None
    connection.user = user
    settings = connection.settings
    connection.state = State.TUNE
    connection.frame_max = settings.frame_max_bytes
    connection.outbox.send(
        method_frame(0, "connection.tune", settings.channel_max, settings.frame_max_bytes, settings.heartbeat_s)
    )


def _login_refused(connection: Connection, refused: LoginRefused) -> None:
    """Tell a client that can be told; let go of another after a delay, without a word (RabbitMQ 3.1/5)."""
    connection.login = None
    connection.face.log_refused(connection, refused)
    mechanism = connection.mechanism
    if connection.peer_can("authentication_failure_close"):
        text = (
            f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism[:32]}. For details see the "
            "broker logfile."
        )
        connection.fail(ACCESS_REFUSED, text)
    else:
        connection.state = State.CLOSING
        connection.drop_at_ms = connection.hub.now_ms + connection.settings.login_refused_delay_ms


def _tune_ok(connection: Connection, channel_max: int, frame_max: int, heartbeat_s: int) -> None:
    """The client's values, none above ours (0 is unlimited), frame_max not below the least (spec 1.4.2.6)."""
    settings = connection.settings
    for name, value, maximum, minimum in (
        ("channel_max", channel_max, settings.channel_max, 1),
        ("frame_max", frame_max, settings.frame_max_bytes, FRAME_MAX_MIN),
    ):
        if not minimum <= (value or UNLIMITED) <= (maximum or UNLIMITED):
            text = f"negotiated {name} = {value} is outside of the allowed range ({minimum} to {maximum})"
            raise PeerError(NOT_ALLOWED, text)
    connection.channel_max = channel_max or CHANNEL_NUMBER_MAX
    connection.frame_max = frame_max
    connection.regular_size_max = min(frame_max - 8, settings.message_size_max_bytes)
    connection.heartbeat_s = heartbeat_s
    connection.state = State.OPEN


def _open(connection: Connection, vhost: str, _capabilities: str, _insist: bool) -> None:
    found = connection.broker.vhosts.get(vhost)
    if found is None:
        raise PeerError(NOT_ALLOWED, f"vhost {vhost} not found")
    if not connection.hub.access.may_enter(connection.user, vhost):
        raise PeerError(NOT_ALLOWED, f"access to vhost '{vhost}' refused for user '{connection.user.name}'")
    connection.vhost = found
    connection.state = State.RUNNING
    connection.hub.half_open.discard(connection)
    connection.outbox.send(method_frame(0, "connection.open-ok", ""))


def _close(connection: Connection, _code: int, _text: str, _class_id: int, _method_id: int) -> None:
    connection.release(then=partial(_say_close_ok, connection))
    if not connection.finished:
        connection.wait([])  # Nothing is read any more, however long it takes.


def _say_close_ok(connection: Connection) -> None:
    if not connection.finished:
        connection.outbox.send(method_frame(0, "connection.close-ok"))
        connection.finish()


def _update_secret(connection: Connection, _secret: bytes, _reason: str) -> None:
    """Passwords do not expire here, so a new secret changes nothing; RabbitMQ answers the same for its own users."""
    connection.outbox.send(method_frame(0, "connection.update-secret-ok"))


_EXPECTED: dict[tuple[str, int], Callable[..., None]] = {
    ("starting", method_number("connection.start-ok")): _start_ok,
    ("tuning", method_number("connection.tune-ok")): _tune_ok,
    ("opening", method_number("connection.open")): _open,
    ("running", method_number("connection.update-secret")): _update_secret,
    **{(state, method_number("connection.close")): _close for state in ("starting", "tuning", "opening", "running")},
}
