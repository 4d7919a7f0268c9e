"""No step holds the loop: whatever is long is cut into slices of a few milliseconds."""

from steps import assert_short_steps

from broker.core.broker import Broker
from broker.core.queues.queue import Queue
from broker.core.scheduler import Scheduler


def test_purging_a_million_messages():
    """The purge answers at once, and the memory is given back in slices."""

    def scenario(counter):
        scheduler = Scheduler()
        queue = Queue("q", "/", scheduler)
        for start in range(0, 1_000_000, 10_000):
            queue.enqueue([(b"\x00", b"%d" % (start + index)) for index in range(10_000)])
        counter.run(queue.purge)
        assert queue.ready_count == 0
        counter.run_while_busy(scheduler)

    assert_short_steps(scenario)


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

    assert_short_steps(lambda counter: counter.run(publish))
    assert min(queue.ready_count for queue in vhost.queues.values()) >= 1
