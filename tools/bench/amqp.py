"""Alternate two AMQP brokers through scenarios: A, B, A, B, ... on one machine, with one congestion control.

Owns: starting or reaching the brokers and what the scenarios need of them. `alternate` has the order of the runs.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tools.bench.alternate import CONGESTION, Cast, Emit, Note, Outcome, allow_many_sockets, alternate
from tools.bench.control import HOST, Broker, BrokerStartError, TlsFiles, running_jackalope, running_rabbitmq
from tools.bench.frames import StreamError
from tools.bench.measure import run_once
from tools.bench.processes import tcp_congestion
from tools.bench.scenarios import SCENARIOS, STARTUP
from tools.bench.startup import measure_startup, memory_of
from tools.bench.window import Unavailable


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


@contextlib.contextmanager
def _brokers(options: Options, tls: TlsFiles | None) -> Iterator[Cast]:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(starter(options.broker, options.broker_pid, tls, options.serve_arguments)())
        theirs = None
        if options.peer != "none":
            theirs = stack.enter_context(starter(options.peer, options.peer_pid, tls, options.serve_arguments)())
        yield Cast(ours, theirs)


def compare(options: Options, emit: Emit, note: Note) -> Outcome:
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
        with _brokers(options, tls) as cast:
            for name in loads:
                run = partial(run_once, scenario=SCENARIOS[name], seconds=options.seconds,
                              ca_file=str(tls.ca_file) if tls else "",
                              congestion=congestion if congestion != "unknown" else "")  # fmt: skip
                alternate(SCENARIOS[name], cast, options.rounds, run, outcome, emit, note)
    return outcome


def _certificates_if_wanted(loads: Sequence[str], directory: Path, note: Note) -> TlsFiles | None:
    if not any(SCENARIOS[name].tls for name in loads):
        return None
    try:
        return make_certificates(directory)
    except Unavailable as error:
        note(f"no TLS listeners: {error}")
        return None


def _startup(options: Options, outcome: Outcome, emit: Emit, note: Note) -> None:
    if options.broker != "jackalope":
        outcome.fail(STARTUP, "start-up is measured of a broker that is started here: --broker jackalope", emit)
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
        outcome.fail(STARTUP, f"{type(error).__name__}: {error}", emit)
        return
    emit(outcome.startup)
