"""What peers make the broker hold by asking and not reading. Kafka's brokers stop reading a connection while an answer
is unsent (kafka.network.Processor mutes it), so that one answer is all it costs."""

import pytest
from kafka_wire import batch
from kafka_world import KafkaWorld, made

from broker.server.kafka.owed import STALLED_MS, memory_size

KIB = 1 << 10
NOW_MS = 1_900_000_000_000
PIPELINED = 64
ONE_FETCH, ONE_CONNECTION = 128 * KIB, 64 * KIB
LIMITS = {"fetch_bytes_max": ONE_FETCH, "answers_per_connection_bytes_max": ONE_CONNECTION}


def fetch(client, *, offset=0, max_wait_ms=60_000, bytes_max=1 << 20, min_bytes=1):
    """A fetch of the topic's one partition, as octets."""
    spec = made("Fetch", "topics")
    one = spec.SPECS["partitions"].of(partition=0, fetch_offset=offset, partition_max_bytes=bytes_max)
    return client.frame(
        "Fetch", 11, max_wait_ms=max_wait_ms, min_bytes=min_bytes, max_bytes=bytes_max, topics=[spec(topic="t",
        partitions=[one])],
    )  # fmt: skip


def held(client):
    """Octets in memory that are on their way to this peer."""
    return memory_size(client.machine.outbox.parts) + sum(memory_size(slot.parts) for slot in client.machine.slots)


def watch(world, passed_ms):
    """Time passes, and the peers are looked after."""
    world.advance(passed_ms)


@pytest.fixture
def world():
    """A broker with a topic of one partition."""
    made = KafkaWorld(**LIMITS)
    made.broker.vhosts["/"].topics.create("t", 1, {})
    return made


def append(world, count=4):
    """Records of 25 KiB come."""
    piece = batch([bytes(25 * KIB)])
    for _ in range(count):
        world.broker.vhosts["/"].topics.get("t").partitions[0].append(piece, NOW_MS)
    world.settle()


def unread(world, client, frames):
    """Send the requests, and read nothing of what they are answered."""
    client.transport.takes = False
    client.machine.receive(frames)
    world.settle()
    while client.machine.more:
        client.machine.proceed()
        world.settle()


def test_parked_fetches_that_nobody_reads(world):
    """Six connections with 64 fetches each, all woken by one record batch: what each of them is owed stays bounded, and
    when it reads after all it gets every answer."""
    clients = [world.client() for _ in range(6)]
    for client in clients:
        unread(world, client, b"".join(fetch(client) for _ in range(PIPELINED)))
        assert held(client) == 0
    append(world)
    for client in clients:
        assert held(client) <= ONE_CONNECTION + ONE_FETCH
    assert world.kafka.owed.octets == sum(map(held, clients))
    for client in clients:
        client.transport.takes = True
        answers = []
        while len(answers) < PIPELINED:
            client.transport.flush()
            came = client.answers()
            assert came, f"stuck after {len(answers)} answers"
            answers += came
        assert all(len(answer.responses[0].partitions[0].records) > 100 * KIB for answer in answers)
    assert world.kafka.owed.octets == 0


def test_answers_that_do_not_have_their_turn_yet(world):
    """They count as well: behind a fetch that is parked, no more is worked on than the limit lets pile up."""
    world.broker.vhosts["/"].topics.create("wide", 1_000, {})
    client = world.client()
    names = [made("Metadata", "topics")(name="wide")]
    unread(world, client, fetch(client) + b"".join(client.frame("Metadata", 9, topics=names) for _ in range(50)))
    assert 0 < held(client) <= ONE_CONNECTION + 50 * KIB
    assert client.machine.paused
    client.transport.takes = True
    append(world, 1)
    for _ in range(100):
        client.machine.proceed()
        client.transport.flush()
        world.settle()
    assert len(client.answers()) == 51


def test_the_first_answer_is_always_read(world):
    """A fetch behind too much that is unsent waits; in front it does not, or the connection would wait for itself."""
    append(world)
    client = world.client()
    unread(world, client, fetch(client) + fetch(client))
    assert held(client) > ONE_CONNECTION
    assert not client.machine.slots
    assert client.machine.paused
    client.transport.takes = True
    client.transport.flush()
    client.machine.proceed()
    assert len(client.answers()) == 2


def test_the_limit_of_the_process():
    """Over it fetches of others wait, whether they are parked or come now, until those who owe have read, or have been
    turned out because they do not; whoever owes nothing may ask for anything else."""
    world = KafkaWorld(**LIMITS, answers_bytes_max=150 * KIB)
    world.broker.vhosts["/"].topics.create("t", 1, {})
    append(world)
    parked = world.client()
    parked.machine.receive(fetch(parked, offset=4))
    greedy = [world.client(), world.client()]
    for client in greedy:
        unread(world, client, fetch(client))
    assert world.kafka.owed.octets > 150 * KIB
    polite = world.client()
    polite.machine.receive(fetch(polite))
    append(world, 1)
    assert not polite.answers()
    assert not parked.answers()
    assert world.client().ask("ApiVersions", 3).error_code == 0
    watch(world, STALLED_MS - 1000)
    assert not greedy[0].machine.finished
    watch(world, 2000)
    assert greedy[0].machine.finished
    assert [len(client.answers()) for client in (polite, parked)] == [1, 1]
    assert not greedy[1].machine.finished
    assert not polite.machine.finished


def test_who_reads_slowly_goes_on_reading(world):
    """Where nobody waits for room a peer may take its time."""
    append(world)
    client = world.client()
    unread(world, client, fetch(client))
    watch(world, STALLED_MS * 2)
    assert not client.machine.finished


def test_a_fetch_that_finds_too_little_holds_nothing(world):
    """It was read to see how much there is."""
    append(world)
    client = world.client()
    client.machine.receive(fetch(client, min_bytes=1 << 20))
    world.settle()
    assert world.kafka.owed.octets == 0
    append(world)
    assert not client.answers()
    assert world.kafka.owed.octets == 0
    watch(world, 60_001)
    [answer] = client.answers()
    assert len(answer.responses[0].partitions[0].records) > 100 * KIB


def test_who_goes_owes_nothing(world):
    """Whatever it had asked for."""
    client = world.client()
    unread(world, client, b"".join(fetch(client) for _ in range(PIPELINED)))
    append(world)
    assert world.kafka.owed.octets
    client.machine.abort()
    world.settle()
    assert world.kafka.owed.octets == 0
    assert not world.kafka.owed.debtors
    assert not world.kafka.owed.waiting


def test_what_is_read_counts_before_it_is_an_answer(world):
    """A fetch of many partitions is read in several steps: in between it counts, and once when it is answered."""
    topic = world.broker.vhosts["/"].topics.create("wide", 300, {})
    for partition in topic.partitions:
        partition.append(batch([b"x" * 100]), NOW_MS)
    world.settle()
    spec = made("Fetch", "topics")
    one = spec.SPECS["partitions"].of
    wanted = [one(partition=index, fetch_offset=0, partition_max_bytes=1000) for index in range(300)]
    client = world.client()
    client.transport.takes = False
    fields = {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1 << 20, "topics": [spec(topic="wide", partitions=wanted)]}
    client.machine.receive(client.frame("Fetch", 11, **fields))
    assert client.machine.working
    assert world.kafka.owed.octets > 100 * 100
    world.settle()
    assert not client.machine.working
    assert world.kafka.owed.octets == held(client)
