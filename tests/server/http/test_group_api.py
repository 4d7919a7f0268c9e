"""Consumer groups over HTTP: whom a rebalance waits for and why it began, lag, and moving a group nobody is in."""

import pytest

from broker.core.groups.values import Committer as By
from broker.core.groups.values import GroupSettings, JoinRequest, JoinResult, Leaver, OffsetCommit, SyncRequest
from broker.server.http.api import HttpError
from protocol.kafka.errors import ErrorCode
from protocol.kafka.group_records import Assignment, OwnedPartitions, Subscription, write_versioned

MINUTE_MS = 60_000
AT_ONCE = GroupSettings(initial_rebalance_delay_ms=0)


def subscription(*topics):
    """A consumer's metadata."""
    return write_versioned(Subscription(topics=list(topics)), 1)


def assignment(**topics):
    """A consumer's assignment, {topic: partitions}."""
    shares = [OwnedPartitions(topic=topic, partitions=list(indexes)) for topic, indexes in topics.items()]
    return write_versioned(Assignment(assigned_partitions=shares), 1)


class Member:
    """One client of a group, that says what a test wants said."""

    def __init__(self, http, group="g", client="app", protocol_type="consumer", metadata=None, **fields):
        self.http = http
        self.group = group
        self.groups = http.hub.groups_of("/")
        self.fields = {
            "client_id": client, "client_host": "/10.0.0.1", "protocol_type": protocol_type,
            "protocols": (("range", subscription("t") if metadata is None else metadata),),
            "rebalance_timeout_ms": MINUTE_MS, "session_timeout_ms": 45_000, **fields,
        }  # fmt: skip
        self.id = ""
        self.generation = -1
        self.answers = []

    def reply(self, result, *, after_save):
        """As `server.groups` tells who has asked."""
        self.answers.append(result)
        if isinstance(result, JoinResult) and result.error is ErrorCode.NONE:
            self.id, self.generation = result.member_id, result.generation

    def join(self):
        """Come, or come again."""
        request = JoinRequest(member_id=self.id, **self.fields)
        self.groups.coordinator.join(self.group, Ticket(self), request, self.groups.now_ms)
        self.groups.carry_out()
        return self

    def sync(self, **assignments):
        """Ask for the assignment; a leader brings them, by member id."""
        request = SyncRequest(member_id=self.id, generation=self.generation, assignments=assignments)
        self.groups.coordinator.sync(self.group, Ticket(self), request, self.groups.now_ms)
        self.groups.carry_out()
        return self

    def commit(self, **offsets):
        """As a member: {topic: {partition: offset}}."""
        commits = [OffsetCommit(topic, index, offset) for topic, places in offsets.items()
                   for index, offset in places.items()]  # fmt: skip
        error, errors = self.groups.coordinator.commit(
            self.group, By(self.id, self.generation), commits, self.groups.now_ms
        )
        self.groups.carry_out()
        assert {error, *errors} == {ErrorCode.NONE}

    def leave(self):
        """It goes."""
        self.groups.coordinator.leave(self.group, [Leaver(self.id)], self.groups.now_ms)
        self.groups.carry_out()


class Ticket:
    """Of one request."""

    def __init__(self, member):
        self.reply = member.reply


@pytest.fixture
def http(http):
    """Groups that do not wait for more members at first, and the topic `t`: three partitions, ten records in each."""
    http.hub.group_settings = AT_ONCE
    http.topic(partitions=3)
    for index in range(3):
        http.produce(*({"value": "x", "partition": index} for _ in range(10)))
    return http


def shown(http, group="g"):
    """The group."""
    return http.good("GET", f"groups/%2F/{group}")


def stable_pair(http, **fields):
    """Two members in a stable generation: the leader has 0 and 1, the other 2."""
    first = Member(http, client="one", **fields).join()
    first.sync(**{first.id: assignment(t=[0, 1, 2])})
    second = Member(http, client="two", **fields).join()
    first.join()
    first.sync(**{first.id: assignment(t=[0, 1]), second.id: assignment(t=[2])})
    second.sync()
    return first, second


def test_a_stable_group_and_its_lag(http):
    """Members with what they have; offsets with end, lag and who has them, also of what nobody has committed yet."""
    first, second = stable_pair(http)
    first.commit(t={0: 4, 1: 10})
    http.advance(5000)
    found = shown(http)
    assert [found[name] for name in ("state", "protocol_type", "protocol", "generation", "leader", "lag")] == [
        "Stable", "consumer", "range", 2, first.id, 6
    ]  # fmt: skip
    one, two = found["members"]
    assert (one["client_id"], one["host"], one["leader"], one["awaited"]) == ("one", "/10.0.0.1", True, False)
    assert one["assignment"] == [{"topic": "t", "partitions": [0, 1]}]
    assert (two["id"], two["leader"], two["heard_s_ago"]) == (second.id, False, 5.0)
    offsets = [(row["partition"], row["offset"], row["end_offset"], row["lag"], row["member"])
               for row in found["offsets"]]  # fmt: skip
    assert offsets == [(0, 4, 10, 6, first.id), (1, 10, 10, 0, first.id), (2, None, 10, None, second.id)]
    assert found["offsets"][0]["committed_s_ago"] == 5.0
    assert found["rebalance"]["waits_for"] == []
    assert not found["rebalance"]["under_way"]
    [row] = http.good("GET", "groups")
    assert (row["name"], row["state"], row["members"], row["awaited"], row["lag"]) == ("g", "Stable", 2, 0, 6)


def test_whom_a_rebalance_waits_for(http):
    """Why it began, who has not come again, and when they are given up; then whose assignment is missing."""
    first, second = stable_pair(http)
    http.advance(1000)
    third = Member(http, client="three").join()
    http.advance(2000)
    found = shown(http)
    rebalance = found["rebalance"]
    assert (found["state"], rebalance["under_way"], found["state_for_s"]) == ("PreparingRebalance", True, 2.0)
    assert rebalance["waits_for"] == [first.id, second.id]
    assert [one["awaited"] for one in found["members"]] == [True, True, False]
    assert (rebalance["began_s_ago"], rebalance["gives_up_in_s"]) == (2.0, 58.0)
    assert "joined" in rebalance["reason"]
    assert http.good("GET", "groups")[0]["awaited"] == 2
    first.join()
    assert shown(http)["rebalance"]["waits_for"] == [second.id]
    second.join()
    found = shown(http)
    assert (found["state"], found["generation"]) == ("CompletingRebalance", 3)
    assert found["rebalance"]["waits_for"] == [first.id, second.id, third.id]
    second.sync()
    third.sync()
    assert shown(http)["rebalance"]["waits_for"] == [found["leader"]] == [first.id]
    first.sync(**{first.id: assignment(t=[0])})
    found = shown(http)
    assert found["state"] == "Stable"
    assert (found["rebalance"]["waits_for"], found["rebalance"]["gives_up_in_s"]) == ([], None)
    assert found["rebalances"] == 3


def test_who_does_not_come_is_given_up_as_was_said(http):
    """After the time that was shown the rebalance goes on without it, and says that it does."""
    first, second = stable_pair(http, session_timeout_ms=3 * MINUTE_MS)
    Member(http).join()
    first.join()
    assert shown(http)["rebalance"]["waits_for"] == [second.id]
    http.advance(int(shown(http)["rebalance"]["gives_up_in_s"] * 1000))
    http.hub.groups_of("/").tick()
    found = shown(http)
    assert second.id not in [one["id"] for one in found["members"]]
    assert f"{second.id} did not rejoin in time" in found["rebalance"]["reason"]


def test_an_id_that_nobody_comes_with_is_awaited(http):
    """A client that asked for an id and vanished holds the rebalance up: that is shown too."""
    first, _ = stable_pair(http)
    Member(http, id_required=True).join()
    Member(http).join()
    assert shown(http)["rebalance"]["waits_for_ids_given_out"] == 1
    first.leave()
    assert shown(http)["state"] == "PreparingRebalance"


def test_a_first_rebalance_waits_for_more(http):
    """Nobody is missing, and still it waits: until the initial delay is over."""
    http.hub._groups.clear()
    http.hub.group_settings = GroupSettings(initial_rebalance_delay_ms=3000)
    Member(http).join()
    rebalance = shown(http)["rebalance"]
    assert (rebalance["under_way"], rebalance["waits_for"], rebalance["gives_up_in_s"]) == (True, [], 3.0)


@pytest.mark.parametrize(
    ("to", "offsets"),
    [
        ("earliest", [2, 0, 0]),
        ("latest", [10, 10, 10]),
        (7, [7, 7, 7]),
        ("7", [7, 7, 7]),
        (0, [2, 0, 0]),
        (99, [10, 10, 10]),
        ("+2", [7, 7, 7]),
        ("-4", [2, 1, 1]),
        ("+100000000000000000", [10, 10, 10]),
        ("1h", [2, 0, 0]),
        ("2100-01-01", [10, 10, 10]),
    ],
)
def test_a_group_is_moved(http, to, offsets):
    """To every kind of place, never out of the log; the answer says from where; a kill changes nothing."""
    http.good("DELETE", "topics/%2F/t/records?partition=0&before=2")
    http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": 5})
    before = shown(http)["offsets"]
    asked = {"topic": "t", "to": to}
    tried = http.good("PUT", "groups/%2F/g/offsets", asked | {"dry_run": True})
    assert [row["offset"] for row in shown(http)["offsets"]] == [row["offset"] for row in before] == [5, 5, 5]
    done = http.good("PUT", "groups/%2F/g/offsets", asked)
    assert done["moves"] == tried["moves"]
    assert [(one["from"], one["to"], one["lag"]) for one in done["moves"]] == [(5, to, 10 - to) for to in offsets]
    http = http.next_run()
    assert [(row["offset"], row["lag"]) for row in shown(http)["offsets"]] == [(to, 10 - to) for to in offsets]
    assert shown(http)["lag"] == 30 - sum(offsets)


def test_what_is_moved(http):
    """Some partitions of a topic, some topics, or all that the group has."""
    http.topic("u")
    first = http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "partitions": [2, 0], "to": "latest"})
    assert [(one["partition"], one["to"]) for one in first["moves"]] == [(0, 10), (2, 10)]
    assert first["created"]
    http.good("PUT", "groups/%2F/g/offsets", {"topics": ["u"], "to": "earliest"})
    moves = http.good("PUT", "groups/%2F/g/offsets", {"to": "-1"})["moves"]
    assert [(one["topic"], one["partition"], one["to"], one["clamped"]) for one in moves] == [
        ("t", 0, 9, False), ("t", 2, 9, False), ("u", 0, 0, True)
    ]  # fmt: skip


def test_a_group_that_somebody_is_in_is_not_moved(http):
    """409 says who; neither is it deleted, nor its offsets of what it subscribes to. When all have left it is."""
    first, second = stable_pair(http)
    first.commit(t={0: 4})
    for method, target, body in (
        ("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": "earliest"}),
        ("PUT", "groups/%2F/g/offsets", {"to": "earliest", "dry_run": True}),
        ("DELETE", "groups/%2F/g", None),
    ):
        status, reason = http.refused(method, target, body)
        assert (status, "is Stable, not Empty" in reason) == (409, True)
        assert f"{first.id} (client one, /10.0.0.1)" in reason
        assert second.id in reason
    assert http.refused("DELETE", "groups/%2F/g/offsets?topics=t")[0] == 409
    assert shown(http)["offsets"][0]["offset"] == 4
    first.leave()
    second.leave()
    http.good("PUT", "groups/%2F/g/offsets", {"to": "latest"})
    assert shown(http)["lag"] == 0
    assert http.ask("DELETE", "groups/%2F/g") == (204, None)
    assert http.next_run().refused("GET", "groups/%2F/g")[0] == 404


def test_somebody_joins_while_it_is_moved(http):
    """Looking for places takes several steps: who comes in between keeps its place, and 409 is the answer."""
    http.good("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": 5})
    steps = http.steps("PUT", "groups/%2F/g/offsets", {"topic": "t", "to": "1h"})
    steps.advance()
    Member(http).join()
    with pytest.raises(HttpError, match="not Empty") as told:
        http.finish(steps)
    assert told.value.status == 409
    assert [row["offset"] for row in shown(http)["offsets"]] == [5, 5, 5]


def test_offsets_of_some_topics_go(http):
    """The others stay; the group goes with the last."""
    http.topic("u")
    http.good("PUT", "groups/%2F/g/offsets", {"topics": ["t", "u"], "to": "earliest"})
    assert http.good("DELETE", "groups/%2F/g/offsets?topics=t") == {"deleted": 3}
    http = http.next_run()
    assert {row["topic"] for row in shown(http)["offsets"]} == {"u"}
    assert http.refused("DELETE", "groups/%2F/g/offsets?topics=t")[0] == 404
    assert http.refused("DELETE", "groups/%2F/g/offsets")[0] == 400


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({}, 400, "to is missing"),
        ({"to": None}, 400, "to is missing"),
        ({"to": "nowhere", "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": 1.5, "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": True, "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": [], "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": 1 << 70, "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": "+" + "9" * 30, "topic": "t"}, 400, "'earliest', 'latest'"),
        ({"to": "earliest"}, 404, "no group 'g'"),
        ({"to": "+1", "topic": "t"}, 409, "nothing is committed for partition 0"),
        ({"to": "earliest", "topic": "nope"}, 404, "no topic 'nope'"),
        ({"to": "earliest", "topic": "t", "topics": ["t"]}, 400, "not both"),
        ({"to": "earliest", "topics": "t"}, 400, "a list of names"),
        ({"to": "earliest", "topics": []}, 400, "a list of names"),
        ({"to": "earliest", "topic": {}}, 400, "a list of names"),
        ({"to": "earliest", "topic": "t", "partitions": []}, 400, "a list of numbers"),
        ({"to": "earliest", "topic": "t", "partitions": 1}, 400, "a list of numbers"),
        ({"to": "earliest", "topic": "t", "partitions": [None]}, 400, "is an integer"),
        ({"to": "earliest", "topic": "t", "partitions": [-1]}, 400, "is an integer"),
        ({"to": "earliest", "topic": "t", "partitions": [3]}, 404, "no partition 3"),
        ({"to": "earliest", "topics": ["t"], "partitions": [1]}, 400, "beside one topic"),
        ({"to": "earliest", "topic": "t", "dry_run": 1}, 400, "true or false"),
        ({"to": "earliest", "topic": "t", "dryrun": True}, 400, "unknown field 'dryrun'"),
    ],
)
def test_a_move_that_makes_no_sense(http, body, status, reason):
    """400, 404 or 409 with a reason, and there is no group by it."""
    told = http.refused("PUT", "groups/%2F/g/offsets", body)
    assert (told[0], reason in told[1]) == (status, True), told
    assert http.good("GET", "groups") == []


def test_octets_that_are_no_assignment(http):
    """Whatever members say is shown as its size where it cannot be read; so are those of other protocols."""
    for name, kind, octets in (
        ("short", "consumer", b"\x00"),
        ("lies", "consumer", b"\x00\x01\x7f\xff\xff\xff"),
        ("binary", "consumer", bytes(range(256)) * 40),
        ("connect", "connect", assignment(t=[0])),
        ("long", "consumer", assignment(t=range(30_000))),
    ):
        member = Member(http, name, protocol_type=kind, metadata=b"\xff\x00\xfe").join()
        member.sync(**{member.id: octets})
        found = shown(http, name)
        assert found["state"] == "Stable"
        [one] = found["members"]
        assert (one["assignment"], one["assignment_bytes"]) == (None, len(octets)), name
    assert len(http.good("GET", "groups")) == 5


def test_assignments_to_what_is_not_there(http):
    """Topics and partitions that a leader made up have no end and no lag, and there are not endlessly many."""
    leader = Member(http).join()
    leader.sync(**{leader.id: assignment(t=[0, 99], nope=[1])})
    assert [(row["topic"], row["partition"], row["end_offset"], row["lag"]) for row in shown(http)["offsets"]] == [
        ("nope", 1, None, None), ("t", 0, 10, None), ("t", 99, None, None)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a/b c", "%2F", "☃", "x" * 1000, "'\"<>&"])
def test_groups_have_any_name(http, name):
    """It is decoded after the split, and shown as it is."""
    from urllib.parse import quote

    target = f"groups/%2F/{quote(name, safe='')}"
    http.good("PUT", f"{target}/offsets", {"topic": "t", "to": "earliest"})
    assert http.good("GET", target)["name"] == name
    assert http.ask("DELETE", target) == (204, None)
    assert http.refused("GET", target) == (404, f"no group '{name}' in vhost '/'")


def test_who_may_do_what(http):
    """Any permission for the group to see it; read, for the topic too, to move it; configure to delete it."""
    http.allow("user", "", "", "^(g|t)$")
    http.allow("other", "", "", "^g$")
    http.allow("owner", "^g$", "", "")
    http.allow("watcher", "", "", "", tags=("monitoring",))
    move = {"topic": "t", "to": "earliest"}
    for user, method, target, body, status in (
        ("other", "PUT", "groups/%2F/g/offsets", move, 401),
        ("owner", "PUT", "groups/%2F/g/offsets", move, 401),
        ("watcher", "PUT", "groups/%2F/g/offsets", move, 401),
        ("user", "PUT", "groups/%2F/g/offsets", move, 200),
        ("user", "PUT", "groups/%2F/h/offsets", move, 401),
        ("watcher", "GET", "groups/%2F/g", None, 200),
        ("other", "GET", "groups/%2F/g", None, 200),
        ("owner", "GET", "groups/%2F/g", None, 200),
        ("user", "DELETE", "groups/%2F/g", None, 401),
        ("user", "DELETE", "groups/%2F/g/offsets?topics=t", None, 401),
        ("owner", "DELETE", "groups/%2F/g", None, 204),
    ):
        assert http.ask(method, target, body, user)[0] == status, (user, method, target)
    http.good("PUT", "groups/%2F/h/offsets", move)
    assert http.good("GET", "groups", user="other") == []
    assert len(http.good("GET", "groups", user="watcher")) == 1


def test_many_partitions_are_moved_in_steps(http):
    """Ten thousand offsets are committed some hundred at a time."""
    http.topic("wide", 10_000)
    steps = http.steps("PUT", "groups/%2F/g/offsets", {"topic": "wide", "to": "earliest"})
    answer, pauses = http.finish(steps)
    assert pauses >= 20
    assert len(answer["moves"].rows) == 10_000
    assert len(shown(http)["offsets"]) == 10_000
