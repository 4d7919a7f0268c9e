"""`jackalope bench bystander` measures what somebody polite waits beside each input."""

import json
import subprocess
import sys

from waiting import HANG_S


def test_it_measures():
    """All inputs, some of them small: the bystander was served beside each; a row says whether the goal is met."""
    command = [sys.executable, "-m", "tools.cli.main", "bench", "bystander", "--scale", "0.002"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 10
    assert rows[0]["name"] == "nothing"
    assert all(row["rounds"] > 0 and row["worst_ms"] > 0 for row in rows)
    assert all(row["met"] == (max(row["making_ms"], row["worst_ms"]) <= row["limit"]) for row in rows)
