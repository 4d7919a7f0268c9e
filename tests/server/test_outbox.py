"""What is to be written to a peer: once a turn, and sooner when deliveries gather."""

import pytest

from broker.server.outbox import PARTS_MAX, WRITE_SOON_BYTES, Outbox


class Writer:
    """Takes everything, and counts how often."""

    def __init__(self, outbox):
        self.outbox = outbox
        self.times = 0
        outbox.writer = self

    def flush(self):
        self.times += 1
        self.outbox.parts.clear()
        self.outbox.size = 0


@pytest.fixture
def turn():
    """Whom the end of the turn writes."""
    return []


def test_the_end_of_the_turn_writes_it_once(turn):
    """Whatever is put in, in order; its size is that of the parts."""
    outbox = Outbox(turn)
    outbox.send(b"first")
    outbox.put((b"second", memoryview(b"third")))
    outbox.touch()
    outbox.parts.append(b"delivery")
    outbox.delivered(20)
    assert turn == [outbox]
    assert b"".join(outbox.parts) == b"firstsecondthirddelivery"
    assert outbox.size == len("firstsecondthird") + 20


def test_what_is_put_waits_for_a_touch(turn):
    """Whoever puts several says when that was all."""
    outbox = Outbox(turn)
    outbox.put((b"x",))
    assert turn == []
    outbox.touch()
    assert turn == [outbox]


@pytest.mark.parametrize(("parts", "size"), [(1, WRITE_SOON_BYTES + 1), (PARTS_MAX + 1, 1)])
def test_deliveries_that_gather_are_written_at_once(turn, parts, size):
    """Many octets, or many parts; one less waits for the end of the turn."""
    outbox = Outbox(turn)
    writer = Writer(outbox)
    outbox.parts += [b""] * (parts - 1)
    outbox.delivered(size - 1)
    assert writer.times == 0
    outbox.parts.append(b"")
    outbox.delivered(1)
    assert writer.times == 1
    assert outbox.parts == []


def test_answers_are_not_written_in_the_middle(turn):
    """Only deliveries ask for that: what waits for the disk must not go before it."""
    outbox = Outbox(turn)
    writer = Writer(outbox)
    outbox.send(bytes(WRITE_SOON_BYTES + 1))
    outbox.put([b""] * (PARTS_MAX + 1))
    outbox.touch()
    assert writer.times == 0


def test_without_a_writer_everything_stays(turn):
    """Who drains it themselves may take their time."""
    outbox = Outbox(turn)
    outbox.parts.append(b"")
    outbox.delivered(WRITE_SOON_BYTES + 1)
    assert (len(outbox.parts), outbox.touched) == (1, True)
