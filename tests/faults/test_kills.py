"""SIGKILL at a random moment under confirmed load, again and again on one data directory."""

import os
import random
import signal
import time

import pytest
from waiting import wait_until

from tests.faults.history import check, summary
from tests.faults.load import HASTY, SHORT, Load, declare
from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

ROUNDS = 5 if SHORT else 50
SEED = int(os.environ.get("JACKALOPE_SEED", "1"))


def checkpoints_in(directory):
    """How many there have been."""
    numbers = [path.name.partition("-")[2] for path in (directory / "data").glob("checkpoint-*")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)  # Others are still being written.


def test_kills_lose_nothing_confirmed(tmp_path):
    """Nothing confirmed is lost, nothing comes twice unmarked, order holds; each second broker checkpoints a lot."""
    chance = random.Random(SEED)
    load = Load(SEED)
    began_s = time.monotonic()
    with running_jackalope(directory=tmp_path, http=False) as broker:
        declare(broker)
    rounds_with_load = 0
    for number in range(ROUNDS):
        with running_jackalope(directory=tmp_path, http=False, command=HASTY if number % 2 else None) as broker:
            load.start(broker)
            if number % 5 != 4:  # Those may die before anybody has said anything.
                load.wait_confirmed(chance.randrange(1, 2000))
                load.wait_surely_acked(130 * (number + 1))
            if number % 2:
                before = checkpoints_in(tmp_path)
                wait_until(lambda before=before: checkpoints_in(tmp_path) > before)
            time.sleep(chance.uniform(0, 0.05))  # Not always at the same step.
            os.kill(broker.root_pid, signal.SIGKILL)
            load.join()
        rounds_with_load += load.confirmed_count > 0
    with running_jackalope(directory=tmp_path, http=False) as broker:
        load.drain(broker)
    found = check(load.history)
    checkpoints = checkpoints_in(tmp_path)
    print(
        f"seed {SEED}: {ROUNDS} kills in {time.monotonic() - began_s:.0f} s, {rounds_with_load} with confirms before, "
        f"{checkpoints} checkpoints; {load.history.outcomes()}, {len(load.history.deliveries)} deliveries, "
        f"{load.history.surely_acked_count()} acks surely durable"
    )
    assert not found, summary(found)
    assert rounds_with_load >= ROUNDS * 0.8
    assert checkpoints >= ROUNDS / 5
    assert load.history.surely_acked_count() > 100 * ROUNDS
