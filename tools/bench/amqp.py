"""Alternate two AMQP brokers through scenarios: A, B, A, B, ... on one machine, with one congestion control.

Owns: starting or reaching the brokers, the order of the runs, and what becomes of a run that fails. Emits records
(dicts, one per JSON line) as it goes and returns the rows.
"""

import contextlib
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tools.bench.control import HOST, Broker, BrokerStartError, TlsFiles, running_jackalope, running_rabbitmq
from tools.bench.frames import StreamError
from tools.bench.measure import RunFailed, Sample, Unavailable, run_once
from tools.bench.processes import tcp_congestion
from tools.bench.report import Row, row_of, sample_json
from tools.bench.scenarios import SCENARIOS, STARTUP
from tools.bench.startup import measure_startup, memory_of

Emit = Callable[[dict[str, Any]], None]
CONGESTION = "reno"


@dataclass(frozen=True, slots=True)
class Options:
    """What to compare. `broker` and `peer` are "jackalope", "rabbitmq" or an AMQP URL; `peer` may be "none".

    `pids` are the main process ids of brokers given as URLs, for their CPU. `serve_arguments` go to `jackalope serve`.
    """

    scenarios: tuple[str, ...]
    broker: str = "jackalope"
    peer: str = "rabbitmq"
    rounds: int = 5
    seconds: float = 3.0
    starts: int = 10
    broker_pid: int | None = None
    peer_pid: int | None = None
    serve_arguments: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """The rows that were measured, the scenarios that were not (with the reason), and the start-up goals."""

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    startup: dict[str, Any] | None = None

    @property
    def goals_met(self) -> bool:
        """Whether every goal that was compared is met and nothing failed."""
        found = [met for row in self.rows for met in row.verdicts.values()]
        found += list(self.startup["met"].values()) if self.startup is not None else []
        return not self.failed and all(found)


def parse_url(url: str, pid: int | None = None) -> Broker:
    """amqp://user:password@host:port/vhost -> Broker. Raises ValueError for another scheme or port."""
    parts = urlsplit(url)
    if parts.scheme != "amqp" or not parts.hostname:
        raise ValueError(f"not an AMQP URL: {url}")
    vhost = unquote(parts.path[1:]) if len(parts.path) > 1 else "/"
    return Broker(
        name=f"{parts.hostname}:{parts.port or 5672}", host=parts.hostname, port=parts.port or 5672, root_pid=pid,
        user=unquote(parts.username or "guest"), password=unquote(parts.password or "guest"), vhost=vhost,
    )  # fmt: skip


def make_certificates(directory: Path) -> TlsFiles:
    """A throw-away authority and a server certificate for 127.0.0.1. Raises Unavailable without trustme."""
    try:
        import trustme  # A test requirement, and wanted for one scenario only.
    except ImportError as error:
        raise Unavailable("trustme is not installed") from error
    authority = trustme.CA()
    server = authority.issue_cert(HOST, "localhost")
    files = TlsFiles(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    authority.cert_pem.write_to_path(files.ca_file)
    server.private_key_pem.write_to_path(files.key_file)
    for index, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(files.cert_file, append=index > 0)
    return files


def jackalope_tls_settings(files: TlsFiles) -> list[str]:
    """The `--set` values of a TLS listener."""
    return [f"listeners.amqps={HOST}:0", f"tls.cert={files.cert_file}", f"tls.key={files.key_file}"]


def starter(
    which: str, pid: int | None, tls: TlsFiles | None, serve_arguments: Sequence[str]
) -> Callable[[], AbstractContextManager[Broker]]:
    """How to get at a broker by its option: a context manager that starts it, or merely names it."""
    if which == "jackalope":
        settings = jackalope_tls_settings(tls) if tls is not None else []
        return partial(running_jackalope, *serve_arguments, settings=settings)
    if which == "rabbitmq":
        return partial(running_rabbitmq, tls=tls)
    return partial(_reached, which, pid)


@contextlib.contextmanager
def _reached(url: str, pid: int | None) -> Iterator[Broker]:
    """A broker that somebody else started."""
    yield parse_url(url, pid)


def allow_many_sockets() -> int:
    """Raise the soft limit of open files to the hard one, for the brokers started here too. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def _brokers(options: Options, tls: TlsFiles | None) -> Iterator[list[Broker]]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(starter(options.broker, options.broker_pid, tls, options.serve_arguments)())]
        if options.peer != "none":
            found.append(stack.enter_context(starter(options.peer, options.peer_pid, tls, options.serve_arguments)()))
        yield found


def compare(options: Options, emit: Emit, note: Callable[[str], None]) -> Outcome:
    """Run the scenarios and emit a record per run and per scenario; `note` gets progress in words.

    A scenario that fails is recorded and the next one goes on. Raises BrokerStartError when a broker does not start.
    """
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="jackalope-bench-") as directory, tcp_congestion(CONGESTION) as congestion:
        emit({"type": "setup", "congestion": congestion, "open_files": allow_many_sockets(), "rounds": options.rounds,
              "seconds": options.seconds})  # fmt: skip
        loads = [name for name in options.scenarios if name != STARTUP]
        if STARTUP in options.scenarios:
            _startup(options, outcome, emit, note)
        if not loads:
            return outcome
        tls = _certificates_if_wanted(loads, Path(directory), note)
        with _brokers(options, tls) as brokers:
            for name in loads:
                _scenario(name, brokers, options, str(tls.ca_file) if tls else "", congestion, outcome, emit, note)
    return outcome


def _certificates_if_wanted(loads: Sequence[str], directory: Path, note: Callable[[str], None]) -> TlsFiles | None:
    if not any(SCENARIOS[name].tls for name in loads):
        return None
    try:
        return make_certificates(directory)
    except Unavailable as error:
        note(f"no TLS listeners: {error}")
        return None


def _scenario(name: str, brokers: list[Broker], options: Options, ca_file: str, congestion: str, outcome: Outcome,
              emit: Emit, note: Callable[[str], None]) -> None:  # fmt: skip
    samples: list[list[Sample]] = [[] for _ in brokers]
    setting = congestion if congestion != "unknown" else ""
    try:
        for number in range(1, options.rounds + 1):
            for broker, taken in zip(brokers, samples, strict=True):
                note(f"{name}: round {number} of {options.rounds}, {broker.name}")
                taken.append(run_once(broker, SCENARIOS[name], seconds=options.seconds, ca_file=ca_file,
                                      congestion=setting))  # fmt: skip
                emit(sample_json(taken[-1], number))
    except (RunFailed, Unavailable, StreamError, OSError) as error:
        outcome.failed[name] = f"{type(error).__name__}: {error}"
        emit({"type": "failed", "scenario": name, "reason": outcome.failed[name]})
        return
    row = row_of(SCENARIOS[name], samples[0], samples[1] if len(samples) > 1 else [])
    outcome.rows.append(row)
    emit(row.as_json())


def _startup(options: Options, outcome: Outcome, emit: Emit, note: Callable[[str], None]) -> None:
    if options.broker != "jackalope":
        outcome.failed[STARTUP] = "start-up is measured of a broker that is started here: --broker jackalope"
        emit({"type": "failed", "scenario": STARTUP, "reason": outcome.failed[STARTUP]})
        return
    note(f"startup: {options.starts} starts")
    try:
        outcome.startup = measure_startup(starter("jackalope", None, None, options.serve_arguments), options.starts)
        if options.peer == "rabbitmq":
            note("startup: one start of the control")
            with running_rabbitmq() as control:
                start_s = round(control.start_s or 0.0, 3)
                outcome.startup["peer"] = {"name": control.name, "start_s": start_s, **memory_of(control)}
    except (BrokerStartError, StreamError, OSError) as error:
        outcome.failed[STARTUP] = f"{type(error).__name__}: {error}"
        emit({"type": "failed", "scenario": STARTUP, "reason": outcome.failed[STARTUP]})
        return
    emit(outcome.startup)
