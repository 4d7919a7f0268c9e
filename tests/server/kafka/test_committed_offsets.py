"""Committed offsets, asked for while the disk has not got them yet, without a socket."""

from kafka_world import KafkaWorld, made


def commit(client, offset):
    """An OffsetCommit of a group without members, on its way."""
    topic, partition = made("OffsetCommit", "topics"), made("OffsetCommit", "topics.partitions")
    one = partition(partition_index=0, committed_offset=offset, committed_metadata="")
    client.machine.receive(
        client.frame("OffsetCommit", 8, group_id="g", generation_id_or_member_epoch=-1,
                     topics=[topic(name="t", partitions=[one])])
    )  # fmt: skip


def fetches(client):
    """OffsetFetch as versions before and since KIP-709 ask, on their way."""
    topic, group = made("OffsetFetch", "topics"), made("OffsetFetch", "groups")
    client.machine.receive(
        client.frame("OffsetFetch", 7, group_id="g", topics=[topic(name="t", partition_indexes=[0])])
        + client.frame("OffsetFetch", 8, groups=[group(group_id="g", topics=None)])
    )


def run_without_the_disk(world):
    """All that can be done while no sync comes back."""
    for _ in range(20):
        world.broker.scheduler.run_slice()
        world.hub.end_turn()


def shown(client):
    """The offsets of the two answers."""
    old, new = client.answers()
    return old.topics[0].partitions[0].committed_offset, new.groups[0].topics[0].partitions[0].committed_offset


def test_an_offset_is_told_when_it_is_durable():
    """Kafka shows commits that are in the log, and not those under way (GroupMetadata.scala, pendingOffsetCommits).

    Else a reader goes by an offset that a crash takes back. With nothing under way the answer waits for nothing.
    """
    world = KafkaWorld()
    world.broker.vhosts["/"].topics.create("t", 1, {})
    writer, reader = world.client(), world.client()
    commit(writer, 3)
    assert writer.answers()[0].topics[0].partitions[0].error_code == 0
    fetches(reader)
    run_without_the_disk(world)
    assert reader.transport.sent
    assert shown(reader) == (3, 3)
    commit(writer, 5)
    fetches(reader)
    run_without_the_disk(world)
    assert not reader.transport.sent
    assert shown(reader) == (5, 5)
    assert len(writer.answers()) == 1
