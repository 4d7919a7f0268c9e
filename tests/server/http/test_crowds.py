"""Many connections that want nothing: none of them keeps anybody out.

RFC 9112, 9.5: a server may close an idle connection at any time. Apache's event MPM closes idle keep-alive connections
when all workers are taken.
"""

import base64
import contextlib
import socket

import pytest
import trio
from http_world import HttpWorld
from waiting import HANG_S

from broker.config.limits import Limits
from broker.server.http.server import HttpServer

COUNT = 20
LOGIN = base64.b64encode(b"guest:guest").decode()
REQUEST = f"GET /api/queues HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {LOGIN}\r\n".encode()
BODY = b"Content-Length: 200000\r\n\r\n" + b" " * 100_000


@pytest.fixture
def world():
    """A broker with a user who may log in."""
    made = HttpWorld()
    made.authenticator.set_password("guest", "guest")
    return made


def serve(world, scenario):
    """Run the scenario with the address of a server for COUNT connections, and the server."""

    async def main():
        with trio.fail_after(HANG_S):
            async with trio.open_nursery() as nursery:
                with socket.create_server(("127.0.0.1", 0)) as sock:
                    sock.setblocking(False)
                    limits = Limits(http_connections_max=COUNT)
                    server = HttpServer(world.hub, nursery, [sock], limits, dict)
                    nursery.start_soon(server.run)
                    nursery.start_soon(world._turns)
                    await scenario(sock.getsockname(), server)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def connect(address, octets=b""):
    stream = await trio.open_tcp_stream(*address)
    if octets:
        await stream.send_all(octets)
    return stream


async def status(stream):
    """Of the answer that comes; None if the connection was closed."""
    with contextlib.suppress(trio.BrokenResourceError):
        octets = b""
        while b"\r\n" not in octets:
            more = await stream.receive_some(65_536)
            if not more:
                return None
            octets += more
        return int(octets.split()[1])
    return None


async def is_closed(stream):
    """Wait until it is."""
    return await status(stream) is None


async def until(done):
    while not done():
        await trio.sleep(0.001)


@pytest.mark.parametrize(
    "octets",
    [b"", REQUEST, REQUEST + BODY],
    ids=["silent", "half a request", "half a body"],
)
def test_sockets_that_want_nothing(world, octets):
    """As many as there may be: who comes then is answered, and the oldest of them has gone."""

    async def scenario(address, server):
        crowd = []
        for number in range(COUNT):
            crowd.append(await connect(address, octets))
            await until(lambda want=number + 1: server.waiting.count == want)
        for oldest in crowd[:3]:
            polite = await connect(address, REQUEST + b"Connection: close\r\n\r\n")
            assert await status(polite) == 200
            assert await is_closed(oldest)
            await polite.aclose()
            await until(lambda: server.waiting.count == COUNT - 1)
            crowd.append(await connect(address, octets))
            await until(lambda: server.waiting.count == COUNT)
        for stream in crowd:
            await stream.aclose()

    serve(world, scenario)


def test_who_does_not_read_its_answer(world):
    """It is in the way like somebody silent."""
    for number in range(300):
        world.broker.vhosts["/"].topics.create(f"{number:03}" + "t" * 200, 1, {})
    request = REQUEST.replace(b"queues", b"topics") + b"\r\n"

    async def scenario(address, server):
        crowd = [await connect(address, request * 200) for _ in range(COUNT)]
        await until(lambda: server.open_count == COUNT)
        polite = await connect(address, REQUEST + b"\r\n")
        assert await status(polite) == 200
        await polite.aclose()
        for stream in crowd:
            await stream.aclose()

    serve(world, scenario)


def test_bodies_take_room(world):
    """What comes of bodies counts with the requests and messages of other protocols, and waits for room as they do."""
    world.hub.unfinished.bytes_max = 150_000

    async def scenario(address, server):
        first = await connect(address, REQUEST + BODY)
        await until(lambda: world.hub.unfinished.octets == 100_000)
        second = await connect(address, REQUEST + BODY)
        await until(lambda: world.hub.unfinished.waiting_count == 1)
        await first.send_all(b" " * 99_998 + b"{}")
        assert await status(first) == 200
        await second.send_all(b" " * 99_998 + b"{}")
        assert await status(second) == 200
        await first.aclose()
        await second.aclose()
        await until(lambda: not server.waiting.count)
        assert world.hub.unfinished.octets == 0

    serve(world, scenario)


def test_a_stop_answers_what_is_under_way(world):
    """Whoever has asked is answered and then closed; whoever has not is closed at once."""

    async def scenario(address, server):
        began, go_on, answer = trio.Event(), trio.Event(), server.answer

        async def slow(*asked):
            began.set()
            await go_on.wait()
            return await answer(*asked)

        server.answer = slow
        idle, asking = await connect(address), await connect(address, REQUEST + b"\r\n")
        await began.wait()
        await until(lambda: server.open_count == 2)
        server.end_all(failed=False)
        assert await is_closed(idle)
        go_on.set()
        assert await status(asking) == 200
        while await asking.receive_some(65_536):
            pass
        await asking.aclose()
        await idle.aclose()

    serve(world, scenario)
