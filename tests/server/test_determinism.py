"""One seed gives the same octets in every process, whatever it hashes strings and objects to."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S

PROGRAM = Path(__file__).with_name("one_seed.py")
PROCESSES = 3


@functools.cache
def outcome(seed, hash_seed):
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(seed)], env=environment, capture_output=True, text=True, timeout=HANG_S,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_one_seed_gives_the_same_octets_in_every_process(seed):
    """AMQP's and Kafka's clients of one broker, and what it has written."""
    assert len({outcome(seed, hash_seed) for hash_seed in range(PROCESSES)}) == 1


def test_other_seeds_give_other_octets():
    """The hash sees what happens."""
    assert outcome(1, 0) != outcome(2, 0)
