"""Policies of a vhost: definitions that apply to whatever matches a pattern, now and later, without a redeclare.

Of several that match, the one with the highest priority applies, whole (RabbitMQ: no merging of user policies); an
operator policy applies besides, see `core.queues.effective_policy`. Patterns are matched in linear time
(`core.access`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.core import catalog
from broker.core.access import compile_pattern
from broker.core.arguments import CHECKS, NAME_BYTES_MAX, is_name
from broker.core.metadata import Change, Proposal, at_once
from broker.core.queues.effective_policy import INTERVALS, NUMBERS, TEXTS, rules_of
from broker.errors import PreconditionFailed, Refused

if TYPE_CHECKING:
    from broker.core.exchange.exchange import Exchange
    from broker.core.queues.queue import Queue
    from broker.core.vhosts.vhost import VHost

APPLY_TO = ("all", "queues", "exchanges", "classic_queues", "quorum_queues", "streams")
KEYS = (*NUMBERS, *INTERVALS, *TEXTS, "alternate-exchange", "queue-leader-locator")
"""What a definition may have; the last is kept and means nothing on a single node."""
OPERATOR_KEYS = (
    "expires", "message-ttl", "max-length", "max-length-bytes", "delivery-limit", "retain", "retain-bytes",
)  # fmt: skip
"""What an operator may bound (RabbitMQ: rabbit_policies.erl, operator_policy_validator), and what only we keep."""


APPLIED_AT_ONCE = 100
"""Queues and exchanges that follow a changed policy in one step, about a millisecond."""


class Policy(NamedTuple):
    """One policy. `definition` has the keys of `KEYS`."""

    name: str
    pattern: str
    apply_to: str
    priority: int
    definition: Mapping[str, Any]
    matches: Callable[[str], bool]


def make_policy(
    name: str, pattern: str, apply_to: str, priority: int, definition: Mapping[str, Any], *, operator: bool = False
) -> Policy:
    """A checked policy, or operator policy. Raises Refused 406 for what cannot be one."""

    def refuse(text: str) -> Refused:
        return PreconditionFailed(f"policy '{name}': {text}")

    if apply_to not in APPLY_TO:
        raise refuse(f"apply-to must be one of {', '.join(APPLY_TO)}")
    if not definition:
        raise refuse("the definition is empty")
    unknown = sorted(set(definition) - set(OPERATOR_KEYS if operator else KEYS))
    if unknown:
        raise refuse(f"not recognised: {', '.join(unknown)}")
    arguments = {"x-" + key: value for key, value in definition.items()}
    for key, value in arguments.items():
        check = CHECKS.get(key)
        wrong = check(value, {"x-dead-letter-exchange": "", **arguments}) if check is not None else None
        if wrong is not None:
            raise refuse(f"{key[2:]}: {wrong}")
    alternate = definition.get("alternate-exchange", "")
    if not isinstance(alternate, str):
        raise refuse("alternate-exchange: not a string")
    if not is_name(alternate):
        raise refuse(f"alternate-exchange: longer than {NAME_BYTES_MAX} bytes")
    try:
        matches = compile_pattern(pattern)
    except ValueError as error:
        raise refuse(str(error)) from None
    policy = Policy(name, pattern, apply_to, priority, dict(definition), matches)
    try:
        catalog.value(catalog.policy_known(policy), policy.definition)
    except (ValueError, TypeError, struct.error):
        raise refuse("cannot be stored: a name is longer than 255 octets, or a number than 64 bits") from None
    return policy


class Policies:
    """The user policies and the operator policies of a vhost, by name."""

    __slots__ = ("_change", "_home", "operator", "user")

    def __init__(self, home: VHost) -> None:
        self._home = home
        self._change = 0
        self.user: dict[str, Policy] = {}
        self.operator: dict[str, Policy] = {}

    def set(self, policy: Policy, *, operator: bool) -> bool:
        """See `propose_set`."""
        return at_once(self._home.metadata, self.propose_set, policy, operator=operator)

    def delete(self, name: str, *, operator: bool) -> bool:
        """See `propose_delete`."""
        return at_once(self._home.metadata, self.propose_delete, name, operator=operator)

    def propose_set(self, policy: Policy, *, operator: bool) -> Proposal[bool]:
        """Add or replace a policy; the reply is whether it is new."""
        kind = catalog.OPERATOR_POLICY if operator else catalog.POLICY
        names = (self._home.name, policy.name)
        change = Change(kind, names, catalog.policy_known(policy), policy.definition)
        is_new = policy.name not in self._of(operator=operator)
        guard = self._home.guard("absent" if is_new else "present", kind, policy.name)
        return Proposal((change,), (guard,), is_new)

    def propose_delete(self, name: str, *, operator: bool) -> Proposal[bool]:
        """Remove a policy; the reply is False when there is none."""
        change = Change(
            catalog.OPERATOR_POLICY if operator else catalog.POLICY, (self._home.name, name), {}, {}, gone=True
        )
        store = self._home.store
        # One that a start could not use waits in the catalog alone.
        if name not in self._of(operator=operator) and (store is None or change.key not in store.catalog):
            return Proposal((), (), False)
        return Proposal((change,), (self._home.guard("present", change.kind, name),), True)

    def apply(self, change: Change) -> None:
        """A policy is there, or gone; what it matches follows at once."""
        policies, name = self._of(operator=change.kind == catalog.OPERATOR_POLICY), change.names[1]
        if change.gone:
            policies.pop(name, None)
        else:
            known = change.known
            pattern = known["pattern"]
            policies[name] = Policy(
                name, pattern, known["apply-to"], known["priority"], change.arguments, compile_pattern(pattern)
            )
        self._apply()

    def _of(self, *, operator: bool) -> dict[str, Policy]:
        return self.operator if operator else self.user

    def restore(self, name: str, known: Mapping[str, Any], definition: Mapping[str, Any], *, operator: bool) -> None:
        """A policy of the catalog comes back; one that would be refused today waits there to be replaced or deleted."""
        try:
            policy = make_policy(
                name, known["pattern"], known["apply-to"], known["priority"], definition, operator=operator
            )
        except Refused as error:
            self._home.scheduler.report(f"policy '{name}' in vhost '{self._home.name}' is not applied", error)
            return
        self._of(operator=operator)[name] = policy

    def _apply(self) -> None:
        """What there is follows what applies to it now: at once, or when it is much in slices. What is new follows when
        it is declared."""
        home = self._home
        self._change += 1
        job = self._apply_on([*home.exchanges.values(), *home.queues.values()], self._change)
        if next(job, None) is not None:
            home.scheduler.add_job(job)

    def _apply_on(self, everything: Sequence[Exchange | Queue], change: int) -> Iterator[int]:
        home = self._home
        for start in range(0, len(everything), APPLIED_AT_ONCE):
            for one in everything[start : start + APPLIED_AT_ONCE]:
                if home.queues.get(one.name) is one:
                    self.apply_to_queue(one)
                elif home.exchanges.get(one.name) is one:
                    self.apply_to_exchange(one)
            home.epoch += 1  # Routes know what their queues refuse.
            if start + APPLIED_AT_ONCE < len(everything):
                yield APPLIED_AT_ONCE * 10
            if change != self._change:
                return  # A later change goes through all of them anew.

    def apply_to_queue(self, queue: Queue, *, is_new: bool = False) -> None:
        """The queue follows what applies to it now; a new one has the rules of its arguments alone."""
        policy, operator = self.of_queue(queue), self.of_queue(queue, operator=True)
        if not is_new or policy is not None or operator is not None:
            rules = rules_of(
                queue.arguments, policy.definition if policy else None, operator.definition if operator else None
            )
            if rules != queue.rules:
                queue.apply(rules)
        self._home.retaining.follow(queue)

    def apply_to_exchange(self, exchange: Exchange) -> None:
        """The exchange follows what applies to it now."""
        policy = self._best(self.user, exchange.name, ("all", "exchanges")) if self.user else None
        exchange.follow(policy.definition if policy is not None else {})

    def of_queue(self, queue: Queue, *, operator: bool = False) -> Policy | None:
        """The policy that applies to a queue."""
        policies = self.operator if operator else self.user
        if not policies:
            return None
        kind = {"quorum": "quorum_queues", "stream": "streams"}.get(
            str(queue.arguments.get("x-queue-type")), "classic_queues"
        )
        return self._best(policies, queue.name, ("all", "queues", kind))

    @staticmethod
    def _best(policies: Mapping[str, Policy], name: str, kinds: tuple[str, ...]) -> Policy | None:
        found = [policy for policy in policies.values() if policy.apply_to in kinds and policy.matches(name)]
        return max(found, key=lambda policy: (policy.priority, policy.name), default=None)
