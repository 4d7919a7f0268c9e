"""Hot path. Fetch (API 1): batches out of partitions as they are stored, at once or when there are enough.

Budget: 40 µs per request of one partition, 10 µs per further one; held by `jackalope bench kafka`.
A fetch that finds less than its `min_bytes` is *parked*: its partitions wake it when their high watermark moves, the
clock when `max_wait_ms` is over. What is woken is answered in slices (a topic may have a thousand readers).
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.errors import TopicRefused
from broker.core.topics.partition import Partition, Read
from broker.core.topics.troubles import READ
from broker.log.errors import StorageError
from broker.server.kafka.handlers import Steps, handles
from broker.server.kafka.owed import memory_size
from broker.server.kafka.sessions import FetchPlan, Sessions, Wanted
from protocol.kafka.apis.fetch import FetchableTopicResponse, FetchRequest, FetchResponse, PartitionData
from protocol.kafka.errors import ErrorCode
from protocol.kafka.records import COMPRESSION, ZSTD, CorruptBatch, parse_header

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.hub import KafkaHub, Timer
    from broker.server.kafka.slot import Slot

log = logging.getLogger("jackalope.kafka")

ZSTD_VERSION = 10
MAX_WAIT_MS = 60_000
"""A fetch is not parked longer; Kafka's clients ask for half a second."""
DISPATCH_COUNT = 16
CACHED_READS, CACHED_BYTES_MAX = 64, 256 << 10
FETCH_UNITS = 50
PARTITION_UNITS, WAIT_UNITS = 10, 2
"""What looking at one partition costs, beside its octets, and waiting for it."""
TOLD_AT_ONCE = 1000
RANGES_BYTES_MIN = 64 << 10
"""Who wants less than that of a partition is not served from files."""


class Reads:
    """The last reads of the tails of partitions: a thousand readers of one topic ask for the same octets."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        self._reads: OrderedDict[tuple[int, int, int, int, int, bool], Read] = OrderedDict()

    def read(self, partition: Partition, offset: int, bytes_max: int, *, at_least_one: bool, is_sent: bool) -> Read:
        """See `Partition.read`; `is_sent`: it need not be looked at, and may come as pieces of files."""
        if is_sent and bytes_max >= RANGES_BYTES_MIN:
            stored = partition.stored(offset, bytes_max)
            if stored is not None:
                return stored
        key = (partition.log.number, partition.settled_count, offset, partition.high_watermark, bytes_max, at_least_one)
        found = self._reads.get(key)
        if found is None:
            found = partition.read(offset, bytes_max, at_least_one=at_least_one)
            if 0 < found.size <= CACHED_BYTES_MAX:
                self._reads[key] = found
                if len(self._reads) > CACHED_READS:
                    self._reads.popitem(last=False)
        return found


class Fetches:
    """All fetches of the process: sessions, those that are parked, and those that are to be answered."""

    def __init__(self, hub: KafkaHub, first_session_id: int) -> None:
        self.hub = hub
        self.sessions = Sessions(first_session_id)
        self.reads = Reads()
        self.dirty = False
        self._woken: deque[ParkedFetch] = deque()

    def wake(self, fetch: ParkedFetch) -> None:
        """The fetch may be answered in a later slice."""
        self._woken.append(fetch)
        self.hub.hub.scheduler.mark(self)

    def dispatch(self) -> int:
        """Look again at some of those that were woken; returns the units of work done."""
        units = 0
        for _ in range(min(len(self._woken), DISPATCH_COUNT)):
            units += FETCH_UNITS + self._woken.popleft().look_again()
            if units >= SLICE_UNITS:
                break
        if self._woken:
            self.hub.hub.scheduler.mark(self)
        return units


class ParkedFetch:
    """A fetch that waits for data, or for room to read it. A `Waiter` of its partitions."""

    __slots__ = ("_fetches", "_is_last", "_is_over", "_is_woken", "_partitions", "_plan", "_request", "_timer", "slot")

    def __init__(self, fetches: Fetches, slot: Slot, request: FetchRequest, plan: FetchPlan) -> None:
        self._fetches = fetches
        self.slot = slot
        self._request = request
        self._plan = plan
        self._is_over = self._is_woken = False
        self._is_last = False  # Its time is over: it is answered whatever there is.
        self._timer: Timer | None = None
        self._partitions: list[Partition] = []

    def park(self) -> Iterator[int]:
        """Wait for data, for the end of the time, or for the peer to go. Yields units of work."""
        hub = self._fetches.hub
        self.slot.connection.on_close[self] = self.forget
        for number, wanted in enumerate(self._plan.partitions, 1):
            if number % (SLICE_UNITS // WAIT_UNITS) == 0:
                yield SLICE_UNITS
                if self._is_over:
                    return
            partition = _find(hub, wanted)
            if partition is not None:
                partition.wait(self)
                self._partitions.append(partition)
        self._timer = hub.at(hub.now_ms + min(self._request.max_wait_ms, MAX_WAIT_MS), self._time_is_over)

    def wake(self, partition: Partition) -> None:
        """One of its partitions has more, or is gone."""
        self.wake_up()

    def wake_up(self) -> None:
        """Have it look again in a later slice."""
        if not self._is_woken:
            self._is_woken = True
            self._fetches.wake(self)

    def look_again(self) -> int:
        """Answer if there is enough now. The rest of what takes long is a job; returns the units of work done."""
        self._is_woken = False
        connection = self.slot.connection
        if self._is_over or connection.finished or not connection.debt.may_read(self):
            return 0
        steps = self._maybe_answer()
        try:
            units = next(steps)
        except StopIteration as done:
            return int(done.value)
        self._fetches.hub.hub.scheduler.add_job(steps)
        return units

    def _time_is_over(self) -> None:
        self._is_last = True
        self.wake_up()

    def _maybe_answer(self) -> Generator[int, None, int]:
        """Look, and answer if that is enough; the value is the units of work that were not yielded."""
        connection = self.slot.connection
        found = Collected(self._fetches, self.slot, self._plan)
        units = 0
        try:
            units = yield from found.collect(self._request)
            response = None
            if not self._is_over and not connection.finished and (self._is_last or found.is_enough):
                self.forget()
                response = yield from found.response()
            found.let_go()
            if response is not None and self.slot.is_long:
                yield from self.slot.answer_in_steps(response)
            elif response is not None:
                self.slot.answer(response)
        except Exception:  # noqa: BLE001 - see end_by_bug
            self.forget()
            found.let_go()
            connection.end_by_bug()
        connection.debt.has_read()
        return units

    def forget(self) -> None:
        """It is answered, or its peer is gone."""
        self._is_over = True
        if self._timer is not None:
            self._timer.call = None
        connection = self.slot.connection
        connection.on_close.pop(self, None)
        connection.debt.forget(self)
        for partition in self._partitions:
            partition.waiters.pop(self, None)
        self._partitions.clear()


@handles(1)
def on_fetch(connection: KafkaConnection, slot: Slot, request: FetchRequest) -> Steps:
    """See the module."""
    fetches = connection.hub.fetches
    try:
        plan = yield from fetches.sessions.plan(request, connection.user)
    except TopicRefused as refused:
        return FetchResponse(error_code=refused.code, session_id=0)
    if connection.hub.owed.is_full:
        parked = ParkedFetch(fetches, slot, request, plan)
        yield from parked.park()
        parked.wake_up()
        return None
    found = Collected(fetches, slot, plan)
    yield from found.collect(request)
    if found.is_enough or request.max_wait_ms <= 0:
        response = yield from found.response()
        found.let_go()
        return response
    found.let_go()
    yield from ParkedFetch(fetches, slot, request, plan).park()
    return None


def _find(hub: KafkaHub, wanted: Wanted) -> Partition | None:
    topic = hub.topics.get(wanted.topic) if wanted.topic else hub.topics.by_id(wanted.topic_id)
    return topic.partitions[wanted.index] if topic is not None and 0 <= wanted.index < len(topic.partitions) else None


class Collected:
    """What a fetch would be answered now, and whether that is worth being sent before its time is over.

    What is read counts as owed before others have a turn, and until `let_go`.
    """

    __slots__ = ("_fetches", "_found", "_held", "_plan", "_slot", "_uncounted", "is_enough")

    def __init__(self, fetches: Fetches, slot: Slot, plan: FetchPlan) -> None:
        self._fetches = fetches
        self._slot = slot
        self._plan = plan
        self._found: list[tuple[Wanted, PartitionData, int]] = []
        self._held = self._uncounted = 0
        self.is_enough = False

    def collect(self, request: FetchRequest) -> Generator[int, None, int]:
        """Look at all partitions, in slices, while the peer is there; the value is the units that were not yielded."""
        connection = self._slot.connection
        version = self._slot.header.api_version
        plan = self._plan
        room = min(request.max_bytes, connection.hub.settings.fetch_bytes_max)
        size = spent = 0
        is_news = not plan.partitions
        for wanted in plan.partitions:
            if spent >= SLICE_UNITS:
                self._count()
                yield spent
                spent = 0
                if connection.finished:
                    return 0
            answer, octets = _read(self._fetches, connection, wanted, room - size, version, is_first=not size)
            spent += PARTITION_UNITS
            answer.aborted_transactions = [] if request.isolation_level else None
            if octets:
                size += octets
                self._uncounted += memory_size(answer.records)
            if answer.error_code:
                is_news = True
            elif plan.is_incremental and not octets and _is_known(wanted, answer):
                continue
            self._found.append((wanted, answer, octets))
        self.is_enough = is_news or size >= request.min_bytes
        return spent

    def let_go(self) -> None:
        """The answer counts from now on, or there is none."""
        if self._held:
            self._slot.connection.debt.drop(self._held)
            self._held = 0

    def _count(self) -> None:
        self._slot.connection.debt.add(self._uncounted)
        self._held += self._uncounted
        self._uncounted = 0

    def response(self) -> Generator[int, None, FetchResponse]:
        """It is sent: a session's client knows it from now on."""
        topics: dict[tuple[str, bytes], FetchableTopicResponse] = {}
        for number, (wanted, answer, octets) in enumerate(self._found, 1):
            if number % TOLD_AT_ONCE == 0:
                self._count()
                yield SLICE_UNITS
                if self._slot.connection.finished:
                    break  # Nobody is there to be told the rest.
            if octets:
                self._fetches.sessions.served(self._plan, wanted)
            wanted.seen_high_watermark, wanted.seen_start = answer.high_watermark, answer.log_start_offset
            key = (wanted.topic, wanted.topic_id)
            if key not in topics:
                topics[key] = FetchableTopicResponse(topic=wanted.topic, topic_id=wanted.topic_id, partitions=[])
            topics[key].partitions.append(answer)
        return FetchResponse(session_id=self._plan.session_id, responses=list(topics.values()))


def _is_known(wanted: Wanted, answer: PartitionData) -> bool:
    return (wanted.seen_high_watermark, wanted.seen_start) == (answer.high_watermark, answer.log_start_offset)


def _read(
    fetches: Fetches, connection: KafkaConnection, wanted: Wanted, room: int, version: int, *, is_first: bool
) -> tuple[PartitionData, int]:
    """What one partition has, and the octets of it."""
    hub = fetches.hub
    answer = PartitionData(
        partition_index=wanted.index, high_watermark=-1, last_stable_offset=-1, log_start_offset=-1, records=b""
    )
    partition = _find(hub, wanted)
    if partition is None:
        is_named = bool(wanted.topic) or hub.topics.by_id(wanted.topic_id) is not None
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_named else ErrorCode.UNKNOWN_TOPIC_ID
        return answer, 0
    if not hub.can(connection, "read", partition.topic_name):
        answer.error_code = ErrorCode.TOPIC_AUTHORIZATION_FAILED
        return answer, 0
    answer.high_watermark = answer.last_stable_offset = partition.high_watermark
    answer.log_start_offset = partition.start_offset
    try:
        partition.check_epoch(wanted.epoch)
        partition.check_offset(wanted.offset)
        bytes_max = min(wanted.bytes_max, room)
        if bytes_max <= 0 and not is_first:
            return answer, 0
        may_be_zstd = version >= ZSTD_VERSION
        found = fetches.reads.read(partition, wanted.offset, bytes_max, at_least_one=is_first, is_sent=may_be_zstd)
        if not may_be_zstd and any(_has_zstd(piece) for piece in found.pieces if isinstance(piece, memoryview)):
            raise TopicRefused(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Fetch 10")
    except TopicRefused as refused:
        answer.error_code = refused.code
        return answer, 0
    except (StorageError, CorruptBatch, OSError) as error:
        if hub.topics.troubles.note(partition, READ, error, wanted.offset):
            log.error("cannot read topic %s partition %d: %s", partition.topic_name, partition.index, error)
        answer.error_code = ErrorCode.KAFKA_STORAGE_ERROR
        return answer, 0
    answer.records = found.pieces
    return answer, found.size


def _has_zstd(piece: memoryview) -> bool:
    position = 0
    while position < len(piece):
        header = parse_header(piece, position)
        if header.attributes & COMPRESSION == ZSTD:
            return True
        position += header.size
    return False
