"""The harness against the real thing: a private RabbitMQ, and short measured runs against it (Debian's package)."""

import os
import socket
from pathlib import Path

import pytest
from needed import need
from waiting import HANG_S, wait_until

from tools.bench.control import BrokerStartError, rabbitmq_missing, running_jackalope, running_rabbitmq
from tools.bench.link import PeerClosed, Target, open_link
from tools.bench.measure import run_once
from tools.bench.processes import descendants, free_port, is_alive
from tools.bench.scenarios import SCENARIOS

pytestmark = pytest.mark.control


@pytest.fixture(scope="module")
def control():
    need(rabbitmq_missing())
    with running_rabbitmq() as broker:
        yield broker


def listening_addresses(pids):
    """Local addresses (hexadecimal, as the kernel prints them) of the TCP sockets on which these processes listen."""
    inodes = set()
    for pid in pids:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                continue
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    found.add(fields[1].rpartition(":")[0])
    return found


def test_listens_on_loopback_only(control):
    """No listener of the control is reachable from outside this machine (0100007F is 127.0.0.1)."""
    assert listening_addresses(control.pids()) == {"0100007F"}


def test_tools_reach_this_node_and_no_other(control):
    """rabbitmqctl with the control's environment works on it: a new vhost can be opened at once, a deleted one not."""
    control.add_vhost("harness")
    open_link(Target(control.host, control.port, vhost="harness")).close_politely()
    control.delete_vhost("harness")
    with pytest.raises(PeerClosed, match="harness"):
        open_link(Target(control.host, control.port, vhost="harness"))


@pytest.mark.parametrize("name", ["autoack", "multiack", "ack1", "confirm", "topic10", "unbatched50", "rtt1", "celery"])
def test_a_short_run_has_figures(control, name):
    """A run delivers messages, and the broker's CPU is seen to be spent on them: of a fraction of a second, or as long
    as it takes to count 100 and some ticks of the CPU's clock."""
    seconds = iter(0.3 * 2**number for number in range(10))

    def long_enough():
        sample = run_once(control, SCENARIOS[name], seconds=next(seconds))
        return sample if sample.messages > 100 and sample.cpu_us else None

    sample = wait_until(long_enough, "no run is long enough")
    assert sample.cpu_us > 1
    assert (sample.p99_us is not None) == (name == "rtt1")


def test_runs_leave_nothing_behind(control):
    """After a run its queues are gone, whatever the run was."""
    run_once(control, SCENARIOS["fanout10"], seconds=0.2)
    assert "bench." not in control.rabbitmqctl("list_queues", "name")
    assert "bench." not in control.rabbitmqctl("list_exchanges", "name")


def test_nothing_outlives_the_control():
    """All processes, the EPMD included, and the directory are gone afterwards, and the port is closed."""
    need(rabbitmq_missing())
    before = set(descendants(os.getpid()))
    with running_rabbitmq() as broker:
        started = set(descendants(os.getpid())) - before
        directory = broker.directory
        assert any(pid in broker.pids() for pid in started)
    assert not [pid for pid in started if is_alive(pid)]
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((broker.host, broker.port), timeout=HANG_S)


def test_a_broker_that_does_not_start_is_an_error_with_its_words():
    """A process that ends, or says something else than a ready line, is reported with what it printed."""
    with (
        pytest.raises(BrokerStartError, match="no such port"),
        running_jackalope(command=["sh", "-c", "echo no such port >&2; exit 1"]),
    ):
        pytest.fail("it started")
    with (
        pytest.raises(BrokerStartError, match="not a ready line: 'hello'"),
        running_jackalope(command=["sh", "-c", "echo hello; sleep 30"]),
    ):
        pytest.fail("it started")


def test_a_free_port_is_none_of_outgoing_connections():
    """Else a client that tries again while a killed broker starts anew may be given the broker's port as its own."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < lowest for _ in range(20))
