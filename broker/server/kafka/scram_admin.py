"""DescribeUserScramCredentials and AlterUserScramCredentials (KIP-554): what users log in with by SCRAM.

Only administrators may. Users are the configuration's: none is made here. A user whose password the configuration has
as text is shown with what is made of it; that cannot be deleted, but replaced by a credential that is set.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from broker.core.topics.errors import TopicRefused
from broker.server.kafka.handlers import Steps, each, handles
from protocol.kafka.apis.alter_user_scram_credentials import (
    AlterUserScramCredentialsRequest,
    AlterUserScramCredentialsResponse,
    AlterUserScramCredentialsResult,
    ScramCredentialDeletion,
    ScramCredentialUpsertion,
)
from protocol.kafka.apis.describe_user_scram_credentials import (
    CredentialInfo,
    DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
    DescribeUserScramCredentialsResult,
)
from protocol.kafka.errors import ErrorCode
from protocol.sasl.scram import HASHES, ITERATIONS_MAX, ITERATIONS_MIN, Credential

if TYPE_CHECKING:
    from broker.server.kafka.connection import KafkaConnection
    from broker.server.kafka.hub import KafkaHub
    from broker.server.kafka.slot import Slot

NUMBERS = {"SCRAM-SHA-256": 1, "SCRAM-SHA-512": 2}
MECHANISMS = {number: mechanism for mechanism, number in NUMBERS.items()}
DIGEST_OCTETS = {"SCRAM-SHA-256": 32, "SCRAM-SHA-512": 64}
SALT_OCTETS_MAX = 1024
USER_UNITS = 20
"""What a user whose credentials are looked at, or changed, costs."""

Change = ScramCredentialDeletion | ScramCredentialUpsertion


@handles(50)
def on_describe_user_scram_credentials(
    connection: KafkaConnection, slot: Slot, request: DescribeUserScramCredentialsRequest
) -> Steps:
    """Mechanisms and iterations of users; of all who have any for null, and for an empty list."""
    hub = connection.hub
    if not hub.is_administrator(connection):
        return DescribeUserScramCredentialsResponse(
            error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED, error_message="Only an administrator may see that."
        )
    if request.users:
        counts = Counter(one.name for one in request.users)
    else:
        counts = Counter(name for name in sorted(hub.hub.access.users) if hub.scram.shown(name))

    def describe(named: tuple[str, int]) -> DescribeUserScramCredentialsResult:
        return _describe(hub, *named)

    results = yield from each(counts.items(), describe, USER_UNITS)
    return DescribeUserScramCredentialsResponse(error_message=None, results=results)


def _describe(hub: KafkaHub, name: str, count: int) -> DescribeUserScramCredentialsResult:
    if count > 1:
        return DescribeUserScramCredentialsResult(
            user=name,
            error_code=ErrorCode.DUPLICATE_RESOURCE,
            error_message=f"Cannot describe SCRAM credentials for the same user twice in a single request: {name}",
        )
    shown = hub.scram.shown(name) if name in hub.hub.access.users else []
    if not shown:
        return DescribeUserScramCredentialsResult(
            user=name,
            error_code=ErrorCode.RESOURCE_NOT_FOUND,
            error_message=f"Attempt to describe a user credential that does not exist: {name}",
        )
    return DescribeUserScramCredentialsResult(
        user=name,
        error_message=None,
        credential_infos=[CredentialInfo(mechanism=NUMBERS[one.mechanism], iterations=one.iterations) for one in shown],
    )


@handles(51, changes=True)
def on_alter_user_scram_credentials(
    connection: KafkaConnection, slot: Slot, request: AlterUserScramCredentialsRequest
) -> Steps:
    """Set and delete credentials: for each user all that is asked for is done, or nothing. Durable when answered."""
    hub = connection.hub
    changes: dict[str, list[Change]] = {}
    every: list[Change] = [*request.deletions, *request.upsertions]
    for change in every:
        changes.setdefault(change.name, []).append(change)

    def alter(named: tuple[str, list[Change]]) -> AlterUserScramCredentialsResult:
        name, wanted = named
        result = AlterUserScramCredentialsResult(user=name, error_message=None)
        try:
            if not hub.is_administrator(connection):
                raise TopicRefused(ErrorCode.CLUSTER_AUTHORIZATION_FAILED, "Only an administrator may change that.")
            _check(hub, name, wanted)
        except TopicRefused as refused:
            result.error_code, result.error_message = refused.code, refused.text
        else:
            for change in wanted:
                _apply(hub, change)
        return result

    results = yield from each(changes.items(), alter, USER_UNITS)
    hub.answer_when_durable(slot, AlterUserScramCredentialsResponse(results=results))
    return None


def _check(hub: KafkaHub, name: str, wanted: list[Change]) -> None:
    """Raises TopicRefused 33, 91, 92, 93 (Kafka: ScramControlManager)."""
    if not name:
        raise TopicRefused(ErrorCode.UNACCEPTABLE_CREDENTIAL, "Username must not be empty")
    if len({change.mechanism for change in wanted}) < len(wanted):
        text = "A user credential cannot be altered twice in the same request"
        raise TopicRefused(ErrorCode.DUPLICATE_RESOURCE, text)
    for change in wanted:
        mechanism = MECHANISMS.get(change.mechanism)
        if mechanism is None:
            raise TopicRefused(ErrorCode.UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism")
        if name not in hub.hub.access.users:
            raise TopicRefused(ErrorCode.RESOURCE_NOT_FOUND, "There is no such user; users are in the configuration.")
        if isinstance(change, ScramCredentialDeletion):
            if not hub.scram.has_set(name, mechanism):
                text = "Attempt to delete a user credential that does not exist"
                raise TopicRefused(ErrorCode.RESOURCE_NOT_FOUND, text)
        elif not ITERATIONS_MIN <= change.iterations <= ITERATIONS_MAX:
            what = "few" if change.iterations < ITERATIONS_MIN else "many"
            raise TopicRefused(ErrorCode.UNACCEPTABLE_CREDENTIAL, f"Too {what} iterations")
        elif not 1 <= len(change.salt) <= SALT_OCTETS_MAX:
            raise TopicRefused(ErrorCode.UNACCEPTABLE_CREDENTIAL, f"A salt has 1 to {SALT_OCTETS_MAX} octets")
        elif len(change.salted_password) != DIGEST_OCTETS[mechanism]:
            raise TopicRefused(ErrorCode.UNACCEPTABLE_CREDENTIAL, "The salted password is not one of this mechanism")


def _apply(hub: KafkaHub, change: Change) -> None:
    mechanism = MECHANISMS[change.mechanism]
    if isinstance(change, ScramCredentialDeletion):
        hub.scram.delete(change.name, mechanism)
        return
    credential = Credential.of_salted(
        HASHES[mechanism], bytes(change.salted_password), bytes(change.salt), change.iterations
    )
    hub.scram.set(change.name, mechanism, credential)
