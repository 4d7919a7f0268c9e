"""Starts that fail, or find something they cannot use: what an operator sees, and what the data directory keeps."""

import socket
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from waiting import HANG_S

from broker.log.disk import RealDisk
from broker.log.recovery import open_store
from tools.bench.control import running_jackalope
from tools.cli.client import Client
from tools.cli.errors import ApiError

OFF = [f"listeners.{name}=off" for name in ("amqp", "http", "kafka")]
ROOT = Path(__file__).resolve().parents[2]


def failed_start(data, *sets, config=None):
    """What a start says that ends with exit code 1."""
    command = [sys.executable, "-m", "tools.cli.main", "serve", "--data", str(data)]
    command += [word for value in (*OFF, *sets) for word in ("--set", value)]
    command += ["-c", str(config)] if config is not None else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def opened(data):
    """The store of a directory."""
    return open_store(RealDisk(data), lambda: uuid4().bytes, begin=False)


@pytest.fixture
def data(tmp_path):
    """A data directory whose last run stopped in order."""
    folder = tmp_path / "data"
    store = opened(folder)
    store.flush()
    store.close_in_order()
    store.flush()
    close(store)
    return folder


def close(store):
    """End it, lock included, without a word in the journal."""
    store.close()
    store.disk.close()


def is_clean(folder):
    """What the next start would find."""
    store = opened(folder)
    clean = store.recovered.clean
    close(store)
    return clean


def test_a_taken_port(data):
    """Nothing was delivered, so nothing is marked as perhaps delivered (redelivered, AMQP 1.8.3.13) at the next one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in failed_start(data, f"listeners.amqp={address}")
    assert is_clean(data)


def test_a_directory_of_an_older_format(data):
    """A start that fails leaves it to the older broker; one that does not brings it along."""
    (data / "format").write_text("jackalope storage 1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed_start(data, f"listeners.amqp=127.0.0.1:{taken.getsockname()[1]}")
    assert (data / "format").read_text() == "jackalope storage 1\n"
    with running_jackalope("--data", str(data)):
        assert (data / "format").read_text() == "jackalope storage 3\n"


def test_a_strict_topology(data, tmp_path):
    """topology.strict ends the start with every conflict and its line, and leaves no mark."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "topology: {strict: true}\nlimits: {queues_max: 1}\nvhosts:\n  /:\n    queues:\n      a: {}\n      b: {}\n"
    )
    assert f"{path}:7: vhosts./.queues.b: cannot declare queue 'b'" in failed_start(data, config=path)
    assert is_clean(data)


def test_a_directory_that_is_not_ours(tmp_path):
    """It is refused with a sentence, and not even a lock file is left in it."""
    (tmp_path / "photo.jpg").write_text("x")
    assert "is not empty, has no file 'format', so is not ours: photo.jpg" in failed_start(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_conflict_keeps_nobody_out(tmp_path):
    """One edited line: the broker starts, says so in its health, and gives what is there."""
    path = tmp_path / "c.yaml"
    path.write_text("vhosts: {/: {queues: {q: {arguments: {x-max-length: 5}}}}}\n")
    with running_jackalope("-c", str(path), directory=tmp_path) as broker:
        assert ask(broker, "/api/health") == {"status": "ok", "damage": [], "conflicts": []}
    path.write_text("vhosts: {/: {queues: {q: {arguments: {x-max-length: 6}}}}}\n")
    with running_jackalope("-c", str(path), directory=tmp_path) as broker:
        (conflict,) = ask(broker, "/api/health")["conflicts"]
        assert conflict.startswith(f"{path}:1: vhosts./.queues.q: inequivalent arg 'x-max-length'")
        with pytest.raises(ApiError, match="inequivalent arg"):
            ask(broker, "/api/health/checks/topology")
        (row,) = ask(broker, "/api/queues")
        assert row["arguments"] == {"x-max-length": 5}


def ask(broker, target):
    """What its HTTP API says."""
    client = Client(f"http://guest:guest@127.0.0.1:{broker.http_port}")
    try:
        return client.request("GET", target)
    finally:
        client._connection.close()
