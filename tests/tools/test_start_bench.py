"""`jackalope bench start` measures a start beside the import of the broker's libraries."""

import json
import subprocess
import sys

from waiting import HANG_S


def test_it_measures():
    """One pair: both took time, the broker memory, and the row says whether the goals are met."""
    command = [sys.executable, "-m", "tools.cli.main", "bench", "start", "--pairs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    row = json.loads(done.stdout)
    assert row["cpu_ratio_min"] == row["cpu_ratio"] == row["cpu_ratio_max"] > 0
    assert row["start_s"] > 0 < row["libraries_start_s"]
    assert 10 < row["proportional_mb"] <= row["resident_mb"]
    assert row["met"] == {"cpu_ratio": row["cpu_ratio"] <= 1.4, "resident": row["resident_mb"] <= 40}
