"""Health over HTTP: 503 while something cannot be given back, with what it is; conflicts are told, and no failure."""

import random

from http_world import HttpWorld
from sim_disk import SimDisk

from broker.core import catalog
from broker.core.damage import LOOKED_AT_ONCE
from broker.log.checkpoint import Checkpoint
from broker.server.http.health import UNSEEN
from protocol.kafka.records import parse_header

COUNT = 40


def checkpoint(http):
    """One, to its end."""
    for job in Checkpoint(http.store).steps():
        if job is not None:
            job()
        http.store.flush()


def test_an_alarm():
    """As RabbitMQ's health/checks/alarms."""
    http = HttpWorld()
    assert http.good("GET", "health") == {"status": "ok", "damage": [], "conflicts": []}
    http.broker.alarm = "low on memory"
    assert http.refused("GET", "health") == (503, "low on memory")
    assert http.refused("GET", "health/checks/local-alarms") == (503, "low on memory")
    assert http.good("GET", "health/checks/storage") == {"status": "ok"}


def test_conflicts():
    """They are shown, and fail their own check alone."""
    http = HttpWorld()
    http.broker.conflicts = ["c.yaml:1: x"]
    assert http.good("GET", "health")["conflicts"] == ["c.yaml:1: x"]
    assert http.refused("GET", "health/checks/topology") == (503, "c.yaml:1: x")


def test_what_is_left_aside():
    """An entry of the catalog that cannot be used."""
    http = HttpWorld()
    http.store.put(catalog.key(catalog.QUEUE, "/", "odd"), b"")
    http.settle()
    again = http.next_run()
    status, reason = again.refused("GET", "health")
    assert status == 503
    assert "queue 'odd' in vhost '/'" in reason


def test_names_are_for_those_who_may_see_them():
    """Of a vhost that a user does not see (RabbitMQ: rabbit_mgmt_util:list_visible_vhosts) health fails without a name;
    so do conflicts and what is left aside, of whatever vhost."""
    http = HttpWorld()
    http.allow("stranger", "^$", "^$", "^$")
    secret = http.broker.add_vhost("secret")
    for vhost in (http.broker.vhosts["/"], secret):
        vhost.declare_queue(
            "q", durable=True, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
        ).store.broken = True
    assert http.good("GET", "health/checks/topology", user="stranger") == {"status": "ok"}
    for path in ("health", "health/checks/storage"):
        assert http.refused("GET", path)[1] == (
            "queue 'q' in vhost '/' cannot be read; queue 'q' in vhost 'secret' cannot be read")  # fmt: skip
        status, reason = http.refused("GET", path, user="stranger")
        assert (status, reason) == (503, f"queue 'q' in vhost '/' cannot be read; {UNSEEN}")
    http.broker.vhosts["/"].queues["q"].store.broken = secret.queues["q"].store.broken = False
    http.broker.aside = {catalog.key(catalog.QUEUE, "secret", "odd"): "x"}
    http.broker.conflicts = ["vhosts.secret.queues.q: x"]
    for path in ("health", "health/checks/storage", "health/checks/topology"):
        status, body = http.ask("GET", path, user="stranger")
        assert status == 503
        assert "secret" not in str(body)
    http.broker.aside = {}
    assert http.good("GET", "health", user="stranger")["conflicts"] == []


def test_very_many_queues():
    """A probe that looks at all of them pauses, and finds the last one."""
    http = HttpWorld()
    vhost = http.broker.vhosts["/"]
    for number in range(5 * LOOKED_AT_ONCE):
        queue = vhost.declare_queue(
            f"q{number}", durable=False, exclusive=False, auto_delete=False, arguments={}, connection=None, now_ms=0
        )
    assert http.finish(http.steps("GET", "health"))[1] >= 5
    queue.store.broken = True
    assert http.refused("GET", "health/checks/storage") == (503, f"queue '{queue.name}' in vhost '/' cannot be read")


def test_a_damaged_partition():
    """Records around the damage are read in order; the topic, its partition and health say how many are lost."""
    http = HttpWorld(SimDisk(random.Random(1).randrange))
    http.topic("t")
    for number in range(COUNT):
        http.produce({"value": f"{number:06d}" + "x" * 9000})
    checkpoint(http)
    (name,) = [name for name in http.disk.files if name.startswith("logs/")]
    data = http.disk.files[name].data
    first = parse_header(data, 0)
    second = parse_header(data, first.size)
    data[first.size + 300] ^= 1
    again = http.next_run()
    again.broker.scheduler.report = lambda *_: None
    lost = set(range(second.base_offset, second.next_offset))
    found = again.all_records()
    assert [int(one["value"][:6]) for one in found] == [number for number in range(COUNT) if number not in lost]
    assert [one["offset"] for one in found] == [number for number in range(COUNT) if number not in lost]
    again.advance(1000)
    row = again.good("GET", "topics/%2F/t")
    assert (row["state"], row["messages"], row["messages_damaged"]) == ("damaged", COUNT - len(lost), len(lost))
    assert row["partition_details"][0]["messages_damaged"] == len(lost)
    status, reason = again.refused("GET", "health/checks/storage")
    assert status == 503
    assert f"partition 0 of topic 't' in vhost '/' is damaged: {len(lost)} messages" in reason
    once_more = again.next_run()
    assert once_more.good("GET", "topics/%2F/t")["messages_damaged"] == len(lost)
    once_more.good("DELETE", f"topics/%2F/t/records?before={COUNT // 2}")
    assert once_more.good("GET", "health")["status"] == "ok"
