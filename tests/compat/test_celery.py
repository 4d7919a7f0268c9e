"""A Celery application: worker and client in processes of their own, against three brokers.

Besides Jackalope under its own name and RabbitMQ there is a Jackalope that calls itself RabbitMQ 4.0.5
(`compat.product`, `compat.version`), because kombu and Celery choose some of their behaviour by that name.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat_brokers import Pool, Target, jackalope_pool
from waiting import HANG_S, wait_until

from tools.bench.control import TlsFiles
from tools.bench.processes import end_all

WORK = Path(__file__).resolve().parent / "celery_work"


@pytest.fixture(scope="session")
def jackalope_as_rabbitmq(tls_files: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A second Jackalope that presents itself as RabbitMQ 4.0.5."""
    settings = ("compat.product=RabbitMQ", "compat.version=4.0.5")
    with jackalope_pool(tls_files, tmp_path_factory.mktemp("jackalope-as-rabbitmq"), settings) as pool:
        yield pool


@pytest.fixture(params=["jackalope", "jackalope_as_rabbitmq", pytest.param("rabbitmq", marks=pytest.mark.control)])
def celery_broker(request: pytest.FixtureRequest) -> Target:
    """A fresh vhost of each of the three."""
    pool: Pool = request.getfixturevalue(request.param)
    return pool.fresh()


def _environment(broker: Target, backend: str) -> dict[str, str]:
    own = {"BROKER_URL": broker.url, "RESULT_BACKEND": backend, "HANG_S": str(HANG_S)}
    return {**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def worker(broker: Target, backend: str, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that has said it is ready. Ended with TERM, then with KILL."""
    arguments = ["--loglevel", "INFO", "--pool", "solo", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "compat_tasks", "worker", *arguments],
            env=_environment(broker, backend), cwd=WORK, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            return b" ready." in log.read_bytes()

        wait_until(is_ready, lambda: log.read_text(errors="replace")[-3000:])
        yield process
    finally:
        end_all([process.pid], grace_s=10)
        process.wait(HANG_S)


def client(broker: Target, backend: str, scenario: str, directory: Path) -> subprocess.Popen[str]:
    """The client process of one scenario."""
    return subprocess.Popen(
        [sys.executable, "compat_client.py", scenario, str(directory)],
        env=_environment(broker, backend), cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process: subprocess.Popen[str], log: Path) -> dict[str, object]:
    """What the client printed; its failure carries its stderr and the worker's log."""
    try:
        out, err = process.communicate(timeout=2 * HANG_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, f"{err[-3000:]}\nworker:\n{log.read_text(errors='replace')[-3000:]}"
    found: dict[str, object] = json.loads(out)
    return found


def test_calls_groups_retries_eta_over_rpc(celery_broker: Target, tmp_path: Path) -> None:
    """Results over the rpc:// backend; a retried task, an ETA task held by the worker, an error, a control ping."""
    log = tmp_path / "worker.log"
    with worker(celery_broker, "rpc://", log):
        found = answer(client(celery_broker, "rpc://", "rpc", tmp_path), log)
    waited_s = found.pop("waited_s")
    assert isinstance(waited_s, float)
    assert waited_s >= 1.5
    assert found == {
        "sum": 5,
        "group": [2 * number for number in range(20)],
        "error": "ValueError: as intended",
        "retries": 2,
        "ping": [{"ok": "pong"}],
    }


def test_chord(celery_broker: Target, tmp_path: Path) -> None:
    """A chord's body runs once its ten tasks are done. (Results in files: Celery's rpc:// backend has no chords.)"""
    log = tmp_path / "worker.log"
    results = tmp_path / "results"
    results.mkdir()
    backend = f"file://{results}"
    with worker(celery_broker, backend, log):
        assert answer(client(celery_broker, backend, "chord", tmp_path), log) == {"chord": 90}


def test_late_acked_task_survives_its_worker(celery_broker: Target, tmp_path: Path) -> None:
    """A worker killed in the middle of an acks_late task: the next worker gets the task, marked redelivered."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    quick = ("--without-mingle", "--without-gossip")
    with worker(celery_broker, "rpc://", first, *quick) as victim:
        calling = client(celery_broker, "rpc://", "late", tmp_path)
        mark = tmp_path / "pid"
        wait_until(lambda: mark.exists() and mark.read_text() == str(victim.pid), "the task has not begun")
        victim.kill()
        victim.wait(HANG_S)
    with worker(celery_broker, "rpc://", second, *quick):
        assert answer(calling, second) == {"redelivered": True}
