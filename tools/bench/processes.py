"""What the harness knows of processes: free ports, descendants, CPU time, memory, and ending what we started.

Owns: reading /proc and signalling process ids that this process started. Linux only.
Must not know: AMQP, brokers, scenarios.
"""

import contextlib
import fcntl
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORT_MIN, PORTS_TRIED = 20_000, 50
CONGESTION_DEFAULT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
CONGESTION_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that was free a moment ago. Another may take it first; the start that uses it then fails.

    It is none that the kernel gives to outgoing connections: a client that tries again and again while a killed broker
    starts anew would be given the broker's port, and the broker could not listen on it.
    """
    lowest = int(LOCAL_PORTS.read_text().split()[0])
    for port in random.Random().sample(range(PORT_MIN, max(lowest, PORT_MIN + PORTS_TRIED)), PORTS_TRIED):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family) as probe:
            probe.bind((host, port))
            return port
    raise OSError(f"{PORTS_TRIED} ports of {host} were tried, and none was free")


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name (index 0 is `state`), or None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def descendants(root_pid: int) -> list[int]:
    """`root_pid` and everything below it that is alive (zombies left out), parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat_fields(int(entry))) is not None and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    waiting = [root_pid] if (own := _stat_fields(root_pid)) is not None and own[0] != "Z" else []
    while waiting:
        pid = waiting.pop(0)
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User plus system seconds of these processes, all threads, in the kernel's ticks (10 ms each)."""
    ticks = 0
    for pid in pids:
        if (fields := _stat_fields(pid)) is not None:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS_PER_S


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes; pages that they share count once for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return total


def proportional_bytes(pid: int) -> int:
    """Memory of a process, with its share of what it has in common with others. Linux 4.14 and later."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss in smaps_rollup of {pid}")


def written_bytes(pids: Iterable[int]) -> int:
    """What these processes have caused to be written to disks so far, counted in pages when they become dirty."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            text = Path(f"/proc/{pid}/io").read_text()
            total += int(text.partition("\nwrite_bytes: ")[2].partition("\n")[0])
    return total


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] != "Z"


def end_all(pids: Iterable[int], grace_s: float = 3.0) -> None:
    """SIGTERM to each id in turn, SIGKILL to what is left after `grace_s`. Only ids that the caller started."""
    remaining = [pid for pid in pids if is_alive(pid)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline_s = time.monotonic() + grace_s
        while remaining and time.monotonic() < deadline_s:
            time.sleep(0.02)
            remaining = [pid for pid in remaining if is_alive(pid)]
        if not remaining:
            return


class Busy(RuntimeError):
    """Another bench runs on this machine."""


@contextlib.contextmanager
def only_one(path: Path | None = None) -> Iterator[None]:
    """Hold the machine's bench lock. Raises Busy when somebody has it.

    Two at once would measure each other, and each would put back the congestion control that the other had set.
    """
    chosen = path or Path(tempfile.gettempdir()) / "jackalope-bench.lock"
    descriptor = os.open(chosen, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another bench runs on this machine ({chosen} is locked)") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Make SIGTERM (of `timeout`, say) unwind this process, so that its brokers are ended and settings put back.

    Forked load processes inherit the handler but own nothing of that: they end at once. Main thread only.
    """
    owner = os.getpid()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        signal.signal(number, signal.SIG_IGN)  # A second one must not interrupt the clean-up.
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def tcp_congestion(wanted: str = "reno") -> Iterator[str]:
    """Make `wanted` the default congestion control of new TCP sockets, and put the old one back afterwards.

    An accepted socket takes the system's default, so this is how both brokers are given the same one without touching
    either. Yields the default now in force, which is the old one where `wanted` is missing or the setting is read-only.
    """
    try:
        before = CONGESTION_DEFAULT.read_text().strip()
        available = CONGESTION_AVAILABLE.read_text().split()
    except FileNotFoundError:
        yield "unknown"
        return
    if wanted == before or wanted not in available:
        yield before
        return
    try:
        CONGESTION_DEFAULT.write_text(wanted)
    except OSError:
        yield before
        return
    try:
        yield wanted
    finally:
        CONGESTION_DEFAULT.write_text(before)
