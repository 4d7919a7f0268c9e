"""Disks that fail or are slow, handles that run out, and two brokers that want the same directory."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from waiting import HANG_S, wait_until

from tests.faults.history import CONFIRMED, check, summary
from tests.faults.load import EXIT_STORAGE_FAILED, HASTY, PERSISTENT, QUEUES, Load, connected, declare, exit_code
from tests.faults.loop_disk import loop_disk, missing, need, place
from tools.bench.control import REPOSITORY, running_jackalope

pytestmark = pytest.mark.faults

DELAY_S = 1
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


def round_trips(broker, over):
    """How many a client makes that has nothing to do with the disk until `over()`, one at least: it publishes a
    transient message and gets it."""
    connection = connected(broker)
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    count = 0
    while not count or not over():
        channel.basic_publish("", queue, b"x")
        while channel.basic_get(queue, auto_ack=True)[2] is None:
            pass
        count += 1
    connection.close()
    return count


def confirmed_one_by_one(broker, count, took_s):
    """Publish that many persistent messages; how long each confirm took goes to `took_s`."""
    connection = connected(broker)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("slow", durable=True)
    for _ in range(count):
        began_s = time.monotonic()
        channel.basic_publish("", "slow", b"", PERSISTENT)
        took_s.append(time.monotonic() - began_s)
    connection.close()


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
    """A second a sync, checkpoints included: confirms take that long, another client makes many round trips in that."""
    need(STRACE_MISSING)
    load = Load(3)
    slow = f"delay_exit={DELAY_S * 1_000_000}"
    with loaded(tmp_path, load, command=HASTY) as broker:
        with injected(broker.root_pid, "fsync,fdatasync", slow, tmp_path / "strace"):
            load.start(broker)
            confirms_s = []
            publisher = threading.Thread(target=confirmed_one_by_one, args=(broker, 3, confirms_s))
            publisher.start()
            trips = round_trips(broker, lambda: len(confirms_s) == 3)
            publisher.join(HANG_S)
            load.stop()
        os.kill(broker.root_pid, signal.SIGKILL)
    syncs = (tmp_path / "strace").read_text().count("(DELAYED)")
    print(f"confirms {confirms_s} s, {trips} round trips of another client meanwhile, {syncs} syncs delayed")
    assert min(confirms_s) >= DELAY_S
    assert trips > 10 * len(confirms_s)
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
    socks = [socket.create_connection((broker.host, broker.port), timeout=HANG_S) for _ in range(flood)]
    wait_until(lambda: "out of handles" in (broker.directory / "stderr.log").read_text())
    return socks


def test_out_of_handles_those_who_are_connected_go_on(tmp_path):
    """New connections wait; publishers and consumers do not; all is well when handles come back."""
    load = Load(4)
    with loaded(tmp_path, load) as broker:
        load.start(broker)
        load.wait_confirmed(100)
        socks = starve(broker)
        before = load.confirmed_count, load.consumer.delivered_count
        wait_until(lambda: load.confirmed_count > before[0] + 100 and load.consumer.delivered_count > before[1] + 100)
        for sock in socks:
            sock.close()
        assert round_trips(broker, lambda: True)
        load.stop()
    finish(tmp_path, load)


def test_out_of_handles_a_checkpoint_waits(tmp_path):
    """Files cannot be opened: the broker neither ends nor loses anything, and goes on when handles come back."""
    load = Load(5)
    with loaded(tmp_path, load, command=HASTY) as broker:
        load.start(broker)
        load.wait_confirmed(100)
        socks = starve(broker)
        log = broker.directory / "stderr.log"
        wait_until(lambda: "checkpoint given up" in log.read_text() or "nothing can be written" in log.read_text())
        for sock in socks:
            sock.close()
        before = load.confirmed_count
        load.wait_confirmed(before + 500)
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
            argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANG_S, check=False, stdin=subprocess.DEVNULL
        )
        assert second.returncode == 1
        assert f"is in use by another broker (process {broker.root_pid})" in second.stderr
        assert "Traceback" not in second.stderr
        load.start(broker)
        load.wait_confirmed(100)
        load.stop()
        connection = connected(broker)
        for queue in QUEUES:
            connection.channel().queue_declare(queue, passive=True)
        connection.close()
    assert load.history.outcomes()[CONFIRMED] >= 600
    finish(tmp_path, load)
