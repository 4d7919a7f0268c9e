"""Any life of a group: clients of every kind join, sync, heartbeat, leave, lose connections and come back while time
passes and the broker restarts. What must hold at every moment, and where it must end."""

from group_helpers import ErrorCode, GroupSettings, Site
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.core.groups.values import JoinResult, SaveGroup, State, StateChanged

SESSIONS_MS = (6_000, 10_000)
REBALANCES_MS = (6_000, 20_000)
MEMBERS_MAX = 6
PARKED_MS_MAX = max(REBALANCES_MS) + max(SESSIONS_MS)
FLAVOURS = ((("range", b"t"),), (("range", b"t"), ("sticky", b"t")), (("sticky", b"u"), ("range", b"t")))


class Client:
    """One consumer: what it is, and where it thinks that it stands."""

    def __init__(self, instance_id, id_required, session_ms, rebalance_ms):
        self.instance_id = instance_id
        self.id_required = id_required
        self.session_ms = session_ms
        self.rebalance_ms = rebalance_ms
        self.protocols = FLAVOURS[0]
        self.member_id = ""
        self.joined = None  # The answer to its last join, until it has to rejoin.
        self.is_synced = False
        self.ticket = None
        self.is_fenced = False

    def receive(self, result):
        """As real clients take it."""
        self.ticket = None
        if result.error is ErrorCode.NONE:
            if isinstance(result, JoinResult):
                self.member_id = result.member_id
                self.joined = result
                self.is_synced = False
            else:
                self.is_synced = True
            return
        self.rejoin()
        if result.error is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = result.member_id
        elif result.error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.member_id = ""
        elif result.error is ErrorCode.FENCED_INSTANCE_ID:
            self.is_fenced = True
        else:
            assert result.error in {
                ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION, ErrorCode.GROUP_MAX_SIZE_REACHED,
                ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
            }, result.error  # fmt: skip

    def rejoin(self):
        self.joined = None
        self.is_synced = False


class Lives(RuleBasedStateMachine):
    @initialize(delay_ms=st.sampled_from((0, 1_000)))
    def begin(self, delay_ms):
        limits = GroupSettings(
            initial_rebalance_delay_ms=delay_ms, members_max=MEMBERS_MAX, new_member_join_timeout_ms=15_000
        )
        self.site = Site(limits)
        self.clients = []
        self.waiting = {}  # Ticket -> (client, since).
        self.forgotten = set()
        self.brought = {}  # Generation -> what its leader brought.
        self.seen_effects = 0
        self.generation = 0

    # What clients do.

    def start(self, client, ticket):
        client.ticket = ticket
        self.waiting[ticket] = client, self.site.now_ms
        self.deliver()

    def deliver(self):
        for ticket in [ticket for ticket in self.waiting if ticket in self.site.answers]:
            client, _ = self.waiting.pop(ticket)
            if client.ticket == ticket:
                client.receive(self.site.result(ticket))

    def join(self, client):
        self.start(client, self.site.start_join(
            protocols=client.protocols, member_id=client.member_id, instance_id=client.instance_id,
            id_required=client.id_required, session_timeout_ms=client.session_ms,
            rebalance_timeout_ms=client.rebalance_ms, can_skip_assignment=client.id_required,
        ))  # fmt: skip

    def sync(self, client):
        joined = client.joined
        brought = {}
        if joined.member_id == joined.leader and not joined.skip_assignment:
            value = b"%d by %d" % (joined.generation, len(self.site.effects))
            brought = {one.member_id: value for one in joined.members}
            state = self.site.describe()
            is_member = client.member_id in {one.member_id for one in state.members}
            if is_member and state.state is State.COMPLETING_REBALANCE and state.generation == joined.generation:
                self.brought[joined.generation] = value
        self.start(client, self.site.start_sync(joined, brought, instance_id=client.instance_id))

    def beat(self, client):
        error = self.site.beat(client.joined, instance_id=client.instance_id)
        if error is not ErrorCode.NONE:
            client.receive(JoinResult(error))

    def drop_connection(self, client):
        if client.ticket is not None:
            self.waiting.pop(client.ticket)
            self.forgotten.add(client.ticket)
            ticket, client.ticket = client.ticket, None
            self.site.forget(ticket)
            self.deliver()

    @rule(static=st.sampled_from((None, None, None, "i", "j")), id_required=st.booleans(),
          session_ms=st.sampled_from(SESSIONS_MS), rebalance_ms=st.sampled_from(REBALANCES_MS))  # fmt: skip
    def new_client(self, static, id_required, session_ms, rebalance_ms):
        if len(self.clients) < 2 * MEMBERS_MAX:
            self.clients.append(Client(static, id_required, session_ms, rebalance_ms))
            self.join(self.clients[-1])

    def pick(self, data, condition):
        fitting = [client for client in self.clients if condition(client)]
        return data.draw(st.sampled_from(fitting)) if fitting else None

    @rule(data=st.data())
    def someone_joins(self, data):
        client = self.pick(data, lambda one: one.ticket is None)
        if client is not None:
            self.join(client)

    @rule(data=st.data(), flavour=st.sampled_from(FLAVOURS))
    def someone_changes_its_metadata(self, data, flavour):
        client = self.pick(data, lambda one: one.ticket is None)
        if client is not None:
            client.protocols = flavour
            self.join(client)

    @rule(data=st.data())
    def someone_asks_twice(self, data):
        client = self.pick(data, lambda one: one.ticket is not None and one.member_id and not one.joined)
        if client is not None:
            self.join(client)

    @rule(data=st.data())
    def someone_syncs(self, data):
        client = self.pick(data, lambda one: one.ticket is None and one.joined)
        if client is not None:
            self.sync(client)

    @rule(data=st.data())
    def someone_heartbeats(self, data):
        client = self.pick(data, lambda one: one.ticket is None and one.joined)
        if client is not None:
            self.beat(client)

    @rule()
    def all_heartbeat(self):
        for client in self.clients:
            if client.ticket is None and client.joined:
                self.beat(client)

    @rule(data=st.data())
    def someone_leaves(self, data):
        client = self.pick(data, lambda one: one.member_id)
        if client is not None:
            self.clients.remove(client)
            self.site.leave((client.member_id, client.instance_id))
            self.deliver()
            self.drop_connection(client)

    @rule(data=st.data())
    def someone_loses_its_connection(self, data):
        client = self.pick(data, lambda one: one.ticket is not None)
        if client is not None:
            self.drop_connection(client)
            client.rejoin()

    @rule(data=st.data())
    def someone_is_restarted(self, data):
        client = self.pick(data, lambda _: True)
        if client is not None:
            self.drop_connection(client)
            client.member_id = ""
            client.rejoin()
            self.join(client)

    @rule(data=st.data())
    def someone_dies(self, data):
        client = self.pick(data, lambda _: True)
        if client is not None:
            self.drop_connection(client)
            self.clients.remove(client)

    @rule(data=st.data())
    def someone_commits(self, data):
        client = self.pick(data, lambda one: one.joined)
        if client is not None:
            self.site.commit(client.joined)

    @rule(ms=st.sampled_from((1, 500, 2_000, 5_999, 6_000, 20_000)))
    def time_passes(self, ms):
        self.site.wait(ms)
        self.deliver()

    @precondition(lambda self: self.clients)
    @rule()
    def the_broker_restarts(self):
        for ticket in self.waiting:
            self.forgotten.add(ticket)
        self.waiting.clear()
        tickets = self.site.tickets
        self.site = self.site.restarted()
        self.site.tickets = tickets
        self.seen_effects = 0
        for client in self.clients:
            client.ticket = None
            if not client.is_synced:
                client.rejoin()
        self.generation = self.site.describe().generation
        self.brought = {made: value for made, value in self.brought.items() if made <= self.generation}

    # What must hold.

    @invariant()
    def generations_only_grow(self):
        for effect in self.site.effects[self.seen_effects :]:
            if isinstance(effect, StateChanged):
                grows = effect.state in {State.COMPLETING_REBALANCE, State.EMPTY}
                assert effect.generation == self.generation + grows
                self.generation = effect.generation
            elif isinstance(effect, SaveGroup):
                assert effect.snapshot.generation == self.generation
        self.seen_effects = len(self.site.effects)
        if not len(self.site.groups):
            self.generation = 0
            self.brought.clear()

    @invariant()
    def nobody_waits_too_long(self):
        assert not self.forgotten & self.site.answers.keys()
        for _, since_ms in self.waiting.values():
            assert self.site.now_ms - since_ms <= PARKED_MS_MAX

    @invariant()
    def a_stable_generation_has_one_leaders_assignment(self):
        group = self.site.describe()
        if group.state is State.STABLE:
            assert {one.assignment for one in group.members} == {self.brought[group.generation]}
        for client in self.clients:
            if client.is_synced and client.joined.generation == group.generation:
                assert group.state is not State.COMPLETING_REBALANCE

    @invariant()
    def all_that_wait_are_known(self):
        entry = self.site.groups._table.by_id.get("g")
        rebalance = entry.group._rebalance if entry is not None else None
        parked = rebalance.members.parked if rebalance is not None else {}
        assert parked.keys() == self.waiting.keys()
        if rebalance is None:
            return
        if parked:
            assert rebalance.state in {State.PREPARING_REBALANCE, State.COMPLETING_REBALANCE}
        assert (rebalance.state is State.EMPTY) == (not rebalance.members)
        assert len(rebalance.members) <= MEMBERS_MAX
        assert len(rebalance.members.pending) <= MEMBERS_MAX
        assert rebalance.members.held_bytes == sum(member.held_bytes for member in rebalance.members)
        deadlines = [rebalance._deadline_ms(member) for member in rebalance.members]
        earliest = min([*deadlines, *rebalance.members.pending.values(), rebalance.barrier_ms])
        assert rebalance.due_ms <= earliest
        if earliest < 1 << 61:
            assert self.site.groups.next_deadline_ms <= earliest

    # Where it must end.

    def teardown(self):
        if not hasattr(self, "site"):
            return
        self.behave_well()
        living = [client for client in self.clients if not client.is_fenced]
        group = self.site.describe()
        if living:
            assert group.state is State.STABLE
            assert {one.member_id for one in group.members} == {one.member_id for one in living if one.is_synced}
            assert len(group.members) == min(len(living), MEMBERS_MAX)
        self.site.wait(3_600_000)
        self.deliver()
        assert not self.waiting
        assert self.site.state in {State.EMPTY, State.DEAD}
        assert self.site.groups.next_deadline_ms is None

    def behave_well(self):
        """Everybody does what it is told, for a while."""
        by_instance = {client.instance_id: client for client in self.clients if client.instance_id}
        for client in self.clients:
            client.is_fenced = client.instance_id is not None and by_instance[client.instance_id] is not client
            if client.is_fenced:
                self.drop_connection(client)
                client.rejoin()
            client.protocols = FLAVOURS[0]
        for _ in range(60):
            for client in self.clients:
                if client.is_fenced or client.ticket is not None:
                    continue
                if not client.joined:
                    if client.instance_id:
                        client.member_id = ""
                    self.join(client)
                elif not client.is_synced:
                    self.sync(client)
                else:
                    self.beat(client)
            self.time_passes(500)


Lives.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLives = Lives.TestCase
