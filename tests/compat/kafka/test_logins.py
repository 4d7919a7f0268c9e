"""Clients log in with SASL PLAIN and SCRAM, over TCP and TLS, or with a certificate."""

import asyncio
import contextlib
import gc
import shutil
import ssl
import subprocess

import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import KafkaError as KafkaErrorCode
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from needed import need
from waiting import HANG_S, wait_until

from tools.bench.control import running_jackalope
from tools.bench.kafka_control import fetch_kafka, kafka_missing

CONFIG = """
users:
  alice:
    password: wonder
    tags: [administrator]
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
  hatter:
    password_hash: "YWJjZDvQcWWhBcf3Vi92b3OfPIeKhiMjpTAeg2wY+fkO9rcl"
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
"""
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
EACH = pytest.mark.parametrize("mechanism", MECHANISMS)
OVER_BOTH = pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])


@pytest.fixture(scope="module")
def locked(tmp_path_factory, tls_files):
    """{protocol: HOST:PORT} of a broker that wants a login."""
    path = tmp_path_factory.mktemp("logins") / "c.yaml"
    path.write_text(CONFIG)
    settings = (
        "listeners.kafka=127.0.0.1:0", "listeners.kafkas=127.0.0.1:0", "kafka.anonymous=null",
        "security.login_refused_delay_s=0.1", "security.login_failures_burst=10000",  # Clients try again and again.
        f"tls.cert={tls_files.cert_file}", f"tls.key={tls_files.key_file}",
    )  # fmt: skip
    with running_jackalope("-c", str(path), settings=settings, http=False) as broker:
        names = {"SASL_PLAINTEXT": "kafka", "SASL_SSL": "kafkas"}
        yield {protocol: "{}:{}".format(*broker.addresses[name]) for protocol, name in names.items()}


def librdkafka(locked, tls_files, protocol, mechanism, password, name="alice"):
    """The options of confluent-kafka's administrator."""
    return {
        "bootstrap.servers": locked[protocol],
        "security.protocol": protocol,
        "ssl.ca.location": str(tls_files.ca_file),
        "sasl.mechanism": mechanism,
        "sasl.username": name,
        "sasl.password": password,
    }


def refused(options, reason="_AUTHENTICATION"):
    """Wait until librdkafka says that it is turned away for this reason; then it has nothing to list."""
    told = []
    admin = AdminClient(options | {"error_cb": lambda error: told.append(f"{error.name()} {error.str()}")})

    def is_told():
        admin.poll(0.1)
        return any(reason in one for one in told)

    wait_until(is_told, lambda: told)
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)


@EACH
@OVER_BOTH
def test_librdkafka(locked, tls_files, protocol, mechanism):
    """The right password opens, a wrong one does not."""
    admin = AdminClient(librdkafka(locked, tls_files, protocol, mechanism, "wonder"))
    assert admin.list_topics(timeout=HANG_S).brokers
    refused(librdkafka(locked, tls_files, protocol, mechanism, "wrong"))


@EACH
def test_kcat(locked, mechanism):
    """Debian's kcat too, whose librdkafka 2.0 says its nonce twice under SCRAM."""
    need(None if shutil.which("kcat") else "missing (Debian: apt-get install kcat)")
    login = ("-X", "security.protocol=SASL_PLAINTEXT", "-X", f"sasl.mechanism={mechanism}", "-X", "sasl.username=alice")

    def asked(password, wait_s):
        words = ("kcat", "-b", locked["SASL_PLAINTEXT"], *login, "-X", f"sasl.password={password}", "-L", "-m", wait_s)
        return subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)

    right = asked("wonder", str(int(HANG_S)))
    assert right.returncode == 0, right.stderr
    assert asked("wrong", "3").returncode != 0


@EACH
@OVER_BOTH
def test_kafka_python(locked, tls_files, protocol, mechanism):
    """The same."""

    def client(password):
        return KafkaAdminClient(
            bootstrap_servers=locked[protocol], security_protocol=protocol, ssl_cafile=str(tls_files.ca_file),
            sasl_mechanism=mechanism, sasl_plain_username="alice", sasl_plain_password=password,
            bootstrap_timeout_ms=HANG_S * 1000 if password == "wonder" else 500,
        )  # fmt: skip

    with contextlib.closing(client("wonder")) as admin:
        admin.list_topics()
    with pytest.raises(KafkaError):
        client("wrong").list_topics()


@EACH
@OVER_BOTH
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # aiokafka does not wait until TLS has ended.
def test_aiokafka(locked, tls_files, protocol, mechanism):
    """The same, with messages."""
    topic = f"aio-{protocol}-{mechanism}"

    def options(password):
        return {
            "bootstrap_servers": locked[protocol], "security_protocol": protocol, "sasl_mechanism": mechanism,
            "sasl_plain_username": "alice", "sasl_plain_password": password,
            "ssl_context": ssl.create_default_context(cafile=str(tls_files.ca_file)),
        }  # fmt: skip

    async def work():
        producer = AIOKafkaProducer(**options("wonder"))
        await producer.start()
        await producer.send_and_wait(topic, b"x")
        await producer.stop()
        reader = AIOKafkaConsumer(topic, auto_offset_reset="earliest", **options("wonder"))
        await reader.start()
        assert (await asyncio.wait_for(reader.getone(), HANG_S)).value == b"x"
        await reader.stop()
        wrong = AIOKafkaProducer(**options("wrong"))
        with pytest.raises(AioKafkaError):
            await wrong.start()
        await wrong.stop()

    asyncio.run(work())
    gc.collect()


def test_librdkafka_sets_credentials(locked, tls_files):
    """A user who has a hash alone gets credentials, logs in with them, and no longer when they are deleted."""
    admin = AdminClient(librdkafka(locked, tls_files, "SASL_SSL", "SCRAM-SHA-512", "wonder"))
    tea = librdkafka(locked, tls_files, "SASL_PLAINTEXT", "SCRAM-SHA-256", "tea", "hatter")
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 5000)
    [done] = admin.alter_user_scram_credentials([UserScramCredentialUpsertion("hatter", info, b"tea")]).values()
    done.result(HANG_S)
    assert AdminClient(tea).list_topics(timeout=HANG_S).brokers
    [described] = admin.describe_user_scram_credentials(["hatter"]).values()
    [shown] = described.result(HANG_S).scram_credential_infos
    assert (shown.mechanism, shown.iterations) == (ScramMechanism.SCRAM_SHA_256, 5000)
    everybody = admin.describe_user_scram_credentials().result(HANG_S)
    assert set(everybody) == {"alice", "hatter"}
    deletion = UserScramCredentialDeletion("hatter", ScramMechanism.SCRAM_SHA_256)
    [done] = admin.alter_user_scram_credentials([deletion]).values()
    done.result(HANG_S)
    refused(tea)


def test_java_tools(locked, tmp_path):
    """Apache Kafka's own: topics by a SCRAM login, and kafka-configs, which gives a user credentials."""
    need(kafka_missing())

    def tool(name, *words, login=("alice", "wonder", "SCRAM-SHA-512")):
        user, password, mechanism = login
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        (tmp_path / "client.properties").write_text(
            f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\n"
            f'sasl.jaas.config={module} required username="{user}" password="{password}";\n'
        )
        command = ["java", "-cp", f"{fetch_kafka()}/*", name, "--bootstrap-server", locked["SASL_PLAINTEXT"]]
        options = ["--command-config", str(tmp_path / "client.properties"), *words]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=HANG_S, check=False)
        return done.stdout + done.stderr

    topics = "org.apache.kafka.tools.TopicCommand"
    assert "Created topic java-scram" in tool(topics, "--create", "--topic", "java-scram")
    assert "java-scram" in tool(topics, "--list", login=("alice", "wonder", "SCRAM-SHA-256")).split()
    assert "Authentication failed" in tool(topics, "--list", login=("alice", "wrong", "SCRAM-SHA-256"))
    changed = tool(
        "kafka.admin.ConfigCommand", "--alter", "--entity-type", "users", "--entity-name", "hatter", "--add-config",
        "SCRAM-SHA-512=[iterations=8192,password=more]",
    )  # fmt: skip
    assert "Completed updating config for user hatter" in changed
    assert "java-scram" in tool(topics, "--list", login=("hatter", "more", "SCRAM-SHA-512")).split()


@pytest.fixture(scope="module")
def mutual(tmp_path_factory):
    """(HOST:PORT, directory) of a TLS listener that demands certificates; the directory has one of alice."""
    directory = tmp_path_factory.mktemp("mutual")
    authority = trustme.CA()
    server, alice = authority.issue_cert("127.0.0.1"), authority.issue_cert("a@example.org", common_name="alice")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name, issued in (("server", server), ("alice", alice)):
        issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        issued.private_key_pem.write_to_path(directory / f"{name}.key")
    (directory / "c.yaml").write_text(
        'users: {alice: {permissions: {"/": {configure: "^alice", write: "^alice", read: "^alice"}}}}\n'
        f"tls: {{cert: '{directory}/server.pem', key: '{directory}/server.key', ca: '{directory}/ca.pem',"
        " verify: require}\n"
    )
    settings = ("listeners.kafka=off", "listeners.kafkas=127.0.0.1:0", "kafka.anonymous=null")
    with running_jackalope("-c", str(directory / "c.yaml"), settings=settings, http=False) as broker:
        yield "{}:{}".format(*broker.addresses["kafkas"]), directory


def test_a_certificate_by_librdkafka(mutual):
    """security.protocol SSL: the certificate's name is the user, with that user's permissions; without one, nothing."""
    server, directory = mutual
    trust = {"bootstrap.servers": server, "security.protocol": "SSL", "ssl.ca.location": f"{directory}/ca.pem"}
    own = {"ssl.certificate.location": f"{directory}/alice.pem", "ssl.key.location": f"{directory}/alice.key"}
    admin = AdminClient(trust | own)
    admin.create_topics([NewTopic("alice-1", 1)])["alice-1"].result(HANG_S)
    with pytest.raises(KafkaException) as caught:
        admin.create_topics([NewTopic("bob-1", 1)])["bob-1"].result(HANG_S)
    assert caught.value.args[0].code() == KafkaErrorCode.TOPIC_AUTHORIZATION_FAILED
    refused(trust, "certificate required")


def test_a_certificate_by_kafka_python(mutual):
    """The same."""
    server, directory = mutual
    admin = KafkaAdminClient(
        bootstrap_servers=server, security_protocol="SSL", ssl_cafile=f"{directory}/ca.pem",
        ssl_certfile=f"{directory}/alice.pem", ssl_keyfile=f"{directory}/alice.key", ssl_check_hostname=False,
    )  # fmt: skip
    with contextlib.closing(admin):
        assert all(name.startswith("alice") for name in admin.list_topics())
