"""Access lists over Kafka's protocol: who may change them, what they hold for, and that they last."""

import contextlib
import os
import signal
from types import SimpleNamespace

import pika
import pytest
from amqp_harness import World
from kafka_wire import BY_NAME, ROOT, Wire, batch
from steps import assert_short_steps
from waiting import HANG_S, PATIENT

from broker.core.access import Access
from broker.core.access_lists import Acl
from broker.core.scheduler import Scheduler
from broker.server.kafka.acls import as_resources, on_delete_acls
from protocol.kafka.errors import ErrorCode
from tools.bench.control import running_jackalope

CONFIG = (
    ROOT
    + """\
  bob:
    password: bob
    permissions: {"/": {configure: "", write: "^amq\\\\.default$", read: "^(free|mine)$"}}
  eve:
    password: eve
    permissions: {"/": {configure: "^eve", write: "^eve\\\\..*", read: ".*"}}
kafka: {anonymous: null}
security: {login_refused_delay_s: 0.1}
limits: {acls_max: 60, handshake_timeout_s: 600}
"""
)
ANY, MATCH, LITERAL, PREFIXED = 1, 2, 3, 4
TOPIC, GROUP, CLUSTER = 2, 3, 4
ALL, READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE = range(2, 9)
DENY, ALLOW = 2, 3
NO_TOPIC, NO_GROUP, NO_CLUSTER = (
    ErrorCode.TOPIC_AUTHORIZATION_FAILED,
    ErrorCode.GROUP_AUTHORIZATION_FAILED,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
)


class Site:
    """A broker that nobody uses without a login; it may be killed and started again."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "c.yaml").write_text(CONFIG)
        (directory / "data").mkdir()
        self.start()

    def start(self):
        self.running = running_jackalope(
            "-c", str(self.directory / "c.yaml"), settings=("listeners.kafka=127.0.0.1:0",),
            directory=self.directory / "data",
        )  # fmt: skip
        self.broker = self.running.__enter__()

    def stop(self):
        self.running.__exit__(None, None, None)

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.stop()

    def wire(self, name):
        """A connection of a user whose password is the name."""
        made = Wire(self.broker.addresses["kafka"])
        assert made.ask("SaslHandshake", 1, mechanism="PLAIN").error_code == 0
        assert made.ask("SaslAuthenticate", 2, auth_bytes=f"\0{name}\0{name}".encode()).error_code == 0
        return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    started = Site(tmp_path_factory.mktemp("acls"))
    yield started
    started.stop()


@pytest.fixture
def root(site):
    """An administrator; afterwards the list is empty."""
    with site.wire("root") as wire:
        yield wire
        delete(wire)


@pytest.fixture
def bob(site):
    with site.wire("bob") as wire:
        yield wire


def entry(name, operation, *, kind=TOPIC, pattern=LITERAL, principal="User:bob", host="*", permission=ALLOW):
    return {
        "resource_type": kind, "resource_name": name, "resource_pattern_type": pattern, "principal": principal,
        "host": host, "operation": operation, "permission_type": permission,
    }  # fmt: skip


def create(wire, *entries, version=3):
    """The error codes."""
    made = BY_NAME["CreateAcls"].request.SPECS["creations"].of
    answer = wire.ask("CreateAcls", version, creations=[made(**one) for one in entries])
    return [one.error_code for one in answer.results]


def meant(kind=ANY, name=None, pattern=ANY, principal=None, host=None, operation=ANY, permission=ANY):
    return {
        "resource_type_filter": kind, "resource_name_filter": name, "pattern_type_filter": pattern,
        "principal_filter": principal, "host_filter": host, "operation": operation, "permission_type": permission,
    }  # fmt: skip


def described(wire, version=3, **wanted):
    """[(type, name, pattern, principal, host, operation, permission)], or the error code."""
    answer = wire.ask("DescribeAcls", version, **meant(**wanted))
    return answer.error_code or sorted(
        (of.resource_type, of.resource_name, of.pattern_type, one.principal, one.host, one.operation,
         one.permission_type)
        for of in answer.resources
        for one in of.acls
    )  # fmt: skip


def delete(wire, version=3, **wanted):
    """The names of what was deleted, or the error code."""
    made = BY_NAME["DeleteAcls"].request.SPECS["filters"].of
    [result] = wire.ask("DeleteAcls", version, filters=[made(**meant(**wanted))]).filter_results
    return result.error_code or sorted(one.resource_name for one in result.matching_acls)


def seen(wire, name):
    """The error code that Metadata has for a topic."""
    request = BY_NAME["Metadata"].request
    topic = request.SPECS["topics"].of(name=name)
    return wire.ask("Metadata", 9, topics=[topic], allow_auto_topic_creation=False).topics[0].error_code


@pytest.mark.parametrize("version", [1, 2, 3])
def test_create_describe_delete(root, version):
    """In every version: what was created is shown, found by filters, and gone when it was deleted."""
    wanted = [entry("orders", READ), entry("ord", WRITE, pattern=PREFIXED), entry("team", READ, kind=GROUP)]
    assert create(root, *wanted, *wanted, version=version) == [0] * 6
    assert described(root, version, principal="User:bob", name="orders") == [
        (TOPIC, "orders", LITERAL, "User:bob", "*", READ, ALLOW)
    ]
    found = described(root, version, kind=TOPIC, name="orders", pattern=MATCH, principal="User:bob")
    assert [one[1] for one in found] == ["ord", "orders"]
    assert delete(root, version, kind=TOPIC, name="orders", pattern=MATCH) == ["ord", "orders"]
    assert delete(root, version) == ["team"]
    assert delete(root, version) == []


def test_they_hold_over_a_kill(tmp_path):
    """Entries, and their deletion, are on the disk when they are answered."""
    site = Site(tmp_path)
    with site.wire("root") as root:
        root.create("orders")
        assert create(root, entry("orders", READ), entry("orders", WRITE)) == [0, 0]
        assert delete(root, operation=WRITE) == ["orders"]
        site.kill()
    site.start()
    with site.wire("bob") as bob, site.wire("root") as root:
        assert described(root, name="orders") == [(TOPIC, "orders", LITERAL, "User:bob", "*", READ, ALLOW)]
        assert bob.fetch("orders").error_code == 0
        assert bob.produce("orders", batch([b"x"])).error_code == NO_TOPIC
        assert delete(root) == ["orders"]
        site.kill()
    site.start()
    with site.wire("bob") as bob:
        assert bob.fetch("orders").error_code == NO_TOPIC
    site.stop()


def test_topics(root, bob):
    """Each operation by itself, on connections that are there already."""
    root.create("books")
    assert seen(bob, "books") == NO_TOPIC
    assert bob.fetch("books").error_code == NO_TOPIC
    create(root, entry("books", READ))
    assert seen(bob, "books") == 0
    assert bob.fetch("books").error_code == 0
    assert bob.end("books").error_code == 0
    assert bob.produce("books", batch([b"x"])).error_code == NO_TOPIC
    create(root, entry("boo", WRITE, pattern=PREFIXED))
    assert bob.produce("books", batch([b"x"])).error_code == 0
    assert bob.ask("DeleteTopics", 5, topic_names=["books"], timeout_ms=10).responses[0].error_code == NO_TOPIC
    with pytest.raises(AssertionError, match="error_code=29"):
        bob.create("bookshelf")
    create(root, entry("book", CREATE, pattern=PREFIXED))
    bob.create("bookshelf")
    assert bob.ask("DeleteTopics", 5, topic_names=["books"], timeout_ms=10).responses[0].error_code == NO_TOPIC
    create(root, entry("book", DELETE, pattern=PREFIXED))
    assert bob.ask("DeleteTopics", 5, topic_names=["books"], timeout_ms=10).responses[0].error_code == 0


def test_creating_by_the_cluster(root, bob):
    """CREATE on the cluster allows any topic that no entry denies."""
    create(root, entry("kafka-cluster", CREATE, kind=CLUSTER), entry("secret", CREATE, permission=DENY))
    bob.create("anything")
    with pytest.raises(AssertionError, match="error_code=29"):
        bob.create("secret")


def test_a_denial_wins_over_permissions(root, bob):
    """Where the configuration allows, an entry may deny: for everybody, but from a host."""
    root.create("free")
    assert bob.fetch("free").error_code == 0
    create(root, entry("free", READ, principal="User:*", permission=DENY, host="10.9.8.7"))
    assert bob.fetch("free").error_code == 0
    create(root, entry("free", READ, principal="User:*", permission=DENY))
    assert bob.fetch("free").error_code == NO_TOPIC
    delete(root)
    assert bob.fetch("free").error_code == 0


def test_groups(root, bob):
    """A group's entries are its own: a topic of that name is another thing."""

    def find():
        return bob.ask("FindCoordinator", 2, key="team", key_type=0).error_code

    def heartbeat():
        return bob.ask("Heartbeat", 3, group_id="team", generation_id=0, member_id="m").error_code

    create(root, entry("team", ALL))
    assert (find(), heartbeat()) == (NO_GROUP, NO_GROUP)
    create(root, entry("team", DESCRIBE, kind=GROUP))
    assert (find(), heartbeat()) == (0, NO_GROUP)
    create(root, entry("team", READ, kind=GROUP))
    assert (find(), heartbeat()) == (0, ErrorCode.UNKNOWN_MEMBER_ID)
    assert bob.ask("DeleteGroups", 2, groups_names=["team"]).results[0].error_code == NO_GROUP
    create(root, entry("team", DELETE, kind=GROUP))
    assert bob.ask("DeleteGroups", 2, groups_names=["team"]).results[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_a_topic_by_its_id(root, bob):
    """An id does not let in who may not see the name."""
    topic_id = root.create("hidden")
    request = BY_NAME["Metadata"].request
    topic = request.SPECS["topics"].of(name=None, topic_id=topic_id)
    [answer] = bob.ask("Metadata", 12, topics=[topic]).topics
    assert (answer.error_code, answer.name, answer.partitions) == (NO_TOPIC, None, [])


def test_only_administrators(bob, root):
    """Nobody else changes entries or sees them; DESCRIBE on the cluster allows to see them."""
    assert create(bob, entry("x", ALL)) == [NO_CLUSTER]
    assert delete(bob) == NO_CLUSTER
    assert described(bob) == NO_CLUSTER
    create(root, entry("kafka-cluster", ALL, kind=CLUSTER))
    assert described(bob, name="kafka-cluster", principal="User:bob") == [
        (CLUSTER, "kafka-cluster", LITERAL, "User:bob", "*", ALL, ALLOW)
    ]
    assert create(bob, entry("x", ALL)) == [NO_CLUSTER]
    assert delete(bob) == NO_CLUSTER


@pytest.mark.parametrize(
    "change",
    [
        {"resource_type": 0}, {"resource_type": ANY}, {"resource_type": 6}, {"resource_type": 99},
        {"resource_type": -1}, {"resource_pattern_type": 0}, {"resource_pattern_type": ANY},
        {"resource_pattern_type": MATCH}, {"resource_pattern_type": 7}, {"operation": 0}, {"operation": ANY},
        {"operation": 13}, {"operation": 100}, {"permission_type": 0}, {"permission_type": ANY},
        {"permission_type": 4}, {"resource_name": ""}, {"resource_name": "x" * 256}, {"resource_name": "a\0b"},
        {"principal": "bob"}, {"principal": ""}, {"principal": "User:"}, {"principal": "Group:x"},
        {"principal": "User:" + "x" * 300}, {"host": ""}, {"host": "h" * 300},
        {"resource_type": CLUSTER}, {"resource_type": CLUSTER, "resource_name": "*"},
    ],
)  # fmt: skip
def test_what_is_no_entry(root, change):
    """INVALID_REQUEST, for that entry alone."""
    good = entry("good", READ)
    assert create(root, good, entry("bad", READ) | change, good) == [0, ErrorCode.INVALID_REQUEST, 0]
    assert delete(root) == ["good"]


@pytest.mark.parametrize(
    "wanted", [{"kind": 0}, {"kind": 99}, {"pattern": 0}, {"pattern": 9}, {"operation": 0}, {"permission": 77}]
)
def test_what_is_no_filter(root, wanted):
    """INVALID_REQUEST, and nothing is deleted."""
    create(root, entry("kept", READ))
    assert described(root, **wanted) == ErrorCode.INVALID_REQUEST
    assert delete(root, **wanted) == ErrorCode.INVALID_REQUEST
    assert delete(root) == ["kept"]


def test_there_is_a_limit(root):
    """Entries beyond `limits.acls_max` are refused; those that are there already are not counted again."""
    many = [entry(f"t{number}", READ) for number in range(60)]
    assert create(root, *many) == [0] * 60
    assert create(root, many[0], entry("one more", READ)) == [0, ErrorCode.POLICY_VIOLATION]


def test_permissions_are_shown_as_entries(root):
    """Those of the configuration that can be said so; they are no entries that could be deleted."""
    assert described(root, principal="User:bob") == sorted(
        [
            *((kind, name, LITERAL, "User:bob", "*", READ, ALLOW) for kind in (TOPIC, GROUP)
              for name in ("free", "mine")),
            (TOPIC, "amq.default", LITERAL, "User:bob", "*", WRITE, ALLOW),
        ]
    )  # fmt: skip
    assert (TOPIC, "eve.", PREFIXED, "User:eve", "*", WRITE, ALLOW) in described(root, kind=TOPIC)
    assert (TOPIC, "eve", PREFIXED, "User:eve", "*", CREATE, ALLOW) in described(root, kind=TOPIC)
    assert described(root, principal="User:root", kind=TOPIC) == [(TOPIC, "*", LITERAL, "User:root", "*", ALL, ALLOW)]
    assert described(root, principal="User:root", kind=CLUSTER) == [
        (CLUSTER, "kafka-cluster", LITERAL, "User:root", "*", operation, ALLOW) for operation in (ALTER, DESCRIBE)
    ]
    assert delete(root, principal="User:bob") == []


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (".*", [("literal", "*")]), ("^.*$", [("literal", "*")]), ("^a-1_$", [("literal", "a-1_")]),
        (r"^a\.b$", [("literal", "a.b")]), ("^a.*", [("prefixed", "a")]), ("^a.*$", [("prefixed", "a")]),
        ("^a", [("prefixed", "a")]), ("^(a|b)$", [("literal", "a"), ("literal", "b")]),
        ("^(a|b).*", [("prefixed", "a"), ("prefixed", "b")]),
        # And what cannot be said.
        ("", []), ("^$", []), ("^", []), ("a", []), ("a$", []), ("^a.b$", []), ("^a|b$", []), ("^(a|)$", []),
        ("^[ab]$", []), (r"^\d$", []), ("^a+$", []), ("^(?i)a$", []), ("^(a|b)c$", []), ("^((a)|b)$", []),
    ],
)  # fmt: skip
def test_patterns_as_entries(pattern, said):
    """Only what an entry says exactly."""
    assert as_resources(pattern) == said


# The same list, over AMQP and HTTP.


@contextlib.contextmanager
def amqp(site, name):
    parameters = pika.ConnectionParameters(
        site.broker.host, site.broker.port, credentials=pika.PlainCredentials(name, name), **PATIENT
    )
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()


def refused(connection, work):
    """Whether it is 403, and nothing else."""
    channel = connection.channel()
    try:
        work(channel)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code == 403 or pytest.fail(str(error))
    channel.close()
    return False


def test_over_amqp(site, root):
    """A queue is the topic of its name: entries allow to declare, consume and delete, each by itself, and deny."""
    with amqp(site, "bob") as connection:
        declare = lambda channel: channel.queue_declare("tasks")  # noqa: E731
        get = lambda channel: channel.basic_get("tasks")  # noqa: E731
        remove = lambda channel: channel.queue_delete("tasks")  # noqa: E731
        assert refused(connection, declare)
        create(root, entry("tasks", CREATE))
        assert not refused(connection, declare)
        assert refused(connection, get)
        assert refused(connection, remove)
        create(root, entry("tasks", READ), entry("tasks", DELETE))
        assert not refused(connection, get)
        assert not refused(connection, remove)


def test_publishing_over_amqp(site, root):
    """Where an entry denies to write, the default exchange does not lead either: not by the routing key, not by CC or
    BCC, also when the route was known already."""
    with amqp(site, "root") as owner, amqp(site, "bob") as connection:
        queue = owner.channel().queue_declare("inbox").method.queue

        def publish(routing_key, headers=None, bodies=3):
            def work(channel):
                channel.confirm_delivery()
                for _ in range(bodies):
                    channel.basic_publish("", routing_key, b"x", pika.BasicProperties(headers=headers))

            return refused(connection, work)

        def ready():
            return owner.channel().queue_declare(queue, passive=True).method.message_count

        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "inbox", b"x")
        assert not publish("inbox")
        assert ready() == 4
        create(root, entry("inbox", WRITE, permission=DENY))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker):
            channel.basic_publish("", "inbox", b"x")
        assert publish("inbox")
        assert publish("nowhere", {"CC": ["inbox"]})
        assert publish("nowhere", {"BCC": ["inbox"]})
        assert not publish("nowhere")
        assert ready() == 4
        delete(root)
        assert not publish("inbox")
        assert ready() == 7
        owner.channel().queue_delete(queue)


def test_a_topic_read_over_amqp(site, root):
    """A stream's consumer needs READ on the topic of its name."""
    root.create("river")
    with amqp(site, "bob") as connection:

        def consume(channel):
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume("river", lambda *_: None)

        assert refused(connection, consume)
        create(root, entry("riv", READ, pattern=PREFIXED))
        assert not refused(connection, consume)
        create(root, entry("river", READ, permission=DENY))
        assert refused(connection, consume)


def test_over_http(site, root):
    """Publishing and purging over HTTP ask the same list."""
    import json
    import urllib.error
    import urllib.request

    def post(path, body, method="POST"):
        request = urllib.request.Request(
            f"http://{site.broker.host}:{site.broker.http_port}/api/{path}", json.dumps(body).encode(), method=method
        )
        request.add_header("Authorization", "Basic cm9vdDpyb290")
        try:
            with urllib.request.urlopen(request, timeout=HANG_S) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    message = {"routing_key": "held", "payload": "x", "payload_encoding": "string", "properties": {}}
    copied = message | {"routing_key": "x", "properties": {"headers": {"CC": ["held"]}}}
    with amqp(site, "root") as owner:
        owner.channel().queue_declare("held")
        assert post("exchanges/%2F/amq.default/publish", message) == 200
        create(
            root, entry("held", WRITE, permission=DENY, principal="User:root"),
            entry("held", READ, permission=DENY, principal="User:*", host="127.0.0.1"),
        )  # fmt: skip
        statuses = {
            post("exchanges/%2F/amq.default/publish", message),
            post("exchanges/%2F/amq.default/publish", copied),
            post("queues/%2F/held/contents", {}, "DELETE"),
        }
        assert len(statuses) == 1
        assert statuses <= {401, 403}
        delete(root)
        assert post("queues/%2F/held/contents", {}, "DELETE") in (200, 204)
        owner.channel().queue_delete("held")


def test_a_change_costs_a_publisher_one_look(monkeypatch):
    """Entries that come and go do not slow publishers that they do not concern: routes are found again, once."""
    looks = []
    can = Access.can
    monkeypatch.setattr(Access, "can", lambda *asked, **options: looks.append(asked) or can(*asked, **options))
    world = World()
    client = world.connect()
    client.declare("busy")
    client.publish("busy")
    for number in range(50):
        world.access.add_acl("/", Acl("topic", f"other-{number}", "literal", "User:guest", "*", "read", "allow"))
        client.publish("busy")
        looks.clear()
        for _ in range(20):
            client.publish("busy")
        assert not looks
    assert world.queue("busy").ready_count == 1 + 50 * 21


def test_many_filters_against_many_entries_hold_nobody_up():
    """A request may have a hundred thousand filters: they go on in slices, and each entry is in one answer only."""

    def scenario(counter):
        access, answers, gone = Access(), [], []
        for number in range(4_000):
            access.add_acl("/", Acl("topic", f"t{number}", "literal", "User:bob", "*", "read", "allow"))
        scheduler = Scheduler()
        store = SimpleNamespace(delete=gone.append)
        hub = SimpleNamespace(
            hub=SimpleNamespace(access=access, scheduler=scheduler), settings=SimpleNamespace(vhost="/"),
            durability=SimpleNamespace(store=store), is_administrator=lambda _: True,
            answer_when_durable=lambda _, response: answers.append(response),
        )  # fmt: skip
        connection = SimpleNamespace(hub=hub, finished=False)
        slot = SimpleNamespace(connection=connection)
        request = BY_NAME["DeleteAcls"].request
        made = request.SPECS["filters"].of
        filters = [made(**meant(name=f"t{number % 5}")) for number in range(100)] + [made(**meant())]
        steps = on_delete_acls(connection, slot, request(filters=filters))
        ended = []
        count = 0
        while not ended:
            counter.run(lambda: ended.append(True) if next(steps, None) is None else None)
            count += 1
        assert count > 5
        [answer] = answers
        counts = [len(result.matching_acls) for result in answer.filter_results]
        assert counts == [1] * 5 + [0] * 95 + [3_995]
        assert len(gone) == len(set(gone)) == 4_000
        assert not len(access.acls("/"))

    assert_short_steps(scenario)
