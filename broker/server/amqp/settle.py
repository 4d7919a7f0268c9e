"""Hot path. Acknowledgements: runs of basic.ack taken from the buffer, and the ends of leases.

Budget: 0.5 µs per single ack in a run, 0.2 µs per message under a multiple ack; held by `jackalope bench amqp` (rows
ack1, multiack). `channel.unacked` maps delivery tags to leases; `channel.lowest_tag` is a lower bound of its keys, so
that a multiple ack never looks at a tag twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, repeat
from operator import itemgetter
from typing import TYPE_CHECKING

from broker.core.queues.dispatch import Holder, Lease
from broker.core.scheduler import SLICE_UNITS, Scheduler
from protocol.amqp.errors import PRECONDITION_FAILED, PeerError
from protocol.amqp.frames import FRAME_END

if TYPE_CHECKING:
    from broker.server.amqp.channel import Channel

ACK_TAIL = b"\x00\x00\x00\x0d\x00\x3c\x00\x50"
"""Frame size 13, class basic, method ack: with type and channel before it the constant start of an ack frame."""
ACK_FRAME = struct.Struct(">11sQBB")
_HOLDER, _OFFSET = itemgetter(0), itemgetter(1)
MULTIPLE_SLICE = 4096
"""Leases that one multiple ack ends before others get their turn."""
REJECT_STEPS = 4
"""Times what is to die in one step of a queue is what one method may reject before it is cut into slices."""


def unknown_tag(tag: int) -> PeerError:
    """406, as RabbitMQ says it."""
    return PeerError(PRECONDITION_FAILED, f"unknown delivery tag {tag}")


def ack_run(channel: Channel, data: bytes, position: int, end: int) -> int:
    """Apply the basic.ack frames of this channel from `position` on; returns the position of the first thing left.

    A multiple ack over many leases may be applied in part and left in place: applying it again goes on with it.
    Raises PeerError 406 for an unknown tag, after what stood before it was applied.
    """
    head = channel.ack_head
    if end - position == ACK_FRAME.size:
        # One ack and nothing else: what a consumer with a small prefetch sends.
        start, tag, multiple, frame_end = ACK_FRAME.unpack_from(data, position)
        if start == head and not multiple and frame_end == FRAME_END:
            lease = channel.unacked.pop(tag, None)
            if lease is None:
                raise unknown_tag(tag)
            lease[0].end_one(lease[1])
            channel.connection.units -= 1
            return end
    count = min((end - position) // ACK_FRAME.size, MULTIPLE_SLICE)
    tags: list[int] = []
    frames = ACK_FRAME.iter_unpack(data[position : position + count * ACK_FRAME.size])
    for start, tag, multiple, frame_end in frames:
        if start != head or multiple > 1 or frame_end != FRAME_END:
            break
        if multiple:
            if tags:
                end_each(channel, tags)
                tags = []
            if not end_up_to(channel, tag, MULTIPLE_SLICE):
                return position
        else:
            tags.append(tag)
        position += 21
    if tags:
        end_each(channel, tags)
    return position


def end_each(channel: Channel, tags: Sequence[int]) -> None:
    """These deliveries are acknowledged one by one."""
    channel.connection.units -= len(tags)
    leases: list[Lease] = []
    try:
        leases.extend(map(channel.unacked.pop, tags))
    except KeyError:
        end_leases(leases)  # Those before it.
        raise unknown_tag(tags[len(leases)]) from None
    end_leases(leases)


def take_one(channel: Channel, tag: int) -> Lease:
    """Remove one delivery from the unacknowledged. Raises PeerError 406 for a tag that is not outstanding."""
    lease = channel.unacked.pop(tag, None)
    if lease is None:
        raise unknown_tag(tag)
    return lease


def end_up_to(channel: Channel, tag: int, slice_max: int) -> bool:
    """A multiple ack; False while part of it is left for the next slice.

    Raises PeerError 406 for a tag that is not outstanding (0 covers everything, even nothing).
    """
    unacked = channel.unacked
    if tag == 0:
        # What is outstanding when the method comes; between slices more is delivered, which nobody has acknowledged.
        tag = channel.settling_to = channel.settling_to or channel.next_tag - 1
    elif tag not in unacked:
        raise unknown_tag(tag)
    lowest = channel.lowest_tag
    stop = min(tag + 1, lowest + slice_max)  # The tag itself goes last: it stays outstanding until all is done.
    leases = [lease for each in range(lowest, stop) if (lease := unacked.pop(each, None)) is not None]
    channel.lowest_tag = max(lowest, stop)
    channel.connection.units -= len(leases)
    end_leases(leases)
    if stop <= tag:
        return False
    channel.settling_to = 0
    return True


def end_leases(leases: Sequence[Lease]) -> None:
    """Leases that are over for good, in runs of who held them; where holders take turns, runs are of one."""
    last = len(leases) - 1
    index = 0
    while index <= last:
        holder, offset, _ = leases[index]
        index += 1
        if index > last or leases[index][0] is not holder:
            holder.end_one(offset)
            continue
        start = index - 1
        while index <= last and leases[index][0] is holder:
            index += 1
        finish(holder, [lease[1] for lease in leases[start:index]])


def reject_leases(leases: Iterable[Lease]) -> None:
    """Leases that nobody wants back: dead letters, where the queue has somewhere for them."""
    for holder, group in groupby(leases, _HOLDER):
        rejected = list(group)
        holder.queue.reject(rejected)
        holder.settled(len(rejected))


def finish(holder: Holder, offsets: Sequence[int]) -> None:
    """Leases of one holder are over for good."""
    holder.queue.settle(offsets)
    holder.settled(len(offsets))


def take_all(channel: Channel, tag: int) -> list[Lease]:
    """Remove everything up to `tag` (0: everything at all) from the unacknowledged, in one go. Raises PeerError 406."""
    unacked = channel.unacked
    last = channel.next_tag - 1
    if tag and tag not in unacked:
        raise unknown_tag(tag)
    if tag in (0, last):
        leases = list(unacked.values())
        unacked.clear()
    else:
        leases = list(filter(None, map(unacked.pop, range(channel.lowest_tag, tag + 1), repeat(None))))
    channel.lowest_tag = (tag or last) + 1
    return leases


def reject_in_slices(scheduler: Scheduler, leases: list[Lease]) -> None:
    """Leases that nobody wants back, in slices when they are many."""
    step = min((lease[0].queue.deaths_max for lease in leases), default=1) * REJECT_STEPS
    if len(leases) <= step:
        reject_leases(leases)
        return

    def job() -> Iterator[int]:
        for start in range(0, len(leases), step):
            some = leases[start : start + step]
            reject_leases(some)
            yield len(some) * some[0][0].queue.death_units

    scheduler.add_job(job())


def return_in_slices(scheduler: Scheduler, leases: list[Lease]) -> None:
    """Leases go back to their places, in slices when they are many.

    No queue hands out anything meanwhile, or later messages would overtake those that are not back yet.
    """
    queues = {lease[0].queue for lease in leases}
    step = min((queue.returns_max for queue in queues), default=1)
    if len(leases) <= step:
        return_leases(leases)
        return
    for queue in queues:
        queue.hold()

    def job() -> Iterator[int]:
        for start in range(0, len(leases), step):
            return_leases(leases[start : start + step])
            yield SLICE_UNITS
        for queue in queues:
            queue.unhold()

    scheduler.add_job(job())


def return_leases(leases: Iterable[Lease]) -> None:
    """Leases go back to their queues, each to its place."""
    by_holder: dict[Holder, list[Lease]] = {}
    for lease in leases:
        by_holder.setdefault(lease[0], []).append(lease)
    for holder, group in by_holder.items():
        holder.queue.release(group)
        holder.settled(len(group))
