"""The README's programs run as they stand, against a broker process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S

from tools.bench.control import running_jackalope

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# run: (\S+)\n(.*?)```", README, flags=re.DOTALL))


@pytest.fixture(scope="module")
def broker():
    """A broker with defaults, on ports of its own."""
    with running_jackalope(settings=("listeners.kafka=127.0.0.1:0",)) as started:
        yield started


def run(broker, name):
    """What one of the README's programs prints."""
    text = PROGRAMS[name].replace("127.0.0.1:5672", f"{broker.host}:{broker.port}")
    text = text.replace("127.0.0.1:9092", "{}:{}".format(*broker.addresses["kafka"]))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_five_programs():
    """Of four clients, one of them twice."""
    assert set(PROGRAMS) == {"pika", "pika-stream", "aio-pika", "kombu", "confluent-kafka"}


@pytest.mark.parametrize("name", ["pika", "pika-stream"])
def test_pika(broker, name):
    """The first program of the README, and the one with a topic."""
    assert run(broker, name) == f"Hello from {name}\n"


@pytest.mark.compat
@pytest.mark.parametrize("name", ["aio-pika", "kombu", "confluent-kafka"])
def test_the_others(broker, name):
    """The programs for clients that only the compat environment has."""
    assert run(broker, name) == f"Hello from {name}\n"
