"""Fetch sessions (KIP-227): a consumer says once what it wants, then only what has changed; answers likewise.

Owns the sessions of all connections, at most `SESSIONS_MAX`: past that the one unused longest goes, and its client
makes a new one. `FetchPlan` is what one request wants, whether it came whole or as the change of a session.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from broker.core.scheduler import SLICE_UNITS
from broker.core.topics.errors import TopicRefused
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from protocol.kafka.apis.fetch import FetchRequest

SESSIONS_MAX = 1000
PARTITIONS_MAX = 100_000
"""Of all sessions together; about 30 MB."""
UPDATED_AT_ONCE = 1000
EPOCH_MAX = 2**31 - 1

Key = tuple[str, bytes, int]
"""Topic name ("" where the client says the id), topic id, partition."""


class Wanted:
    """One partition that a fetch asks for, and, in a session, what its client was told last."""

    __slots__ = ("bytes_max", "epoch", "index", "offset", "seen_high_watermark", "seen_start", "topic", "topic_id")

    def __init__(self, topic: str, topic_id: bytes, index: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.offset = 0
        self.bytes_max = 0
        self.epoch = -1
        self.seen_high_watermark = -1
        self.seen_start = -1


class FetchPlan:
    """What a fetch wants. `session_id` 0: all of it is answered; else only what has news, as `is_incremental` says."""

    __slots__ = ("is_incremental", "partitions", "session_id")

    def __init__(self, session_id: int, partitions: Iterable[Wanted], *, is_incremental: bool) -> None:
        self.session_id = session_id
        self.partitions = list(partitions)
        self.is_incremental = is_incremental


class _Session:
    __slots__ = ("closed", "epoch", "partitions", "user")

    def __init__(self, user: object) -> None:
        self.user = user
        self.closed = False
        self.epoch = 1
        self.partitions: OrderedDict[Key, Wanted] = OrderedDict()


class Sessions:
    """See the module."""

    __slots__ = ("_count", "_next_id", "_sessions")

    def __init__(self, first_id: int) -> None:
        self._next_id = first_id % EPOCH_MAX or 1
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def plan(self, request: FetchRequest, user: object) -> Generator[int, None, FetchPlan]:
        """What the request wants, in slices (units of work). Raises TopicRefused 70, 71 for a session or an epoch that
        it is not."""
        session_id, epoch = request.session_id, request.session_epoch
        if epoch <= 0:
            self._close(session_id)
            partitions: OrderedDict[Key, Wanted] = OrderedDict()
            yield from _update(partitions, request)
            if epoch < 0 or not partitions:
                return FetchPlan(0, partitions.values(), is_incremental=False)
            return FetchPlan(self._open(partitions, user), partitions.values(), is_incremental=False)
        session = self._sessions.get(session_id)
        if session is None or session.user is not user:
            raise TopicRefused(ErrorCode.FETCH_SESSION_ID_NOT_FOUND, f"no fetch session {session_id}")
        if epoch != session.epoch:
            raise TopicRefused(
                ErrorCode.INVALID_FETCH_SESSION_EPOCH, f"fetch session {session_id} has epoch {session.epoch}"
            )
        session.epoch = epoch % EPOCH_MAX + 1
        yield from self._change(session, request)
        if self._sessions.get(session_id) is not session:  # It had to make room for others meanwhile.
            raise TopicRefused(ErrorCode.FETCH_SESSION_ID_NOT_FOUND, f"no fetch session {session_id}")
        self._sessions.move_to_end(session_id)
        self._evict()
        return FetchPlan(session_id, session.partitions.values(), is_incremental=True)

    def served(self, plan: FetchPlan, wanted: Wanted) -> None:
        """Data of a partition was sent: the others come first next time, so that none starves."""
        session = self._sessions.get(plan.session_id)
        key = (wanted.topic, wanted.topic_id, wanted.index)
        if session is not None and key in session.partitions:
            session.partitions.move_to_end(key)

    def _change(self, session: _Session, request: FetchRequest) -> Iterator[int]:
        """Forget some partitions, and take others in. They are counted before each pause: whoever made the request may
        be gone behind it, and another may come meanwhile."""
        partitions = session.partitions
        steps = chain(_forget(partitions, request), _update(partitions, request))
        while True:
            before = len(partitions)
            units = next(steps, None)
            if not session.closed:
                self._count += len(partitions) - before
            if units is None:
                return
            yield units

    def _open(self, partitions: OrderedDict[Key, Wanted], user: object) -> int:
        session_id = self._next_id
        self._next_id = session_id % EPOCH_MAX + 1
        session = self._sessions[session_id] = _Session(user)
        session.partitions = partitions
        self._count += len(partitions)
        self._evict()
        return session_id if session_id in self._sessions else 0

    def _close(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.closed = True
            self._count -= len(session.partitions)

    def _evict(self) -> None:
        while self._sessions and (len(self._sessions) > SESSIONS_MAX or self._count > PARTITIONS_MAX):
            self._close(next(iter(self._sessions)))


def _forget(partitions: OrderedDict[Key, Wanted], request: FetchRequest) -> Iterator[int]:
    count = 0
    for topic in request.forgotten_topics_data:
        for index in topic.partitions:
            count += 1
            if count % UPDATED_AT_ONCE == 0:
                yield SLICE_UNITS
            partitions.pop((topic.topic, topic.topic_id, index), None)


def _update(partitions: OrderedDict[Key, Wanted], request: FetchRequest) -> Iterator[int]:
    count = 0
    for topic in request.topics:
        for one in topic.partitions:
            count += 1
            if count % UPDATED_AT_ONCE == 0:
                yield SLICE_UNITS
            key = (topic.topic, topic.topic_id, one.partition)
            wanted = partitions.get(key)
            if wanted is None:
                wanted = partitions[key] = Wanted(*key)
            wanted.offset = one.fetch_offset
            wanted.bytes_max = one.partition_max_bytes
            wanted.epoch = one.current_leader_epoch
