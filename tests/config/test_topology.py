"""What `vhosts` declares beside what is there: one edited line keeps nothing else out of reach.

RabbitMQ imports definitions that conflict without a word (rabbit_definitions: a queue that is there is left alone);
here each conflict is told, with its line.
"""

from uuid import uuid4

import pytest
from click.testing import CliRunner
from topic_world import World

from broker.config import check, load
from broker.core import catalog
from broker.core.broker import Broker
from broker.log.disk import RealDisk
from broker.log.recovery import open_store
from broker.topology import declare_topology
from tools.cli.main import main

FIRST = """\
vhosts:
  /:
    exchanges:
      e: {type: direct}
    queues:
      q: {arguments: {x-message-ttl: 1000}}
"""
SECOND = """\
vhosts:
  /:
    exchanges:
      e: {type: fanout}
      f: {type: fanout}
    queues:
      q:
        arguments: {x-message-ttl: 2000}
        bindings:
          - {source: f}
      new: {durable: true}
    bindings:
      - {source: e, destination: new}
    policies:
      p: {pattern: '^q$', definition: {max-length: 5}}
"""


def declare(world, tmp_path, text):
    """The conflicts of a start with this file."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return declare_topology(world.broker, load([str(path)], []), 0)


def test_what_fits_is_applied(tmp_path):
    """What is there stays; each conflict has file, line, key and remedy; all the rest is declared."""
    with World() as world:
        assert declare(world, tmp_path, FIRST) == []
        conflicts = declare(world, tmp_path, SECOND)
        path = tmp_path / "c.yaml"
        assert [one.partition(": vhosts.")[0] for one in conflicts] == [f"{path}:4", f"{path}:7"]
        assert "inequivalent arg 'type' for exchange 'e' in vhost '/'" in conflicts[0]
        assert "inequivalent arg 'x-message-ttl' for queue 'q'" in conflicts[1]
        assert all("what is there stays as it is" in one for one in conflicts)
        vhost = world.broker.vhosts["/"]
        assert vhost.exchanges["e"].type == "direct"
        assert vhost.queues["q"].arguments == {"x-message-ttl": 1000}
        assert {one.destination.name for one in vhost.exchanges["f"].bindings.values()} == {"q"}
        assert {one.destination.name for one in vhost.exchanges["e"].bindings.values()} == {"new"}
        assert set(vhost.policies.user) == {"p"}
        assert declare(world, tmp_path, FIRST) == [], "the line was mended"


def found(tmp_path, text):
    """What a check of this text finds."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    report = check([str(path)], [])
    return [one.removeprefix(str(path)) for one in report.errors], [
        one.removeprefix(str(path)) for one in report.warnings
    ]


def test_one_mistake_hides_no_other(tmp_path):
    """Every argument of a queue that is wrong, whatever else is wrong in other sections."""
    text = """\
limits: {channel_max: none}
vhosts:
  /:
    queues:
      q: {arguments: {x-message-ttl: -1, x-max-priority: 999, x-overflow: x}}
      r: {durable: nope, arguments: {x-expires: 0}}
    topics:
      t: {config: {retention.ms: x, segment.bytes: 1}}
    policies:
      p: {pattern: 'a', definition: {max-lenght: 5}}
"""
    errors, _ = found(tmp_path, text)
    wanted = ["channel_max", "x-message-ttl", "x-max-priority", "x-overflow", "queues.r.durable", "x-expires",
              "retention.ms", "segment.bytes", "max-lenght"]  # fmt: skip
    for one in wanted:
        assert sum(one in error for error in errors) == 1, (one, errors)
    assert len(errors) == len(wanted)


def test_an_argument_that_nobody_knows(tmp_path):
    """It is kept and ignored, as RabbitMQ does; who meant another is told."""
    text = "vhosts:\n  /:\n    queues:\n      q: {arguments: {x-mesage-ttl: 5, mine: 1}}\n"
    assert found(tmp_path, text) == (
        [],
        [
            ":4: vhosts./.queues.q.arguments.x-mesage-ttl: unknown argument, kept and ignored; did you mean "
            "'x-message-ttl'?"
        ],
    )


@pytest.mark.parametrize("arguments", ["{" + "n" * 256 + ": 1}", "{a: " + "[" * 40 + "]" * 40 + "}"])
def test_what_no_field_table_holds(tmp_path, arguments):
    """It could not be written into the catalog (AMQP 4.2.5.5), so it is not taken."""
    errors, _ = found(tmp_path, "vhosts: {/: {queues: {q: {arguments: " + arguments + "}}}}\n")
    assert ["a field table cannot hold this" in one for one in errors] == [True]


def test_the_default_user_beside_other_vhosts(tmp_path):
    """Nobody has written its permission on a vhost that the file does not have; a written one is a mistake."""
    assert found(tmp_path, "vhosts: {shop: {}}\n") == ([], [])
    errors, _ = found(tmp_path, "vhosts: {shop: {}}\nusers: {guest: {permissions: {/: {read: '.*'}}}}\n")
    assert errors == [":2: users.guest.permissions./: no vhost '/'"]


def checked(tmp_path, text, *options):
    """(exit code, what `config check` says of it)."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    run = CliRunner().invoke(main, ["config", "check", *options, str(path)])
    return run.exit_code, run.output.replace(str(path), "")


@pytest.mark.parametrize(("queue", "said"), [
    ("{x-partitions: 0}", "not a number from 1 on"), ("{x-partitions: 20000}", "a topic has 1 to 10000 partitions"),
    ("{x-max-age: soon}", "invalid_max_age"),
])  # fmt: skip
def test_what_only_a_declaration_finds(tmp_path, queue, said):
    """It is said by a check without a data directory, with its line, and all the others with it."""
    argument = f"arguments: {queue[:-1]}, x-queue-type: stream}}"
    text = f"vhosts:\n  /:\n    queues:\n      a: {{{argument}}}\n      a.b: {{arguments: {{x-queue-type: stream}}}}\n"
    text += "      a_b: {arguments: {x-queue-type: stream}}\n"
    code, told = checked(tmp_path, text)
    first, second = told.splitlines()
    assert (code, first.startswith(":4: vhosts./.queues.a: ")) == (1, True), told
    assert said in first
    assert second.startswith(":6: vhosts./.queues.a_b: ")
    good = "vhosts: {/: {queues: {a: {arguments: {x-queue-type: stream, x-partitions: 2}}}}}"
    assert checked(tmp_path, good) == (0, "ok\n")


def test_topics_in_memory(tmp_path):
    """A broker that keeps nothing has none, unless serve is given a directory, as the check may be."""
    text = "storage: {dir: memory}\nvhosts: {/: {topics: {t: {partitions: 1}}}}"
    code, told = checked(tmp_path, text)
    assert (code, "topics need a data directory" in told) == (1, True)
    assert checked(tmp_path, text, "--data", str(tmp_path))[0] == 0


def test_files_that_are_no_certificate(tmp_path):
    """They can be read, and cannot be used."""
    (tmp_path / "x.pem").write_text("nothing")
    text = f"tls: {{cert: {tmp_path}/x.pem, key: {tmp_path}/x.pem}}\nlisteners: {{amqps: 127.0.0.1:5671}}"
    code, told = checked(tmp_path, text)
    assert (code, told.startswith("tls: ")) == (1, True), told


def test_one_address_of_two_listeners(tmp_path):
    """Port 0 is any port."""
    code, told = checked(tmp_path, "listeners: {amqp: 127.0.0.1:5672, http: 127.0.0.1:5672}")
    assert (code, told) == (1, ":1: listeners.http: 127.0.0.1:5672 is the address of listeners.amqp\n")
    assert checked(tmp_path, "listeners: {amqp: 127.0.0.1:0, http: 127.0.0.1:0}") == (0, "ok\n")


def test_conflicts_with_a_data_directory(tmp_path):
    """They are found beside a running broker, which has the lock, and nothing of the directory is changed."""
    data = tmp_path / "data"
    store = open_store(RealDisk(data), lambda: uuid4().bytes)
    broker = Broker(lambda _: 0, None, store)
    path = tmp_path / "c.yaml"
    path.write_text(FIRST + "    topics:\n      t: {partitions: 3}\n")
    assert declare_topology(broker, load([str(path)], []), 0) == []
    store.put(catalog.key(catalog.QUEUE, "/", "odd"), b"")
    store.flush()
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    path.write_text(SECOND + "    topics:\n      t: {partitions: 2}\n")
    run = CliRunner().invoke(main, ["config", "check", "--data", str(data), str(path)])
    assert run.exit_code == 0, run.output
    told = [line for line in run.output.splitlines() if line.startswith("conflict: ")]
    assert [line.split(":")[2] for line in told[1:]] == ["4", "7", "17"], told
    assert "queue 'odd'" in told[0]
    assert "left aside" in told[0]
    assert {file: file.read_bytes() for file in data.rglob("*") if file.is_file()} == before
    path.write_text(path.read_text() + "topology: {strict: true}\n")
    assert CliRunner().invoke(main, ["config", "check", "--data", str(data), str(path)]).exit_code == 1
    store.close()
