"""The Celery application of test_celery.py: run by its worker and by its client, configured by the environment."""

import os
import time
from pathlib import Path

from celery import Celery, Task

app = Celery("compat_tasks", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=3600,
    result_chord_retry_interval=0.2,
    task_default_queue="compat",
    worker_prefetch_multiplier=2,
)


@app.task
def add(x: int, y: int) -> int:
    """A sum."""
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    """The body of the chord."""
    return sum(numbers)


@app.task
def now_s() -> float:
    """When it ran."""
    return time.time()


@app.task
def fails() -> None:
    """An error that the caller sees."""
    raise ValueError("as intended")


@app.task(bind=True, max_retries=5)
def third_time_lucky(self: Task) -> int:
    """Fails twice, each time asking for a retry after 0.2 s; returns how often it was retried."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.2, exc=RuntimeError("not yet"))
    return int(self.request.retries)


@app.task(bind=True, acks_late=True)
def dies_the_first_time(self: Task, directory: str) -> bool:
    """Writes its worker's id and waits to be killed; whoever gets it again returns whether it came redelivered."""
    mark = Path(directory) / "pid"
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(24 * 3600)
    return bool(self.request.delivery_info["redelivered"])
