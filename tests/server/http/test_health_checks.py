"""Health checks: what is wrong with which partition, to whom may see it."""

from http_world import HttpWorld
from topic_world import append_unseen, batch

from protocol.kafka.records import parse_header, with_records

NOW_MS = 1_700_000_000_000


def test_a_partition_that_cannot_be_compacted():
    """It is named until it can be, or is gone; whoever may not see its vhost does not see it."""
    world = HttpWorld()
    world.access.put_user("stranger", ("management",))
    topics = world.hub.broker.vhosts["/"].topics
    bad = topics.create("bad", 1, {"cleanup.policy": "compact"}).partitions[0]
    assert world.good("GET", "health/checks/partitions") == {"status": "ok"}
    for _ in range(3):
        append_unseen(bad, with_records(parse_header(batch(1, NOW_MS)), b"no gzip", 1, 1))
    world.store.flush()
    scheduler = world.hub.scheduler
    reports = []
    scheduler.report = lambda *what: reports.append(what)

    def sweep(number):
        scheduler.wall_ms = NOW_MS + number * 86_400_000
        topics.tick(scheduler, 0)
        while scheduler.busy:
            scheduler.run_slice()

    for number in (1, 2):
        sweep(number)
        status, body = world.ask("GET", "health/checks/partitions")
        assert status == 503
        assert "partition 0 of topic 'bad'" in body["reason"]
    assert len(reports) == 1
    assert world.good("GET", "health/checks/partitions", user="stranger") == {"status": "ok"}
    topics.delete(topics.get("bad"))
    assert world.good("GET", "health/checks/partitions") == {"status": "ok"}
