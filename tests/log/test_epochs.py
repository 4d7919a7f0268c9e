"""Which leader epoch began where: against a plain reading of (epoch, offset) pairs, and in a log over restarts."""

import random

from hypothesis import given
from hypothesis import strategies as st
from sim_disk import SimDisk

from broker.log.epochs import EpochCache
from broker.log.recovery import open_store
from protocol.kafka.records import render_record


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=20), st.integers(0, 30))
def test_it_says_what_the_offsets_say(steps, probe):
    """Batches of rising epochs, and truncations: the model is the epoch of each offset."""
    cache, offsets, epoch = EpochCache(), [], 0
    for raised, count, cuts in steps:
        epoch += raised
        if cuts:
            del offsets[max(len(offsets) - count, 0) :]
            cache.truncate(len(offsets))
        else:
            cache.begin(epoch, len(offsets))
            offsets += [epoch] * count
    assert cache.latest == (offsets[-1] if offsets else -1)
    known = sorted(set(offsets))
    assert cache.starts == [(one, offsets.index(one)) for one in known]
    for wanted in range(epoch + 2):
        up_to = [one for one in known if one <= wanted]
        expected = (up_to[-1], sum(one <= wanted for one in offsets)) if up_to else (-1, -1)
        assert cache.end_of(wanted, len(offsets)) == expected
    at = offsets[min(probe, len(offsets) - 1)] if offsets else -1
    assert cache.at(probe) == at
    assert cache.since(probe) == [one for one in cache.starts if one[0] >= at]


def test_an_older_epoch_begins_nothing():
    """What recovery replays over a later state was noted before."""
    cache = EpochCache([(2, 0), (5, 7)])
    cache.begin(4, 9)
    cache.begin(5, 9)
    assert cache.starts == [(2, 0), (5, 7)]


def test_a_run_leads_what_nobody_replicates():
    """Each start is a new epoch, which begins with the first batch of it; what may still grow stays in the last one."""
    disk = SimDisk(random.Random(1).randrange)
    store = open_store(disk, disk.new_uuid)
    log = store.create_log(durable=True)
    log.append(render_record(0, b"a"), 1, 0)
    store.flush()
    disk.kill()
    store = open_store(disk, disk.new_uuid)
    [log] = store.logs.values()
    assert (log.leader_epoch, log.epochs.starts) == (2, [(1, 0)])
    log.extend(render_record(0, b"b"), 1, 0, log.open_count(0))
    log.begin_epoch(7)
    log.append(render_record(0, b"c"), 1, 0)
    assert log.epochs.starts == [(1, 0), (2, 1), (7, 2)]
    store.flush()
    disk.kill()
    store = open_store(disk, disk.new_uuid)
    [log] = store.logs.values()
    assert (log.leader_epoch, log.epochs.starts) == (3, [(1, 0), (2, 1), (7, 2)])
    assert [header.leader_epoch for header, _, _ in log.read(0)] == [1, 2, 7]
