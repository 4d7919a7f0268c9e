"""The cyclic collector, as `serve` sets it, holds nobody up: how many objects it looks at is bounded, not how long."""

import subprocess
import sys

from waiting import HANG_S

LOOKED_AT_MAX = 100_000
CODE = """
import gc
from broker.app import _Server
_Server._settle_memory()
looked = []
def note(phase, info):
    if phase == "start":
        looked.append((info["generation"], sum(len(gc.get_objects(g)) for g in range(info["generation"] + 1))))
gc.callbacks.append(note)
kept = [[] for _ in range(1_000_000)]
print(max(found for _, found in looked), sum(generation == 1 for generation, _ in looked),
      sum(generation == 2 for generation, _ in looked))
"""


def test_a_collection_is_short_however_much_there_is():
    """A million things are declared: the middle generation is looked at many times, and never at all of them."""
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=HANG_S)
    most, middle, full = map(int, found.stdout.split())
    assert most <= LOOKED_AT_MAX
    assert (middle >= 5, full) == (True, 0)
