"""DescribeAcls, CreateAcls and DeleteAcls: access lists over the protocol (KIP-11, KIP-290).

Entries are kept in the catalog and hold for every face; what they mean is `core.access_lists`. Only administrators may
change them. What the permissions of the configuration allow is shown as entries too, where they can be said as such
(`.*`, `^name$`, `^prefix.*`); those are changed in the configuration alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker.core import catalog
from broker.core.access import EVERYTHING, Access, Verb
from broker.core.access_lists import (
    ANY,
    CLUSTER_NAME,
    LOOK_COUNT,
    USER,
    Acl,
    AclFilter,
    Kind,
    Operation,
    Pattern,
    Permission,
    acl_key,
)
from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import Steps, each, handles
from protocol.kafka.apis.create_acls import AclCreation, AclCreationResult, CreateAclsRequest, CreateAclsResponse
from protocol.kafka.apis.delete_acls import (
    DeleteAclsFilterResult,
    DeleteAclsMatchingAcl,
    DeleteAclsRequest,
    DeleteAclsResponse,
)
from protocol.kafka.apis.describe_acls import (
    AclDescription,
    DescribeAclsRequest,
    DescribeAclsResource,
    DescribeAclsResponse,
)
from protocol.kafka.errors import ErrorCode

if TYPE_CHECKING:
    from broker.core.access import User
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.hub import KafkaHub
    from broker.server.kafka.slot import Slot

ANY_NUMBER = 1
"""Of every kind of number: in a filter, whichever."""
MATCH = "match"
KINDS: dict[int, Kind] = {2: "topic", 3: "group", 4: "cluster", 5: "transactional_id"}
PATTERNS: dict[int, Pattern] = {3: "literal", 4: "prefixed"}
FILTER_PATTERNS = {2: MATCH, **PATTERNS}
OPERATIONS: dict[int, Operation] = {
    2: "all", 3: "read", 4: "write", 5: "create", 6: "delete", 7: "alter", 8: "describe", 9: "cluster_action",
    10: "describe_configs", 11: "alter_configs", 12: "idempotent_write",
}  # fmt: skip
PERMISSIONS: dict[int, Permission] = {2: "deny", 3: "allow"}
KIND_NUMBERS = {value: number for number, value in KINDS.items()}
PATTERN_NUMBERS = {value: number for number, value in PATTERNS.items()}
OPERATION_NUMBERS = {value: number for number, value in OPERATIONS.items()}
PERMISSION_NUMBERS = {value: number for number, value in PERMISSIONS.items()}
TEXT_OCTETS_MAX = 255
CREATE_UNITS, DELETED_UNITS = 50, 10
DELETE_UNITS_AT_ONCE = 5000
"""What is done of one request before others have their turn: all of it, as a rule."""
NOTHING_MORE = catalog.value({}, {})
"""What the catalog has of an entry beside its key."""

_OF_ADMINISTRATORS: tuple[Operation, ...] = ("describe", "alter")
_BY_VERB: tuple[tuple[Verb, Kind, tuple[Operation, ...]], ...] = (
    ("read", "topic", ("read",)),
    ("read", "group", ("read",)),
    ("write", "topic", ("write",)),
    ("configure", "topic", ("create", "delete", "alter", "alter_configs")),
    ("configure", "group", ("delete",)),
)

_ANCHORED = re.compile(r"\^(?:\(([^()]*)\)|([^()|]*?))(\$|\.\*\$?|)")
_LITERAL = re.compile(r"(?:[A-Za-z0-9_\-]|\\[^A-Za-z0-9])+")

V = TypeVar("V")


class _Filter(Protocol):
    """What both requests with filters have in common."""

    resource_type_filter: int
    resource_name_filter: str | None
    pattern_type_filter: int
    principal_filter: str | None
    host_filter: str | None
    operation: int
    permission_type: int


@handles(29)
def on_describe_acls(connection: KafkaConnection, slot: Slot, request: DescribeAclsRequest) -> Steps:
    """The entries that a filter means, by resource; of the permissions in the configuration as well."""
    hub = connection.hub
    try:
        if not hub.may_describe_cluster(connection):
            raise TopicRefused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "Only an administrator may see access lists.")
        wanted = _filter(request)
    except TopicRefused as refused:
        return DescribeAclsResponse(error_code=refused.code, error_message=refused.text)
    access, vhost = hub.hub.access, hub.settings.vhost
    found: dict[Acl, None] = {}
    for some in access.acls(vhost).find(wanted):
        found.update(dict.fromkeys(some))
        yield LOOK_COUNT
    found.update(dict.fromkeys(acl for acl in configured(access, vhost) if wanted.matches(acl)))
    resources: dict[tuple[str, str, str], DescribeAclsResource] = {}
    for number, acl in enumerate(found, 1):
        if number % LOOK_COUNT == 0:
            yield LOOK_COUNT
        resource = resources.get(acl[:3])
        if resource is None:
            resource = resources[acl[:3]] = DescribeAclsResource(
                resource_type=KIND_NUMBERS[acl.kind],
                resource_name=acl.name,
                pattern_type=PATTERN_NUMBERS[acl.pattern],
            )
        resource.acls.append(
            AclDescription(
                principal=acl.principal,
                host=acl.host,
                operation=OPERATION_NUMBERS[acl.operation],
                permission_type=PERMISSION_NUMBERS[acl.permission],
            )
        )
    return DescribeAclsResponse(error_message=None, resources=list(resources.values()))


@handles(30, changes=True)
def on_create_acls(connection: KafkaConnection, slot: Slot, request: CreateAclsRequest) -> Steps:
    """Each entry by itself; one that is there already is no error. Durable when answered."""
    hub = connection.hub

    def create(wanted: AclCreation) -> AclCreationResult:
        result = AclCreationResult(error_message=None)
        try:
            _create(connection, hub, wanted)
        except TopicRefused as refused:
            result.error_code, result.error_message = refused.code, refused.text
        return result

    results = yield from each(request.creations, create, CREATE_UNITS)
    hub.answer_when_durable(slot, CreateAclsResponse(results=results))
    return None


def _create(connection: KafkaConnection, hub: KafkaHub, wanted: AclCreation) -> None:
    if not hub.is_administrator(connection):
        raise TopicRefused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "Only an administrator may change access lists.")
    acl = Acl(
        _known("resource type", KINDS, wanted.resource_type),
        wanted.resource_name,
        _known("pattern type", PATTERNS, wanted.resource_pattern_type),
        wanted.principal,
        wanted.host,
        _known("operation", OPERATIONS, wanted.operation),
        _known("permission type", PERMISSIONS, wanted.permission_type),
    )
    for text in (acl.name, acl.principal, acl.host):
        if not 1 <= len(text.encode()) <= TEXT_OCTETS_MAX or "\0" in text:
            raise _invalid(f"a name, principal or host has 1 to {TEXT_OCTETS_MAX} octets")
    if acl.kind == "cluster" and (acl.name, acl.pattern) != (CLUSTER_NAME, "literal"):
        raise _invalid(f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}")
    if not acl.principal.startswith(USER) or acl.principal == USER:
        raise _invalid("Could not parse principal: expected User:NAME")
    access, vhost = hub.hub.access, hub.settings.vhost
    entries = access.acls(vhost)
    if acl in entries:
        return
    if len(entries) >= hub.settings.acls_max:
        raise TopicRefused(ErrorCode.POLICY_VIOLATION, f"there may be {hub.settings.acls_max} entries")
    access.add_acl(vhost, acl)
    hub.durability.store.put(acl_key(vhost, acl), NOTHING_MORE)


@handles(31, changes=True)
def on_delete_acls(connection: KafkaConnection, slot: Slot, request: DeleteAclsRequest) -> Steps:
    """All entries that any of the filters means, and which they were. Durable when answered."""
    hub = connection.hub
    if not hub.is_administrator(connection):
        result = DeleteAclsFilterResult(
            error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED,
            error_message="Only an administrator may change access lists.",
        )
        return DeleteAclsResponse(filter_results=[result] * len(request.filters))
    access, vhost = hub.hub.access, hub.settings.vhost
    results = []
    spent = 0
    for one in request.filters:
        spent += 1
        result = DeleteAclsFilterResult(error_message=None)
        results.append(result)
        try:
            wanted = _filter(one)
        except TopicRefused as refused:
            result.error_code, result.error_message = refused.code, refused.text
            wanted = None
        entries = access.acls(vhost)
        for found in entries.find(wanted) if wanted is not None else ((),):
            for acl in [acl for acl in found if acl in entries]:
                access.remove_acl(vhost, acl)
                hub.durability.store.delete(acl_key(vhost, acl))
                result.matching_acls.append(_deleted(acl))
            spent += LOOK_COUNT + DELETED_UNITS * len(found)
            if spent >= DELETE_UNITS_AT_ONCE:
                yield spent
                spent = 0
    hub.answer_when_durable(slot, DeleteAclsResponse(filter_results=results))
    return None


def _deleted(acl: Acl) -> DeleteAclsMatchingAcl:
    return DeleteAclsMatchingAcl(
        error_message=None,
        resource_type=KIND_NUMBERS[acl.kind],
        resource_name=acl.name,
        pattern_type=PATTERN_NUMBERS[acl.pattern],
        principal=acl.principal,
        host=acl.host,
        operation=OPERATION_NUMBERS[acl.operation],
        permission_type=PERMISSION_NUMBERS[acl.permission],
    )


def _filter(asked: _Filter) -> AclFilter:
    """Raises TopicRefused 42 for numbers that there are not."""
    return AclFilter(
        _maybe("resource type", KINDS, asked.resource_type_filter),
        asked.resource_name_filter,
        _maybe("pattern type", FILTER_PATTERNS, asked.pattern_type_filter),
        asked.principal_filter,
        asked.host_filter,
        _maybe("operation", OPERATIONS, asked.operation),
        _maybe("permission type", PERMISSIONS, asked.permission_type),
    )


def _known(what: str, table: dict[int, V], number: int) -> V:
    value = table.get(number)
    if value is None:
        raise _invalid(f"{what} {number} is none that an entry may have")
    return value


def _maybe(what: str, table: dict[int, V], number: int) -> V | None:
    return None if number == ANY_NUMBER else _known(what, table, number)


def _invalid(text: str) -> TopicRefused:
    return TopicRefused(ErrorCode.INVALID_REQUEST, text)


# What the configuration's permissions are as entries.


def configured(access: Access, vhost: str) -> Iterator[Acl]:
    """What users may do by the permissions of the vhost, and administrators by their tag."""
    for user in access.users.values():
        principal = USER + user.name
        if "administrator" in user.tags:
            for operation in _OF_ADMINISTRATORS:
                yield Acl("cluster", CLUSTER_NAME, "literal", principal, ANY, operation, "allow")
        for kind, pattern, name, operation in _allowed(access, user, vhost):
            yield Acl(kind, name, pattern, principal, ANY, operation, "allow")


def _allowed(access: Access, user: User, vhost: str) -> Iterator[tuple[Kind, Pattern, str, Operation]]:
    patterns = access.patterns_of(user, vhost)
    said = {verb: frozenset(as_resources(text)) for verb, text in patterns.items()}
    if not said:
        return
    everything = said["configure"] & said["write"] & said["read"]
    for pattern, name in sorted(everything):
        yield "topic", pattern, name, "all"
        yield "group", pattern, name, "all"
    for verb, kind, operations in _BY_VERB:
        for pattern, name in sorted(said[verb] - everything):
            for operation in operations:
                yield kind, pattern, name, operation


def as_resources(pattern: str) -> list[tuple[Pattern, str]]:
    """The names that a permission's pattern matches, where whole names and prefixes can say it; else nothing."""
    if pattern in EVERYTHING:
        return [("literal", ANY)]
    match = _ANCHORED.fullmatch(pattern)
    if match is None:
        return []
    kind: Pattern = "literal" if match[3] == "$" else "prefixed"
    names = (match[2] if match[1] is None else match[1]).split("|")
    if not all(map(_LITERAL.fullmatch, names)):
        return []
    return [(kind, re.sub(r"\\(.)", r"\1", name)) for name in names]
