"""Calls the tasks and prints one JSON object of what came back. `python compat_client.py rpc|chord|late DIRECTORY`."""

import json
import os
import sys
import time

from celery import chord, group
from compat_tasks import add, app, dies_the_first_time, fails, now_s, third_time_lucky, total

WAIT_S = float(os.environ["HANG_S"])


def over_rpc() -> dict[str, object]:
    """Results over the rpc:// backend: a call, a group, an error, retries, an ETA, and a ping of the worker."""
    sent_s = time.time()
    later = now_s.apply_async(countdown=1.5)
    lucky = third_time_lucky.delay()
    several = group(add.s(number, number) for number in range(20)).apply_async()
    failed = fails.apply_async()
    error = failed.get(timeout=WAIT_S, propagate=False)
    return {
        "sum": add.delay(2, 3).get(timeout=WAIT_S),
        "group": several.get(timeout=WAIT_S),
        "error": f"{type(error).__name__}: {error}",
        "retries": lucky.get(timeout=WAIT_S),
        "waited_s": later.get(timeout=WAIT_S) - sent_s,
        "ping": [next(iter(reply.values())) for reply in app.control.ping(timeout=WAIT_S, limit=1)],
    }


def a_chord() -> dict[str, object]:
    """A header of ten tasks and a body; the file backend, because Celery's rpc:// backend has no chords."""
    return {"chord": chord(add.s(number, number) for number in range(10))(total.s()).get(timeout=WAIT_S)}


def main() -> None:
    """Run the scenario that the first argument names."""
    scenario, directory = sys.argv[1:3]
    if scenario == "rpc":
        answer = over_rpc()
    elif scenario == "chord":
        answer = a_chord()
    else:
        answer = {"redelivered": dies_the_first_time.delay(directory).get(timeout=WAIT_S)}
    json.dump(answer, sys.stdout)
    app.close()


main()
