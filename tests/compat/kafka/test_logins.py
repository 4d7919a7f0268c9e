"""Clients log in with SASL PLAIN, over TCP and TLS."""

import contextlib

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient

from tools.bench.control import running_jackalope

CONFIG = 'users: {alice: {password: wonder, permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}}}\n'


@pytest.fixture(scope="module")
def locked(tmp_path_factory, tls_files):
    """{protocol: HOST:PORT} of a broker that wants a login."""
    path = tmp_path_factory.mktemp("logins") / "c.yaml"
    path.write_text(CONFIG)
    settings = (
        "listeners.kafka=127.0.0.1:0", "listeners.kafkas=127.0.0.1:0", "kafka.anonymous=null",
        "security.login_refused_delay_s=0.1", f"tls.cert={tls_files.cert_file}", f"tls.key={tls_files.key_file}",
    )  # fmt: skip
    with running_jackalope("-c", str(path), settings=settings, http=False) as broker:
        names = {"SASL_PLAINTEXT": "kafka", "SASL_SSL": "kafkas"}
        yield {protocol: "{}:{}".format(*broker.addresses[name]) for protocol, name in names.items()}


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_librdkafka(locked, tls_files, protocol):
    """The right password opens, a wrong one does not."""

    def client(password):
        return AdminClient(
            {
                "bootstrap.servers": locked[protocol],
                "security.protocol": protocol,
                "ssl.ca.location": str(tls_files.ca_file),
                "sasl.mechanism": "PLAIN",
                "sasl.username": "alice",
                "sasl.password": password,
            }
        )

    assert client("wonder").list_topics(timeout=10).brokers
    with pytest.raises(KafkaException):
        client("wrong").list_topics(timeout=3)


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_kafka_python(locked, tls_files, protocol):
    """The same."""
    admin = KafkaAdminClient(
        bootstrap_servers=locked[protocol], security_protocol=protocol, ssl_cafile=str(tls_files.ca_file),
        sasl_mechanism="PLAIN", sasl_plain_username="alice", sasl_plain_password="wonder",
    )  # fmt: skip
    with contextlib.closing(admin):
        assert admin.list_topics() == []
