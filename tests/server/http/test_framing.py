"""Requests as octets: what HTTP/1.1 lets a server answer, and what it must not guess (RFC 9110, 9112)."""

import base64
import logging

import pytest
import trio
import trio.testing
from http_world import HttpWorld

from broker.server.http.api import route_to
from broker.server.http.server import HEADERS_MAX, _Exchanges
from broker.server.log_lines import WINDOW_S, LogLines

LOGIN = "Authorization: Basic " + base64.b64encode(b"guest:guest").decode() + "\r\n"


@pytest.fixture(scope="module")
def http():
    """A broker and its API."""
    return HttpWorld()


def talk(http, octets):
    """All that comes back for octets, up to the close."""

    async def run():
        client, server = trio.testing.memory_stream_pair()

        async def serve():
            await _Exchanges(http.server, server, ("127.0.0.1", 1)).run()
            await server.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await client.send_all(octets)
            await client.send_eof()
            answer = b""
            while part := await client.receive_some(65536):
                answer += part
        return answer

    return trio.run(run)


def get(target="/api/whoami", more="", method="GET", body=""):
    """A request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{LOGIN}{length}{more}\r\n{body}".encode()


def test_a_reason_phrase(http):
    """Every status line has one: some clients show nothing else (RFC 9112, 4)."""
    assert talk(http, get()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert talk(http, get("/api/nope")).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert talk(http, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_slash_at_the_end(http):
    """It changes nothing."""
    assert talk(http, get("/api/whoami/")).startswith(b"HTTP/1.1 200 ")


def test_both_framings(http):
    """Content-Length beside Transfer-Encoding: the answer, then the close, and nothing behind it (RFC 9112, 6.1)."""
    both = get(more="Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + b"0\r\n\r\n"
    answer = talk(http, both + get("/api/nope"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer.lower()
    chunked = get(more="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n"
    assert talk(http, chunked + get()).count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (LOGIN, 400),
        ("X-A: 1\r\n 2\r\n", 400),
        ("X-A: 1\r\n\t2\r\n", 400),
        ("X: y\r\n" * (HEADERS_MAX - 2), 200),
        ("X: y\r\n" * (HEADERS_MAX - 1), 431),
        ("X-A: 1\r\n2: 3\r\n", 200),
    ],
)
def test_what_others_read_otherwise(http, more, status):
    """Two Authorization fields, a folded line, too many fields: refused, also behind a request that is answered."""
    assert talk(http, get(more=more)).startswith(b"HTTP/1.1 %d " % status)
    second = talk(http, get(method="POST", target="/api/nope", body='{"a":\n 1}') + get(more=more))
    assert second.startswith(b"HTTP/1.1 404 ")
    assert b"HTTP/1.1 %d " % status in second


@pytest.mark.parametrize("body", ['{"count": 1e999}', '{"count": -1e999}', '{"count": [1e400]}'])
def test_a_number_that_is_none(http, body, caplog):
    """Larger than a double: 400, without a word in the log (RFC 8259, 6 lets a parser set limits)."""
    http.broker.vhosts["/"].declare_queue(
        "q", durable=False, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
    )
    request = get("/api/queues/%2F/q/get", method="POST", body=body)
    assert talk(http, request).startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []


@route_to("GET", "test-framing-bug")
def _bug(_request):
    """Not the API's: what a bug in one of its handlers does."""
    raise ZeroDivisionError("a bug")


def test_a_bug(http, caplog):
    """It is an answer and one line, and a hundred of them are no hundred lines."""
    now = 1000.0
    http.hub.log_lines = LogLines(lambda: now)
    with caplog.at_level(logging.INFO, "jackalope.http"):
        answer = talk(http, get("/api/test-framing-bug") * 100 + get())
        assert answer.count(b"HTTP/1.1 500 Internal Server Error\r\n") == 100
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1
        assert len(caplog.records) == 1
        assert "ZeroDivisionError: a bug at test_framing.py:" in caplog.text
        assert "Traceback" not in caplog.text
        now += WINDOW_S
        talk(http, get("/api/test-framing-bug"))
    assert len(caplog.records) == 2
    assert "(99 more since the last line like this)" in caplog.records[1].getMessage()
