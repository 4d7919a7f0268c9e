"""Fetch sessions (KIP-227) whose requests take several slices: what is counted of them, and how long a step is."""

import pytest
from kafka_world import made

from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.errors import TopicRefused
from broker.server.kafka import sessions as module
from broker.server.kafka.sessions import Sessions
from protocol.kafka.apis.fetch import FetchRequest
from protocol.kafka.errors import ErrorCode

USER = object()


def request(session_id, epoch, wanted=(), forgotten=()):
    """A fetch that adds and forgets partitions of one topic."""
    topic, leaves = made("Fetch", "topics"), made("Fetch", "forgotten_topics_data")
    partition = made("Fetch", "topics.partitions")
    return FetchRequest(
        session_id=session_id,
        session_epoch=epoch,
        topics=[topic(topic="t", partitions=[partition(partition=index) for index in wanted])],
        forgotten_topics_data=[leaves(topic="t", partitions=list(forgotten))],
    )


def finished(steps):
    """What a generator of steps returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def opened(sessions, count):
    """The id of a new session with so many partitions."""
    return finished(sessions.plan(request(0, 0, range(count)), USER)).session_id


@pytest.fixture
def small(monkeypatch):
    """Few partitions are many."""
    monkeypatch.setattr(module, "PARTITIONS_MAX", 100)
    monkeypatch.setattr(module, "UPDATED_AT_ONCE", 10)


def test_whoever_goes_in_the_middle_has_been_counted(small):
    """The partitions that were taken in by then are part of the session: they count, and are let go with it."""
    sessions = Sessions(1)
    mine, other = opened(sessions, 1), opened(sessions, 1)
    steps = sessions.plan(request(mine, 1, range(50)), USER)
    next(steps)
    next(steps)
    steps.close()
    finished(sessions.plan(request(other, 1, range(90)), USER))
    with pytest.raises(TopicRefused) as refused:  # Together they were too many.
        finished(sessions.plan(request(mine, 2), USER))
    assert refused.value.code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    finished(sessions.plan(request(other, 2, (), range(90)), USER))
    opened(sessions, 100)
    assert len(sessions) == 2  # All of the first's were let go with it: these have room.


def test_a_session_that_makes_room_in_the_middle(small):
    """What its request still brings counts for nothing."""
    sessions = Sessions(1)
    mine = opened(sessions, 1)
    steps = sessions.plan(request(mine, 1, range(60)), USER)
    next(steps)
    other = opened(sessions, 95)
    with pytest.raises(TopicRefused) as refused:
        finished(steps)
    assert refused.value.code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    opened(sessions, 5)
    assert len(sessions) == 2
    opened(sessions, 1)  # 101: the oldest goes.
    assert len(sessions) == 2
    with pytest.raises(TopicRefused):
        finished(sessions.plan(request(other, 1), USER))


def test_two_requests_of_one_session_at_once(small):
    """Each counts what it has brought, and nothing twice."""
    sessions = Sessions(1)
    mine = opened(sessions, 1)
    first = sessions.plan(request(mine, 1, range(40)), USER)
    next(first)
    second = sessions.plan(request(mine, 2, range(40, 80)), USER)
    next(second)
    finished(first)
    finished(second)
    opened(sessions, 20)
    assert len(sessions) == 2


def test_forgetting_very_many():
    """In slices, like taking them in."""
    sessions = Sessions(1)
    mine = opened(sessions, 10_000)
    steps = sessions.plan(request(mine, 1, (), range(10_000)), USER)
    assert [next(steps) for _ in range(10_000 // module.UPDATED_AT_ONCE)] == [SLICE_UNITS] * 10
    assert not finished(steps).partitions
