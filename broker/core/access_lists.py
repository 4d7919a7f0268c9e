"""Access control lists as Kafka has them: who may, or may not, do what to which topic or group. Pure.

Beside the permissions of a vhost (`core.access`, which asks here first): an entry that denies wins over everything, one
that allows permits what the permissions do not. Entries name their resource by its whole name, `*`, or a prefix, never
by a regular expression. They hold over every face: a queue of AMQP is the topic of its name. A user
need not exist: who comes to have the name later is meant as well.

What Kafka's StandardAuthorizer does is law here: `*` as name or host is any, `User:*` is everybody, ALL is every
operation; READ, WRITE, DELETE and ALTER allow to DESCRIBE, ALTER_CONFIGS allows to DESCRIBE_CONFIGS; a denial implies
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from broker.core import catalog

if TYPE_CHECKING:
    from broker.core.access import Access

Kind = Literal["topic", "group", "cluster", "transactional_id"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal[
    "all", "read", "write", "create", "delete", "alter", "describe", "cluster_action", "describe_configs",
    "alter_configs", "idempotent_write",
]  # fmt: skip
Permission = Literal["allow", "deny"]
_KNOWN = {0: get_args(Kind), 2: get_args(Pattern), 5: get_args(Operation), 6: get_args(Permission)}
"""Which part of an entry may say what."""

ANY = "*"
USER = "User:"
CLUSTER_NAME = "kafka-cluster"
DECISIONS_MAX = 4096
"""Decisions remembered; a name, and so a decision, has some hundred octets."""
LOOK_COUNT = 500
"""Entries that are held against a filter in one step: half a millisecond."""
_IMPLIED_BY: Mapping[str, tuple[Operation, ...]] = {
    "describe": ("read", "write", "delete", "alter"),
    "describe_configs": ("alter_configs",),
}


class Acl(NamedTuple):
    """One entry."""

    kind: Kind
    name: str
    pattern: Pattern
    principal: str
    host: str
    operation: Operation
    permission: Permission


class AclFilter(NamedTuple):
    """Which entries are meant; None is any. Pattern `match`: whatever holds for the resource of this name."""

    kind: str | None = None
    name: str | None = None
    pattern: str | None = None
    principal: str | None = None
    host: str | None = None
    operation: str | None = None
    permission: str | None = None

    def matches(self, acl: Acl) -> bool:
        """Whether it is one of them (Kafka: ResourcePatternFilter, AccessControlEntryFilter)."""
        for wanted, has in zip(self[3:], acl[3:], strict=True):
            if wanted is not None and wanted != has:
                return False
        if self.kind is not None and self.kind != acl.kind:
            return False
        if self.pattern not in (None, "match", acl.pattern):
            return False
        if self.name is None or self.name == acl.name:
            return True
        if self.pattern != "match":
            return False
        return acl.name == ANY if acl.pattern == "literal" else self.name.startswith(acl.name)


class AccessList:
    """The entries of one vhost."""

    __slots__ = ("_by_resource", "_decisions", "_entries", "_prefix_sizes")

    def __init__(self) -> None:
        self._entries: dict[Acl, None] = {}
        self._by_resource: dict[tuple[str, str, str], dict[Acl, None]] = {}
        self._prefix_sizes: Counter[tuple[str, int]] = Counter()
        self._decisions: dict[tuple[str, str, str, str, str], bool | None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, acl: object) -> bool:
        return acl in self._entries

    def add(self, acl: Acl) -> None:
        """Again is nothing."""
        if acl not in self._entries:
            self._entries[acl] = None
            self._by_resource.setdefault(acl[:3], {})[acl] = None
            if acl.pattern == "prefixed":
                self._prefix_sizes[acl.kind, len(acl.name)] += 1
            self._decisions.clear()

    def remove(self, acl: Acl) -> None:
        """Raises KeyError where there is no such entry."""
        del self._entries[acl]
        of_resource = self._by_resource[acl[:3]]
        del of_resource[acl]
        if not of_resource:
            del self._by_resource[acl[:3]]
        if acl.pattern == "prefixed":
            self._prefix_sizes[acl.kind, len(acl.name)] -= 1
            self._prefix_sizes += Counter()  # Without those that are 0.
        self._decisions.clear()

    def find(self, wanted: AclFilter) -> Iterator[list[Acl]]:
        """The entries that are meant, in the order in which they came; so many as are among the next `LOOK_COUNT`.

        Entries may come and go in between: what is found may be gone when it is seen.
        """
        entries = list(self._entries)
        for start in range(0, len(entries), LOOK_COUNT):
            yield [acl for acl in entries[start : start + LOOK_COUNT] if wanted.matches(acl)]

    def decide(self, user: str, host: str, operation: Operation, kind: Kind, name: str) -> bool | None:
        """Whether the entries allow (True) or deny it; None when they say nothing."""
        key = (user, host, operation, kind, name)
        try:
            return self._decisions[key]
        except KeyError:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            decided = self._decisions[key] = self._decide(*key)
            return decided

    def allows_some(self, user: str, host: str, operation: Operation, kind: Kind) -> bool | None:
        """Whether it is allowed for some resource of the kind (True), or denied for all (False), or neither (None).

        Kafka's StandardAuthorizer.authorizeByResourceType, but for denials of single names.
        """
        key = (user, host, "some " + operation, kind, "")
        if key not in self._decisions:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            self._decisions[key] = self._allows_some(user, host, operation, kind)
        return self._decisions[key]

    def _allows_some(self, user: str, host: str, operation: str, kind: str) -> bool | None:
        principals, hosts = (USER + user, USER + ANY), (host, ANY)
        allowed = None
        for acl in self._entries:
            if acl.kind != kind or acl.operation not in ("all", operation):
                continue
            if acl.principal in principals and acl.host in hosts:
                if acl.permission == "allow":
                    allowed = True
                elif acl.name == ANY and acl.pattern == "literal":
                    return False
        return allowed

    def _decide(self, user: str, host: str, operation: str, kind: str, name: str) -> bool | None:
        principals, hosts = (USER + user, USER + ANY), (host, ANY)
        allowing = ("all", operation, *_IMPLIED_BY.get(operation, ()))
        allowed = None
        for acl in self._of(kind, name):
            if acl.principal in principals and acl.host in hosts:
                if acl.permission == "deny":
                    if acl.operation in ("all", operation):
                        return False
                elif acl.operation in allowing:
                    allowed = True
        return allowed

    def _of(self, kind: str, name: str) -> Iterator[Acl]:
        found = self._by_resource
        yield from found.get((kind, name, "literal"), ())
        yield from found.get((kind, ANY, "literal"), ())
        for of_kind, size in self._prefix_sizes:
            if of_kind == kind and size <= len(name):
                yield from found.get((kind, name[:size], "prefixed"), ())


def acl_key(vhost: str, acl: Acl) -> bytes:
    """The key of an entry in the catalog; it has all there is to know."""
    return catalog.key(catalog.ACL, vhost, *acl)


def restore_access_lists(
    access: Access, stored: Mapping[bytes, bytes], leave_aside: Callable[[bytes, str], None]
) -> None:
    """Bring back what the catalog knows; an entry that cannot be used is left aside."""
    for entry in catalog.read_kind(stored, catalog.ACL):
        if isinstance(entry, catalog.Unreadable):
            leave_aside(entry.key, entry.why)
            continue
        vhost, *parts = entry.names
        problem = _problem(parts)
        if problem is not None:
            leave_aside(entry.key, problem)
            continue
        access.add_acl(vhost, Acl(*cast("tuple[Kind, str, Pattern, str, str, Operation, Permission]", tuple(parts))))


def _problem(parts: Sequence[str]) -> str | None:
    """Why these cannot be the parts of an entry; None if they can."""
    if len(parts) != len(Acl._fields):
        return "not of seven parts"
    unknown = [parts[index] for index, known in _KNOWN.items() if parts[index] not in known]
    return f"of a later version: {', '.join(unknown)}" if unknown else None
