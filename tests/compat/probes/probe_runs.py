"""Runs the probe scripts against a broker, and holds their answers against recorded ones.

Owns: the scripts' processes, the folder of recorded answers, the list of intended differences.
Must not know: how a broker is started, what varies between runs (`normalise`).
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from normalise import Answer, normalise, parse
from waiting import HANG_S

HERE = Path(__file__).resolve().parent
READER, READER_PASSWORD = "bunny_reader", "reader_password"  # Named in the recorded answers.
TARGET = "rabbitmq-4.0.5"
# The script timed out against 4.0.5 when the answers were recorded.
RECORDED_OF = {"headers_qos_streams": "rabbitmq-3.10.8"}
# These two push 128 MiB bodies: the short waits of the others would not survive their company.
HEAVY = ("headers_qos_streams", "publish_consume_edges")
SCRIPTS = tuple(sorted(path.stem for path in (HERE / "questions").glob("*.py") if path.stem != "wire"))

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer of ours that is meant to differ. `answer` is literal; exactly one of it and `pattern` is given."""

    script: str
    question: str
    occurrence: int
    reason: str
    answer: str | None
    pattern: str | None

    def allows(self, answer: Answer) -> bool:
        """Whether this is the answer that the entry describes."""
        if self.pattern is None:
            return answer.text == self.answer
        return re.fullmatch(self.pattern, answer.text) is not None


def recorded(script: str, version: str) -> dict[Key, Answer]:
    """The recorded answers of one script. `permissions` was recorded in a vhost of its own, the others in `/`."""
    text = (HERE / "recorded" / version / f"{script}.txt").read_text()
    vhost = "bunny_testbed" if script == "permissions" else "/"
    return {key: normalise(key[0], answer, vhost) for key, answer in parse(text).items()}


def recorded_versions() -> list[str]:
    """Folders of recorded answers, such as `rabbitmq-4.0.5`."""
    return sorted(path.name for path in (HERE / "recorded").iterdir())


def differences() -> list[Difference]:
    """The intended differences, in the order of the file. A key that is missing or unknown raises."""
    entries = yaml.safe_load((HERE / "differences.yaml").read_text())
    found = []
    for entry in entries:
        known = {"script", "question", "occurrence", "reason", "answer", "pattern"}
        if unknown := set(entry) - known:
            raise ValueError(f"unknown keys {sorted(unknown)} in {entry}")
        optional = (entry.get(key) for key in ("answer", "pattern"))
        occurrence = entry.get("occurrence", 1)
        found.append(Difference(entry["script"], entry["question"], occurrence, entry["reason"], *optional))
    return found


def _start(script: str, host: str, port: int, vhost: str, patience: float, directory: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "AMQP_HOST": host, "AMQP_PORT": str(port), "AMQP_VHOST": vhost}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["PROBE_PATIENCE"] = str(patience)
    with (directory / f"{script}.out").open("wb") as out, (directory / f"{script}.err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "questions" / f"{script}.py")],
            env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        )  # fmt: skip


def run_probes(
    host: str, port: int, vhosts: dict[str, str], patience: float = 1.0
) -> tuple[dict[str, dict[Key, Answer]], dict[str, str]]:
    """Run each script of `vhosts` in its vhost: the light ones side by side, then the heavy ones.

    They wait `patience` times as long as usual before they take silence for an answer.

    Returns the answers by script, and by script what it wrote to stderr if it did not end with status 0 in time.
    """
    answers: dict[str, dict[Key, Answer]] = {}
    failures: dict[str, str] = {}
    light = [script for script in vhosts if script not in HEAVY]
    heavy = [script for script in vhosts if script in HEAVY]
    with tempfile.TemporaryDirectory(prefix="jackalope-probes-") as name:
        directory = Path(name)
        for wave in (light, heavy):
            running = {script: _start(script, host, port, vhosts[script], patience, directory) for script in wave}
            for script, process in running.items():
                try:
                    status = process.wait(2 * HANG_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    status = -9
                if status != 0:
                    errors = (directory / f"{script}.err").read_text(errors="replace")[-2000:]
                    failures[script] = f"status {status}: {errors}"
                output = (directory / f"{script}.out").read_text(errors="replace")
                answers[script] = {
                    key: normalise(key[0], answer, vhosts[script]) for key, answer in parse(output).items()
                }
    return answers, failures
