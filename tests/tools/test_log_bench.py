"""`jackalope bench log` prints figures beside budgets."""

import json
import subprocess
import sys

from waiting import HANG_S


def test_it_measures():
    """Each figure is a positive time; those with a budget say whether it is met."""
    command = [sys.executable, "-m", "tools.cli.main", "bench", "log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"message rendered in a run", "message read back", "message recovered", "checkpoint"} <= {
        row["name"] for row in rows
    }
    assert all(row["us"] > 0 for row in rows)
    assert all((row["met"] is None) == (row["budget_us"] is None) for row in rows)
