"""A history of what clients did and saw, and the judgement of it. Pure: no broker, no clock, plain lists in order.

| finding | a broker that keeps its promises never shows it |
|---|---|
| lost | confirmed, and neither delivered nor acknowledged by the time all queues are empty |
| corrupt | a body whose digest is wrong |
| stranger | a message that nobody has published, or in a queue that it was not for |
| unmarked | a second delivery that does not say redelivered |
| returned | a delivery after an ack that was surely durable |
| disorder | first deliveries of one publisher in one queue that do not ascend |

A publish whose outcome is unknown, or that was refused, may have happened or not. An ack may be lost in a kill, so a
message may come again behind it, marked; once something later of the same connection was confirmed, it may not.
"""

import hashlib
from dataclasses import dataclass, field

CONFIRMED, NACKED, UNKNOWN = "confirmed", "nacked", "unknown"
KEPT, ACKED, SURELY_ACKED = "kept", "acked", "surely acked"


@dataclass(slots=True)
class Publish:
    """One message on its way in; `sequence` ascends for one publisher and queue."""

    id: str
    publisher: str
    queue: str
    sequence: int
    outcome: str = UNKNOWN


@dataclass(slots=True)
class Delivery:
    """One message on its way out."""

    id: str
    queue: str
    intact: bool
    redelivered: bool
    settled: str = KEPT


@dataclass(slots=True)
class History:
    """Both lists; deliveries of one queue stand in the order in which they arrived."""

    publishes: list[Publish] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def outcomes(self):
        """How many publishes ended how."""
        counts = dict.fromkeys((CONFIRMED, NACKED, UNKNOWN), 0)
        for publish in self.publishes:
            counts[publish.outcome] += 1
        return counts

    def surely_acked_count(self):
        """Deliveries that may not be followed by another: without any, a broker that forgets acks is not found out."""
        return sum(delivery.settled == SURELY_ACKED for delivery in self.deliveries)


def make_body(publish, filler=b""):
    """A body that says who it is and proves that it is whole."""
    text = f"{publish.id} {publish.publisher} {publish.queue} {publish.sequence} ".encode() + filler
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def read_body(body):
    """(id, whether the digest is right); the id is only worth something when it is."""
    digest, _, text = body.partition(b" ")
    name = text.partition(b" ")[0].decode("ascii", "replace")
    return name, hashlib.sha256(text).hexdigest().encode() == digest


def check(history, *, drained=True):
    """All findings as (name, text). Unless all queues were `drained` to their ends, nothing counts as lost."""
    published = {publish.id: publish for publish in history.publishes}
    assert len(published) == len(history.publishes), "ids are to be unique"
    found = []
    done = {}
    seen = {}
    last = {}
    for delivery in history.deliveries:
        publish = published.get(delivery.id)
        if not delivery.intact:
            found.append(("corrupt", f"a delivery from {delivery.queue}, which says it is {delivery.id[:60]!r}"))
            continue
        if publish is None or publish.queue != delivery.queue:
            found.append(("stranger", f"{delivery.id[:60]!r} from {delivery.queue}: {publish}"))
            continue
        found += _order(publish, delivery, seen, done, last)
        seen[delivery.id] = delivery
        if delivery.settled != KEPT and done.get(delivery.id) != SURELY_ACKED:
            done[delivery.id] = delivery.settled
    if drained:
        for publish in history.publishes:
            if publish.outcome == CONFIRMED and publish.id not in done:
                how = "delivered but never acknowledged" if publish.id in seen else "never delivered"
                found.append(("lost", f"{publish} was confirmed, {how}, and is gone"))
    return found


def _order(publish, delivery, seen, done, last):
    """What is wrong with this delivery after those before it."""
    if delivery.id in seen:
        if done.get(delivery.id) == SURELY_ACKED:
            yield "returned", f"{publish} came again after its ack was durable"
        if not delivery.redelivered:
            yield "unmarked", f"{publish} came again without redelivered"
        return
    lane = publish.publisher, publish.queue
    if publish.sequence <= last.get(lane, -1):
        yield "disorder", f"{publish} first came behind {last[lane]}"
    last[lane] = max(publish.sequence, last.get(lane, -1))


def summary(found, at_most=5):
    """Findings for an assertion's message: how many of each, and the first few."""
    counts = {}
    for name, _ in found:
        counts[name] = counts.get(name, 0) + 1
    return f"{counts}\n" + "\n".join(f"{name}: {text}" for name, text in found[:at_most])
