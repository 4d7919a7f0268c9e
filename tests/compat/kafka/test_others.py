"""kcat, kafka-python, aiokafka and Java's console tools: the same script on both brokers."""

import asyncio
import contextlib
import shutil
import subprocess
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from needed import need
from waiting import HANG_S, SLOWNESS, wait_until

from tools.bench.kafka_control import fetch_kafka, kafka_missing

STANDSTILL_S = 30 * SLOWNESS
"""A reader that gets nothing for so long, though there is something, has stopped fetching: kafka-python 3.0.12 does so
now and then on a busy machine, also with Apache Kafka, whatever it is sent. Another one takes its place."""
STANDSTILLS_MAX = 5


def run(*words, stdin=""):
    """What a tool prints."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def create(server, topic, partitions=1):
    """A new topic."""
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=server)) as admin:
        admin.create_topics([NewTopic(topic, partitions, 1)])


class TestKcat:
    """Debian's kcat."""

    @pytest.fixture(autouse=True)
    def _tool(self):
        need(None if shutil.which("kcat") else "missing (Debian: apt-get install kcat)")

    def test_produce_list_consume(self, server, topic):
        """kcat -P, -L and -C, with keys, from an offset, and as a group."""
        create(server, topic)
        run("kcat", "-b", server, "-P", "-t", topic, "-K", ":", stdin="a:1\nb:2\nc:3\n")
        assert f'topic "{topic}" with 1 partitions' in run("kcat", "-b", server, "-L", "-t", topic)
        assert run("kcat", "-b", server, "-C", "-t", topic, "-e", "-q", "-K", ":") == "a:1\nb:2\nc:3\n"
        assert run("kcat", "-b", server, "-C", "-t", topic, "-e", "-q", "-o", "1") == "2\n3\n"
        group = ("kcat", "-b", server, "-G", topic + "-group", "-q", "-e", "-X", "auto.offset.reset=earliest", topic)
        assert run(*group) == "1\n2\n3\n"
        assert run(*group) == ""


@pytest.mark.parametrize("compression", [None, "gzip", "lz4", "zstd"])
def test_kafka_python(server, topic, compression):
    """Produce, a group that commits, another that begins where it ended, and what the administrator sees."""
    create(server, topic, 2)
    producer = KafkaProducer(bootstrap_servers=server, compression_type=compression)
    sent = [producer.send(topic, b"%d" % n, key=b"%d" % n, headers=[("n", b"%d" % n)]) for n in range(100)]
    assert {one.get(HANG_S).partition for one in sent} == {0, 1}
    producer.close()
    group = topic + "-group"

    def read():
        """What comes until the ends of all partitions are reached, by one reader or its successors."""
        for _ in range(STANDSTILLS_MAX):
            found = read_by_one()
            if found is not None:
                return sorted(found)
        raise AssertionError(f"{STANDSTILLS_MAX} readers have stood still")

    def read_by_one():
        """None: the reader stands still."""
        reader = KafkaConsumer(
            topic, bootstrap_servers=server, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
            session_timeout_ms=120_000,
        )  # fmt: skip
        found = []
        until_s = time.monotonic() + STANDSTILL_S

        def is_at_the_ends():
            mine = reader.assignment()
            return len(mine) == 2 and all(reader.position(one) == end for one, end in reader.end_offsets(mine).items())

        while not is_at_the_ends():
            for records in reader.poll(1000).values():
                found.extend(int(one.value) for one in records)
                until_s = time.monotonic() + STANDSTILL_S
            if time.monotonic() > until_s:
                reader.close(autocommit=False, timeout_ms=1000)
                return None
        reader.commit()
        reader.close()
        return found

    assert read() == list(range(100))
    assert read() == []
    reader = KafkaConsumer(bootstrap_servers=server)
    places = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert sum(reader.end_offsets(places).values()) == 100
    reader.close()
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=server)) as admin:
        assert sum(one.offset for one in admin.list_group_offsets([group])[group].values()) == 100


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("idempotent", [True, False])
def test_aiokafka(server, topic, compression, idempotent):
    """A producer, idempotent (with sequences) or not, and a group."""

    async def work():
        producer = AIOKafkaProducer(
            bootstrap_servers=server, enable_idempotence=idempotent, compression_type=compression
        )  # fmt: skip
        await producer.start()
        for number in range(100):
            await producer.send(topic, b"%d" % number, headers=[("n", b"x")])
        await producer.stop()
        reader = AIOKafkaConsumer(
            topic, bootstrap_servers=server, group_id=topic + "-group", auto_offset_reset="earliest",
            session_timeout_ms=120_000,
        )  # fmt: skip
        await reader.start()
        found = [int((await asyncio.wait_for(reader.getone(), HANG_S)).value) for _ in range(100)]
        await reader.commit()
        await reader.stop()
        return found

    create(server, topic)
    assert asyncio.run(work()) == list(range(100))


class TestJava:
    """The Java client, by the console tools that come with Apache Kafka."""

    @pytest.fixture(autouse=True)
    def _tools(self):
        need(kafka_missing())

    def tool(self, name, server, *words, stdin=""):
        """Run one of them."""
        return run("java", "-cp", f"{fetch_kafka()}/*", f"org.apache.kafka.tools.{name}", "--bootstrap-server", server,
                   *words, stdin=stdin)  # fmt: skip

    def test_topics_producer_consumer_groups(self, server, topic):
        """Create, describe, configure, produce (idempotent, as is the default), consume as a group, look at its lag."""
        self.tool("TopicCommand", server, "--create", "--topic", topic, "--partitions", "2", "--config",
                  "retention.ms=100000")  # fmt: skip
        described = self.tool("TopicCommand", server, "--describe", "--topic", topic)
        assert "PartitionCount: 2" in described
        assert "retention.ms=100000" in described
        self.tool("ConsoleProducer", server, "--topic", topic, "--property", "parse.key=true", "--property",
                  "key.separator=:", stdin="a:1\nb:2\nc:3\n")  # fmt: skip
        group = topic + "-group"
        found = self.tool("consumer.ConsoleConsumer", server, "--topic", topic, "--group", group, "--from-beginning",
                          "--max-messages", "3")  # fmt: skip
        assert sorted(found.split()) == ["1", "2", "3"]
        lag = self.tool("consumer.group.ConsumerGroupCommand", server, "--describe", "--group", group)
        rows = [line.split() for line in lag.splitlines() if line.startswith(group)]
        assert sorted((row[2], row[5]) for row in rows) == [("0", "0"), ("1", "0")]
        offsets = self.tool("GetOffsetShell", server, "--topic", topic)
        assert sum(int(line.rpartition(":")[2]) for line in offsets.split()) == 3
        reset = self.tool("consumer.group.ConsumerGroupCommand", server, "--reset-offsets", "--group", group, "--topic",
                          topic, "--to-earliest", "--execute")  # fmt: skip
        assert len([line for line in reset.splitlines() if line.split()[3:] == ["0"]]) == 2
        self.tool("TopicCommand", server, "--delete", "--topic", topic)
        wait_until(lambda: topic not in self.tool("TopicCommand", server, "--list").split())
