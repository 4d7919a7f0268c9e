"""Proposed, committed, applied: what is proposed changes nothing, and what is committed is all that a mirror needs.

The mirror is another broker that learns of nothing but the keys and values of each revision, as brokers of a cluster
learn of them from etcd.
"""

import random

import pytest
from topic_world import World

from broker.core import catalog
from broker.core.metadata import Change, LocalMetadata, at_once
from broker.core.topics.errors import TopicRefused
from broker.core.vhosts.policies import make_policy
from broker.errors import Refused

DEFINITIONS = (
    catalog.EXCHANGE, catalog.QUEUE, catalog.BINDING, catalog.POLICY, catalog.OPERATOR_POLICY, catalog.TOPIC,
    catalog.BROKER_CONFIG,
)  # fmt: skip
FLAGS = {"exclusive": False, "connection": None}


def bindings_of(home, *, kept_only):
    found = []
    for exchange in home.exchanges.values():
        for one in exchange.bindings.values():
            end = one.destination
            is_kept = exchange.durable and getattr(end, "kept", end.durable)
            if is_kept or not kept_only:
                found.append((one.source, end.name, one.routing_key, repr(one.arguments)))
    return sorted(found)


def objects(broker, *, kept_only=True):
    """What there is, as plain values."""
    home = broker.vhosts["/"]
    exchanges = {
        one.name: (one.type, one.durable, one.auto_delete, one.internal, one.arguments, one.alternate)
        for one in home.exchanges.values()
        if one.durable or not kept_only
    }
    queues = {
        one.name: (one.durable, one.auto_delete, one.owner, one.arguments, one.rules)
        for one in home.queues.values()
        if one.kept or not kept_only
    }
    policies = [{name: one[:5] for name, one in kind.items()} for kind in (home.policies.user, home.policies.operator)]
    topics = {one.name: (one.id, one.overrides, one.config, len(one.partitions)) for one in home.topics.all()}
    streams = [one.name for one in home.streams.all()]
    return exchanges, queues, bindings_of(home, kept_only=kept_only), policies, topics, streams


def definitions(store):
    return {key: value for key, value in store.catalog.items() if key[:1] in DEFINITIONS}


def change_of(key, value, known):
    """What an event says, for a broker whose catalog has `known`."""
    octets = known[key] if value is None else value
    [entry] = catalog.read_kind({key: octets}, key[:1])
    names = entry.names[:-1] if entry.kind == catalog.BINDING else entry.names
    return Change(entry.kind, names, entry.known, entry.arguments, gone=value is None)


class Client:
    """Declares, binds and deletes at random, a few names over and over."""

    def __init__(self, broker, seed):
        self.broker = broker
        self.random = random.Random(seed)
        self.home = broker.vhosts["/"]

    def declare_exchange(self):
        kind = self.pick("direct", "topic", "x-delayed-message", "x-recent-history")
        arguments = {"x-delayed-type": "direct"} if kind == "x-delayed-message" else {}
        if self.maybe():
            arguments["alternate-exchange"] = "e0"
        return self.home.propose_declare_exchange, (self.exchange(), kind), {
            "durable": self.random.random() < 0.7, "auto_delete": self.maybe(), "internal": False,
            "arguments": arguments,
        }  # fmt: skip

    def declare_queue(self):
        arguments = self.pick({}, {"x-expires": 1000}, {"x-queue-type": "stream"}, {"x-max-length": 3})
        durable = "x-queue-type" in arguments or self.random.random() < 0.7
        return self.home.propose_declare_queue, (self.queue(),), {
            "durable": durable, "auto_delete": False, "arguments": arguments, **FLAGS
        }  # fmt: skip

    def bind(self):
        end = self.end()
        key, arguments = str(self.random.randrange(30)), self.pick({}, {"n": self.random.randrange(3)})
        if self.random.random() < 0.1:  # More than go at once.
            for number in range(150):
                at_once(self.broker.metadata, self.home.propose_bind, "e1", end, f"{number}", arguments)
        return self.home.propose_bind, (self.exchange(), end, key, arguments), {}

    def unbind(self):
        found = [one for exchange in self.home.exchanges.values() for one in exchange.bindings.values()]
        one = self.random.choice(found)
        return self.home.propose_unbind, (one.source, one.destination, one.routing_key, one.arguments), {}

    def delete_queue(self):
        return self.home.propose_delete_queue, (self.queue(), None), {"if_empty": self.maybe()}

    def delete_exchange(self):
        return self.home.propose_delete_exchange, (self.exchange(),), {"if_unused": self.maybe()}

    def set_policy(self):
        name = f"p{self.random.randrange(3)}"
        policy = make_policy(name, self.pick("q", "^e", "1"), "all", self.random.randrange(3),
                             {"expires": self.random.randrange(1, 9)})  # fmt: skip
        return self.home.policies.propose_set, (policy,), {"operator": self.maybe()}

    def delete_policy(self):
        return self.home.policies.propose_delete, (f"p{self.random.randrange(3)}",), {"operator": self.maybe()}

    def create_topic(self):
        overrides = self.pick({}, {"cleanup.policy": "compact"}, {"retention.ms": "5"})
        return self.home.topics.propose_create, (self.queue(), self.random.randrange(1, 4), overrides), {}

    def topic(self):
        return self.random.choice(self.home.topics.all())

    def grow(self):
        topic = self.topic()
        return self.home.topics.propose_partitions, (topic, len(topic.partitions) + self.random.randrange(3)), {}

    def configure(self):
        overrides = self.pick({"cleanup.policy": "compact"}, {"segment.ms": "50"}, {})
        return self.home.topics.propose_configuration, (self.topic(), overrides), {}

    def delete_topic(self):
        return self.home.topics.propose_delete, (self.topic(),), {}

    def configure_broker(self):
        overrides = self.pick({}, {"log.retention.ms": "7"}, {"log.cleanup.policy": "compact"})
        return self.home.topics.broker_config.propose_replace, (self.pick("all", "this"), overrides), {}

    def exchange(self):
        return f"e{self.random.randrange(4)}"

    def queue(self):
        return f"q{self.random.randrange(5)}"

    def end(self):
        home = self.home
        found = self.random.choice([home.target(self.queue()), home.exchanges.get(self.exchange())])
        return found or home.exchanges["amq.fanout"]

    def maybe(self):
        return self.random.random() < 0.3

    def pick(self, *choices):
        return self.random.choice(choices)

    def state(self):
        """Everything that a proposal might touch."""
        store = self.broker.store
        return (
            objects(self.broker, kept_only=False), dict(store.catalog), store.next_log, self.broker.metadata.revision
        )  # fmt: skip

    def step(self):
        """One request; returns whether it was carried out."""
        name = self.pick("declare_exchange", "declare_queue", "bind", "bind", "bind", "unbind", "delete_queue",
                         "delete_exchange", "set_policy", "delete_policy", "create_topic", "grow", "configure",
                         "delete_topic", "configure_broker")  # fmt: skip
        try:
            propose, args, named = getattr(self, name)()
        except (Refused, IndexError):  # The last: there is none to take.
            return False
        before = self.state()
        try:
            proposal = propose(*args, **named)
        except (Refused, TopicRefused):
            return False
        finally:
            assert self.state() == before, name
        at_once(self.broker.metadata, propose, *args, **named)
        return bool(proposal.changes)


@pytest.mark.parametrize("seed", range(8))
def test_a_mirror_has_the_same(seed):
    """Every proposal leaves everything as it is; whoever applies what was written has what the first broker has."""
    with World() as world, World() as other:
        mirror, revisions, done = other.broker, [], 0

        def follow(revision, changes):
            revisions.append(revision)
            for key, value in [change.entry for change in changes if change.kept]:
                mirror.metadata.commit([change_of(key, value, other.store.catalog)], (), lambda _: None)

        world.broker.metadata.subscribe(follow)
        client = Client(world.broker, seed)
        for _ in range(250):
            done += client.step()
            for broker in (world.broker, mirror):
                while broker.scheduler.busy:
                    broker.scheduler.run_slice()
            assert objects(mirror) == objects(world.broker)
            assert definitions(other.store) == definitions(world.store)
        assert revisions == list(range(1, len(revisions) + 1))
        assert done > 80
        before = definitions(world.store), objects(world.broker)
        world.store.flush()
        world.store.close()
        world.disk.locked = False
        world._open()
        assert (definitions(world.store), objects(world.broker)) == before
        assert world.broker.left_aside == []


def declare(home, *names, **flags):
    for name in names:
        home.declare_exchange(name, "direct", durable=True, auto_delete=flags.get("auto_delete", True), internal=False,
                              arguments={})  # fmt: skip


def queue(home, name="q"):
    return home.declare_queue(name, durable=True, auto_delete=False, arguments={}, now_ms=0, **FLAGS)


def told(changes):
    """(kind, name or ends of a binding, gone) of each."""
    return [(one.kind, one.names[1] if len(one.names) == 2 else one.names[1:4:2], one.gone) for one in changes]


def test_what_follows_is_part_of_it():
    """A queue goes, and with it a chain of auto-delete exchanges, all in one commit; what has other bindings stays."""
    with World() as world:
        home = world.broker.vhosts["/"]
        declare(home, "a", "b", "c")
        home.bind("a", home.exchanges["b"], "", {})
        home.bind("b", queue(home), "", {})
        home.bind("c", home.queues["q"], "", {})
        home.bind("c", queue(home, "other"), "", {})
        proposal = home.propose_delete_queue("q", None)
        assert told(proposal.changes) == [
            (catalog.BINDING, ("b", "q"), True),
            (catalog.BINDING, ("c", "q"), True),
            (catalog.QUEUE, "q", True),
            (catalog.BINDING, ("a", "b"), True),
            (catalog.EXCHANGE, "b", True),
            (catalog.EXCHANGE, "a", True),
        ]
        revision = world.broker.metadata.revision
        assert home.delete_queue("q", None) == 0
        assert world.broker.metadata.revision == revision + 1
        assert {"a", "b", "c"} & set(home.exchanges) == {"c"}
        assert home.binding_count == 1


def test_a_circle_of_exchanges():
    """Exchanges that lead to one another, and one to itself, go once each."""
    with World() as world:
        home = world.broker.vhosts["/"]
        declare(home, "a", "b")
        for source, end in (("a", "b"), ("b", "a"), ("a", "a")):
            home.bind(source, home.exchanges[end], "", {})
        proposal = home.propose_delete_exchange("a")
        assert sorted(told(proposal.changes), key=repr) == [
            (catalog.BINDING, ("a", "a"), True),
            (catalog.BINDING, ("a", "b"), True),
            (catalog.BINDING, ("b", "a"), True),
            (catalog.EXCHANGE, "a", True),
            (catalog.EXCHANGE, "b", True),
        ]
        home.delete_exchange("a")
        assert home.binding_count == 0


def test_somebody_else_was_faster():
    """What was proposed before another change is a conflict; proposed anew it is found to be there, and no error."""

    class Contested(LocalMetadata):
        """Another broker's commit comes before the first one of ours."""

        def commit(self, changes, guards, then):
            first, self.first = self.first, None
            if first is not None:
                super().commit(first(), (), lambda _: None)
            super().commit(changes, guards, then)

    with World() as world:
        home = world.broker.vhosts["/"]
        home.metadata = Contested(world.store)
        home.metadata.subscribe(world.broker._apply)
        said = {"durable": True, "auto_delete": False, "arguments": {}, **FLAGS}
        home.metadata.first = lambda: home.propose_declare_queue("q", **said).changes
        queue(home)
        assert list(home.queues) == ["q"]
        assert home.metadata.revision == 1
        home.metadata.first = lambda: home.propose_declare_queue("r", **said | {"arguments": {"x-expires": 5}}).changes
        with pytest.raises(Refused, match="inequivalent arg 'x-expires'"):
            queue(home, "r")
        stale = home.propose_delete_queue("r", None)
        home.metadata.first = None
        home.bind("amq.direct", home.queues["q"], "k", {})
        outcomes, before = [], dict(world.store.catalog)
        home.metadata.commit(stale.changes, stale.guards, outcomes.append)
        assert outcomes == ["conflict"]
        assert world.store.catalog == before
        assert "r" in home.queues


def test_all_or_nothing():
    """A definition that no catalog can hold changes nothing."""
    with World() as world:
        home = world.broker.vhosts["/"]
        before = dict(world.store.catalog)
        with pytest.raises((TypeError, ValueError)):
            home.declare_queue("q", durable=True, auto_delete=False, arguments={"x-own": object()}, now_ms=0, **FLAGS)
        assert "q" not in home.queues
        assert world.store.catalog == before


def test_what_is_not_kept_is_written_nowhere():
    """Transient and exclusive definitions go the same way, and no catalog has them."""
    with World() as world:
        home = world.broker.vhosts["/"]
        seen = []
        world.broker.metadata.subscribe(lambda revision, changes: seen.extend(changes))
        owner = object()
        home.declare_queue("t", durable=False, exclusive=False, auto_delete=False, arguments={}, connection=owner,
                           now_ms=0)  # fmt: skip
        home.declare_queue("o", durable=True, exclusive=True, auto_delete=False, arguments={}, connection=owner,
                           now_ms=0)  # fmt: skip
        home.bind("amq.direct", home.queues["t"], "k", {})
        assert home.queues["o"].durable
        assert home.queues["o"].owner is owner
        home.drop_owned(owner)
        home.drop_queue(home.queues["t"])
        assert [(one.kind, one.gone, one.kept) for one in seen] == [
            (catalog.QUEUE, False, False), (catalog.QUEUE, False, False), (catalog.BINDING, False, False),
            (catalog.QUEUE, True, False), (catalog.BINDING, True, False), (catalog.QUEUE, True, False),
        ]  # fmt: skip
        assert definitions(world.store) == {}
