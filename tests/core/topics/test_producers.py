"""Who is remembered of idempotent producers when many ids come, and for how long: a retry is stored once (KIP-98)."""

import pytest
from topic_world import World, batch

from broker.core.topics import producers
from broker.core.topics.producers import FORGOTTEN_AFTER_MS, PRODUCERS_MAX, KnownBatch, Producers
from protocol.kafka.records import HEADER_SIZE, parse_header, with_records

NOW_MS = 1_700_000_000_000
LIVING = 7


def sent(producer_id, sequence=0):
    """A batch of one record of a producer."""
    octets = batch(1, NOW_MS)
    header = parse_header(octets)._replace(producer_id=producer_id, producer_epoch=0, base_sequence=sequence)
    return with_records(header, octets[HEADER_SIZE:], 1, 0)


@pytest.mark.parametrize("peers", [1, 3])
@pytest.mark.parametrize("crashes", [False, True])
def test_invented_ids_push_nobody_out(peers, crashes):
    """10,001 and more ids of some connections: the retry of a producer that was there before gets its first answer,
    also when the broker was killed meanwhile."""
    with World() as world:
        partition = world.partition()
        assert partition.append(sent(LIVING), NOW_MS, owner=1).base_offset == 0
        for number in range(PRODUCERS_MAX + 500):
            partition.append(sent(1000 + number), NOW_MS + number, owner=2 + number % peers)
            if number % 1000 == 0:
                world.sync()
        world.sync()
        if crashes:
            partition = world.crash(partition)
        assert partition.append(sent(LIVING), NOW_MS, owner=1).base_offset == 0
        assert partition.append(sent(LIVING, 1), NOW_MS, owner=1).base_offset == PRODUCERS_MAX + 501
        assert len(partition.producers) <= PRODUCERS_MAX + producers.SAVED_EVERY


def test_who_brings_most_forgets_first(monkeypatch):
    """Of the connection with the most ids the one silent longest goes, whoever comes; a producer belongs to the
    connection that brought it last."""
    monkeypatch.setattr(producers, "PRODUCERS_MAX", 6)
    known = Producers()
    arrivals = [(1, 10), (2, 20), (2, 21), (2, 22), (3, 30), (3, 31), (2, 20), (4, 40), (4, 41), (5, 50)]
    for sequence, (owner, producer_id) in enumerate(arrivals):
        known.note(producer_id, 0, KnownBatch(sequence, sequence, sequence, -1), NOW_MS, owner)
    # 40 made 21 go, the oldest of 2's three, 41 made 22 go, and 50 made 30 go: the lone ones stay.
    assert {one.producer_id for one in known.all()} == {10, 20, 31, 40, 41, 50}
    known.note(41, 0, KnownBatch(20, 20, 20, -1), NOW_MS, 3)
    known.note(51, 0, KnownBatch(21, 21, 21, -1), NOW_MS, 5)
    assert {one.producer_id for one in known.all()} == {10, 20, 40, 41, 50, 51}, "41 made 3 the greediest"


def test_who_is_silent_for_a_day_is_forgotten():
    """Kafka: producer.id.expiration.ms. A restart begins the time anew: what a record says of its time is not when it
    was sent."""
    with World() as world:
        partition = world.partition()
        partition.append(sent(1), NOW_MS, owner=1)
        partition.append(sent(2), NOW_MS + FORGOTTEN_AFTER_MS, owner=1)
        partition.producers.expire(NOW_MS + FORGOTTEN_AFTER_MS)
        assert len(partition.producers) == 2
        partition.producers.expire(NOW_MS + FORGOTTEN_AFTER_MS + 1)
        assert [one.producer_id for one in partition.producers.all()] == [2]
        world.sync()
        partition = world.crash(partition)
        partition.know_producers()
        later_ms = NOW_MS + 10 * FORGOTTEN_AFTER_MS
        partition.producers.expire(later_ms)
        assert len(partition.producers) == 2, "the log has both"
        partition.producers.expire(later_ms + FORGOTTEN_AFTER_MS + 1)
        assert len(partition.producers) == 0
