"""Hot path. A queue: the messages (a lease cursor, and what is behind it in a log), its rules, and its consumers.

Budget: 0.1 µs per message enqueued in a run; held by `jackalope bench amqp`. Synchronous. Who gets the next message is
`core.queues.dispatch`, how messages leave `core.queues.reading`, what does not fit in memory `core.queues.backlog`,
what the queue was told `core.queues.limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from broker.core.message import Message, has_expiration, redelivered
from broker.core.queues.at_least_once import AtLeastOnce, Letter
from broker.core.queues.backlog import HEAD_BYTES_MAX, Backlog, HeadGauge
from broker.core.queues.dispatch import Consumer, Lease
from broker.core.queues.effective_policy import Rules, rules_of
from broker.core.queues.lease_cursor import BATCH_MAX, LeaseCursor
from broker.core.queues.limits import Limits
from broker.core.queues.priority_cursor import PriorityCursor
from broker.core.queues.reading import Taking
from broker.core.queues.x_death import MAXLEN, REJECTED
from broker.core.scheduler import Scheduler
from broker.errors import Refused
from broker.log.log import Log
from broker.log.store import Store
from protocol.amqp.errors import RESOURCE_LOCKED

DEATH_UNITS = 15
"""What it costs to move one dead letter to another queue: 8 µs like the last one, 36 otherwise."""
DEATHS_MAX = 64
"""So many die in one step, where they are dead-lettered."""
RETURNS_MAX = 2048
GAUGED_COUNT, GAUGED_BYTES = 32, 1 << 16
"""The head of a queue without a log is measured from so many messages on, or when one is so large."""
Tried = Callable[[Sequence[Letter], Sequence[Letter]], None]
"""Told of dead letters that were tried: (all, those that could not go)."""


def _forget(_queue: Queue, _messages: Sequence[Message], _reason: str) -> None:
    """Outside of a vhost there is nowhere to go."""


def _keep(_queue: Queue, letters: Sequence[Letter], tried: Tried, _blocked: set[object]) -> None:
    """Outside of a vhost there is nowhere to go."""
    tried(letters, letters)


def locked(name: str, vhost: str) -> Refused:
    """405: the queue is exclusive to another connection, or to none."""
    return Refused(
        RESOURCE_LOCKED,
        f"cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally declared "
        "on another connection or the exclusive property value does not match that of the original declaration.",
    )


class Queue(Taking):
    """One queue. `arguments` are those of the declaration, checked before."""

    # What every message touches is among those of the bases: that is in fewer lines of memory (see `log.recovering`).
    __slots__ = (
        "arguments",
        "at_least_once",
        "auto_delete",
        "dead_letter",
        "dead_letter_at_least_once",
        "durable",
        "expires_ms",
        "gauge",
        "has_expirations",
        "name",
        "on_expirations",
        "on_unused",
        "owner",
        "rules",
        "single_active",
        "store",
        "vhost",
    )  # fmt: skip
    kind: ClassVar = "queue"

    def __init__(
        self,
        name: str,
        vhost: str,
        scheduler: Scheduler,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: Mapping[str, Any] | None = None,
        now_ms: int = 0,
        store: Store | None = None,
        log: Log | None = None,
    ) -> None:
        super().__init__(now_ms)
        self.name = name
        self.vhost = vhost
        self.scheduler = scheduler
        self.store = store
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner  # The connection of an exclusive queue.
        self.arguments = dict(arguments or {})
        self.single_active = self.arguments.get("x-single-active-consumer") is True
        self.rules = rules_of(self.arguments)
        priority_max = self.rules.priority_max
        self.cursor: LeaseCursor = PriorityCursor(priority_max) if priority_max else LeaseCursor()
        self.gauge = HeadGauge()
        self.backlog = Backlog(store, log, self.gauge) if store is not None and log is not None else None
        self.limits: Limits | None = None
        self.dead_letter: Callable[[Queue, Sequence[Message], str], None] = _forget
        """What becomes of dead letters: (this queue, messages, reason)."""
        self.dead_letter_at_least_once: Callable[[Queue, Sequence[Letter], Tried, set[object]], None] = _keep
        """The same at least once: see `DeadLetters.add_at_least_once`."""
        self.at_least_once: AtLeastOnce | None = None
        self.deleted = False
        self.on_unused: Callable[[Queue], None] | None = None
        self.has_expirations = False
        """Whether a message with an expiration of its own has ever come in; `on_expirations` is told of the first."""
        self.on_expirations: Callable[[Queue], None] | None = None
        self.enqueued_count = 0
        self.settled_count = 0
        self.apply(self.rules)

    def apply(self, rules: Rules) -> None:
        """These rules are in force from now on, also for what is in the queue."""
        self.rules = rules
        self.expires_ms = rules.expires_ms
        if rules.expires_ms is not None and not self.consumers:
            self.scheduler.timers.ask(self, self.scheduler.after(self.last_used_ms, rules.expires_ms))
        if not rules.plain and self.limits is None:
            self.limits = Limits(self)
        if self.limits is not None:
            self.limits.rules_changed()

    def recover(self, *, clean: bool, has_expirations: bool = False) -> None:
        """The queue comes back with what its log holds; `clean` says how the last run ended. See also `resume`."""
        assert self.backlog is not None
        self.backlog.recover(self.cursor, clean=clean)
        self.has_expirations = has_expirations

    def resume(self) -> None:
        """All queues and exchanges are back: go on with what the rules ask for, and what is due."""
        if self.has_expirations:
            self.limits = self.limits or Limits(self)
        if self.limits is not None:
            self.limits.resume()
        if not self.cursor.windowed and self.cursor.unloaded_count:
            self.scheduler.mark(self)  # What comes first is known when all of it is in memory.

    # Messages in.

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Append messages in order; who waits is served in the scheduler's next slice.

        They are of the regular kind: without an expiration of their own, to a queue that does not refuse any.
        """
        if self.limits is not None:
            self.limits.enqueue(messages)
        elif self.backlog is not None:
            self.backlog.enqueue(self.cursor, messages, self.scheduler.wall_ms)
        else:
            head = self.cursor.head
            head.extend(messages)
            if len(head) >= GAUGED_COUNT or len(messages[-1][1]) >= GAUGED_BYTES:
                self._measure(messages)
        self.enqueued_count += len(messages)
        self._mark()

    def enqueue_alone(self, message: Message) -> None:
        """`enqueue` for one message; straight to the queue's only consumer, if that is free and nothing stands before.

        Only where the end of the turn writes to all connections: what is handed out here is not written before.
        """
        backlog = self.backlog
        if backlog is not None and self.limits is None:
            cursor = self.cursor
            offset = backlog.append_alone(cursor, message, self.scheduler.wall_ms)
            if offset >= 0:
                self.enqueued_count += 1
                consumer = self.sole
                if consumer is None or cursor.returned or self.held or not consumer.deliver_one(message, offset):
                    cursor.extend(offset, (message,), offset)
                    self.gauge.octets = 0  # The head was empty; a single message need not be measured.
                    self._mark()
                    return
                cursor.pass_by(backlog.tail_offset)
                if consumer.no_ack:
                    self.settle_one(offset)
                return
        self.enqueue((message,))

    def enqueue_one(self, message: Message) -> bool:
        """One message of any kind; False when the queue is full and refuses it."""
        if has_expiration(message[1]) and not self.has_expirations:
            self.has_expirations = True
            self.limits = self.limits or Limits(self)
            if self.on_expirations is not None:
                self.on_expirations(self)
        if not self.accepts(message):
            if self.rules.overflow == "reject-publish-dlx" and self.rules.dead_letter_exchange is not None:
                self.dead_letter(self, (message,), MAXLEN)
            return False
        self.enqueue((message,))
        return True

    def accepts(self, message: Message) -> bool:
        """Whether one more message would be taken; a queue looks at none of them."""
        del message
        return self.limits is None or self.limits.accepts()

    @property
    def rejects(self) -> bool:
        """Whether a publish may be refused, so that each has to be looked at."""
        return self.rules.rejects

    def append(self, messages: Sequence[Message]) -> int:
        """Put messages behind the others and nothing else (for the limits); returns the offset of the first."""
        cursor = self.cursor
        if self.backlog is not None:
            first = self.backlog.log.next_offset
            self.backlog.enqueue(cursor, messages, self.scheduler.wall_ms)
            return first
        first = cursor.tail_offset
        cursor.extend(first, messages, first)
        if cursor.windowed:
            self._measure(messages)
        return first

    def _measure(self, messages: Sequence[Message]) -> None:
        """These have come into the head of a queue without a log; if it is full, the next ones go to one."""
        if self.gauge.add(len(self.cursor.head) - len(messages), messages) > HEAD_BYTES_MAX:
            self._spill()

    def _mark(self) -> None:
        if not self.dirty and self.hungry and self.levels:
            self.dirty = True
            self.scheduler.dirty.append(self)

    def _spill(self) -> None:
        """The head of a queue without a log is full: what comes goes to a log that ends with the process."""
        if self.store is not None:
            log = self.store.create_log(durable=False)
            log.begin_at(self.cursor.tail_offset)
            self.backlog = Backlog(self.store, log, self.gauge)

    @property
    def deaths_max(self) -> int:
        """How many messages are to die in one step."""
        return BATCH_MAX if self.rules.dead_letter_exchange is None else DEATHS_MAX

    @property
    def returns_max(self) -> int:
        """How many leases are to come back in one step."""
        if self.limits is None:
            return RETURNS_MAX
        return RETURNS_MAX // 4 if self.rules.delivery_limit is None else 4 * self.deaths_max

    @property
    def death_units(self) -> int:
        """What the death of one costs, for the scheduler."""
        return 2 if self.rules.dead_letter_exchange is None else DEATH_UNITS

    # Leases begin, and end.

    def leased(self, consumer: Consumer, messages: Sequence[Message], offsets: Sequence[int]) -> None:
        """These were taken for a consumer, and are about to be delivered."""
        if self.limits is not None:
            self.limits.taken(messages)
        if consumer.no_ack:
            self.settle(offsets)

    def settle(self, offsets: Sequence[int]) -> None:
        """The leases of these offsets are over for good."""
        count = len(offsets)
        self.cursor.end(count)
        self.settled_count += count
        if self.limits is not None:
            self.limits.settled(offsets)
        if self.backlog is not None and not self.deleted:
            self.backlog.settle(offsets)

    def settle_one(self, offset: int) -> None:
        """The same of one lease."""
        backlog = self.backlog
        if backlog is not None and self.limits is None and not self.deleted:
            self.cursor.leased_count -= 1
            self.settled_count += 1
            backlog.log.settle_one(offset)
        else:
            self.settle((offset,))

    def drop(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """Leased messages die: they are settled, and go to the dead letter exchange if there is one."""
        if self.rules.at_least_once and not self.deleted:
            self.at_least_once = self.at_least_once or AtLeastOnce(self)
            self.at_least_once.add(messages, offsets, reason)
            return
        self.settle(offsets)
        if self.rules.dead_letter_exchange is not None and not self.deleted:
            self.dead_letter(self, messages, reason)

    def reject(self, leases: Sequence[Lease]) -> None:
        """Leases that nobody wants back."""
        self.drop([message for _, _, message in leases], [offset for _, offset, _ in leases], REJECTED)

    def release(self, leases: Sequence[Lease], *, counted: bool = True) -> None:
        """Leases come back to their places, marked as redelivered; `counted` as deliveries that failed."""
        if self.deleted:
            return
        limits = self.limits
        if limits is None:
            self.cursor.release([(offset, redelivered(message)) for _, offset, message in leases])
        else:
            self.cursor.release(limits.released(leases, counted=counted))
            limits.returned()
        self.wake()

    def hold(self) -> None:
        """Returns begin that take several slices."""
        self.held += 1

    def unhold(self) -> None:
        """They are complete."""
        self.held -= 1
        if self.limits is not None and not self.held:
            self.limits.returned()
        self.wake()

    def purge(self) -> int:
        """Drop what is ready; unacknowledged deliveries stay (RabbitMQ). Returns how many were dropped."""
        if self.backlog is not None and not self.deleted:
            self.backlog.purge(self.cursor)
            if self.kept:
                self.backlog.store.promised_count += 1
        count, garbage = self.cursor.clear_ready()
        self.settled_count += count
        if self.at_least_once is not None:
            count += self.at_least_once.purge()
        if self.limits is not None:
            self.limits.purged()
        for container in garbage:
            self.scheduler.discard(container)
        return count

    @property
    def end_offset(self) -> int:
        """Behind the last message that has come in."""
        return self.cursor.tail_offset if self.backlog is None else self.backlog.log.next_offset

    @property
    def ready_count(self) -> int:
        """Messages that wait for a consumer."""
        return self.cursor.ready_count

    # Consumers.

    def check_access(self, connection: object) -> None:
        """Raises Refused 405 when the queue is exclusive to another connection."""
        if self.owner is not None and self.owner is not connection:
            raise locked(self.name, self.vhost)

    def check_get(self, now_ms: int) -> None:
        """Somebody asks for a message at a time. Raises Refused 405 where only the active consumer gets any.

        RabbitMQ: rabbit_channel.erl, basic.get; a classic queue gives it.
        """
        if self.single_active and self.arguments.get("x-queue-type") == "quorum":
            text = (
                f"cannot obtain access to locked {self.place}. basic.get operations are not supported by quorum queues "
                "with single active consumer"
            )
            raise Refused(RESOURCE_LOCKED, text)
        self.last_used_ms = now_ms

    @property
    def kept(self) -> bool:
        """Whether a restart finds it again."""
        return self.backlog is not None and self.backlog.log.durable

    def tick(self) -> None:
        """`x-expires` may have passed without consumers, redeclaration or get; with consumers it does not begin."""
        if self.deleted or self.expires_ms is None or self.consumers:
            return
        due_ms = self.scheduler.after(self.last_used_ms, self.expires_ms)
        if due_ms > self.scheduler.now_ms:
            self.scheduler.timers.ask(self, due_ms)
        elif self.on_unused is not None:
            self.on_unused(self)

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        """Detach a consumer; with the last one `x-expires` begins, or an auto-delete queue goes."""
        super().remove_consumer(consumer, now_ms)
        if self.expires_ms is not None and not self.consumers and not self.deleted:
            self.scheduler.timers.ask(self, self.scheduler.after(self.last_used_ms, self.expires_ms))

    def close(self) -> None:
        """The queue is deleted: its messages go, its consumers are told."""
        self.deleted = True
        self.scheduler.timers.forget(self)
        if self.limits is not None:
            self.scheduler.timed.forget(self.limits.expiry)
        if self.at_least_once is not None:
            self.scheduler.timed.forget(self.at_least_once)
        self.purge()
        if self.backlog is not None:
            self.backlog.store.drop_log(self.backlog.log)
        consumers, self.consumers, self.levels, self.ranks = self.consumers, [], [], []
        for consumer in consumers:
            consumer.cancelled()
