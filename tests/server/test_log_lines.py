"""What a peer can cause in a loop is a bounded number of lines, and none of the others is silent about it."""

import logging

import pytest
from kafka_world import KafkaWorld

from broker.server.amqp.connection import Connection
from broker.server.log_lines import AT_ONCE, WINDOW_S, LogLines

log = logging.getLogger("jackalope.test")


class Clock:
    """A clock that goes when it is told to."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


def texts(caplog):
    """What was logged."""
    return [record.getMessage() for record in caplog.records]


def test_a_loop_and_what_it_leaves_out(caplog):
    """So many lines a second; the first of the next has the count of those that are missing, each kind its own."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    lines = LogLines(clock)
    for number in range(AT_ONCE + 7):
        lines.info(log, "closed: %d", number)
    lines.warning(log, "login refused: %s", "a")
    assert texts(caplog) == [*(f"closed: {number}" for number in range(AT_ONCE)), "login refused: a"]
    caplog.clear()
    clock.now_s += WINDOW_S
    for number in range(2):
        lines.info(log, "closed: %d", number)
    assert texts(caplog) == ["closed: 0 (7 more since the last line like this)", "closed: 1"]
    clock.now_s += WINDOW_S
    lines.info(log, "closed: %d", 2)
    assert texts(caplog)[-1] == "closed: 2"


def test_a_bug_has_its_traceback_once_a_second(caplog):
    """A traceback is forty lines."""
    clock = Clock()
    lines = LogLines(clock)
    for _ in range(3):
        try:
            raise KeyError("x")
        except KeyError:
            lines.bug(log, "a bug")
    [record] = caplog.records
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, KeyError)


@pytest.mark.parametrize("cause", ["malformed", "timeout", "login"])
def test_who_is_turned_out_in_a_loop(caplog, cause):
    """Over either protocol, for whatever reason."""
    caplog.set_level(logging.INFO)
    world = KafkaWorld()
    clock = Clock()
    world.hub.log_lines = LogLines(clock)

    def turn_out():
        if cause == "malformed":
            world.client().machine.receive(bytes(8))
        elif cause == "timeout":
            world.kafka.turn_out(world.client().machine, "idle")
        else:
            connection = Connection(world.hub, world.settings, ("127.0.0.1", 1))
            world.hub.log_refused(connection, ValueError("no"))

    for _ in range(AT_ONCE + 30):
        turn_out()
    assert len(caplog.records) == AT_ONCE
    clock.now_s += WINDOW_S
    turn_out()
    assert texts(caplog)[-1].endswith(" (30 more since the last line like this)")
