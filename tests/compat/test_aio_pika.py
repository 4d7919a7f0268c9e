"""aio-pika: its robust and plain connections, from asyncio, against Jackalope and RabbitMQ."""

import asyncio
import contextlib
import dataclasses
import gc
from collections.abc import Awaitable, Callable
from typing import Self

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from compat_brokers import Target
from waiting import HANG_S


def run(body: Callable[[], Awaitable[None]]) -> None:
    """One test body in an event loop of its own, with a bound; what the loop leaves is collected inside the test."""

    async def bounded() -> None:
        async with asyncio.timeout(HANG_S):
            await body()

    asyncio.run(bounded())
    gc.collect()


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # What it waits for is a client's callback, which sets no event.
        await asyncio.sleep(0.02)


class Relay:
    """Passes bytes between a client and the broker until `cut` loses all its connections, as a network would."""

    def __init__(self, broker: Target) -> None:
        self._broker = broker
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection, both ways."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(self._broker.host, self._broker.port)
        self._writers += [writer, to_writer]
        await asyncio.gather(self._pass(reader, to_writer), self._pass(to_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def test_hello_with_confirms(broker: Target) -> None:
    """A default channel confirms publishes; a thousand in flight together are all confirmed and delivered in order."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("hello")
            messages = [aio_pika.Message(b"%d" % number) for number in range(1000)]
            confirmations = await asyncio.gather(
                *(channel.default_exchange.publish(message, "hello") for message in messages)
            )
            assert len(confirmations) == 1000
            assert {type(one).__name__ for one in confirmations} == {"Ack"}
            got = []
            async with queue.iterator(no_ack=True) as iterator:
                async for message in iterator:
                    got.append(int(message.body))
                    if len(got) == 1000:
                        break
            assert got == list(range(1000))

    run(body)


def test_work_queue_with_process(broker: Target) -> None:
    """message.process() acks on success and, asked to, requeues once on failure; prefetch bounds what is in hand."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=2)
            queue = await channel.declare_queue("tasks", durable=True)
            seen: list[tuple[bytes, bool]] = []

            async def on_task(message: AbstractIncomingMessage) -> None:
                async with message.process(requeue=True, ignore_processed=True):
                    seen.append((message.body, bool(message.redelivered)))
                    if message.body == b"bad" and not message.redelivered:
                        await message.reject(requeue=True)

            await queue.consume(on_task)
            for task in (b"good", b"bad", b"fine"):
                message = aio_pika.Message(task, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await channel.default_exchange.publish(message, "tasks")
            await _until(lambda: len(seen) == 4)
            assert sorted(seen) == [(b"bad", False), (b"bad", True), (b"fine", False), (b"good", False)]

    run(body)


def test_topology(broker: Target) -> None:
    """fanout, topic and headers exchanges, and bindings between exchanges."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            fanout = await channel.declare_exchange("news", aio_pika.ExchangeType.FANOUT)
            topic = await channel.declare_exchange("topics", aio_pika.ExchangeType.TOPIC)
            headers = await channel.declare_exchange("heads", aio_pika.ExchangeType.HEADERS)
            await topic.bind(fanout)
            everything = await channel.declare_queue(exclusive=True)
            europe = await channel.declare_queue(exclusive=True)
            reports = await channel.declare_queue(exclusive=True)
            await everything.bind(fanout)
            await europe.bind(topic, "europe.#")
            await reports.bind(headers, arguments={"x-match": "any", "kind": "report"})
            for key in ("europe.france.paris", "asia.japan"):
                await fanout.publish(aio_pika.Message(key.encode()), key)
            await headers.publish(aio_pika.Message(b"r", headers={"kind": "report", "n": 1}), "")
            await headers.publish(aio_pika.Message(b"x", headers={"kind": "other"}), "", mandatory=False)

            async def all_of(queue: aio_pika.abc.AbstractQueue) -> list[bytes]:
                found = []
                while (message := await queue.get(no_ack=True, fail=False)) is not None:
                    found.append(message.body)
                return found

            assert await all_of(everything) == [b"europe.france.paris", b"asia.japan"]
            assert await all_of(europe) == [b"europe.france.paris"]
            assert await all_of(reports) == [b"r"]

    run(body)


def test_mandatory_return_is_a_delivery_error(broker: Target) -> None:
    """aio-pika publishes with mandatory: an unroutable message comes back with its body and 312 before the ack."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.PublishError):
                await channel.default_exchange.publish(aio_pika.Message(b"lost"), "nowhere")
            plain = await connection.channel()
            returned: list[bytes] = []

            def on_return(_: object, message: AbstractIncomingMessage) -> None:
                returned.append(message.body)

            plain.return_callbacks.add(on_return)
            await plain.default_exchange.publish(aio_pika.Message(b"back"), "nowhere")
            assert returned == [b"back"]

    run(body)


def test_rpc_pattern(broker: Target) -> None:
    """aio-pika's own RPC pattern: exclusive result queue, correlation ids, errors carried back."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            rpc = await aio_pika.patterns.RPC.create(channel)

            async def multiply(*, x: int, y: int) -> int:
                return x * y

            async def fail() -> None:
                raise ValueError("no")

            await rpc.register("multiply", multiply, auto_delete=True)
            await rpc.register("fail", fail, auto_delete=True)
            products = await asyncio.gather(*(rpc.proxy.multiply(x=n, y=2) for n in range(20)))
            assert products == [n * 2 for n in range(20)]
            with pytest.raises(ValueError, match="no"):
                await rpc.proxy.fail()
            await rpc.close()

    run(body)


def test_transaction(broker: Target) -> None:
    """Commit makes publishes visible, a rollback drops them."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue("tx")
            async with channel.transaction():
                await channel.default_exchange.publish(aio_pika.Message(b"kept"), "tx")
            async with contextlib.AsyncExitStack() as stack:
                transaction = await stack.enter_async_context(channel.transaction())
                await channel.default_exchange.publish(aio_pika.Message(b"dropped"), "tx")
                await transaction.rollback()
            assert (await queue.get(no_ack=True)).body == b"kept"
            assert await queue.get(no_ack=True, fail=False) is None

    run(body)


def test_channel_errors(broker: Target) -> None:
    """A 404 and a 406 close their channel with their own exception; the connection stays."""

    async def body() -> None:
        async with await aio_pika.connect(broker.url) as connection:
            missing = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await missing.declare_queue("absent", passive=True)
            unequal = await connection.channel()
            await unequal.declare_queue("q", durable=True)
            with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
                await unequal.declare_queue("q", durable=False)
            alive = await connection.channel()
            await alive.declare_queue("q", durable=True)

    run(body)


def test_robust_connection_restores(broker: Target) -> None:
    """After its socket is lost a robust connection comes back, declares and consumes again; nothing unacked is lost."""

    async def body() -> None:
        async with (
            Relay(broker) as relay,
            await aio_pika.connect_robust(
                dataclasses.replace(broker, port=relay.port).url, reconnect_interval=0.2
            ) as connection,
        ):
            channel = await connection.channel()
            queue = await channel.declare_queue("robust")
            got: list[tuple[bytes, bool]] = []
            lost = asyncio.Event()

            async def on_message(message: AbstractIncomingMessage) -> None:
                got.append((message.body, bool(message.redelivered)))
                if message.redelivered or message.body == b"after":
                    await message.ack()
                else:
                    lost.set()

            await queue.consume(on_message)
            await channel.default_exchange.publish(aio_pika.Message(b"before"), "robust")
            await lost.wait()
            relay.cut()
            await _until(lambda: (b"before", True) in got)
            await connection.connected.wait()
            await channel.default_exchange.publish(aio_pika.Message(b"after"), "robust")
            await _until(lambda: (b"after", False) in got)
            assert got == [(b"before", False), (b"before", True), (b"after", False)]

    run(body)


def test_large_body(broker: Target) -> None:
    """5 MB there and back."""

    async def body() -> None:
        large = bytes(range(256)) * 20480
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await channel.default_exchange.publish(aio_pika.Message(large), queue.name)
            assert (await queue.get(no_ack=True)).body == large

    run(body)


def test_tls(broker: Target) -> None:
    """amqps with the host name checked."""

    async def body() -> None:
        async with await aio_pika.connect(broker.tls_url, ssl_context=broker.ssl_context()) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await channel.default_exchange.publish(aio_pika.Message(b"secret" * 50_000), queue.name)
            assert (await queue.get(no_ack=True)).body == b"secret" * 50_000

    run(body)


def test_idle_with_heartbeats(broker: Target) -> None:
    """An idle connection outlives two intervals of its heartbeat, after which a broker would drop who says nothing."""

    async def body() -> None:
        async with await aio_pika.connect(f"{broker.url}?heartbeat=4") as connection:
            channel = await connection.channel()
            await asyncio.sleep(13)  # Three intervals, and a bit.
            assert not connection.is_closed
            await channel.declare_queue(exclusive=True)

    run(body)
