"""connection.blocked, with both brokers under a memory alarm: who is told, who waits, and who does not."""

from collections.abc import Iterator

import pytest
from compat_brokers import Pool, Target, jackalope_pool
from pika_sessions import connected, depth, drop, opened, stay, wait_for
from waiting import HANG_S, wait_until

from tools.bench.control import Control, TlsFiles


@pytest.fixture
def alarmed_jackalope(tls_files: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A Jackalope whose memory watermark lies below what it needs to run."""
    directory = tmp_path_factory.mktemp("jackalope-alarmed")
    with jackalope_pool(tls_files, directory, ("limits.memory_watermark=1MiB",)) as pool:
        wait_until(lambda: "alarm: low on memory" in pool.log(), pool.log)
        yield pool.fresh()


@pytest.fixture
def alarmed_rabbitmq(rabbitmq: Pool) -> Iterator[Target]:
    """The session's RabbitMQ with its watermark at nothing, put back afterwards."""
    assert isinstance(rabbitmq.broker, Control)
    rabbitmq.broker.rabbitmqctl("set_vm_memory_high_watermark", "0", timeout_s=HANG_S)
    try:
        yield rabbitmq.fresh()
    finally:
        rabbitmq.broker.rabbitmqctl("set_vm_memory_high_watermark", "0.4", timeout_s=HANG_S)


@pytest.fixture(params=["alarmed_jackalope", pytest.param("alarmed_rabbitmq", marks=pytest.mark.control)])
def alarmed(request: pytest.FixtureRequest) -> Target:
    """A fresh vhost of a broker under its memory alarm."""
    target: Target = request.getfixturevalue(request.param)
    return target


def test_publishers_are_blocked_and_told_others_go_on(alarmed: Target) -> None:
    """The first publish under the alarm brings connection.blocked with the reason and is held; consumers go on."""
    with opened(alarmed) as watcher, connected(alarmed) as publisher, connected(alarmed) as consumer:
        watcher.queue_declare("q")
        reasons: list[str] = []
        publisher.add_on_connection_blocked_callback(lambda _, frame: reasons.append(frame.method.reason))
        channel = publisher.channel()
        stay(publisher, 0.2)
        assert reasons == []
        channel.basic_publish("", "q", b"held")
        wait_for(publisher, lambda: reasons != [])
        assert reasons == ["low on memory"]
        consumer_channel = consumer.channel()
        got: list[bytes] = []
        consumer_channel.basic_consume("q", lambda _c, _m, _p, body: got.append(body), auto_ack=True)
        stay(consumer, 0.3)
        assert got == []
        assert depth(watcher, "q") == 0
        drop(publisher)  # A polite close would wait for an answer that does not come before the alarm ends.
