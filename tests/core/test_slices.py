"""No step holds the loop: whatever is long is cut into slices of a few milliseconds of CPU."""

import time

from broker.core.broker import Broker
from broker.core.queue import Queue
from broker.core.scheduler import Scheduler

STEP_MS_MAX = 10.0


def cpu_ms(step):
    """Milliseconds of CPU that a step takes."""
    began = time.thread_time()
    step()
    return (time.thread_time() - began) * 1000


def worst_slice_ms(scheduler):
    """The longest slice until nothing is left."""
    worst = 0.0
    while scheduler.busy:
        worst = max(worst, cpu_ms(scheduler.run_slice))
    return worst


def test_purging_a_million_messages():
    """The purge answers at once, and the memory is given back in slices."""
    scheduler = Scheduler()
    queue = Queue("q", "/", scheduler)
    for start in range(0, 1_000_000, 10_000):
        queue.enqueue([(b"\x00", b"%d" % (start + index)) for index in range(10_000)])
    assert cpu_ms(lambda: queue.purge()) < STEP_MS_MAX
    assert queue.cursor.ready_count == 0
    assert worst_slice_ms(scheduler) < STEP_MS_MAX


def test_one_publish_to_a_thousand_queues():
    """Fan-out to 1,000 queues: the enqueues of one message stay under the bound."""
    broker = Broker(lambda n: 0)
    vhost = broker.add_vhost("/")
    for number in range(1000):
        queue = vhost.declare_queue(
            f"q{number}", durable=False, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
        )
        vhost.bind("amq.fanout", queue, "", {})

    def publish():
        for queue in vhost.queues.values():
            queue.enqueue([(b"\x00", b"body")])

    assert cpu_ms(publish) < STEP_MS_MAX
    assert sum(queue.cursor.ready_count for queue in vhost.queues.values()) == 1000
