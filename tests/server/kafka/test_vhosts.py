"""Listeners whose clients see vhosts of their own (`kafka.vhosts`), with real clients; the rules are README.md's, "Who
sees what". Kafka itself has one name space a cluster, RabbitMQ tells vhosts by `connection.open`.
"""

import os
import signal
import socket

import pika
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from waiting import HANG_S, wait_until

from tools.bench.control import free_port, running_jackalope

CONFIG = """
vhosts: {/: {}, shop: {}}
users:
  guest:
    password: guest
    tags: [administrator]
    permissions:
      /: {configure: .*, write: .*, read: .*}
      shop: {configure: .*, write: .*, read: .*}
  root: {password: r, tags: [], permissions: {/: {configure: .*, write: .*, read: .*}}}
"""


class Site:
    """A broker with a listener for `/` and two for `shop`, which may be killed and started again."""

    def __init__(self, directory):
        (directory / "c.yaml").write_text(CONFIG)
        self.config = str(directory / "c.yaml")
        self.data = directory / "data"
        self.data.mkdir()
        self.root, self.shop, self.more = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.start()

    def start(self):
        settings = (
            f"listeners.kafka=[{self.root}, {self.shop}, {self.more}]",
            f"kafka.vhosts={{{self.shop}: shop, {self.more}: shop}}",
            "kafka.group_initial_rebalance_delay_s=0",
        )
        self.running = running_jackalope("-c", self.config, settings=settings, http=False, directory=self.data)
        self.broker = self.running.__enter__()

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.running.__exit__(None, None, None)


@pytest.fixture
def site(tmp_path):
    """A fresh one."""
    found = Site(tmp_path)
    yield found
    found.running.__exit__(None, None, None)


def settings(address, **more):
    return {"bootstrap.servers": address, "log_level": 0, **{key.replace("_", "."): one for key, one in more.items()}}


def create(address, *names, **more):
    admin = AdminClient(settings(address, **more))
    for future in admin.create_topics([NewTopic(name, 1) for name in names]).values():
        future.result(HANG_S)


def topics(address):
    return {name for name in AdminClient(settings(address)).list_topics(timeout=HANG_S).topics if name[0] != "_"}


def produce(address, topic, *values, **more):
    failed = []
    producer = Producer(settings(address, **more))
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: error and failed.append(error.name()))
    assert producer.flush(HANG_S) == 0
    return failed


def read(address, topic, count):
    """So many by the group `g`, which commits them."""
    consumer = Consumer(settings(address, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False))
    consumer.subscribe([topic])
    found = consumer.consume(count, HANG_S)
    consumer.commit(asynchronous=False)
    consumer.close()
    return [one.value() for one in found]


def committed(address):
    admin = AdminClient(settings(address))
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("g")])
    return {one.topic: one.offset for one in asked["g"].result(HANG_S).topic_partitions if one.offset >= 0}


def groups(address):
    admin = AdminClient(settings(address))
    found = admin.list_consumer_groups().result(HANG_S)
    assert not found.errors
    return {one.group_id for one in found.valid}


def test_each_listener_leads_to_its_vhost(site):
    """The same names mean two topics and two groups; two listeners of one vhost lead to the same; also after a kill."""
    for address in (site.root, site.shop):
        create(address, "t")
    create(site.more, "only")
    assert [topics(one) for one in (site.root, site.shop, site.more)] == [{"t"}, {"t", "only"}, {"t", "only"}]
    assert produce(site.root, "t", b"of root") == produce(site.shop, "t", b"of shop", b"once more") == []
    assert read(site.more, "t", 2) == [b"of shop", b"once more"]
    assert [groups(one) for one in (site.root, site.shop)] == [set(), {"g"}]
    assert read(site.root, "t", 1) == [b"of root"]
    expected = [{"t": 1}, {"t": 2}, {"t": 2}]
    assert [committed(one) for one in (site.root, site.shop, site.more)] == expected
    site.kill()
    site.start()
    assert [topics(one) for one in (site.root, site.shop, site.more)] == [{"t"}, {"t", "only"}, {"t", "only"}]
    assert [committed(one) for one in (site.root, site.shop, site.more)] == expected


def test_amqp_meets_kafka_in_the_listeners_vhost(site):
    """What is published in `shop` is read by who has dialled a listener of `shop`, and is not there for the others."""
    where = pika.ConnectionParameters(site.broker.host, site.broker.port, "shop")
    with pika.BlockingConnection(where) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "stream"})
        channel.queue_bind("orders", "amq.topic", "order.#")
        channel.basic_publish("amq.topic", "order.new", b"one", mandatory=True)
    assert read(site.shop, "orders", 1) == [b"one"]
    assert "orders" not in topics(site.root)


def test_rights_are_those_of_the_vhost(site):
    """An entry of the access list holds where it was made; permissions are asked in the listener's vhost."""
    for address in (site.root, site.shop):
        create(address, "t")
    entry = AclBinding(
        ResourceType.TOPIC, "t", ResourcePatternType.LITERAL, "User:guest", "*", AclOperation.WRITE,
        AclPermissionType.DENY,
    )  # fmt: skip
    admins = [AdminClient(settings(one)) for one in (site.root, site.shop, site.more)]
    admins[2].create_acls([entry])[entry].result(HANG_S)
    anything = AclBindingFilter(
        ResourceType.TOPIC, "t", ResourcePatternType.LITERAL, None, None, AclOperation.WRITE, AclPermissionType.DENY
    )
    found = [one.describe_acls(anything).result(HANG_S) for one in admins[:2]]
    assert found == [[], [entry]]
    assert produce(site.shop, "t", b"x") == ["TOPIC_AUTHORIZATION_FAILED"]
    assert produce(site.root, "t", b"x") == []
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "root",
             "sasl_password": "r"}  # fmt: skip
    assert produce(site.root, "t", b"x", **login) == []
    assert produce(site.more, "t", b"x", **login) == ["TOPIC_AUTHORIZATION_FAILED"]
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        create(site.shop, "mine", **login)


def test_connections_are_counted_together(tmp_path):
    """`limits.connections_max` bounds the process, not each vhost: the next one is closed at once."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    settings = (f"listeners.kafka=[{', '.join(addresses)}]", f"kafka.vhosts={{{addresses[1]}: shop}}",
                "limits.connections_max=2", "limits.connections_unauthenticated_max=2",
                "limits.connections_unauthenticated_per_ip_max=2")  # fmt: skip
    with running_jackalope(settings=settings, http=False, directory=tmp_path):
        wait_until(lambda: closes(addresses) == [False, False, True], lambda: closes(addresses))


def closes(addresses):
    """Of three connections, whether each is closed by the broker."""
    socks = []
    try:
        for address in (addresses[0], addresses[1], addresses[0]):
            host, port = address.split(":")
            sock = socket.create_connection((host, int(port)), HANG_S)
            socks.append(sock)
            sock.sendall(b"\0\0\0\x0a\0\x12\0\0\0\0\0\x07\xff\xff")  # ApiVersions 0
        found = []
        for sock in socks:
            sock.settimeout(HANG_S)
            try:
                found.append(sock.recv(1) == b"")
            except ConnectionError:
                found.append(True)
        return found
    finally:
        for sock in socks:
            sock.close()
