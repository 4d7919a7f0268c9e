"""HTTP/1.1 for the management API: h11 as the protocol engine, one trio task per connection.

Owns the limits of a request (header and body sizes, time, number of connections) and authentication; `api` has the
answers. Lists are encoded in slices with a checkpoint in between, so that a long one never holds the loop.
"""

from __future__ import annotations

import base64
import binascii
import http
import json
import logging
import re
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h11
import trio

from broker.config.limits import Limits
from broker.core.access import User
from broker.server.auth import LoginRefused
from broker.server.half_open import HalfOpen
from broker.server.http import (  # noqa: F401 - they fill the table of routes
    browse,
    catalog,
    groups,
    health,
    policies,
    records,
    redeliver,
    resets,
    topics,
    topology,
)
from broker.server.http.api import Created, HttpError, LongAnswer, Request, answer, split_target
from broker.server.http.encoding import encode, no_number, number, to_json, with_columns
from broker.server.hub import Hub
from broker.server.unfinished import LARGE_BYTES, Begun

log = logging.getLogger("jackalope.http")

READ_BYTES = 65_536
HEADERS_MAX = 100
"""Fields of one request: each costs h11 more than its octets do. Apache's LimitRequestFields, http.server's figure."""
LINGER_S = 2
_HEAD_END, _FOLD = re.compile(rb"\n\r?\n"), re.compile(rb"\n[ \t]")
_JSON = (b"content-type", b"application/json")


class HttpServer:
    """Serves until cancelled. `statistics` gives version, counts, loop lag and memory."""

    def __init__(
        self,
        hub: Hub,
        nursery: trio.Nursery,
        sockets: Sequence[socket.socket],
        limits: Limits,
        statistics: Callable[[], dict[str, Any]],
    ) -> None:
        self._hub = hub
        self._nursery = nursery
        self._sockets = sockets
        self._limits = limits
        self._statistics = statistics
        self._everybody: dict[_Exchanges, None] = {}
        self.is_stopping = False
        """Nobody gets more than one answer."""
        self.waiting = HalfOpen()
        """The connections for which nothing is done: silent, idle, in mid-request, or not taking their answer."""
        hub.faces.append(self)

    async def run(self) -> None:
        """Accept for ever."""
        async with trio.open_nursery() as nursery:
            for sock in self._sockets:
                nursery.start_soon(self._accept, sock)

    async def _accept(self, sock: socket.socket) -> None:
        listener = trio.socket.from_stdlib_socket(sock)
        while True:
            try:
                accepted, peer = await listener.accept()
            except OSError as error:
                self._hub.log_lines.warning(log, "accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            if self.open_count >= self._limits.http_connections_max and not self._make_room(str(peer[0])):
                accepted.close()
                continue
            stream = trio.SocketStream(accepted)
            exchanges = _Exchanges(self, stream, (str(peer[0]), int(peer[1])))
            self._everybody[exchanges] = None
            self._nursery.start_soon(self._serve, stream, exchanges)

    # The process.

    @property
    def open_count(self) -> int:
        """How many connections are open."""
        return len(self._everybody)

    def sweep(self) -> None:
        """Each connection keeps its own time."""

    def alarm_ended(self) -> None:
        """Nobody waits for it: what cannot be published is refused."""

    def end_all(self, *, failed: bool) -> None:
        """Requests under way are answered; whoever has none is closed."""
        del failed  # What is not durable is answered with 500 by itself.
        self.is_stopping = True
        for exchanges in list(self._everybody):
            if not exchanges.is_busy and not exchanges.is_answering:
                exchanges.scope.cancel()

    def _make_room(self, host: str) -> bool:
        """Close the one that has to go before another one is taken; False when something is done for all of them."""
        if not self.waiting.count:
            return False
        surplus = self.waiting.surplus(host, self._limits.http_connections_max, 0)
        assert surplus is not None
        self.waiting.discard(surplus)
        surplus.transport.close()
        return True

    async def _serve(self, stream: trio.SocketStream, exchanges: _Exchanges) -> None:
        self.waiting.add(exchanges)
        try:
            with exchanges.scope:
                async with stream:
                    await exchanges.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            log.debug("connection ended: %s", error)
        finally:
            self.waiting.discard(exchanges)
            exchanges.begun.let_go()
            del self._everybody[exchanges]

    def note_failure(self, what: str, error: Exception) -> None:
        """A request has met a bug: one line, with where it was; one a second at most."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        told = what, type(error).__name__, error, place
        text = "%s failed, please report it: %s: %s at %s"
        if self._hub.log_lines.tell(log, logging.ERROR, text, *told, at_once=1):
            log.debug("its traceback", exc_info=error)

    def log_closed(self, peer: tuple[str, int]) -> None:
        """A connection had to go."""
        self._hub.log_lines.info(log, "closed: peer=%s:%s others wait for its place", *peer)

    async def authenticate(self, header: bytes | None, peer_host: str) -> User:
        """Who asks, by HTTP Basic. Raises HttpError 401."""
        refused = HttpError(401, "not_authorised", "Login failed")
        scheme, _, token = (header or b"").partition(b" ")
        if scheme.lower() != b"basic":
            raise refused
        try:
            name, _, password = base64.b64decode(token, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            raise refused from None
        try:
            return await self._hub.authenticator.authenticate("PLAIN", b"\0" + name + b"\0" + password, peer_host)
        except LoginRefused as error:
            self._hub.log_lines.warning(log, "login refused: %s", error)
            raise refused from None

    async def answer(self, method: str, target: str, body: bytes, user: User, peer_host: str) -> Any:
        """Like `respond`, once what the request has changed is durable. Raises HttpError."""
        durability = self._hub.durability
        if durability is None:
            return with_columns(await self._complete(self.respond(method, target, body, user, peer_host)), target)
        promised = durability.store.promised_count
        result = await self._complete(self.respond(method, target, body, user, peer_host))
        if durability.store.promised_count != promised:
            try:
                await durability.synced()
            except OSError as error:
                raise HttpError(500, "storage_failed", str(error)) from None
        return with_columns(result, target)

    async def _complete(self, result: Any) -> Any:
        """The answer of what goes in steps, others having their turns in between. Raises HttpError."""
        if not isinstance(result, LongAnswer):
            return result
        while not result.advance():
            self._hub.end_turn()
            await trio.lowlevel.checkpoint()
            self._hub.read_clock()
        self._hub.end_turn()
        return result.answer

    def respond(self, method: str, target: str, body: bytes, user: User, peer_host: str) -> Any:
        """The answer to an authenticated request, or a LongAnswer. Raises HttpError."""
        self._hub.read_clock()
        parts, query = split_target(target)
        try:
            fields = json.loads(body, parse_constant=no_number, parse_float=number) if body else {}
        except (ValueError, RecursionError):
            raise HttpError(400, "bad_request", "the body is not JSON") from None
        if not isinstance(fields, dict):
            raise HttpError(400, "bad_request", "the body is not a JSON object")
        request = Request(
            method,
            parts,
            query,
            fields,
            user,
            self._hub,
            self._statistics,
            self._limits.message_size_max_bytes,
            peer_host,
        )
        result = answer(request)
        self._hub.end_turn()
        return result


class _Exchanges:
    """The requests and responses of one connection. A `Guest`: its transport is itself."""

    def __init__(self, server: HttpServer, stream: trio.SocketStream, peer: tuple[str, int]) -> None:
        self._server = server
        self._limits = server._limits
        self._stream = stream
        self.peer = peer
        self._peer_host = peer[0]
        self.transport = self
        self.scope = trio.CancelScope()
        self.begun = Begun(server._hub.unfinished, self._on_room, self.close, lambda: self.is_busy)
        """What it holds of a large body."""
        self._room: trio.Event | None = None
        self.is_busy = False  # Something is done for it.
        self.is_answering = False  # Its answer is on its way.
        self._without_body = False  # The answer to HEAD.
        self._is_last = False
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.http_header_bytes_max)

    async def run(self) -> None:
        """Until the peer closes, or breaks a rule."""
        engine = self._h11
        while engine.our_state is h11.IDLE and not self._server.is_stopping:
            try:
                with trio.fail_after(self._limits.http_timeout_s):
                    request, body = await self._receive()
            except h11.RemoteProtocolError as error:
                if engine.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    reason = {"error": "bad_request", "reason": str(error)}
                    await self._send(error.error_status_hint, reason, close=True)
                    await self._linger()
                return
            if request is None:
                return
            await self._handle(request, body)
            del body
            self.begun.let_go()
            if engine.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                if self._is_last:
                    await self._linger()
                return
            if self._server.is_stopping:  # The stop came while the answer was being sent.
                await self._linger()
                return
            engine.start_next_cycle()

    async def _linger(self) -> None:
        """Read on for a moment: a close with octets unread would reset the connection before the answer is read."""
        await self._stream.send_eof()
        with trio.move_on_after(LINGER_S):
            while await self._stream.receive_some(READ_BYTES):
                pass

    async def _receive(self) -> tuple[h11.Request | None, bytes]:
        request: h11.Request | None = None
        head = bytearray(self._h11.trailing_data[0])
        body = bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await self._stream.send_all(self._h11.send(go_on) or b"")
                data = await self._stream.receive_some(READ_BYTES)
                self._server.waiting.heard(self)
                if request is None:
                    head += data
                self._h11.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
                _check_headers(event, head)
                head.clear()
                # h11 checks the size only while an event is incomplete.
                if sum(len(name) + len(value) for name, value in event.headers) > self._limits.http_header_bytes_max:
                    raise h11.RemoteProtocolError("headers too large", error_status_hint=431)
                if int(dict(event.headers).get(b"content-length", b"0")) > self._limits.http_body_bytes_max:
                    raise h11.RemoteProtocolError("body too large", error_status_hint=413)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._limits.http_body_bytes_max:
                    raise h11.RemoteProtocolError("body too large", error_status_hint=413)
                if len(body) > LARGE_BYTES:
                    await self._hold(len(body), len(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return request, bytes(body)
            else:
                return None, b""

    async def _hold(self, octets: int, came: int) -> None:
        """Go on when there is room for what has come of the body."""
        self.begun.has_come(came)
        self.begun.holds(octets)
        if self.begun.waits:
            self._room = trio.Event()
            await self._room.wait()

    def _on_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def close(self) -> None:
        """It has to go, for others."""
        self._server.log_closed(self.peer)
        self.scope.cancel()

    async def _handle(self, request: h11.Request, body: bytes) -> None:
        """Answer; as long as something is done for it the connection is in nobody's way."""
        waiting = self._server.waiting
        waiting.discard(self)
        self.is_busy = True
        try:
            send = await self._answer(request, body)
        finally:
            self.is_busy = False
            waiting.add(self)
            waiting.heard(self)
        self._is_last = self._is_last or self._server.is_stopping
        self.is_answering = True
        await send()
        self.is_answering = False

    async def _answer(self, request: h11.Request, body: bytes) -> Callable[[], Awaitable[None]]:
        """How the answer is sent."""
        headers = dict(request.headers)
        self._without_body = False
        # RFC 9112, 6.1: both framings at once may be an attempt at smuggling; answered, and nothing behind it is read.
        self._is_last = b"transfer-encoding" in headers and b"content-length" in headers
        try:
            user = await self._server.authenticate(headers.get(b"authorization"), self._peer_host)
            method = request.method.decode("ascii")
            if method == "HEAD":
                self._without_body, method = True, "GET"
            result = await self._server.answer(method, request.target.decode("ascii"), body, user, self._peer_host)
            text = b"" if result is None or isinstance(result, Created) else (await encode(result)).encode()
        except HttpError as error:
            return partial(self._send, error.status, error.body)
        except Exception as error:  # noqa: BLE001 - a bug that one request met must not end the broker
            self._server.note_failure(f"{request.method!r} {request.target[:200]!r}", error)
            reason = {"error": "internal", "reason": "the broker has failed at this; its log says where"}
            return partial(self._send, 500, reason)
        if result is None:
            return partial(self._send_raw, 204, b"")
        if isinstance(result, Created):
            return partial(self._send_raw, 201, b"", location=result.location)
        return partial(self._send_raw, 200, text)

    async def _send(self, status: int, value: Any, close: bool = False) -> None:
        await self._send_raw(status, to_json(value).encode(), close)

    async def _send_raw(self, status: int, body: bytes, close: bool = False, location: str = "") -> None:
        headers = [_JSON, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-cache")]
        if status == 401:
            headers.append((b"www-authenticate", b'Basic realm="Jackalope"'))
        if status == 204:
            headers = [(b"cache-control", b"no-cache")]
        if location:
            headers.append((b"location", location.encode("ascii")))
        if close or self._is_last:
            headers.append((b"connection", b"close"))
        engine = self._h11
        reason = http.HTTPStatus(status).phrase.encode()
        head = engine.send(h11.Response(status_code=status, headers=headers, reason=reason)) or b""
        data = b"" if status == 204 or self._without_body else engine.send(h11.Data(data=body)) or b""
        end = engine.send(h11.EndOfMessage()) or b""
        with trio.fail_after(self._limits.http_timeout_s):
            await self._stream.send_all(head + data + end)


def _check_headers(request: h11.Request, head: bytearray) -> None:
    """What one proxy reads in one way and another server in another; `head` is the octets, and perhaps more.

    A line that goes on with the one before: RFC 9112, 5.2. Fields that may be there once: RFC 9110, 5.3. Raises
    RemoteProtocolError.
    """
    end = _HEAD_END.search(head)
    if _FOLD.search(head, 0, end.start() if end is not None else len(head)):
        raise h11.RemoteProtocolError("a header field goes on in the next line", error_status_hint=400)
    if len(request.headers) > HEADERS_MAX:
        raise h11.RemoteProtocolError(f"more than {HEADERS_MAX} header fields", error_status_hint=431)
    if sum(name == b"authorization" for name, _ in request.headers) > 1:
        raise h11.RemoteProtocolError("more than one Authorization", error_status_hint=400)
