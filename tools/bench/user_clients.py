"""Load processes driven by the clients that people use: pika and aio-pika (test requirements, not ours at run time).

The figure of these is the whole system's, and mostly the client's: a broker shows well here when it is not in the way.
Each client is imported by the load that uses it.
"""

import asyncio
import itertools
from typing import Any

from tools.bench import frames
from tools.bench.board import Board
from tools.bench.workers import POLL_S, THROTTLE_S, Job

BATCH = 50  # Messages between two looks at the board.
USER_LAG_MAX = 5_000


def _pika_connection(job: Job) -> Any:
    import pika

    target = job.target
    credentials = pika.PlainCredentials(target.user, target.password)
    return pika.BlockingConnection(
        pika.ConnectionParameters(target.host, target.port, target.vhost, credentials, heartbeat=0)
    )


def pika_publish(job: Job, board: Board) -> None:
    """BlockingConnection and basic_publish without confirms, as in the client's tutorial."""
    connection = _pika_connection(job)
    channel, body = connection.channel(), frames.body_of(job.scenario.body_bytes)
    board.wait_for_load(job.worker)
    published = 0
    while board.running:
        if published - board.delivered > USER_LAG_MAX:
            connection.process_data_events(THROTTLE_S)
            continue
        for _ in range(BATCH):
            channel.basic_publish(job.exchange, job.routing_key(), body)
        published += BATCH
        board.set_published(job.worker, published)
    connection.close()


def pika_consume(job: Job, board: Board) -> None:
    """BlockingConnection and a callback, auto-ack."""
    connection = _pika_connection(job)
    channel, delivered = connection.channel(), itertools.count(1)

    def on_message(_channel: Any, _method: Any, _properties: Any, _body: bytes) -> None:
        board.set_delivered(job.worker, next(delivered))

    channel.basic_consume(job.queue(0), on_message, auto_ack=True)
    board.wait_for_load(job.worker)
    while board.running:
        connection.process_data_events(POLL_S)
    connection.close()


async def _aiopika_connection(job: Job) -> Any:
    import aio_pika

    target = job.target
    return await aio_pika.connect(
        host=target.host, port=target.port, login=target.user, password=target.password, virtualhost=target.vhost
    )


def aiopika_publish(job: Job, board: Board) -> None:
    """A channel without confirms, one awaited publish after another."""
    import aio_pika

    async def publish() -> None:
        async with await _aiopika_connection(job) as connection:
            channel = await connection.channel(publisher_confirms=False)
            message = aio_pika.Message(frames.body_of(job.scenario.body_bytes))
            await asyncio.to_thread(board.wait_for_load, job.worker)
            published, exchange, key = 0, channel.default_exchange, job.routing_key()
            while board.running:
                if published - board.delivered > USER_LAG_MAX:
                    await asyncio.sleep(THROTTLE_S)
                    continue
                for _ in range(BATCH):
                    await exchange.publish(message, key)
                published += BATCH
                board.set_published(job.worker, published)

    asyncio.run(publish())


def aiopika_consume(job: Job, board: Board) -> None:
    """A callback, no_ack."""

    async def consume() -> None:
        async with await _aiopika_connection(job) as connection:
            channel, delivered = await connection.channel(), itertools.count(1)
            queue = await channel.get_queue(job.queue(0), ensure=False)

            async def on_message(_message: Any) -> None:
                board.set_delivered(job.worker, next(delivered))

            await queue.consume(on_message, no_ack=True)
            await asyncio.to_thread(board.wait_for_load, job.worker)
            await asyncio.to_thread(board.wait_for_stop)

    asyncio.run(consume())
