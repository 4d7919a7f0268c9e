"""Brokers under test: start a private RabbitMQ (Debian's rabbitmq-server) or a Jackalope, and end it again.

Owns: their temporary directories, ports, configuration files and processes. Every listener is on 127.0.0.1.
Must not know: scenarios, frames. Both context managers yield a `Broker`; `Control` adds what RabbitMQ's tools offer.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tools.bench.processes import descendants, end_all, free_port

HOST = "127.0.0.1"
RABBITMQ_BIN = Path("/usr/lib/rabbitmq/bin")
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
READY_LINE_BYTES_MAX = 4096
REPOSITORY = Path(__file__).resolve().parents[2]


class BrokerStartError(RuntimeError):
    """The broker did not come up; the message ends with the tail of what it printed."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files for a TLS listener. With `verify_peer` a client certificate of `ca_file` is demanded."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    verify_peer: bool = False


@dataclass(slots=True)
class Broker:
    """A broker that answers on host:port: AMQP, or Kafka's protocol where it speaks nothing else.

    `addresses` has its listeners by name. `tls_port` and `http_port` are None where not asked for.
    `start_s` is the time from exec to the ready line (or, for RabbitMQ, to an answer), None for one that was running.
    """

    name: str
    host: str
    port: int
    root_pid: int | None = None
    tls_port: int | None = None
    http_port: int | None = None
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    directory: Path | None = None
    start_s: float | None = None
    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """An AMQP URL; the vhost is percent-encoded."""
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{credentials}@{self.host}:{self.port}/{quote(self.vhost, safe='')}"

    def pids(self) -> list[int]:
        """The broker's processes, or an empty list for a broker that somebody else started."""
        return [] if self.root_pid is None else descendants(self.root_pid)


@dataclass(slots=True)
class Control(Broker):
    """A private RabbitMQ. `node` and `environment` are what its command-line tools need to find it."""

    node: str = ""
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    def rabbitmqctl(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Run rabbitmqctl against this node and return its stdout. Raises CalledProcessError (with output) on failure.

        Each call starts an Erlang VM (1-2 s): for many objects hand `definitions` to `running_rabbitmq` instead.
        """
        done = subprocess.run(
            [str(RABBITMQ_BIN / "rabbitmqctl"), "-q", "-n", self.node, *arguments],
            env=self.environment, cwd=self.directory, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=True,
        )  # fmt: skip
        return done.stdout

    def add_vhost(self, vhost: str, user: str = "guest") -> None:
        """Create a vhost in which `user` may do everything."""
        self.rabbitmqctl("add_vhost", vhost)
        self.set_permissions(user, vhost)

    def delete_vhost(self, vhost: str) -> None:
        """Delete a vhost and all it holds."""
        self.rabbitmqctl("delete_vhost", vhost)

    def add_user(self, user: str, password: str, *tags: str) -> None:
        """Create a user, with tags such as `administrator`. It has no permissions yet."""
        self.rabbitmqctl("add_user", user, password)
        if tags:
            self.rabbitmqctl("set_user_tags", user, *tags)

    def set_permissions(
        self, user: str, vhost: str = "/", configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Grant the three patterns (regular expressions) to `user` in `vhost`."""
        self.rabbitmqctl("set_permissions", "-p", vhost, user, configure, write, read)

    def set_topic_permissions(self, user: str, vhost: str, exchange: str, write: str, read: str) -> None:
        """Restrict the routing keys of `user` on one topic exchange."""
        self.rabbitmqctl("set_topic_permissions", "-p", vhost, user, exchange, write, read)


def rabbitmq_missing() -> str | None:
    """Why a private RabbitMQ cannot run here, or None when it can."""
    for path in (RABBITMQ_BIN / "rabbitmq-server", RABBITMQ_BIN / "rabbitmqctl"):
        if not path.exists():
            return f"{path} is missing (Debian: apt-get install rabbitmq-server)"
    for tool in ("erl", "epmd"):
        if shutil.which(tool) is None:
            return f"{tool} is not on the path"
    return None


def speaks_amqp(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether connection.start answers the protocol header there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
    except OSError:
        return False


def tail(path: Path, bytes_max: int = 2000) -> str:
    """The end of a log file, for a message that says why a broker did not come up; empty when there is none."""
    return path.read_bytes()[-bytes_max:].decode(errors="replace") if path.exists() else ""


def _wait_amqp(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise BrokerStartError(f"the broker ended with status {process.returncode} at start:\n{tail(log)}")
        if speaks_amqp(HOST, port):
            return
        time.sleep(0.1)
    raise BrokerStartError(f"no AMQP on port {port} after {START_TIMEOUT_S:.0f} s:\n{tail(log)}")


def _rabbitmq_config(port: int, http_port: int | None, tls_port: int | None, tls: TlsFiles | None, base: Path,
                     definitions: Mapping[str, Any] | None, settings: Sequence[str]) -> str:  # fmt: skip
    lines = [f"listeners.tcp.1 = {HOST}:{port}", *settings]
    if http_port is not None:
        lines += [f"management.tcp.ip = {HOST}", f"management.tcp.port = {http_port}"]
    if tls is not None:
        lines += [
            f"listeners.ssl.1 = {HOST}:{tls_port}",
            f"ssl_options.cacertfile = {tls.ca_file}",
            f"ssl_options.certfile = {tls.cert_file}",
            f"ssl_options.keyfile = {tls.key_file}",
            f"ssl_options.verify = {'verify_peer' if tls.verify_peer else 'verify_none'}",
            f"ssl_options.fail_if_no_peer_cert = {'true' if tls.verify_peer else 'false'}",
        ]
    if definitions is not None:
        (base / "definitions.json").write_text(json.dumps(definitions))
        lines.append(f"load_definitions = {base / 'definitions.json'}")
    return "\n".join(lines) + "\n"


def _rabbitmq_environment(base: Path, node: str, epmd_port: int, dist_port: int) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "LANG": "C.UTF-8",
        "HOME": str(base),  # The Erlang cookie lives here, so that no other node can join.
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_CONF_ENV_FILE": str(base / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
        "RABBITMQ_LOG_BASE": str(base / "log"),
        "RABBITMQ_PID_FILE": str(base / "rabbitmq.pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
    }


@contextlib.contextmanager
def running_rabbitmq(
    *, plugins: Sequence[str] = (), http: bool = False, tls: TlsFiles | None = None,
    definitions: Mapping[str, Any] | None = None, settings: Sequence[str] = (),
) -> Iterator[Control]:  # fmt: skip
    """A private rabbitmq-server with its own node name, ports, EPMD and directory, on 127.0.0.1 only.

    `plugins` are plugin names; `http` adds the management plugin; `definitions` is the document of a definitions file
    (RabbitMQ then creates no guest and no vhost by itself: have them in it);
    `settings` are further lines of rabbitmq.conf. Everything else is the package's default. Takes 4-10 s to start.
    Raises BrokerStartError.
    """
    if (reason := rabbitmq_missing()) is not None:
        raise BrokerStartError(reason)
    base = Path(tempfile.mkdtemp(prefix="jackalope-control-"))
    port, dist_port, epmd_port = free_port(), free_port(), free_port()
    http_port = free_port() if http else None
    tls_port = free_port() if tls is not None else None
    node = f"control-{secrets.token_hex(4)}@localhost"
    environment = _rabbitmq_environment(base, node, epmd_port, dist_port)
    for name in ("mnesia", "log"):
        (base / name).mkdir()
    names = sorted({*plugins, *(("rabbitmq_management",) if http else ())})
    (base / "enabled_plugins").write_text(f"[{','.join(names)}].\n")
    config = _rabbitmq_config(port, http_port, tls_port, tls, base, definitions, settings)
    (base / "rabbitmq.conf").write_text(config)
    log = base / "console.log"
    # EPMD runs as our own child in the foreground: a daemon that Erlang starts would outlive us.
    epmd = subprocess.Popen(
        ["epmd", "-port", str(epmd_port), "-address", HOST], env=environment, cwd=base, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    server: subprocess.Popen[bytes] | None = None
    started_s = time.monotonic()
    try:
        with log.open("wb") as output:
            server = subprocess.Popen(
                [str(RABBITMQ_BIN / "rabbitmq-server")], env=environment, cwd=base, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _wait_amqp(server, port, log)
        yield Control(
            name="rabbitmq", host=HOST, port=port, root_pid=server.pid, tls_port=tls_port, http_port=http_port,
            directory=base, node=node, environment=environment, start_s=time.monotonic() - started_s,
        )  # fmt: skip
    finally:
        if server is not None:
            stop(server)
        stop(epmd)
        shutil.rmtree(base, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, wait, then end whatever is left of the processes it had started."""
    family = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            family += [pid for pid in descendants(process.pid) if pid not in family]
            process.kill()
            process.wait(timeout=STOP_TIMEOUT_S)
    end_all(pid for pid in family if pid != process.pid)


def parse_ready_line(line: str) -> dict[str, tuple[str, int]]:
    """`ready amqp=HOST:PORT http=[::1]:PORT ...` -> {"amqp": (host, port), ...}; words of another shape are skipped.

    Raises ValueError when the line does not begin with `ready`.
    """
    words = line.split()
    if not words or words[0] != "ready":
        raise ValueError(f"not a ready line: {line!r}")
    addresses = {}
    for word in words[1:]:
        name, _, address = word.partition("=")
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            addresses[name] = (host.strip("[]"), int(port))
    return addresses


def read_ready_line(process: subprocess.Popen[bytes], timeout_s: float, log: Path) -> dict[str, tuple[str, int]]:
    """Wait for the ready line on the process's stdout. Raises BrokerStartError when it ends, stalls or says else."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline_s = time.monotonic() + timeout_s
    text = b""
    while b"\n" not in text and len(text) < READY_LINE_BYTES_MAX:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0 or not select.select([descriptor], [], [], remaining_s)[0]:
            raise BrokerStartError(f"no ready line after {timeout_s:.0f} s:\n{tail(log)}")
        chunk = os.read(descriptor, READY_LINE_BYTES_MAX)
        if not chunk:
            raise BrokerStartError(f"jackalope ended before its ready line:\n{tail(log)}")
        text += chunk
    try:
        return parse_ready_line(text.partition(b"\n")[0].decode(errors="replace"))
    except ValueError as error:
        raise BrokerStartError(str(error)) from None


@contextlib.contextmanager
def running_jackalope(
    *arguments: str, command: Sequence[str] | None = None, settings: Sequence[str] = (), http: bool = True,
    python: str = sys.executable, directory: Path | None = None,
) -> Iterator[Broker]:  # fmt: skip
    """A Jackalope on free ports of 127.0.0.1, from this checkout unless `command` says how to start one.

    `arguments` follow `serve` (such as "-c", FILE); `settings` are `--set` values ("listeners.amqps=127.0.0.1:0").
    `addresses` of the result has every listener of the ready line. Raises BrokerStartError.
    """
    base = Path(tempfile.mkdtemp(prefix="jackalope-bench-")) if directory is None else directory
    log = base / "stderr.log"
    values = [
        f"listeners.amqp={HOST}:0", f"listeners.http={f'{HOST}:0' if http else 'off'}", "listeners.kafka=off", *settings
    ]  # fmt: skip
    argv = [*(command or (python, "-m", "tools.cli.main", "serve")), "--data", str(base / "data")]
    argv += [word for value in values for word in ("--set", value)] + list(arguments)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    started_s = time.monotonic()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            argv, cwd=base, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    try:
        addresses = read_ready_line(process, START_TIMEOUT_S, log)
        start_s = time.monotonic() - started_s
        if "amqp" not in addresses:
            raise BrokerStartError(f"the ready line names no AMQP listener: {addresses}")
        host, port = addresses["amqp"]
        yield Broker(
            name="jackalope", host=host, port=port, root_pid=process.pid, directory=base, start_s=start_s,
            addresses=addresses,
            tls_port=addresses["amqps"][1] if "amqps" in addresses else None,
            http_port=addresses["http"][1] if "http" in addresses else None,
        )  # fmt: skip
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()
        if directory is None:
            shutil.rmtree(base, ignore_errors=True)
