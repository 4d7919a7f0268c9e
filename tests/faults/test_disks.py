"""Disks that fail or are slow, handles that run out, and two brokers that want the same directory."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import pika
import pytest

from tests.faults.history import CONFIRMED, check, summary
from tests.faults.load import EXIT_STORAGE_FAILED, HASTY, PERSISTENT, QUEUES, Load, declare, exit_code, parameters
from tests.faults.loop_disk import loop_disk, missing, need, place
from tools.bench.control import REPOSITORY, running_jackalope

pytestmark = pytest.mark.faults

STRACE_MISSING = None if shutil.which("strace") and not os.geteuid() else "strace is missing, or we are not root"


@contextlib.contextmanager
def injected(pid, calls, fault, log):
    """System calls of a running process fail or dawdle, in all of its threads."""
    argv = ["strace", "-f", "-p", str(pid), "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    tracer = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    try:
        line = tracer.stderr.readline()
        assert "attached" in line, line
        yield
    finally:
        tracer.terminate()
        try:
            tracer.communicate(timeout=5)
        except subprocess.TimeoutExpired:  # It may wait for ever for one that died while it was held.
            tracer.kill()
            tracer.communicate()


def finish(directory, load):
    """Start again, empty all queues, judge."""
    with running_jackalope(directory=directory, http=False) as broker:
        load.drain(broker)
    found = check(load.history)
    assert not found, summary(found)


@contextlib.contextmanager
def loaded(directory, load, count=500, **options):
    """A broker whose queues hold something confirmed."""
    with running_jackalope(directory=directory, http=False, **options) as broker:
        declare(broker)
        load.start(broker, consume=False)
        load.wait_confirmed(count)
        load.stop()
        yield broker


def slowest_round_trip(broker, seconds):
    """Of a client that has nothing to do with the disk: publish a transient message and get it, again and again."""
    connection = pika.BlockingConnection(parameters(broker))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    slowest_s = 0.0
    end_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < end_s:
        channel.basic_publish("", queue, b"x")
        while channel.basic_get(queue, auto_ack=True)[2] is None:
            pass
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        time.sleep(0.005)
    connection.close()
    return slowest_s


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("fdatasync", "error=EIO:when=1+"),
        ("fdatasync", "error=EIO:when=1"),  # The next one would lie.
        ("fdatasync", "error=ENOSPC:when=1"),  # Too late for waiting until there is room.
        ("pwritev,pwritev2", "error=EIO:when=1"),
    ],
)
def test_after_a_disk_error_nothing_is_confirmed(tmp_path, call, fault):
    """What is in flight is refused, the process exits 74, and the next one serves all that was confirmed before."""
    need(STRACE_MISSING)
    load = Load(1)
    with loaded(tmp_path, load) as broker, injected(broker.root_pid, call, fault, tmp_path / "strace"):
        load.start(broker, consume=False)
        assert exit_code(broker.root_pid) == EXIT_STORAGE_FAILED
        load.join()
        assert load.confirmed_count == 0
    assert "storage failed, stopping" in (tmp_path / "stderr.log").read_text()
    print(load.history.outcomes())
    finish(tmp_path, load)


def test_a_disk_error_under_load_and_then_a_power_cut(tmp_path):
    """A confirm behind a sync that was never done would be found out by the cut."""
    need(STRACE_MISSING)
    need(missing())
    load = Load(2)
    with loop_disk(mib=512) as disk:
        directory = place(disk, tmp_path)
        with running_jackalope(directory=directory, http=False) as broker:
            declare(broker)
            load.start(broker)
            load.wait_confirmed(500)
            with injected(broker.root_pid, "fdatasync", "error=EIO:when=5+", tmp_path / "strace"):
                assert exit_code(broker.root_pid) == EXIT_STORAGE_FAILED
            load.join()
        disk.cut()
        disk.cycle()
        print(load.history.outcomes())
        finish(directory, load)


def test_a_slow_disk_delays_confirms_and_nothing_else(tmp_path):
    """Half a second a sync, checkpoints included: confirms take that long, another client notices nothing."""
    need(STRACE_MISSING)
    load = Load(3)
    slow = "delay_exit=500000"
    with loaded(tmp_path, load, command=HASTY) as broker:
        with injected(broker.root_pid, "fsync,fdatasync", slow, tmp_path / "strace"):
            load.start(broker)
            connection = pika.BlockingConnection(parameters(broker))
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("slow", durable=True)
            began_s = time.monotonic()
            channel.basic_publish("", "slow", b"", PERSISTENT)
            confirm_s = time.monotonic() - began_s
            round_trip_s = slowest_round_trip(broker, 4)
            connection.close()
            load.stop()
        os.kill(broker.root_pid, signal.SIGKILL)
    syncs = (tmp_path / "strace").read_text().count("(DELAYED)")
    print(f"confirm {confirm_s:.2f} s, slowest of another client {round_trip_s * 1000:.0f} ms, {syncs} syncs delayed")
    assert 0.5 <= confirm_s < 2.5
    assert round_trip_s < 0.3
    assert load.confirmed_count > 0
    finish(tmp_path, load)


def handles(broker):
    return len(os.listdir(f"/proc/{broker.root_pid}/fd"))


def limit_handles(broker, count):
    """From now on the process may have so many."""
    _, hard = resource.prlimit(broker.root_pid, resource.RLIMIT_NOFILE)
    resource.prlimit(broker.root_pid, resource.RLIMIT_NOFILE, (count, hard))


def starve(broker, spare=5, flood=100):
    """Leave it few handles, and connect until they are gone; returns the sockets."""
    limit_handles(broker, handles(broker) + spare)
    socks = [socket.create_connection((broker.host, broker.port), timeout=5) for _ in range(flood)]
    deadline_s = time.monotonic() + 5
    while "out of handles" not in (broker.directory / "stderr.log").read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return socks


def test_out_of_handles_those_who_are_connected_go_on(tmp_path):
    """New connections wait; publishers and consumers do not; all is well when handles come back."""
    load = Load(4)
    with loaded(tmp_path, load) as broker:
        load.start(broker)
        load.wait_confirmed(100)
        socks = starve(broker)
        before = load.confirmed_count, load.consumer.delivered_count
        time.sleep(1)
        assert load.confirmed_count > before[0]
        assert load.consumer.delivered_count > before[1]
        for sock in socks:
            sock.close()
        assert slowest_round_trip(broker, 0.2) < 1
        load.stop()
    finish(tmp_path, load)


def test_out_of_handles_a_checkpoint_waits(tmp_path):
    """Files cannot be opened: the broker neither ends nor loses anything, and goes on when handles come back."""
    load = Load(5)
    with loaded(tmp_path, load, command=HASTY) as broker:
        load.start(broker)
        load.wait_confirmed(100)
        socks = starve(broker)
        time.sleep(2)
        for sock in socks:
            sock.close()
        before = load.confirmed_count
        load.wait_confirmed(before + 500, timeout_s=5)
        load.stop()
        load.drain(broker)
    finish(tmp_path, load)


def test_two_brokers_on_one_directory(tmp_path):
    """The second exits 1 and names the first, which serves on."""
    load = Load(6)
    with loaded(tmp_path, load) as broker:
        argv = [sys.executable, "-m", "tools.cli.main", "serve", "--data", str(tmp_path / "data")]
        argv += ["--set", "listeners.amqp=127.0.0.1:0", "--set", "listeners.http=off", "--set", "listeners.kafka=off"]
        second = subprocess.run(
            argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
        assert second.returncode == 1
        assert f"is in use by another broker (process {broker.root_pid})" in second.stderr
        assert "Traceback" not in second.stderr
        load.start(broker)
        load.wait_confirmed(100)
        load.stop()
        connection = pika.BlockingConnection(parameters(broker))
        for queue in QUEUES:
            connection.channel().queue_declare(queue, passive=True)
        connection.close()
    assert load.history.outcomes()[CONFIRMED] >= 600
    finish(tmp_path, load)
