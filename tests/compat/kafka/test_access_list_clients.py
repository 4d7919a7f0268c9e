"""Access lists by real administrators' clients: the same script against Jackalope and Apache Kafka."""

import contextlib
import subprocess

import pytest
from confluent_kafka import KafkaError, Producer
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
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
)
from kafka.admin import ResourceType as KpResourceType
from needed import need
from waiting import HANG_S

from tools.bench.control import running_jackalope
from tools.bench.kafka_control import fetch_kafka, kafka_missing, running_kafka

AUTHORIZER = (
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS",
)  # fmt: skip
CONFIG = """
users:
  root: {password: root, tags: [administrator], permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}}
  alice: {password: wonder, permissions: {"/": {configure: "", write: "", read: ""}}}
"""


@pytest.fixture(scope="module")
def guarded_kafka():
    """An Apache Kafka that has access lists, and lets who has not logged in change them."""
    need(kafka_missing())
    with running_kafka(AUTHORIZER) as broker:
        yield broker


@pytest.fixture(params=["jackalope_kafka", pytest.param("guarded_kafka", marks=pytest.mark.control)])
def guarded(request):
    """HOST:PORT of a broker whose access list this client may change."""
    return "{}:{}".format(*request.getfixturevalue(request.param).addresses["kafka"])


def test_confluent(guarded, topic):
    """create_acls, describe_acls and delete_acls: entries as they were made, found by name, prefix and match."""
    admin = AdminClient({"bootstrap.servers": guarded})
    whole = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ann", "*", AclOperation.READ,
                       AclPermissionType.ALLOW)  # fmt: skip
    prefix = AclBinding(ResourceType.TOPIC, topic[:-1], ResourcePatternType.PREFIXED, "User:ann", "10.0.0.1",
                        AclOperation.WRITE, AclPermissionType.DENY)  # fmt: skip
    group = AclBinding(ResourceType.GROUP, topic, ResourcePatternType.LITERAL, "User:*", "*", AclOperation.ALL,
                       AclPermissionType.ALLOW)  # fmt: skip
    for made in admin.create_acls([whole, prefix, group]).values():
        made.result(HANG_S)

    def wanted(kind, pattern, name=topic, principal="User:ann"):
        return AclBindingFilter(kind, name, pattern, principal, None, AclOperation.ANY, AclPermissionType.ANY)

    def found(wanted):
        return set(admin.describe_acls(wanted).result(HANG_S))

    assert found(wanted(ResourceType.TOPIC, ResourcePatternType.MATCH)) == {whole, prefix}
    assert found(wanted(ResourceType.TOPIC, ResourcePatternType.LITERAL)) == {whole}
    assert found(wanted(ResourceType.TOPIC, ResourcePatternType.PREFIXED, topic[:-1])) == {prefix}
    assert found(wanted(ResourceType.ANY, ResourcePatternType.LITERAL, topic, "User:*")) == {group}
    both = wanted(ResourceType.TOPIC, ResourcePatternType.MATCH)
    [deleted] = admin.delete_acls([both]).values()
    assert set(deleted.result(HANG_S)) == {whole, prefix}
    assert found(both) == set()
    [deleted] = admin.delete_acls([wanted(ResourceType.GROUP, ResourcePatternType.ANY, topic, None)]).values()
    assert deleted.result(HANG_S) == [group]


def test_kafka_python(guarded, topic):
    """The same by kafka-python, in the newest version of the requests."""
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=guarded)) as admin:
        resource = ResourcePattern(KpResourceType.TOPIC, topic, ACLResourcePatternType.LITERAL)
        acl = ACL("User:ann", "*", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, resource)
        assert not admin.create_acls([acl])["failed"]
        wanted = ACLFilter("User:ann", None, ACLOperation.ANY, ACLPermissionType.ANY,
                           ResourcePatternFilter(KpResourceType.TOPIC, topic, ACLResourcePatternType.ANY))  # fmt: skip
        found, error = admin.describe_acls(wanted)
        assert (found, error.errno) == ([acl], 0)
        [(_, deleted, error)] = admin.delete_acls([wanted])
        assert (deleted, error.errno) == ([acl], 0)
        assert admin.describe_acls(wanted)[0] == []


def test_kafka_acls(guarded, topic):
    """Apache Kafka's own tool: what a producer and a consumer need, listed and removed."""
    need(kafka_missing())

    def tool(*words):
        command = [
            "java",
            "-cp",
            f"{fetch_kafka()}/*",
            "org.apache.kafka.tools.AclCommand",
            "--bootstrap-server",
            guarded,
        ]
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=HANG_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    who = ("--allow-principal", "User:ann", "--topic", topic)
    tool("--add", *who, "--producer", "--idempotent")
    tool("--add", *who, "--consumer", "--group", topic + "-group")
    listed = tool("--list", "--topic", topic)
    for operation in ("WRITE", "CREATE", "DESCRIBE", "READ"):
        assert f"principal=User:ann, host=*, operation={operation}, permissionType=ALLOW" in listed
    assert "operation=IDEMPOTENT_WRITE" in tool("--list", "--cluster")
    assert "operation=READ" in tool("--list", "--group", topic + "-group")
    tool("--remove", "--force", "--topic", topic)
    tool("--remove", "--force", "--group", topic + "-group")
    tool("--remove", "--force", "--cluster")
    assert "principal=User:ann" not in tool("--list")


def test_what_a_producer_meets(tmp_path):
    """A user with no permission: TOPIC_AUTHORIZATION_FAILED, until an entry allows it; and again when one denies."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.anonymous=null")
    with running_jackalope("-c", str(tmp_path / "c.yaml"), settings=settings, http=False) as broker:
        server = "{}:{}".format(*broker.addresses["kafka"])

        def options(name, password):
            return {
                "bootstrap.servers": server, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": name, "sasl.password": password,
            }  # fmt: skip

        admin = AdminClient(options("root", "root"))
        admin.create_topics([NewTopic("orders", 1)])["orders"].result(HANG_S)

        def change(operation, permission):
            binding = AclBinding(ResourceType.TOPIC, "ord", ResourcePatternType.PREFIXED, "User:alice", "*", operation,
                                 permission)  # fmt: skip
            [made] = admin.create_acls([binding]).values()
            made.result(HANG_S)

        def send():
            """What a producer is told; None is success."""
            told = []
            producer = Producer(options("alice", "wonder"))
            producer.produce("orders", b"x", on_delivery=lambda error, _: told.append(error))
            producer.flush(HANG_S)
            return told[0] and told[0].code()

        assert send() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        change(AclOperation.WRITE, AclPermissionType.ALLOW)
        assert send() is None
        change(AclOperation.WRITE, AclPermissionType.DENY)
        assert send() == KafkaError.TOPIC_AUTHORIZATION_FAILED
