"""Hot path. A queue: its messages (`core.queues.queue_store`), its rules, and its consumers (`core.queues.dispatch`).

Budget: 0.1 µs per message enqueued in a run; held by `jackalope bench amqp`. Synchronous. This module joins the three:
a message that comes in passes the rules (`core.queues.limits`) and wakes consumers, a message that dies is settled and
dead-lettered, and a queue that nobody uses is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from broker.core.message import Message, has_expiration, redelivered
from broker.core.queues.at_least_once import AtLeastOnce
from broker.core.queues.dispatch import Consumer, Lease, Serving
from broker.core.queues.effective_policy import Rules, rules_of
from broker.core.queues.host import Letter, Tried
from broker.core.queues.lease_cursor import BATCH_MAX, LeaseCursor
from broker.core.queues.limits import Limits
from broker.core.queues.priority_cursor import PriorityCursor
from broker.core.queues.queue_store import QueueStore
from broker.core.queues.x_death import MAXLEN, REJECTED
from broker.core.scheduler import Scheduler
from broker.errors import Refused
from broker.log.errors import StorageError
from broker.log.log import Log
from broker.log.store import Store
from protocol.amqp.errors import ACCESS_REFUSED, RESOURCE_LOCKED

DEATH_UNITS = 15
"""What moving one dead letter to another queue costs, in units: 8 µs if it goes where the last one went, else 36."""
DEATHS_MAX = 64
"""How many messages of a queue with a dead letter exchange die in one step."""
RETURNS_MAX = 2048
"""How many leases of a queue without rules come back in one step."""
READ_AGAIN_MS = 1000
"""How long after a failure that may pass, such as a want of file handles, a log is read again."""


def _forget(_queue: Queue, _messages: Sequence[Message], _reason: str) -> None:
    """Outside of a vhost there is nowhere to go."""


def _keep(_queue: Queue, letters: Sequence[Letter], tried: Tried, _blocked: set[object]) -> None:
    """Outside of a vhost no dead letter can go anywhere: all were tried in vain."""
    tried(letters, letters)


def locked(name: str, vhost: str) -> Refused:
    """405: the queue is exclusive to another connection, or to none."""
    return Refused(
        RESOURCE_LOCKED,
        f"cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally declared "
        "on another connection or the exclusive property value does not match that of the original declaration.",
    )


class _ReadAgain:
    """Lets a queue whose log could not be read try again."""

    __slots__ = ("_queue",)

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def tick(self) -> None:
        queue = self._queue
        if not queue.deleted:
            queue.store.broken = False
            if queue.limits is not None:
                queue.limits.look_on()
            queue.wake()


class Queue(Serving):
    """One queue. `arguments` are those of the declaration, checked before; `store` and `log` are its place on disk."""

    limits_type: ClassVar[type[Limits]] = Limits
    # The fields that every message touches are slots of the base class, so they share cache lines (`log.recovering`).
    __slots__ = (
        "arguments",
        "at_least_once",
        "auto_delete",
        "dead_letter",
        "dead_letter_at_least_once",
        "deleted",
        "durable",
        "expires_ms",
        "has_expirations",
        "name",
        "on_expirations",
        "on_unused",
        "owner",
        "rules",
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
        self.arguments = dict(arguments or {})
        self.rules = rules_of(self.arguments)
        priority_max = self.rules.priority_max
        cursor = PriorityCursor(priority_max) if priority_max else LeaseCursor()
        super().__init__(
            QueueStore(self, scheduler, cursor, store, log),
            scheduler,
            now_ms,
            single_active=self.arguments.get("x-single-active-consumer") is True,
            takes_over=self.arguments.get("x-queue-type") == "quorum",
        )
        self.name = name
        self.vhost = vhost
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner  # The connection of an exclusive queue.
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
        self.apply(self.rules)

    def apply(self, rules: Rules) -> None:
        """These rules are in force from now on, also for what is in the queue."""
        self.rules = rules
        self.expires_ms = rules.expires_ms
        if rules.expires_ms is not None and not self.consumers:
            self.scheduler.timers.ask(self, self.scheduler.after(self.last_used_ms, rules.expires_ms))
        if not rules.plain:
            self.watch()
        if self.limits is not None:
            self.limits.rules_changed()

    def watch(self) -> Limits:
        """Messages are looked at from now on."""
        if self.limits is None:
            self.limits = self.limits_type(self)
            self.store.watch(self.limits)
        return self.limits

    def recover(self, *, clean: bool, has_expirations: bool = False) -> None:
        """The queue comes back with what its log holds; `clean` says how the last run ended. See also `resume`."""
        self.store.recover(clean=clean)
        self.has_expirations = has_expirations

    def resume(self) -> None:
        """All queues and exchanges are back: go on with what the rules ask for, and what is due."""
        if self.has_expirations:
            self.watch()
        if self.limits is not None:
            self.limits.resume()
        if self.store.must_load_all:
            self.scheduler.mark(self)

    # Messages in.

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Append messages in order; who waits is served in the scheduler's next slice.

        They are of the regular kind: without an expiration of their own, to a queue that does not refuse any.
        """
        if self.limits is not None:
            self.limits.enqueue(messages)
        else:
            self.store.enqueue(messages)
        if not self.dirty and self.hungry and self.levels:
            self.dirty = True
            self.scheduler.dirty.append(self)

    def enqueue_alone(self, message: Message) -> None:
        """`enqueue` for one message, which goes straight to a sole consumer that is free, if nothing stands before.

        Call it only where the end of the turn writes to all connections: until then the delivery is not written.
        """
        if self.limits is None:
            store = self.store
            offset = store.append_alone(message)
            if offset >= 0:
                consumer = self.sole
                if (
                    consumer is None
                    or store.cursor.returned
                    or self.returning_count
                    or not consumer.deliver_one(message, offset)
                ):
                    store.let_in(offset, message)
                    if not self.dirty and self.hungry and self.levels:
                        self.scheduler.mark(self)
                    return
                store.pass_by(offset)
                if consumer.no_ack:
                    store.settle_one(offset)
                return
        self.enqueue((message,))

    def enqueue_one(self, message: Message) -> bool:
        """One message of any kind; False when the queue is full and refuses it."""
        if has_expiration(message[1]) and not self.has_expirations:
            self.has_expirations = True
            self.watch()
            if self.on_expirations is not None:
                self.on_expirations(self)
        if not self.accepts(message):
            if self.rules.overflow == "reject-publish-dlx" and self.rules.dead_letter_exchange is not None:
                self.dead_letter(self, (message,), MAXLEN)
            return False
        self.enqueue((message,))
        return True

    def accepts(self, message: Message) -> bool:
        """Whether one more message would be taken, whichever it is: a queue's limits do not depend on the message."""
        del message
        return self.limits is None or self.limits.accepts()

    @property
    def rejects(self) -> bool:
        """Whether a publish may be refused, so that each has to be looked at."""
        return self.rules.rejects

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

    # Leases end, or come back.

    def settle(self, offsets: Sequence[int]) -> None:
        """The leases of these offsets are over for good."""
        self.store.settle(offsets)

    def settle_one(self, offset: int) -> None:
        """The same of one lease."""
        self.store.settle_one(offset)

    def drop(self, messages: Sequence[Message], offsets: Sequence[int], reason: str) -> None:
        """Leased messages die: they are settled, and go to the dead letter exchange if there is one."""
        if self.rules.at_least_once and not self.deleted:
            self.at_least_once = self.at_least_once or AtLeastOnce(self)
            self.at_least_once.add(messages, offsets, reason)
            return
        self.store.settle(offsets)
        if self.rules.dead_letter_exchange is not None and not self.deleted:
            self.dead_letter(self, messages, reason)

    def offer(self, letters: Sequence[Letter], tried: Tried, blocked: set[object]) -> None:
        """Dead letters, not settled yet, go where they can: see `DeadLetters.add_at_least_once`."""
        self.dead_letter_at_least_once(self, letters, tried, blocked)

    def reject(self, leases: Sequence[Lease]) -> None:
        """Leases that nobody wants back."""
        self.drop([message for _, _, message in leases], [offset for _, offset, _ in leases], REJECTED)

    def release(self, leases: Sequence[Lease], *, counted: bool = True) -> None:
        """Leases come back to their places, marked as redelivered; `counted` as deliveries that failed."""
        if self.deleted:
            return
        limits = self.limits
        if limits is None:
            self.store.release([(offset, redelivered(message)) for _, offset, message in leases])
        else:
            self.store.release(limits.released(leases, counted=counted))
            limits.returned()
        self.wake()

    def hold(self) -> None:
        """Returns begin that take several slices."""
        self.returning_count += 1

    def unhold(self) -> None:
        """They are complete."""
        self.returning_count -= 1
        if self.limits is not None and not self.returning_count:
            self.limits.returned()
        self.wake()

    def purge(self) -> int:
        """Drop what is ready; unacknowledged deliveries stay (RabbitMQ). Returns how many were dropped."""
        count = self.store.purge()
        if self.at_least_once is not None:
            count += self.at_least_once.purge()
        return count

    @property
    def ready_count(self) -> int:
        """Messages that wait for a consumer."""
        return self.store.ready_count

    @property
    def place(self) -> str:
        """What it is, for an operator."""
        return f"queue '{self.name}' in vhost '{self.vhost}'"

    def unreadable(self, error: StorageError | OSError) -> None:
        """Nothing can be loaded: for good when the log is damaged, else (out of handles, perhaps) for a while."""
        if isinstance(error, StorageError):
            self.scheduler.report(f"{self.place} cannot be read, delivers nothing", error)
        else:
            self.scheduler.report(f"{self.place} cannot be read now", error)
            self.scheduler.timed.ask(_ReadAgain(self), self.scheduler.wall_ms + READ_AGAIN_MS)

    # Consumers.

    def check_access(self, connection: object) -> None:
        """Raises Refused 405 when the queue is exclusive to another connection."""
        if self.owner is not None and self.owner is not connection:
            raise locked(self.name, self.vhost)

    def check_get(self, now_ms: int) -> None:
        """Somebody asks for a message at a time. Raises Refused 405 where only the active consumer gets any.

        RabbitMQ: rabbit_channel.erl, basic.get; a classic queue gives it.
        """
        if self.single_active and self.takes_over:
            text = (
                f"cannot obtain access to locked {self.place}. basic.get operations are not supported by quorum queues "
                "with single active consumer"
            )
            raise Refused(RESOURCE_LOCKED, text)
        self.last_used_ms = now_ms

    @property
    def kept(self) -> bool:
        """Whether a restart finds it again."""
        return self.store.kept

    def tick(self) -> None:
        """`x-expires` may have passed without consumers, redeclaration or get; with consumers it does not begin."""
        if self.deleted or self.expires_ms is None or self.consumers:
            return
        due_ms = self.scheduler.after(self.last_used_ms, self.expires_ms)
        if due_ms > self.scheduler.now_ms:
            self.scheduler.timers.ask(self, due_ms)
        elif self.on_unused is not None:
            self.on_unused(self)

    def add_consumer(self, consumer: Consumer) -> None:
        """Attach a consumer. Raises Refused 403 when exclusive use forbids it (also: exclusive on single active)."""
        exclusive_already = bool(self.consumers) and self.consumers[0].exclusive  # Then it is the only one.
        if exclusive_already or (consumer.exclusive and (self.consumers or self.single_active)):
            raise Refused(ACCESS_REFUSED, f"{self.place} in exclusive use")
        self.attach(consumer)
        self.wake()

    def remove_consumer(self, consumer: Consumer, now_ms: int) -> None:
        """Detach a consumer; with the last one `x-expires` begins, or an auto-delete queue goes."""
        if consumer in self.consumers:
            self.detach(consumer, now_ms)
            if not self.consumers and self.auto_delete and self.on_unused is not None:
                self.on_unused(self)
            else:
                self.wake()
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
        self.store.close()
        if self.at_least_once is not None:
            self.at_least_once.purge()
        for consumer in self.detach_all():
            consumer.cancelled()
