"""The command line against a broker process: what it prints, and with which exit code it ends."""

import json
import subprocess
import sys

import pytest
from cli_sessions import patient
from waiting import HANG_S

from tools.bench.control import running_jackalope


@pytest.fixture(scope="module")
def broker():
    """A fresh broker for the module."""
    with running_jackalope() as started:
        yield started


def jackalope(broker, *words):
    """(exit code, stdout, stderr) of one command."""
    url = [] if broker is None else ["--url", f"http://guest:guest@{broker.host}:{broker.http_port}"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli.main", *url, *words], capture_output=True, text=True, timeout=HANG_S
    )
    return done.returncode, done.stdout, done.stderr


def test_list_is_json_lines_in_a_pipe(broker):
    """Data goes to stdout, one JSON object a line."""
    code, out, _ = jackalope(broker, "exchange", "ls")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert {"amq.direct", "amq.topic", ""} <= {row["name"] for row in rows}


def test_columns_and_formats(broker):
    """`--columns` chooses, `--format` shapes."""
    code, out, _ = jackalope(broker, "exchange", "ls", "--columns", "name,type", "--format", "csv")
    assert code == 0
    assert out.splitlines()[0] == "name,type"
    assert "amq.topic,topic" in out.splitlines()
    code, out, _ = jackalope(broker, "exchange", "ls", "--format", "table")
    assert code == 0
    assert "amq.fanout" in out


@pytest.mark.parametrize("noun", ["queue", "binding", "connection", "channel", "consumer", "vhost"])
def test_every_noun_lists(broker, noun):
    """Each noun has `ls`."""
    assert jackalope(broker, noun, "ls")[0] == 0


def test_publish_and_get(broker):
    """A message that reaches no queue fails with 1; one that does is shown by get, and stays without --ack."""
    import pika

    assert jackalope(broker, "message", "publish", "-r", "cli", "x")[0] == 1
    connection = pika.BlockingConnection(patient(broker))
    connection.channel().queue_declare("cli")
    assert jackalope(broker, "message", "publish", "-r", "cli", "hello")[0] == 0
    for words in ((), ("--ack",)):
        code, out, _ = jackalope(broker, "message", "get", "cli", *words)
        assert (code, json.loads(out)["payload"]) == (0, "hello")
    assert jackalope(broker, "message", "get", "cli") == (0, "", "")
    assert jackalope(broker, "message", "publish", "-r", "cli", "again")[0] == 0
    assert jackalope(broker, "queue", "purge", "cli")[0] == 0
    assert json.loads(jackalope(broker, "queue", "show", "cli")[1])[0]["messages"] == 0
    connection.close()


def test_exit_codes(broker):
    """2 usage, 4 not found, 5 refused, 6 cannot connect; 0 for a healthy broker."""
    assert jackalope(broker, "health")[0] == 0
    assert jackalope(broker, "nonsense")[0] == 2
    assert jackalope(broker, "queue", "show", "nope")[0] == 4
    host, port = broker.host, broker.http_port
    assert jackalope(None, "--url", f"http://guest:wrong@{host}:{port}", "queue", "ls")[0] == 5
    code, _, err = jackalope(None, "--url", "http://guest:guest@127.0.0.1:1", "queue", "ls")
    assert code == 6
    assert "127.0.0.1:1" in err
    code, _, err = jackalope(None, "--url", "localhost:15672", "queue", "ls")
    assert code == 2
    assert "http://USER:PASSWORD@HOST:PORT" in err


def test_a_narrow_terminal_cuts_nothing_off(broker):
    """What has no room goes on in the next line: every letter of a long name is there."""
    name = "".join(chr(ord("a") + number % 26) for number in range(200))
    assert jackalope(broker, "topic", "create", name)[0] == 0
    code, out, _ = jackalope(broker, "topic", "ls", "--format", "table", "--columns", "name,bytes_in_rate")
    assert code == 0
    assert "…" not in out
    assert name in "".join(line.split()[0] for line in out.splitlines())


def test_config_check(tmp_path):
    """A mistake is named with file, line and the nearest key; exit 1."""
    file = tmp_path / "broker.yaml"
    file.write_text("listners:\n  amqp: 127.0.0.1:5672\n")
    code, _, err = jackalope(None, "config", "check", str(file))
    assert code == 1
    assert "listeners" in err
    assert f"{file}:1" in err
    file.write_text("listeners:\n  amqp: 127.0.0.1:5672\n")
    assert jackalope(None, "config", "check", str(file))[0] == 0
    assert json.loads(jackalope(None, "config", "schema")[1])["type"] == "object"


def test_a_port_in_use_is_named(broker):
    """serve exits with 1 and a sentence that names the address."""
    code, _, err = jackalope(None, "serve", "--data", "memory", "--set", f"listeners.amqp={broker.host}:{broker.port}")
    assert code == 1
    assert f"cannot listen on {broker.host}:{broker.port}" in err


def test_what_was_left_aside(broker):
    """Nothing was, of a broker that has just begun; what is not there cannot be dropped."""
    assert jackalope(broker, "catalog", "ls")[:2] == (0, "")
    code, _, err = jackalope(broker, "catalog", "rm", "0123456789abcdef")
    assert (code, err) == (4, "jackalope: no entry '0123456789abcdef' is left aside\n")
