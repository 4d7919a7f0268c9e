"""`jackalope bench backlog` fills, kills, drains and prints figures beside goals."""

import json
import subprocess
import sys

from waiting import HANG_S


def test_it_measures():
    """All of a small backlog, of queues and of partitions is there after the kill; each figure is positive."""
    sizes = ["--messages", "5000", "--queues", "50", "--partitions", "150"]
    command = [sys.executable, "-m", "tools.cli.main", "bench", "backlog", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows].count("ready after kill -9") == 2
    assert {"drained from disk", "resident", "first delivery", "ready after kill -9, partitions"} <= {
        row["name"] for row in rows
    }
    assert all(row["value"] > 0 for row in rows)
    assert all((row["met"] is None) == (row["limit"] is None) for row in rows)
