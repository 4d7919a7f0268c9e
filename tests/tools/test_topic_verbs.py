"""`topic` and `group` against a broker process: what they print, what they leave behind, and how they end."""

import base64
import itertools
import json
import os
import pty
import select
import subprocess
import sys

import pytest
from kafka_wire import BY_NAME, Wire
from waiting import HANG_S, wait_until

from protocol.kafka.group_records import Assignment, OwnedPartitions, Subscription, write_versioned
from tools.bench.control import running_jackalope

SETTINGS = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")
NAMES = map("topic-{}".format, itertools.count())


@pytest.fixture(scope="module")
def broker():
    """A fresh broker for the module."""
    with running_jackalope(settings=SETTINGS) as started:
        yield started


def command(broker, *words):
    """The words of a command line."""
    url = f"http://guest:guest@{broker.host}:{broker.http_port}"
    return [sys.executable, "-m", "tools.cli.main", "--url", url, *words]


def jackalope(broker, *words, lines=b""):
    """(exit code, stdout, stderr), stdin being `lines`."""
    done = subprocess.run(command(broker, *words), input=lines, capture_output=True, timeout=HANG_S)
    return done.returncode, done.stdout, done.stderr.decode()


def rows(broker, *words, code=0):
    """The JSON lines that a command prints."""
    got, out, told = jackalope(broker, *words)
    assert got == code, told
    return [json.loads(line) for line in out.splitlines()]


def on_terminal(broker, *words, lines=None, stdout=None):
    """(exit code, what a terminal shows); `stdout` may go somewhere else."""
    ours, theirs = pty.openpty()
    feed = subprocess.PIPE if lines is not None else theirs
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    running = subprocess.Popen(command(broker, *words), stdin=feed, stdout=stdout or theirs, stderr=theirs, env=env)
    os.close(theirs)
    if lines is not None:
        running.stdin.write(lines)
        running.stdin.close()
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed.
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return running.wait(HANG_S), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def topic(broker):
    """A new topic of three partitions."""
    name = next(NAMES)
    assert jackalope(broker, "topic", "create", name, "--partitions", "3")[0] == 0
    return name


def test_a_topic_from_its_creation_to_its_end(broker):
    """create, ls, show, alter, rm; each says on stderr what it has done, and the same again is no mistake."""
    name = next(NAMES)
    create = ("topic", "create", name, "-p", "2", "--config", "retention.ms=86400000")
    assert jackalope(broker, *create)[::2] == (0, f"topic {name} is created\n")
    assert jackalope(broker, *create)[::2] == (0, f"topic {name} is there already, the same\n")
    code, _, told = jackalope(broker, "topic", "create", name, "-p", "3")
    assert (code, "with 2 partitions, not 3" in told) == (1, True)
    [row] = [row for row in rows(broker, "topic", "ls") if row["name"] == name]
    assert (row["partitions"], row["messages"], row["hot_partitions"]) == (2, 0, [])
    change = ("topic", "alter", name, "-p", "4", "--config", "segment.ms=5000", "--unset", "retention.ms")
    assert jackalope(broker, *change)[0] == 0
    [shown] = rows(broker, "topic", "show", name)
    assert (shown["partitions"], shown["config_overrides"]) == (4, {"segment.ms": "5000"})
    assert jackalope(broker, "topic", "rm", name)[0] == 0
    for verb in ("show", "rm", "consume", "offsets"):
        assert jackalope(broker, "topic", verb, name)[0] == 4
    assert jackalope(broker, "topic", "alter", name, "-p", "9")[0] == 4
    assert jackalope(broker, "topic", "produce", name, "x")[0] == 4


def test_lines_go_in_and_come_out(broker, topic):
    """Keys before a separator, any octets, an end without a newline; what was produced is consumed, once each."""
    lines = b"".join(b"k%d\t%d\n" % (number % 7, number) for number in range(1700)) + b"k\t\xff\xfe\n" + b"last\tx"
    code, out, told = jackalope(broker, "topic", "produce", topic, "--key-separator", "\t", lines=lines)
    assert (code, out, told) == (0, b"", f"produced 1702 to {topic}\n")
    code, out, _ = jackalope(broker, "topic", "consume", topic, "--format", r"%k\t%v\n")
    assert code == 0
    assert sorted(out.splitlines()) == sorted(lines.splitlines())
    by_key = [line for line in out.splitlines() if line.startswith(b"k3\t")]
    assert by_key == [b"k3\t%d" % number for number in range(3, 1700, 7)]
    found = rows(broker, "topic", "consume", topic)
    assert {base64.b64decode(row["value"]) for row in found if row["value_encoding"] == "base64"} == {b"\xff\xfe"}
    times = [row["timestamp"] for row in found]
    assert times == sorted(times)
    other = next(NAMES)
    jackalope(broker, "topic", "create", other, "-p", "1")
    code, out, _ = jackalope(broker, "topic", "consume", topic)
    assert jackalope(broker, "topic", "produce", other, "--from-json", lines=out)[0] == 0
    code, again, _ = jackalope(broker, "topic", "consume", other, "--format", r"%k\t%v\n")
    assert sorted(again.splitlines()) == sorted(lines.splitlines())


def test_values_headers_and_places(broker, topic):
    """Arguments with a key, headers and a partition; offsets are printed when asked for; -n, --from and --partition."""
    produce = ("topic", "produce", topic, "a", "b", "c", "-k", "key", "-H", "trace=1", "--partition", "2", "--offsets")
    assert rows(broker, *produce) == [{"partition": 2, "offset": offset} for offset in range(3)]
    found = rows(broker, "topic", "consume", topic, "--partition", "2", "--from", "1", "-n", "1")
    assert [(row["offset"], row["key"], row["value"], row["headers"][0]["name"]) for row in found] == [
        (1, "key", "b", "trace")
    ]  # fmt: skip
    assert rows(broker, "topic", "consume", topic, "--partition", "0") == []
    assert rows(broker, "topic", "consume", topic, "--from", "latest") == []
    assert len(rows(broker, "topic", "consume", topic, "--from", "5m")) == 3
    assert jackalope(broker, "topic", "produce", topic, "--tombstone", "-k", "key")[0] == 0
    assert rows(broker, "topic", "consume", topic, "--columns", "key,value")[-1] == {"key": "key", "value": None}
    as_csv = jackalope(broker, "topic", "consume", topic, "--format", "csv", "--columns", "value")[1]
    assert as_csv.splitlines() == [b"value", b"a", b"b", b"c", b'""']
    offsets = rows(broker, "topic", "offsets", topic, "--time", "1h")
    assert [(row["partition"], row["end_offset"], row["offset"]) for row in offsets if row["end_offset"] == 3] == [
        (2, 3, 0)
    ]  # fmt: skip
    assert jackalope(broker, "topic", "trim", topic, "--partition", "2", "--before", "2")[0] == 0
    assert rows(broker, "topic", "offsets", topic)[2]["start_offset"] == 2
    assert jackalope(broker, "topic", "consume", topic, "--partition", "3")[0] == 4
    assert jackalope(broker, "topic", "consume", topic, "--from", "99")[0] == 1


def test_following(broker, topic):
    """What comes in is printed soon, each once, until it is stopped."""
    jackalope(broker, "topic", "produce", topic, "before")
    following = subprocess.Popen(
        command(broker, "topic", "consume", topic, "--follow", "--from", "earliest", "--format", r"%v\n"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert following.stdout.readline() == b"before\n"
    feeding = subprocess.Popen(
        command(broker, "topic", "produce", topic), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for number in range(3):
        feeding.stdin.write(b"%d\n" % number)
        feeding.stdin.flush()
        assert following.stdout.readline() == b"%d\n" % number  # Before stdin ends.
    feeding.communicate(timeout=HANG_S)
    following.terminate()
    rest, _ = following.communicate(timeout=HANG_S)
    assert rest == b""
    assert rows(broker, "topic", "consume", topic, "-n", "2", "--follow", "--from", "earliest", "--format", "jsonl")


def test_a_hot_key_is_pointed_at(broker, topic):
    """`topic show` says on a terminal which partition takes far more than its share, and by how much."""
    lines = b"".join(b"%s:x\n" % (b"big" if number % 20 else b"k%d" % number) for number in range(1000))
    code, shown = on_terminal(broker, "topic", "produce", topic, "--key-separator", ":", lines=lines)
    assert (code, "1000" in shown) == (0, True)  # The bar has counted.
    [found] = rows(broker, "topic", "show", topic)
    [hot] = found["hot_partitions"]
    code, shown = on_terminal(broker, "topic", "show", topic)
    assert code == 0
    assert f"partition {hot} took 9" in shown
    assert "an even share is 33%" in shown
    assert "PARTITIONS" in shown


def test_a_bar_leaves_the_data_alone(broker, topic, tmp_path):
    """It is drawn on the terminal's stderr while records go into a file: all of them, and nothing else."""
    lines = b"".join(b"%d\n" % number for number in range(2500))
    with (tmp_path / "offsets").open("wb") as file:
        code, shown = on_terminal(broker, "topic", "produce", topic, "--offsets", lines=lines, stdout=file)
    assert (code, "2500" in shown) == (0, True)
    assert len([json.loads(line) for line in (tmp_path / "offsets").read_text().splitlines()]) == 2500
    for form in ("jsonl", r"%v\n"):
        with (tmp_path / "records").open("wb") as file:
            code, shown = on_terminal(broker, "topic", "consume", topic, "--format", form, stdout=file)
        assert (code, "2500/2500" in shown) == (0, True)
        assert len((tmp_path / "records").read_bytes().splitlines()) == 2500


def test_names_and_values_do_not_drive_the_terminal(broker, topic):
    """Control characters of records and of members are replaced where people look."""
    jackalope(broker, "topic", "produce", topic, "\x1b[31mred\x07")
    code, shown = on_terminal(broker, "topic", "consume", topic)
    assert (code, "\x07" in shown, "red" in shown) == (0, False, True)


def moves(broker, group, *words):
    """Where a reset takes partitions."""
    return [(row["partition"], row["from"], row["to"]) for row in rows(broker, "group", "reset", group, *words)]


def test_a_group_is_moved_and_removed(broker, topic):
    """A dry run shows and does nothing; lag follows; without a place to shift from, an unknown group: clear answers."""
    for index in range(3):
        jackalope(broker, "topic", "produce", topic, *"abcde", "--partition", str(index))
    assert jackalope(broker, "group", "reset", "new", "--topic", topic, "--to", "+1")[0] == 1
    assert jackalope(broker, "group", "reset", "new", "--to", "latest")[0] == 4
    start = ("--topic", topic, "--to", "earliest")
    assert moves(broker, "new", *start, "--dry-run") == [(index, None, 0) for index in range(3)]
    assert jackalope(broker, "group", "show", "new")[0] == 4
    assert moves(broker, "new", *start) == [(index, None, 0) for index in range(3)]
    assert moves(broker, "new", "--to", "+2") == [(index, 0, 2) for index in range(3)]
    assert moves(broker, "new", "--topic", topic, "--partition", "1", "--to", "-1") == [(1, 2, 1)]
    code, _, told = jackalope(broker, "group", "reset", "new", "--topic", topic, "--partition", "0", "--to", "+9")
    assert (code, told) == (0, "moved 1 offsets of new, 1 of them only to the end of what there is\n")
    [found] = rows(broker, "group", "show", "new")
    assert [row["lag"] for row in found["offsets"]] == [0, 4, 3]
    assert [(row["state"], row["lag"]) for row in rows(broker, "group", "ls") if row["name"] == "new"] == [("Empty", 7)]
    [reader] = rows(broker, "topic", "show", topic)[0]["groups"]
    assert (reader["group"], reader["lag"]) == ("new", 7)
    assert jackalope(broker, "group", "rm", "new", "--topic", "nope")[0] == 4
    assert jackalope(broker, "group", "rm", "new")[0] == 0
    assert jackalope(broker, "group", "rm", "new")[0] == 4


class Member:
    """A member over Kafka's protocol, one request at a time."""

    def __init__(self, broker, group, topic):
        self.wire = Wire(broker.addresses["kafka"], timeout_s=HANG_S)
        self.group = group
        self.topic = topic
        self.id = ""
        self.generation = -1

    def send_join(self):
        """Ask to be in; the answer may take until others have come."""
        protocol = (
            BY_NAME["JoinGroup"]
            .request.SPECS["protocols"]
            .of(name="range", metadata=write_versioned(Subscription(topics=[self.topic]), 1))
        )
        self.wire.send("JoinGroup", 3, group_id=self.group, session_timeout_ms=600_000, rebalance_timeout_ms=600_000,
                       member_id=self.id, protocol_type="consumer", protocols=[protocol])  # fmt: skip

    def joined(self):
        """The answer to that."""
        answer = self.wire.answer()[1]
        assert not answer.error_code
        self.id, self.generation = answer.member_id, answer.generation_id
        return answer.leader == self.id

    def sync(self, assignments=()):
        """Ask for the assignment; a leader brings them, {member id: partitions}."""
        one_of = BY_NAME["SyncGroup"].request.SPECS["assignments"].of
        brought = [
            one_of(member_id=member_id, assignment=write_versioned(
                Assignment(assigned_partitions=[OwnedPartitions(topic=self.topic, partitions=indexes)]), 1))
            for member_id, indexes in dict(assignments).items()
        ]  # fmt: skip
        assert not self.wire.ask("SyncGroup", 2, group_id=self.group, generation_id=self.generation, member_id=self.id,
                                 assignments=brought).error_code  # fmt: skip


def test_a_rebalance_that_waits_says_for_whom(broker, topic):
    """`group show` in words: why it began, the member that has not come again, and when it is given up."""
    group = f"group-of-{topic}"
    first, second = Member(broker, group, topic), Member(broker, group, topic)
    first.send_join()
    assert first.joined()
    first.sync({first.id: [0, 1, 2]})
    second.send_join()
    wait_until(lambda: rows(broker, "group", "show", group)[0]["state"] == "PreparingRebalance")
    [found] = rows(broker, "group", "show", group)
    assert found["rebalance"]["waits_for"] == [first.id]
    code, shown = on_terminal(broker, "group", "show", group)
    assert code == 0
    lines = dict(line.split("  ", 1) for line in shown.split("\n\n")[0].splitlines() if "  " in line)
    assert lines["waits for"].lstrip().startswith(f"{first.id} (client test, ")
    assert "joined" in lines["why"]
    assert "generation 1" in lines["state"]
    assert " s, and goes on without" in lines["gives up"]
    assert jackalope(broker, "group", "reset", group, "--topic", topic, "--to", "earliest")[0] == 1
    code, _, told = jackalope(broker, "group", "rm", group)
    assert (code, f"{first.id} (client test, " in told) == (1, True)
    first.send_join()
    assert first.joined()
    second.joined()
    code, shown = on_terminal(broker, "group", "show", group)
    assert "the leader, who brings the assignment" in shown
    first.sync({first.id: [0, 1], second.id: [2]})
    second.sync()
    code, shown = on_terminal(broker, "group", "show", group)
    assert (code, "Stable" in shown, f"{topic} 0-1" in shown, "waits for" in shown) == (0, True, True, False)
    [member] = [row for row in rows(broker, "group", "show", group)[0]["members"] if row["id"] == second.id]
    assert member["assignment"] == [{"topic": topic, "partitions": [2]}]
    for one in (first, second):
        one.wire.sock.close()


@pytest.mark.parametrize(
    "words",
    [
        ("topic", "create", "t", "-p", "0"),
        ("topic", "create", "t", "-p", "x"),
        ("topic", "create", "t", "--config", "novalue"),
        ("topic", "create", ""),
        ("topic", "alter", "t"),
        ("topic", "alter", "t", "--config", "a=1", "--unset", "a"),
        ("topic", "consume", "t", "--from", "soon"),
        ("topic", "consume", "t", "--from", "-5"),
        ("topic", "consume", "t", "-n", "-1"),
        ("topic", "consume", "t", "--format", "xml"),
        ("topic", "consume", "t", "--format", "%x"),
        ("topic", "consume", "t", "--follow", "--format", "csv"),
        ("topic", "consume", "t", "--partition", "-1"),
        ("topic", "produce", "t", "x", "--key-separator", ":"),
        ("topic", "produce", "t", "--tombstone"),
        ("topic", "trim", "t", "--partition", "0", "--before", "-1"),
        ("topic", "offsets", "t", "--time", "never"),
        ("topic", "offsets", "t", "--time", "earliest"),
        ("group", "reset", "g"),
        ("group", "reset", "g", "--to", "somewhere"),
        ("group", "reset", "g", "--to", "1", "--partition", "0"),
        ("group", "show", ""),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_mistake_of_usage(words):
    """Exit 2 and a word about it, before the broker is asked."""
    from click.testing import CliRunner

    from tools.cli.main import main

    done = CliRunner().invoke(main, ["--url", "http://127.0.0.1:1", *words])
    assert (done.exit_code, "Error" in done.output) == (2, True), done.output


def test_input_that_makes_no_records(broker, topic):
    """A line without a separator, or that is no JSON, is a mistake of usage and says which; what came before is in."""
    code, _, told = jackalope(broker, "topic", "produce", topic, "--key-separator", ":", lines=b"a:b\nno\n")
    assert (code, "no key separator: no" in told, "produced 1" in told) == (2, True, True)
    for line in (b"{", b"[1]", b"\xff"):
        assert jackalope(broker, "topic", "produce", topic, "--from-json", lines=line + b"\n")[0] == 2
    for line, reason in (
        (b'{"vaule": "x"}', "unknown field 'vaule'"), (b'{"value": 5}', "a string or null"),
        (b'{"value": "\\ud800"}', "not Unicode"), (b'{"key": []}', "a string or null"),
    ):  # fmt: skip
        code, _, told = jackalope(broker, "topic", "produce", topic, "--from-json", lines=line + b"\n")
        assert (code, reason in told) == (1, True), told
    code, _, told = jackalope(broker, "topic", "produce", topic, lines=b"x" * 4_000_000 + b"\n")
    assert (code, "too large" in told, "produced 0" in told) == (1, True, True), told
    for large in (b"x" * 1_000_000, "é".encode() * 500_000):
        assert jackalope(broker, "topic", "produce", topic, lines=large + b"\n")[0] == 0
    lines = ("é" * 5_000 + "\n").encode() * 300
    assert jackalope(broker, "topic", "produce", topic, lines=lines)[::2] == (0, f"produced 300 to {topic}\n")


def test_a_partition_that_refuses_is_partial(broker):
    """Exit 3: some records are in, others are not, and why."""
    name = next(NAMES)
    jackalope(broker, "topic", "create", name, "-p", "2", "--config", "cleanup.policy=compact")
    lines = b'{"key": "k", "value": "1"}\n' * 500 + b'{"value": "1"}\n' * 10
    code, _, told = jackalope(broker, "topic", "produce", name, "--from-json", lines=lines)
    assert (code, "without key" in told, "produced 500" in told) == (3, True, True)
    assert len(rows(broker, "topic", "consume", name)) == 500


def test_a_connection_that_was_idle_is_made_anew(monkeypatch):
    """The broker ends idle ones; who produces now and then does not notice."""
    from tools.cli import client

    with running_jackalope(settings=("limits.http_timeout_s=3",)) as broker:
        url = f"http://guest:guest@{broker.host}:{broker.http_port}"
        for idle_s, works in ((0.1, True), (60, False)):
            monkeypatch.setattr(client, "IDLE_S", idle_s)
            one = client.Client(url)
            one.request("GET", "/api/topics")
            assert select.select([one._connection.sock], [], [], HANG_S)[0]  # The broker has ended it.
            if works:
                assert one.request("GET", "/api/topics") == []
            else:
                with pytest.raises(client.ApiError):
                    one.request("GET", "/api/topics")
            one._connection.close()


@pytest.mark.compat
def test_a_group_of_a_real_client(broker, topic):
    """librdkafka's group is shown with its lag, not moved while its consumer is in, and goes on where it was put."""
    import confluent_kafka

    server = "{}:{}".format(*broker.addresses["kafka"])
    values = [str(number) for number in range(20)]
    assert jackalope(broker, "topic", "produce", topic, *values, "--partition", "0")[0] == 0
    group = f"real-{topic}"

    def consumer():
        one = confluent_kafka.Consumer({
            "bootstrap.servers": server, "group.id": group, "client.id": "reader", "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "session.timeout.ms": 120_000,
        })  # fmt: skip
        one.subscribe([topic])
        return one

    def polled(one, count):
        found = []

        def enough():
            message = one.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message)
            return len(found) >= count

        wait_until(enough, lambda: rows(broker, "group", "show", group), pause_s=0)
        return found

    first = consumer()
    got = polled(first, 5)
    first.commit(asynchronous=False)
    [found] = rows(broker, "group", "show", group)
    assert (found["state"], found["members"][0]["client_id"]) == ("Stable", "reader")
    assert [row["lag"] for row in found["offsets"] if row["partition"] == 0] == [20 - len(got)]
    assert jackalope(broker, "group", "reset", group, "--to", "earliest")[0] == 1
    first.close()
    assert rows(broker, "group", "reset", group, "--topic", topic, "--partition", "0", "--to", "-3")[0]["to"] == (
        len(got) - 3
    )
    second = consumer()
    try:
        assert polled(second, 1)[0].offset() == len(got) - 3
    finally:
        second.close()
