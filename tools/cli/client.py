"""The HTTP client of the command line: one request, one answer, and the exit code that a failure means."""

from __future__ import annotations

import base64
import http.client
import json
import time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from tools.cli.errors import CANNOT_CONNECT, FAILED, NOT_FOUND, REFUSED, ApiError

IDLE_S = 15.0
"""The broker ends a connection that has been idle for 30 s; after this a new one is opened."""


def path(*segments: str) -> str:
    """/api/a/b with each segment encoded, so that the vhost / becomes %2F."""
    return "/api/" + "/".join(quote(segment, safe="") for segment in segments)


class Client:
    """Talks to the broker at `url` (http://USER:PASSWORD@HOST:PORT)."""

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiError("not an HTTP URL (http://USER:PASSWORD@HOST:PORT), in --url or JACKALOPE_URL", 2)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._address = f"{parts.hostname}:{parts.port or 15672}"
        self._connection = kind(parts.hostname, parts.port or 15672, timeout=timeout_s)
        login = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
        self._used_s = time.monotonic()
        self.status = 0
        """Of the last answer."""
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}

    def request(self, method: str, target: str, body: Any = None) -> Any:
        """The JSON answer, None for an empty one. `body` may be JSON already, as bytes. Raises ApiError."""
        if time.monotonic() - self._used_s > IDLE_S:
            self._connection.close()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            self._connection.request(method, target, data, self._headers)
            response = self._connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"cannot connect to {self._address}: {error}", CANNOT_CONNECT) from None
        self._used_s = time.monotonic()
        self.status = response.status
        if response.status >= 400:
            raise _error(response.status, raw, target)
        return json.loads(raw) if raw else None


def _error(status: int, raw: bytes, target: str) -> ApiError:
    try:
        reason = str(json.loads(raw).get("reason", ""))
    except (ValueError, AttributeError):
        reason = raw.decode("utf-8", "replace")[:200]
    if status == 404 and reason in ("", "Not Found"):
        reason = "not found: " + unquote(target.partition("?")[0].removeprefix("/api/")).replace("//", "/")
    code = {401: REFUSED, 403: REFUSED, 404: NOT_FOUND}.get(status, FAILED)
    return ApiError(reason or f"HTTP status {status}", code)
