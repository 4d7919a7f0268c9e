"""A data directory of an older version: a start finds all that it had, and brings it to what this version writes.

`data/storage-1.tar.gz` was written by the last version of format 1, and then lost its power: two queues, one with a
message acknowledged and a replay begun, an exchange that delays, three topics, one of them compacted, with a producer's
sequences, and a group's offsets; some of it in a checkpoint, some in the journal. `data/storage-2.tar.gz` is the same
directory after a start of the last version of format 2.
"""

import tarfile
from pathlib import Path

import pytest
from sim_disk import Inode
from topic_world import World

from broker.core import catalog
from broker.core.groups.storage import GroupStore
from broker.log.errors import StorageError
from broker.log.recovery import open_store
from protocol.amqp.content import body

DATA = Path(__file__).parent / "data"


class Offsets:
    """Takes what a group store has kept."""

    def __init__(self):
        self.found = {}

    def load_offset(self, group, topic, partition, committed, *_):
        self.found[group, topic, partition] = committed.offset

    def finish_loading(self, _now_ms):
        pass


class Upgraded(World):
    """A broker on the old directory."""

    archive = DATA / "storage-1.tar.gz"

    def _open(self):
        if not self.disk.files:
            self.disk.folders |= {"journal", "logs"}
            with tarfile.open(self.archive) as archive:
                for member in archive:
                    inode = self.disk.files[member.name] = Inode()
                    inode.data += archive.extractfile(member).read()
                    inode.synced = bytes(inode.data)
            self.disk.synced_files = dict(self.disk.files)
            for _ in range(100):
                self.disk.new_uuid()  # Some were given out.
        super()._open()

    def start_again(self):
        self.store.close()
        self.disk.power_cut()
        self.disk.locked = False
        self._open()


class UpgradedFrom2(Upgraded):
    """On one that is less old."""

    archive = DATA / "storage-2.tar.gz"


@pytest.fixture(params=[Upgraded, UpgradedFrom2])
def world(request):
    """A broker on each of them."""
    with request.param() as found:
        yield found


def waiting(world, name):
    """The bodies of the messages in a queue."""
    store = world.broker.vhosts["/"].queues[name].store
    live = [one for one in range(store.log.next_offset) if one not in store.log.settled]
    return [body(message[1]) for _, message in store.read_each(live)]


def everything(world):
    """What was in the directory."""
    assert world.broker.left_aside == []
    vhost = world.broker.vhosts["/"]
    assert waiting(world, "orders") == [b"two", b"three"]
    assert waiting(world, "late") == [b"four"]
    assert vhost.exchanges["later"].state.store.log.durable
    replay = vhost.replays.of(vhost.queues["orders"])["r1"]
    assert (replay.asked, replay.next, replay.copied) == ("orders", 1, 1)
    ends = {topic.name: [one.log.next_offset for one in topic.partitions] for topic in world.topics.all()}
    ends.pop("__consumer_offsets")
    assert ends == {"events": [0, 5], "latest": [1], "wide": [0, 0, 1]}
    events = world.topics.partition("events", 1)
    events.know_producers()
    assert [(one.producer_id, one.last_sequence) for one in events.producers.all()] == [(7, 4)]
    GroupStore(world.topics).load(offsets := Offsets(), 0)
    assert offsets.found == {("billing", "events", 1): 2}


def test_everything_is_found_and_brought_along(world):
    """At the first start and the next ones, and after a power cut before its first frame was synced."""
    everything(world)
    world.start_again()
    assert catalog.FORMAT in world.store.catalog
    everything(world)
    world.sync()
    world.start_again()
    everything(world)
    world.checkpoint()
    world.start_again()
    everything(world)


def test_an_entry_of_a_log_that_is_not_there_is_left_aside():
    """As a start of any version does with it; the others are brought along."""
    with Upgraded() as world:
        world.store.put(catalog.key(catalog.QUEUE, "/", "odd"), catalog.value({"auto_delete": False, "log": 77}, {}))
        world.store.delete(catalog.FORMAT)
        world.sync()
        world.start_again()
        assert [one.partition(":")[0] for one in world.broker.left_aside] == ["queue 'odd' in vhost '/'"]
        assert waiting(world, "orders") == [b"two", b"three"]


def test_the_directory_says_so(world):
    """A broker of the older version will not open it any more."""
    assert bytes(world.disk.files["format"].data) == b"jackalope storage 3\n"


def test_a_later_format_is_refused():
    with World() as world:
        world.sync()
        world.store.close()
        world.disk.locked = False
        world.disk.files["format"].data[:] = b"jackalope storage 4\n"
        with pytest.raises(StorageError, match="'jackalope storage 4' instead of 'jackalope storage 3'"):
            open_store(world.disk, world.disk.new_uuid)
