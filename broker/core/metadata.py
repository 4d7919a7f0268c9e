"""How definitions change: what is *proposed* is committed by a `MetadataStore`, and then *applied*.

A proposal has all the checks and changes nothing; applying checks nothing, writes no definition, and makes or ends the
objects that a change names. In between stands the store, which alone decides whether and in which order changes come
true. That of a single broker, `LocalMetadata`, is the catalog: it commits at once. What a definition owns beside it,
such as logs and the state of producers, is made and dropped as the definition is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

from broker.core import catalog
from protocol.amqp.fields import encode_table

if TYPE_CHECKING:
    from broker.log.store import Store

Reply = TypeVar("Reply")
"""What somebody who asks for a change is answered."""
Asked = ParamSpec("Asked")
new_tuple = tuple.__new__
"""Makes a NamedTuple, at half the price, of all its fields in order: nobody checks how many, and no default applies.
For what clients declare, bind and delete by the thousand."""


class Change(NamedTuple):
    """One definition that is made, changed, or deleted (`gone`), as the catalog has it: `known` and `arguments` are the
    two tables of its value. Of what is gone only a binding's arguments count, which say which one it was.

    `names` are the parts of its key, the vhost first, without the digest at the end of a binding's. What no restart
    finds is not `kept`: it is in no catalog. Such a queue may be `durable` nevertheless, and exclusive to `owner`.
    """

    kind: bytes
    names: tuple[str, ...]
    known: Mapping[str, Any]
    arguments: Mapping[str, Any]
    gone: bool = False
    kept: bool = True
    durable: bool = True
    owner: object | None = None

    @property
    def entry(self) -> tuple[bytes, bytes | None]:
        """Its key and its value in the catalog; no value for what is to go."""
        table = encode_table(self.arguments)
        if self.kind == catalog.BINDING:
            key = catalog.key(self.kind, *self.names, catalog.digest(table))
        else:
            key = catalog.key(self.kind, *self.names)
        return key, None if self.gone else encode_table(self.known) + table

    @property
    def key(self) -> bytes:
        """Its key in the catalog."""
        return self.entry[0]


Found = Literal["absent", "present", "nothing new"]
"""What a proposal has found at a key; the last, of all keys that begin with these names: none besides its own."""
Outcome = Literal["done", "conflict"]
"""What has become of a commit; in a conflict a guard did not hold any more, and nothing has changed: propose anew."""


class Guard(NamedTuple):
    """What has to hold still when a proposal is committed: what was found at a key when the revision was `revision`."""

    kind: bytes
    names: tuple[str, ...]
    found: Found
    revision: int


class Proposal(NamedTuple, Generic[Reply]):
    """Changes that belong together, what has to hold still for them, and what is answered when they are done."""

    changes: Sequence[Change]
    guards: Sequence[Guard]
    reply: Reply


class MetadataStore(Protocol):
    """Where definitions are decided. `revision` is the number of the last commit that was told of."""

    revision: int

    def commit(self, changes: Sequence[Change], guards: Sequence[Guard], then: Callable[[Outcome], None]) -> None:
        """All the changes or none; `then` is called when subscribers know of them, perhaps in the same call."""

    def subscribe(self, on_events: Callable[[int, Sequence[Change]], None]) -> None:
        """Have the changes of each commit told, with its revision: each revision once, in order."""


class LocalMetadata:
    """The metadata of a single broker: its catalog, or memory alone. It commits at once, and calls `then` within the
    call: the changes are in the frame that is being filled, together with what applying them does."""

    __slots__ = ("_store", "_subscribers", "revision")

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._subscribers: list[Callable[[int, Sequence[Change]], None]] = []
        self.revision = 0

    def subscribe(self, on_events: Callable[[int, Sequence[Change]], None]) -> None:
        """See `MetadataStore.subscribe`."""
        self._subscribers.append(on_events)

    def commit(self, changes: Sequence[Change], guards: Sequence[Guard], then: Callable[[Outcome], None]) -> None:
        """See `MetadataStore.commit`. A proposal that is older than the last commit is a conflict, whatever it guards:
        here it costs nothing to propose anew."""
        revision = self.revision
        for guard in guards:
            if guard.revision != revision:
                then("conflict")
                return
        store = self._store
        if store is not None:
            written = []  # All can be, or none is.
            for change in changes:
                if change.kept:
                    written.append(change.entry)  # noqa: PERF401  # Mostly one: a comprehension costs more.
            for key, value in written:
                if value is None:
                    store.delete(key)
                else:
                    store.put(key, value)
            store.promised_count += len(written)
        self.revision = revision = revision + 1
        for on_events in self._subscribers:
            on_events(revision, changes)
        then("done")


NOTHING: Proposal[None] = Proposal((), (), None)
"""What was asked for is so already."""


def at_once(
    metadata: MetadataStore, propose: Callable[Asked, Proposal[Reply]], *args: Asked.args, **kwargs: Asked.kwargs
) -> Reply:
    """Commit what `propose` returns for these arguments, anew where somebody else was faster, and return its reply.

    For stores that commit within the call. Raises what is refused.
    """
    while True:
        proposal = propose(*args, **kwargs)
        changes = proposal.changes
        if not changes:
            return proposal.reply
        outcomes: list[Outcome] = []
        metadata.commit(changes, proposal.guards, outcomes.append)
        if outcomes[0] == "done":
            return proposal.reply
