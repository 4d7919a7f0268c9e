"""Hot path. Frames of requests and responses: what stands in front of the messages that the tables describe.

Budget: 2 µs per request read, 2 µs per response written, beside what is in them; held by `jackalope bench kafka-codec`.
A frame is its size (int32) and so many octets. Request header v1 is key, version, correlation id, client id; flexible
versions append tagged fields to it (the client id stays as it was). A response repeats the correlation id, behind it
tagged fields where the version is flexible; but never in ApiVersions, whose reader cannot know yet what is spoken.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Generator
from typing import Any, NamedTuple

from protocol.kafka.apis import APIS
from protocol.kafka.codec import malformed, read, write, write_steps
from protocol.kafka.errors import ErrorCode
from protocol.kafka.readers import ELEMENTS_MAX, ERRORS, Reader, reader, skip_tags
from protocol.kafka.schema import MalformedRequest

API_VERSIONS = 18
_HEADER = struct.Struct(">hhih")
_CORRELATION = struct.Struct(">i")
_SIZE = struct.Struct(">i")
_SIZE_AND_CORRELATION = struct.Struct(">ii")

Buffers = list[bytes | memoryview]


class RequestHeader(NamedTuple):
    """Who asks what."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None


class UnsupportedVersion(Exception):
    """An API or a version of it that is not served; what of the header could be read all the same."""

    def __init__(self, api_key: int, api_version: int, correlation_id: int) -> None:
        super().__init__(f"API {api_key} version {api_version} is not served")
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id


def read_request(data: bytes | memoryview, served: Container[int] = APIS) -> tuple[RequestHeader, Any]:
    """A request without its size. Raises UnsupportedVersion and MalformedRequest, nothing else.

    Nothing is read of an API that is not among the `served`, which have to be the same at every call.

    Octets behind it are left alone, as Kafka does: librdkafka 2.16 puts three behind Metadata 13 for all topics.
    """
    try:
        key, version, correlation_id, size = _HEADER.unpack_from(data, 0)
        read_body, is_flexible = _REQUESTS.get((key, version)) or _served(key, version, correlation_id, served)
        position = _HEADER.size
        end = len(data)
        client_id = None
        if size >= 0:
            stop = position + size
            if stop > end:
                raise MalformedRequest(f"a client id of {size} octets")
            client_id = str(data[position:stop], "utf-8")
            position = stop
        if is_flexible:
            position = skip_tags(data, position, end)
        request, _ = read_body(data, position, end, [ELEMENTS_MAX])
    except ERRORS as error:
        raise malformed(error) from None
    return RequestHeader(key, version, correlation_id, client_id), request


_REQUESTS: dict[tuple[int, int], tuple[Reader, bool]] = {}
"""What was asked before."""


def _served(key: int, version: int, correlation_id: int, served: Container[int]) -> tuple[Reader, bool]:
    """(the reader of a request, whether it is flexible)."""
    api = APIS.get(key)
    if api is None or key not in served or not api.min_version <= version <= api.max_version:
        raise UnsupportedVersion(key, version, correlation_id)
    is_flexible = api.is_flexible(version)
    found = _REQUESTS[key, version] = reader(api.request, version, is_flexible=is_flexible), is_flexible
    return found


def write_response(header: RequestHeader, response: Any) -> Buffers:
    """The frame that answers the request, its size included; large record batches are buffers of their own."""
    is_flexible = APIS[header.api_key].is_flexible(header.api_version)
    out: list[Any] = [b"\0" if is_flexible and header.api_key != API_VERSIONS else b""]
    large: list[int] = []
    write(response, header.api_version, out, large, is_flexible=is_flexible)
    if not large:
        return _framed_whole(header.correlation_id, out)
    return _framed(header.correlation_id, out, large)


def response_steps(header: RequestHeader, response: Any) -> Generator[None, None, Buffers]:
    """Make what `write_response` returns, with pauses: of a response that may have very many elements."""
    is_flexible = APIS[header.api_key].is_flexible(header.api_version)
    out: list[Any] = [b"\0" if is_flexible else b""]
    done: list[bytes] = []
    large: list[int] = []
    for _ in write_steps(response, header.api_version, out, large, is_flexible=is_flexible):
        if not large:  # Else the indices of the large ones have to stay what they are.
            done.append(b"".join(out))
            out.clear()
        yield
    if not large:
        return _framed_whole(header.correlation_id, done + out)
    return _framed(header.correlation_id, [b"".join(done), *out], [index + 1 for index in large])


def _framed_whole(correlation_id: int, out: list[Any]) -> Buffers:
    body = b"".join(out)
    return [_SIZE_AND_CORRELATION.pack(len(body) + _CORRELATION.size, correlation_id) + body]


def _framed(correlation_id: int, out: list[Any], large: list[int]) -> Buffers:
    """The pieces between the large ones joined, and the frame's size in front."""
    buffers: Buffers = []
    begin = 0
    for index in large:
        buffers += (b"".join(out[begin:index]), out[index])
        begin = index + 1
    buffers.append(b"".join(out[begin:]))
    size = sum(map(len, buffers)) + _CORRELATION.size
    buffers[0] = _SIZE_AND_CORRELATION.pack(size, correlation_id) + buffers[0]
    return buffers


def unsupported_version_response(error: UnsupportedVersion) -> Buffers | None:
    """What answers ApiVersions of a version that is not served, in version 0 (KIP-511); None: close the connection."""
    if error.api_key != API_VERSIONS:
        return None
    api = APIS[API_VERSIONS]
    key = api.response.SPECS["api_keys"].of(
        api_key=API_VERSIONS, min_version=api.min_version, max_version=api.max_version
    )
    response = api.response(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[key])
    return write_response(RequestHeader(API_VERSIONS, 0, error.correlation_id, None), response)


# The client's side: tools and tests.


def write_request(header: RequestHeader, request: Any) -> bytes:
    """The frame of a request, its size included."""
    api = APIS[header.api_key]
    is_flexible = api.is_flexible(header.api_version)
    name = None if header.client_id is None else header.client_id.encode()
    front = _HEADER.pack(*header[:3], -1 if name is None else len(name)) + (name or b"")
    out: list[Any] = [b"", front, b"\0" if is_flexible else b""]
    write(request, header.api_version, out, [], is_flexible=is_flexible)
    out[0] = _SIZE.pack(sum(map(len, out)))
    return b"".join(out)


def read_response(api_key: int, api_version: int, data: bytes | memoryview) -> tuple[int, Any]:
    """(correlation id, response) of a frame without its size. Raises MalformedRequest."""
    api = APIS[api_key]
    is_flexible = api.is_flexible(api_version)
    end = len(data)
    try:
        (correlation_id,) = _CORRELATION.unpack_from(data, 0)
        position = _CORRELATION.size
        if is_flexible and api_key != API_VERSIONS:
            position = skip_tags(data, position, end)
    except ERRORS as error:
        raise malformed(error) from None
    response, position = read(api.response, api_version, data, position, is_flexible=is_flexible)
    if position != end:
        raise MalformedRequest(f"{end - position} octets follow the response")
    return correlation_id, response
