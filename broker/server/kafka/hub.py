"""What all Kafka connections to a vhost share: topics, who waits for the disk or for a time, and how they are told.

Beside `server.hub.Hub`, whose turns and clock it uses. Everything here happens within a turn, without an await.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from broker.core.access_lists import CLUSTER_NAME, Kind, Operation
from broker.core.scheduler import SLICE_UNITS
from broker.log.pledges import Pledge
from broker.server.auth import is_loopback
from broker.server.kafka.fetch import Fetches
from broker.server.kafka.long_requests import LongRequests
from broker.server.kafka.owed import Owed
from broker.server.kafka.settings import KafkaSettings
from protocol.kafka.apis import APIS

if TYPE_CHECKING:
    from broker.core.topics.registry import Topics
    from broker.server.durability import Durability
    from broker.server.hub import Hub
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.slot import Slot
    from broker.server.log_lines import LogLines
    from broker.server.scram import Scram

log = logging.getLogger("jackalope.kafka")

BEFORE_LOGIN = frozenset((17, 18, 36))
"""SaslHandshake, ApiVersions, SaslAuthenticate."""
ADMINISTRATOR = "administrator"
WATCHED_AT_ONCE = 500
TIMERS_AT_ONCE = 500
"""Called in one step: each notes that something may go on in a later slice, or ends a connection."""
CLOSE_WAIT_MS = 5000
"""How long a peer that was told the end may leave its socket open."""
UNAUTHENTICATED_BYTES_MAX = 64 << 10
"""A request before the login; the largest there is carries a token of some kilobytes."""


class Timer:
    """A call at a time. Who no longer wants it sets `call` to None, which frees what it holds."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call


class Answer(Pledge):
    """A response that is true once what it tells is committed. One that never will be is not given: the end of the
    connection, with that of the process, tells the client that it does not know."""

    __slots__ = ("hub", "response", "slot")

    def __init__(self, hub: KafkaHub, slot: Slot, response: Any) -> None:
        self.hub = hub
        self.slot = slot
        self.response = response
        hub.waiting_count += 1
        slot.connection.pledged_count += 1

    def kept(self, committed: bool) -> None:
        """See `Pledge.kept`."""
        self.hub.waiting_count -= 1
        self.slot.connection.pledged_count -= 1
        if committed:
            self.slot.answer(self.response)


class KafkaHub:
    """See the module. `hub` is the process's, `topics` those of the vhost that these clients see."""

    def __init__(self, hub: Hub, topics: Topics, durability: Durability, settings: KafkaSettings, scram: Scram) -> None:
        self.hub = hub
        self.scram = scram
        self.topics = topics
        self.durability = durability
        self.settings = settings
        self.connections: dict[KafkaConnection, None] = {}
        self.numbers = count(1)
        self.owed = Owed(settings.answers_bytes_max, settings.answers_per_connection_bytes_max)
        self.fetches = Fetches(self, hub.env.randrange(1 << 31))
        self.long_requests = LongRequests(hub.scheduler)
        self._held: dict[KafkaConnection, None] = {}
        self.waiting_count = 0  # Answers that wait for the disk.
        self._timers: list[tuple[int, int, Timer]] = []
        self._timer_numbers = count()
        self._calls_timers = self._is_watching = False
        self.groups = hub.groups_of(settings.vhost)
        durability.on_synced.append(self._release_held)
        hub.faces.append(self)
        hub.on_tick.append(self._tick)
        hub.next_dues.append(lambda: self._timers[0][0] if self._timers else None)

    @property
    def now_ms(self) -> int:
        """The clock that never jumps, as of the event that is handled."""
        return self.hub.now_ms

    @property
    def wall_ms(self) -> int:
        """The wall clock, as of the event that is handled."""
        return self.hub.scheduler.wall_ms

    @property
    def log_lines(self) -> LogLines:
        """Those of the process."""
        return self.hub.log_lines

    # Connections.

    def add(self, connection: KafkaConnection) -> None:
        """A connection was accepted; it counts as half open until its user is known and it has made a request."""
        self.connections[connection] = None
        self.hub.hosts.add(connection.peer[0])
        self.hub.half_open.add(connection)

    def remove(self, connection: KafkaConnection) -> None:
        """Its socket is closed."""
        if connection in self.connections:
            del self.connections[connection]
            self.hub.hosts.remove(connection.peer[0])
        self.hub.half_open.discard(connection)
        self._held.pop(connection, None)

    def heard(self, connection: KafkaConnection) -> None:
        """It has made a request before its login, or its first; who need not log in is no longer half open."""
        if connection.user is None:
            self.hub.half_open.heard(connection)
        else:
            self.hub.half_open.discard(connection)

    # Who may do what.

    def anonymous(self, host: str) -> Any:
        """The user of a connection that has not logged in; None when it has to."""
        user = self.hub.access.users.get(self.settings.anonymous) if self.settings.anonymous is not None else None
        if user is None or (user.loopback_only and not is_loopback(host)):
            return None
        return user

    def may_ask(self, connection: KafkaConnection, api_key: int) -> bool:
        """Whether this may be asked before a login, or there was one."""
        return connection.user is not None or api_key in BEFORE_LOGIN

    def request_bytes_max(self, connection: KafkaConnection) -> int:
        """The largest request that is taken now."""
        return self.settings.request_bytes_max if connection.user is not None else UNAUTHENTICATED_BYTES_MAX

    def can(self, connection: KafkaConnection, operation: Operation, name: str, kind: Kind = "topic") -> bool:
        """Whether the user may do that with the topic or group: the vhost's access list, then its permissions."""
        return self.hub.access.can(connection.user, self.settings.vhost, operation, name, kind, connection.peer[0])

    def listed(self, connection: KafkaConnection, operation: Operation, name: str, kind: Kind) -> bool | None:
        """What the access list alone says."""
        return self.hub.access.listed(connection.user, self.settings.vhost, operation, name, kind, connection.peer[0])

    def is_administrator(self, connection: KafkaConnection) -> bool:
        """Whether the user may change who may do what."""
        return ADMINISTRATOR in connection.user.tags

    def may_describe_cluster(self, connection: KafkaConnection) -> bool:
        """Whether the user may see who may do what: administrators, and whom the access list allows it."""
        listed = self.listed(connection, "describe", CLUSTER_NAME, "cluster")
        return self.is_administrator(connection) if listed is None else listed

    def may_use(self, connection: KafkaConnection, group_id: str) -> bool:
        """Whether the user may be a member of the group, and commit its offsets."""
        return self.can(connection, "read", group_id, "group")

    def may_see(self, connection: KafkaConnection, group_id: str) -> bool:
        """Whether the user may look at the group and its offsets."""
        return self.can(connection, "describe", group_id, "group")

    def may_create(self, connection: KafkaConnection, name: str) -> bool:
        """Whether the user may create the topic: what the access list says of the cluster counts, too."""
        return self.can(connection, "create", name) or (
            self.listed(connection, "create", name, "topic") is None
            and self.listed(connection, "create", CLUSTER_NAME, "cluster") is True
        )

    # What waits for the disk.

    def answer_when_durable(self, slot: Slot, response: Any) -> None:
        """Answer when everything done so far is durable."""
        self.durability.store.pledge_all(Answer(self, slot, response))

    # Publishers that wait.

    def has_room(self) -> bool:
        """Whether publishers may go on: the disk keeps up, and there is no alarm."""
        return self.hub.broker.alarm is None and not self.durability.congested

    def hold(self, slot: Slot, request: Any) -> None:
        """Handle the request when there is room."""
        slot.connection.hold(slot, request)
        self._held[slot.connection] = None

    def _release_held(self) -> None:
        if self._held and self.has_room():
            held, self._held = self._held, {}
            for connection in held:
                connection.release()

    # Time.

    def at(self, due_ms: int, call: Callable[[], None]) -> Timer:
        """Call within a tick, when the monotonic clock has reached `due_ms`."""
        timer = Timer(call)
        if not self._timers or due_ms < self._timers[0][0]:
            self.hub.hasten(due_ms)
        heapq.heappush(self._timers, (due_ms, next(self._timer_numbers), timer))
        return timer

    def _tick(self, now_ms: int) -> None:
        if not self._calls_timers and self._call_timers(now_ms):
            self._calls_timers = True
            self.hub.scheduler.add_job(self._call_more_timers())
        self._release_held()

    # The process.

    @property
    def open_count(self) -> int:
        """How many connections are open."""
        return len(self.connections)

    def alarm_ended(self) -> None:
        """Publishers may go on."""
        self._release_held()

    def sweep(self) -> None:
        """Look at every connection, in slices, and at who holds room that others wait for."""
        if not self._is_watching:
            self._is_watching = True
            job = self._watch_all()
            if next(job, None) is not None:
                self.hub.scheduler.add_job(job)
        debt = self.owed.in_the_way(self.now_ms)
        if debt is not None:
            self.turn_out(debt.connection, "others wait for what it does not take")

    def end_all(self, *, failed: bool) -> None:
        """Each connection is closed once what it has done is answered (Kafka's protocol has no goodbye); at once if the
        disk has failed: what was asked of it is not answered any more."""
        for connection in list(self.connections):
            if failed:
                connection.transport.close()
            else:
                connection.end_when_done()

    # Timeouts.

    def _call_timers(self, now_ms: int) -> bool:
        """Call some of what is due; whether there may be more."""
        timers = self._timers
        for _ in range(TIMERS_AT_ONCE):
            if not timers or timers[0][0] > now_ms:
                return False
            call = heapq.heappop(timers)[2].call
            if call is not None:
                call()
        return True

    def _call_more_timers(self) -> Iterator[int]:
        while self._call_timers(self.now_ms):
            yield SLICE_UNITS
        self._calls_timers = False

    def _watch_all(self) -> Iterator[int]:
        for number, connection in enumerate(list(self.connections), 1):
            if connection in self.connections:  # Not gone meanwhile.
                self._watch(connection, self.now_ms)
            if number % WATCHED_AT_ONCE == 0:
                yield SLICE_UNITS
        self._is_watching = False

    def _watch(self, connection: KafkaConnection, now_ms: int) -> None:
        """Close who does not log in, takes nothing, or has said nothing for too long."""
        settings = self.settings
        transport = connection.transport
        is_half_open = connection.user is None or not connection.requests_count
        if connection.finished and now_ms - transport.progress_ms >= CLOSE_WAIT_MS:
            why = "it does not close"
        elif is_half_open and now_ms - connection.started_ms >= settings.login_timeout_ms:
            why = "no login" if connection.user is None else "no request"
        elif transport.pending_bytes and now_ms - transport.progress_ms >= settings.send_timeout_ms:
            why = "it takes nothing"
        elif now_ms - connection.last_heard_ms >= settings.idle_timeout_ms and not connection.slots:
            why = "idle"
        else:
            return
        self.turn_out(connection, why)

    def turn_out(self, connection: KafkaConnection, why: str) -> None:
        """Close a connection that has done nothing forbidden."""
        self.log_closed(connection, why)
        connection.transport.close()

    def log_closed(self, connection: KafkaConnection, why: str) -> None:
        """Say that the broker ends a connection."""
        text = "closed: peer=%s:%s client=%r %s"
        self.log_lines.info(log, text, *connection.peer[:2], connection.client_id[:64], why)

    # The node.

    def address(self, connection: KafkaConnection) -> tuple[str, int]:
        """Where the client of this connection finds the broker."""
        return self.settings.advertised or connection.local

    def statistics(self) -> dict[str, Any]:
        """Counts of what is there."""
        return {
            "kafka_connections": len(self.connections),
            "kafka_waiting_for_disk": self.waiting_count,
            "kafka_answers_bytes": self.owed.octets,
            "topics_partitions": self.topics.partition_count,
            "kafka_apis": len(APIS),
        }
