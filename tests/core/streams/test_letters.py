"""Letters that were replayed: what goes with them out of their topic, and what does not."""

from types import SimpleNamespace

from kafka_wire import NOW_MS, batch
from topic_world import World

from broker.core.streams.letters import Letters


def test_what_producers_have_sent_is_known_when_all_of_it_was_replayed():
    """A producer that tries again after a kill is told where its batch stood, and it does not come twice."""
    with World() as world:
        partition = world.partition()

        def send(sequence):
            octets = batch([b"x" * 1000] * 10, producer_id=7, epoch=0, sequence=sequence)
            return partition.append(octets, NOW_MS).base_offset

        assert [send(sequence) for sequence in (0, 10, 20)] == [0, 10, 20]
        world.sync()
        letters = Letters(SimpleNamespace(name="dead", topic=world.topics.get(partition.topic_name)), None)
        assert letters.take_each(range(30)) == list(range(30))
        letters.settle(range(30))
        world.sync()
        world.checkpoint()
        partition = world.crash(partition)
        assert partition.start_offset == 30
        assert [send(sequence) for sequence in (20, 30)] == [20, 30]
