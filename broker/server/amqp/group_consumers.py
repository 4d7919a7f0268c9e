"""basic.consume with `x-group`: a consumer that is a member of a consumer group, beside Kafka's clients.

Arguments: `x-group` (its id), `x-stream-offset` where the group has not committed anything (default: first),
`x-delivery-limit` (default 20, -1 for none), `x-dead-letter-topic` (default: what is rejected is gone).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.core.arguments import is_name
from broker.core.groups.local_member import LocalMember
from broker.core.streams.dead_letter_topic import DeadLetterTopic
from broker.core.streams.declaration import QUEUE_TYPE
from broker.core.streams.group_reading import GroupReading
from broker.core.streams.start import FIRST, GROUP, Start, Wanted
from broker.errors import Refused
from broker.server.local_members import Membership
from protocol.amqp.errors import PRECONDITION_FAILED

if TYPE_CHECKING:
    from broker.core.streams.stream import Stream
    from broker.server.amqp.connection import Connection

DEAD_LETTER_TOPIC, DELIVERY_LIMIT = "x-dead-letter-topic", "x-delivery-limit"
DELIVERY_LIMIT_DEFAULT = 20
"""RabbitMQ's for quorum queues."""


def read_in_group(
    connection: Connection, stream: Stream, arguments: dict[str, Any], wanted: Wanted | None
) -> GroupReading:
    """What a consumer with these arguments reads; nothing before it has joined.

    Raises Refused 406 for bad arguments; 403 where the user may not be a member (`read` for the group's name), or not
    use or make the topic for dead letters.
    """
    place = f"for queue '{stream.name}' in vhost '{stream.vhost}'"
    group_id = arguments[GROUP]
    if not _is_named(group_id):
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{GROUP}' {place}: not the name of a group")
    connection.require("read", "group", group_id)
    start = Start(arguments.get("x-stream-offset", FIRST), place)
    limit = _delivery_limit(arguments, place)
    dead_letters = _dead_letter_topic(connection, stream, group_id, arguments, place)
    return GroupReading(
        stream, connection.hub.scheduler, connection.vhost.streams.decoded, start, wanted, dead_letters, limit
    )


def join_group(connection: Connection, reading: GroupReading, group_id: str, tag: str) -> None:
    """Become a member: what the group shares out to this consumer is delivered from then on.

    Raises Refused 406 where the group does not take it.
    """
    stream = reading.stream
    topics = connection.vhost.topics
    assert topics is not None  # Where there are streams.
    groups = connection.hub.groups_of(stream.vhost)

    def count_of(name: str) -> int | None:
        topic = topics.get(name)
        return None if topic is None else len(topic.partitions)

    member = LocalMember(stream.name, tag, f"/{connection.peer[0]}", groups.coordinator.settings, count_of)
    membership = Membership(groups.local, group_id, member, reading)
    refused = membership.begin()
    if refused is not None:
        stream.remove(reading)
        text = f"group '{group_id}' does not take a consumer of stream queue '{stream.name}': {refused.name}"
        raise Refused(PRECONDITION_FAILED, text)
    reading.membership = membership
    groups.local.add(membership)


def _is_named(value: Any) -> bool:
    try:
        return isinstance(value, str) and value != "" and is_name(value)
    except UnicodeEncodeError:  # Octets that are no UTF-8.
        return False


def _delivery_limit(arguments: dict[str, Any], place: str) -> int | None:
    limit = arguments.get(DELIVERY_LIMIT, DELIVERY_LIMIT_DEFAULT)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < -1:
        raise Refused(PRECONDITION_FAILED, f"invalid arg '{DELIVERY_LIMIT}' {place}: not an integer from -1 on")
    return None if limit < 0 else limit


def _dead_letter_topic(
    connection: Connection, stream: Stream, group_id: str, arguments: dict[str, Any], place: str
) -> DeadLetterTopic | None:
    """Where its dead letters go. A topic that is not there is made, by whoever may declare it, with one partition."""
    if DEAD_LETTER_TOPIC not in arguments:
        return None
    name = arguments[DEAD_LETTER_TOPIC]
    wrong = f"invalid arg '{DEAD_LETTER_TOPIC}' {place}: "
    if not _is_named(name) or name == stream.name:
        raise Refused(PRECONDITION_FAILED, f"{wrong}not the name of another topic")
    vhost = connection.vhost
    connection.require("write", "topic", name)
    if name in vhost.queues:
        raise Refused(PRECONDITION_FAILED, f"{wrong}'{name}' is a queue and no stream")
    found = vhost.streams.get(name)
    if found is None:
        connection.require("configure", "topic", name)
        found = vhost.streams.declare(name, {QUEUE_TYPE: "stream"}, durable=True, exclusive=False, auto_delete=False)
    if found.topic.config.compact:
        raise Refused(PRECONDITION_FAILED, f"{wrong}topic '{name}' is compacted, which dead letters are not to be")
    return DeadLetterTopic(vhost.streams, stream.name, group_id, name)
