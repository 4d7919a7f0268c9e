"""`jackalope log dump` on files that a real broker has written, whole and damaged."""

import json
import os
import signal
import subprocess
import sys

import pika
import pytest
from cli_sessions import patient
from waiting import HANG_S

from protocol.kafka.compression import compress
from protocol.kafka.records import GZIP, ZSTD, encode_batch, render_record
from tools.bench.control import running_jackalope


def dump(*arguments):
    """(exit code, rows, stderr)."""
    command = [sys.executable, "-m", "tools.cli.main", "log", "dump", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data directory that a killed broker has left."""
    directory = tmp_path_factory.mktemp("dumped")
    with running_jackalope(directory=directory, http=False) as broker:
        with pika.BlockingConnection(patient(broker)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("orders", durable=True, arguments={"x-max-length": 1000})
            channel.queue_bind("orders", "amq.topic", "order.#")
            for number in range(20):
                properties = pika.BasicProperties(delivery_mode=2, headers={"number": number})
                channel.basic_publish("amq.topic", "order.new", b"order %d" % number * 20, properties)
            # Running, and not disturbed.
            assert dump(directory / "data")[0] in (0, 3)
        os.kill(broker.root_pid, signal.SIGKILL)
    return directory / "data"


def test_the_catalog(data):
    """Queues with their arguments, bindings."""
    code, rows, _ = dump(data, "--kind", "catalog")
    assert code == 0
    assert [(row["kind"], row["name"].split()[:2]) for row in rows] == [
        ("queue", ["/", "orders"]), ("binding", ["/", "amq.topic"]),
    ]  # fmt: skip
    assert rows[0]["arguments"] == {"x-max-length": 1000}


def test_records(data):
    """Messages with their offsets, where they came from, and as much of the body as is asked for."""
    code, rows, _ = dump(data, "--kind", "records", "--from", "5", "--limit", "3")
    assert code == 0
    assert [(row["offset"], row["exchange"], row["routing_key"], row["persistent"]) for row in rows] == [
        (offset, "amq.topic", "order.new", True) for offset in (5, 6, 7)
    ]
    assert rows[0]["properties"]["headers"] == {"number": 5}
    assert (rows[0]["octets"], len(rows[0]["body"])) == (140, 60)
    assert len(dump(data, "--kind", "records", "--body", "--limit", "1")[1][0]["body"]) == 140
    assert sum(row["records"] for row in dump(data, "--kind", "batches")[1]) == 20


def test_damage_is_told_and_stepped_over(data, tmp_path):
    """A flipped bit: the frame is named, what stands behind it is shown, exit 3; a path that is not there is 4."""
    [journal, *_] = sorted((data / "journal").glob("*.journal"))
    octets = bytearray(journal.read_bytes())
    octets[octets.find(b"order 7")] ^= 1
    copy = tmp_path / journal.name
    copy.write_bytes(octets)
    code, rows, told = dump(copy, "--kind", "records")
    assert code == 3
    assert [row["offset"] for row in rows] == [number for number in range(20) if number != 7]
    assert f"damaged: {copy} at" in told
    assert dump(tmp_path / "nowhere")[0] == 4


def test_records_of_a_compressed_topic(tmp_path):
    """Opened, as a Kafka client would see them; a batch that nobody can open says so."""
    batches = [
        (GZIP, compress(GZIP, b"".join(render_record(n, b"event %d" % n) for n in range(2)))),
        (ZSTD, b"nothing"),
    ]
    octets = [
        encode_batch(2 * n, 1, 2, block, leader_epoch=1, base_timestamp_ms=0, max_timestamp_ms=0, attributes=kind)
        for n, (kind, block) in enumerate(batches)
    ]
    segment = tmp_path / "00000000000000000000-00001.log"
    segment.write_bytes(b"".join(octets))
    code, rows, _ = dump(segment)
    assert code == 0
    assert [(row["offset"], row["body"]) for row in rows[:2]] == [(0, "event 0"), (1, "event 1")]
    assert rows[2]["offset"] == 2
    assert "cannot be opened" in rows[2]["body"]
