"""A disk with no room: publishers wait, consumers go on, and nothing that was confirmed is lost."""

import os
import signal
import time

import pytest
from waiting import HANG_S, wait_until

from tests.faults.history import check, summary
from tests.faults.load import EXIT_STORAGE_FAILED, HASTY, Load, connected, declare, exit_code
from tests.faults.loop_disk import MIB, loop_disk, missing, need, place
from tools.bench.control import running_jackalope

pytestmark = pytest.mark.faults

TO_THE_BRIM = "storage.disk_free_bytes_min=0"
"""With a watermark publishers may be told to wait before the journal's reserve is used up, and no write ever fails."""


@pytest.fixture
def disk():
    need(missing())
    with loop_disk(mib=64) as made:
        yield made


def fill_up(broker, disk, directory, load):
    """Publish, and take all room meanwhile, until a write has found none; the broker's queues hold something."""
    declare(broker)
    load.start(broker, consume=False)
    load.wait_confirmed(2000)
    disk.fill()
    wait_until(lambda: shortages(broker))  # The journal has room reserved, which the load has to use up first.
    # A file system that has thought again may find a few blocks more: then it was right to confirm. Take those too.
    count = -1
    while count != load.confirmed_count:
        count = load.confirmed_count
        disk.fill()
        time.sleep(0.5)


def shortages(broker):
    """How often it has begun to find no room."""
    return (broker.directory / "stderr.log").read_text().lower().count("no space left")


def consume_meanwhile(broker, load, count=1000):
    """A consumer gets messages and acks them while publishers wait: there is no confirm, unless there was room, which a
    further shortage tells."""
    for publisher in load.publishers:
        publisher.catch_up()
    before, shortages_before = load.confirmed_count, shortages(broker)
    publishers = load.publishers
    load.fences = False
    load.start(broker, publish=False)
    wait_until(lambda: load.consumer.delivered_count >= count, lambda: f"{load.consumer.delivered_count} delivered")
    load.consumer.stop()
    load.consumer.join(HANG_S)
    assert not load.consumer.is_alive()
    load.publishers = publishers
    assert load.confirmed_count == before or wait_until(lambda: shortages(broker) > shortages_before, "no shortage")


def resumed(load):
    """Seconds until confirms come again."""
    began_s = time.monotonic()
    load.wait_confirmed(load.confirmed_count + 500)
    return time.monotonic() - began_s


def finish(directory, load):
    """Start again, empty all queues, judge."""
    with running_jackalope(directory=directory, http=False, settings=(TO_THE_BRIM,)) as broker:
        load.drain(broker)
    found = check(load.history)
    print(load.history.outcomes(), len(load.history.deliveries), "deliveries")
    assert not found, summary(found)


@pytest.mark.parametrize("kill", [False, True])
def test_a_full_disk(disk, tmp_path, kill):
    """The write itself finds no room: nothing is confirmed, consumers go on, and confirms come when there is room."""
    directory = place(disk, tmp_path)
    load = Load(10)
    with running_jackalope(directory=directory, http=False, settings=(TO_THE_BRIM,)) as broker:
        fill_up(broker, disk, directory, load)
        consume_meanwhile(broker, load)
        if kill:
            os.kill(broker.root_pid, signal.SIGKILL)
            disk.empty()
        else:
            disk.empty()
            print(f"confirms again after {resumed(load):.2f} s")
            load.stop()
    if kill:
        load.join()
    finish(directory, load)


def test_below_the_watermark(disk, tmp_path):
    """Less is free than there has to be: publishers are told, consumers go on, and all resumes."""
    directory = place(disk, tmp_path)
    load = Load(11)
    watermark = ("storage.disk_free_bytes_min=30MiB",)
    with running_jackalope(directory=directory, http=False, settings=watermark) as broker:
        declare(broker)
        load.start(broker, consume=False)
        load.wait_confirmed(2000)
        disk.fill(leave=20 * MIB)
        wait_until(lambda: all(publisher.blocked_count for publisher in load.publishers))
        with connected(broker) as connection:  # Synced behind all that came before.
            connection.channel().queue_declare("synced", durable=True)
        consume_meanwhile(broker, load)
        disk.empty()
        print(f"confirms again after {resumed(load):.2f} s")
        load.stop()
    finish(directory, load)


def test_a_stop_while_the_disk_is_full(disk, tmp_path):
    """SIGTERM ends it, with the code of a disk that has failed: what waits was never confirmed."""
    directory = place(disk, tmp_path)
    load = Load(12)
    with running_jackalope(directory=directory, http=False, settings=(TO_THE_BRIM,)) as broker:
        fill_up(broker, disk, directory, load)
        os.kill(broker.root_pid, signal.SIGTERM)
        assert exit_code(broker.root_pid) == EXIT_STORAGE_FAILED
        load.join()
    disk.empty()
    finish(directory, load)


def test_a_checkpoint_finds_no_room(disk, tmp_path):
    """It goes on or ends; either way, once there is room again everything confirmed is served."""
    directory = place(disk, tmp_path)
    load = Load(13)
    with running_jackalope(directory=directory, http=False, settings=(TO_THE_BRIM,), command=HASTY) as broker:
        fill_up(broker, disk, directory, load)
        time.sleep(1)  # Whatever it does in that: it may do nothing.
        os.kill(broker.root_pid, signal.SIGKILL)
        print("exit", exit_code(broker.root_pid))
        load.join()
    disk.empty()
    finish(directory, load)
