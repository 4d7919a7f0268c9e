"""rabbitmq-c, by Debian's amqp-tools: publish, get, consume, declare and delete from a shell."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from compat_brokers import Target
from needed import need
from waiting import HANG_S, wait_until

TOOLS = ("amqp-publish", "amqp-consume", "amqp-get", "amqp-declare-queue", "amqp-delete-queue")


@pytest.fixture(autouse=True)
def _tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    need(f"missing (Debian: apt-get install amqp-tools): {missing}" if missing else None)


def tool(broker: Target, name: str, *arguments: str, stdin: bytes = b"", status: int = 0) -> bytes:
    """Run one tool against the broker; its exit status must be `status`; returns its stdout."""
    done = subprocess.run(
        [name, "-u", broker.url, *arguments], input=stdin, capture_output=True, timeout=HANG_S, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def _wait_depth(broker: Target, queue: str, wanted: int) -> None:
    """amqp-delete-queue with --if-empty is no probe; count by declaring through pika."""
    from pika_sessions import depth, opened

    with opened(broker) as channel:
        wait_until(lambda: depth(channel, queue) == wanted, lambda: f"{depth(channel, queue)} in {queue}, not {wanted}")


def test_declare_publish_get_delete(broker: Target) -> None:
    """The four short commands; get says by its status that a queue is empty, delete counts what was left."""
    assert tool(broker, "amqp-declare-queue", "-d", "-q", "jobs") == b"jobs\n"
    tool(broker, "amqp-publish", "-r", "jobs", "-b", "first", "-p", "-C", "text/plain", "-H", "k: v")
    tool(broker, "amqp-publish", "-r", "jobs", stdin=b"second\x00with zero")
    _wait_depth(broker, "jobs", 2)
    assert tool(broker, "amqp-get", "-q", "jobs") == b"first"
    assert tool(broker, "amqp-get", "-q", "jobs") == b"second\x00with zero"
    tool(broker, "amqp-get", "-q", "jobs", status=2)
    tool(broker, "amqp-publish", "-l", "-r", "jobs", stdin=b"a\nb\nc\n")
    _wait_depth(broker, "jobs", 3)
    assert tool(broker, "amqp-delete-queue", "-q", "jobs") == b"3\n"


def test_headers_and_persistence_arrive(broker: Target) -> None:
    """What -H, -C, -p and -t set is in the delivered properties."""
    from pika_sessions import get, opened

    with opened(broker) as channel:
        channel.queue_declare("q")
        tool(broker, "amqp-publish", "-r", "q", "-b", "x", "-p", "-C", "text/plain", "-t", "answers", "-H", "k: v")
        _, properties, body = get(channel, "q", auto_ack=True)
    assert body == b"x"
    assert (properties.content_type, properties.delivery_mode, properties.reply_to) == ("text/plain", 2, "answers")
    assert properties.headers == {"k": "v"}


def test_consume_runs_a_command_per_message(broker: Target, tmp_path: Path) -> None:
    """amqp-consume hands each body to a command and acks; it stops after -c messages and leaves the rest."""
    tool(broker, "amqp-declare-queue", "-q", "work")
    tool(broker, "amqp-publish", "-l", "-r", "work", stdin=b"".join(b"%d\n" % n for n in range(5)))
    _wait_depth(broker, "work", 5)
    assert tool(broker, "amqp-consume", "-q", "work", "-c", "3", "-p", "1", "cat") == b"0\n1\n2\n"
    _wait_depth(broker, "work", 2)


def test_exclusive_consumer_on_an_exchange(broker: Target) -> None:
    """-x -e -r declares a server-named exclusive queue, binds it and consumes what is published to the exchange."""
    consumer = subprocess.Popen(
        ["amqp-consume", "-u", broker.url, "-x", "-e", "amq.topic", "-r", "log.*", "-c", "2", "-A", "cat"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        from pika_sessions import connected

        # Nothing says when the binding is there: a mandatory publish that is not returned has found it.
        for number in range(2):
            with connected(broker) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                wait_until(lambda channel=channel, number=number: _routed(channel, f"log.{number}"))
        out, err = consumer.communicate(timeout=HANG_S)
        assert (out, consumer.returncode) == (b"log.0log.1", 0), err
    finally:
        if consumer.poll() is None:
            consumer.kill()
        consumer.communicate()


def _routed(channel, key: str) -> bool:
    import pika

    try:
        channel.basic_publish("amq.topic", key, key.encode(), mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    return True


def test_errors_are_told(broker: Target) -> None:
    """A missing queue and a wrong password are reported with the broker's own words and a status."""
    failed = subprocess.run(
        ["amqp-get", "-u", broker.url, "-q", "absent"], capture_output=True, timeout=HANG_S, check=False, env=os.environ
    )
    assert failed.returncode == 1
    assert b"NOT_FOUND - no queue 'absent' in vhost" in failed.stderr
    url = broker.url.replace("guest:guest@", "guest:wrong@")
    failed = subprocess.run(["amqp-get", "-u", url, "-q", "q"], capture_output=True, timeout=HANG_S, check=False)
    assert failed.returncode == 1
    assert b"ACCESS_REFUSED" in failed.stderr


def test_tls(broker: Target) -> None:
    """The tools over TLS, with the test's authority."""
    arguments = ["--ssl", f"--cacert={broker.ca_file}", "-u", broker.tls_url]
    done = subprocess.run(
        ["amqp-declare-queue", *arguments, "-q", "q"], capture_output=True, timeout=HANG_S, check=False
    )
    assert (done.stdout, done.returncode) == (b"q\n", 0), done.stderr
