"""The streams of a vhost: one for each topic, kept in step with them; declared and deleted as queues are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.core import arguments as checks
from broker.core.metadata import NOTHING, Proposal, at_once
from broker.core.streams import declaration
from broker.core.streams.position import Decoded
from broker.core.streams.stream import Stream
from broker.core.topics.errors import TopicRefused
from broker.core.topics.proposing import deletion_of
from broker.errors import PreconditionFailed

if TYPE_CHECKING:
    from broker.core.topics.topic import Topic
    from broker.core.vhosts.vhost import VHost


class Streams:
    """By name. None of them is internal to the broker."""

    __slots__ = ("_by_name", "_vhost", "decoded")

    def __init__(self, vhost: VHost) -> None:
        self._vhost = vhost
        self._by_name: dict[str, Stream] = {}
        self.decoded = Decoded()
        topics = vhost.topics
        if topics is not None:
            topics.on_changed.append(self._changed)
            topics.on_deleted.append(self._deleted)
            topics.is_taken = self._is_taken
            topics.deletion_of = self._deletion_of

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def wall_ms(self) -> int:
        """The wall clock."""
        return self._vhost.scheduler.wall_ms

    def get(self, name: str) -> Stream | None:
        """The stream of this name."""
        return self._by_name.get(name)

    def all(self) -> list[Stream]:
        """Every stream, by name."""
        return [stream for _, stream in sorted(self._by_name.items())]

    def _changed(self, topic: Topic) -> None:
        if topic.internal:
            return
        found = self._by_name.get(topic.name)
        if found is not None:
            found.grown()
            return
        vhost = self._vhost
        assert vhost.store is not None
        self._by_name[topic.name] = Stream(topic, vhost.name, vhost.scheduler, vhost.store)
        vhost.epoch += 1

    def _deleted(self, name: str) -> None:
        stream = self._by_name.pop(name, None)
        if stream is not None:
            stream.close()
            self._vhost.forget_destination(stream)

    def _is_taken(self, name: str) -> bool:
        return name in self._vhost.queues or self._vhost.unbinding.is_leaving("queue", name)

    def _deletion_of(self, topic: Topic) -> Proposal[None]:
        stream = self._by_name.get(topic.name)
        return deletion_of(topic, self._vhost.name) if stream is None else self._vhost.deletion(stream, None)

    def declare(
        self, name: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
    ) -> Stream:
        """See `propose_declare`."""
        at_once(
            self._vhost.metadata, self.propose_declare, name, arguments, durable=durable, exclusive=exclusive,
            auto_delete=auto_delete,
        )  # fmt: skip
        return self._by_name[name]

    def propose_declare(
        self, name: str, arguments: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
    ) -> Proposal[None]:
        """Create it, or check that the one there is equivalent. Raises Refused 406."""
        vhost = self._vhost
        queue = vhost.queues.get(name)
        if queue is not None:
            checks.check_equivalent("queue", name, vhost.name, arguments, queue.arguments)
        found = self._by_name.get(name)
        place = f"for queue '{name}' in vhost '{vhost.name}'"
        if declaration.is_stream(arguments):
            checks.check_queue(
                name, vhost.name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete
            )
            declaration.check(arguments, place)
        if found is not None:
            declaration.check_equivalent(found.topic, vhost.name, arguments)
            return NOTHING
        vhost.unbinding.check("queue", name)
        if vhost.topics is None:
            raise PreconditionFailed(f"invalid arg 'x-queue-type' {place}: a stream needs a data directory")
        count, overrides = declaration.partitions_of(arguments), declaration.overrides_of(arguments)
        try:
            proposal = vhost.topics.propose_create(name, count, overrides)
        except TopicRefused as refused:
            raise PreconditionFailed(f"cannot declare stream {place}: {refused.text}") from None
        return Proposal(proposal.changes, proposal.guards, None)

    def propose_delete(self, stream: Stream, *, if_unused: bool = False, if_empty: bool = False) -> Proposal[int]:
        """The topic goes with all that is in it; the reply is how much that was. Raises Refused 406."""
        vhost = self._vhost
        count = stream.ready_count
        if if_unused and stream.consumers:
            raise PreconditionFailed(f"queue '{stream.name}' in vhost '{vhost.name}' in use")
        if if_empty and count:
            raise PreconditionFailed(f"queue '{stream.name}' in vhost '{vhost.name}' not empty")
        return vhost.deletion(stream, count)
