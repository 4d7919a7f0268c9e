"""^C in what moves messages one request after the other: the request under way ends, and it is said what was done."""

import os
import signal

import pytest
from click.testing import CliRunner

from tools.cli.dead_letters import dlq
from tools.cli.errors import ApiError

MOVED = 200


@pytest.fixture(autouse=True)
def handlers():
    """The command has its own; a process of its own would not need this."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Broker:
    """Answers to `dlq replay`; in the third request something happens."""

    def __init__(self, happens):
        self.happens = happens
        self.replays = 0

    def request(self, method, *_):
        if method == "GET":
            return {"messages_ready": 10_000}
        self.replays += 1
        if self.replays == 3:
            self.happens()
        return {"until": 10_000, "moved": MOVED, "next": self.replays * MOVED, "left": {}}


def gone():
    """The broker is."""
    raise ApiError("cannot connect to it", 6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(number):
    """What the third request has moved counts, and there is no fourth; 3 is partial."""
    broker = Broker(lambda: os.kill(os.getpid(), number))
    run = CliRunner().invoke(dlq, ["replay", "dead"], obj=broker)
    assert (run.exit_code, broker.replays) == (3, 3)
    assert f"replayed {3 * MOVED} of dead" in run.output


def test_a_signal_while_it_waits_for_its_rate():
    """It does not wait on."""
    broker = Broker(lambda: os.kill(os.getpid(), signal.SIGINT))
    broker.replays = 2
    run = CliRunner().invoke(dlq, ["replay", "dead", "--rate", "0.001"], obj=broker)
    assert (run.exit_code, broker.replays) == (3, 3)


def test_a_broker_that_goes_away():
    """What was moved before is said."""
    run = CliRunner().invoke(dlq, ["replay", "dead"], obj=Broker(gone))
    assert isinstance(run.exception, ApiError)
    assert f"replayed {2 * MOVED} of dead" in run.output
