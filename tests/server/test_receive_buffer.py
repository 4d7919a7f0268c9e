"""What has come from a peer: however its octets are cut, what is taken out of the buffer is what was sent."""

from hypothesis import given
from hypothesis import strategies as st

from broker.server.receive_buffer import ReceiveBuffer

LARGE = 100
"""From so many octets on a frame of these tests is received where it stays."""
FRAMES = st.lists(st.one_of(st.binary(max_size=8), st.binary(min_size=LARGE, max_size=5 * LARGE)), max_size=8)


class Reader:
    """Takes frames of two octets of length and that many others, at most `slice_max` at a time, as the faces do."""

    def __init__(self, slice_max=1000, bytes_max=1 << 30):
        self.buffer = ReceiveBuffer(LARGE)
        self.slice_max = slice_max
        self.bytes_max = bytes_max
        self.found = []

    def may_hold(self, octets):
        return octets <= self.bytes_max

    def proceed(self):
        buffer = self.buffer
        for _ in range(self.slice_max):
            have = len(buffer.data) - buffer.position
            size = 2
            if have >= 2:
                size += int.from_bytes(buffer.data[buffer.position : buffer.position + 2], "big")
            if have < size:
                buffer.need = size if have else 0
                break
            self.found.append(bytes(buffer.data[buffer.position + 2 : buffer.position + size]))
            buffer.position += size
        if buffer.need > LARGE:
            buffer.begin_large()
            buffer.grow(self.may_hold)
        elif buffer.need:
            buffer.set_aside()

    def send(self, octets):
        """Octets come, into the target if there is one; what is left behind a slice stays for the next of them."""
        while octets:
            target = self.buffer.target
            if target is None:
                if self.buffer.add(octets):
                    self.proceed()
                return
            size = min(len(target), len(octets))
            target[:size] = octets[:size]
            octets = octets[size:]
            if self.buffer.added(size):
                self.proceed()
            else:
                self.buffer.grow(self.may_hold)


def framed(frames):
    return b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames)


@given(FRAMES, st.lists(st.integers(1, 300), max_size=30), st.integers(1, 4))
def test_what_is_taken_out_is_what_was_sent(frames, cuts, slice_max):
    """In whatever pieces it comes, and however few frames are taken at a time."""
    reader = Reader(slice_max)
    left = framed(frames)
    for cut in cuts:
        reader.send(left[:cut])
        left = left[cut:]
    reader.send(left)
    while not reader.buffer.need and reader.buffer.position < len(reader.buffer.data):
        reader.proceed()
    assert reader.found == frames
    assert reader.buffer.need == 0


def test_nothing_is_done_before_all_has_come():
    """Octets of what is not whole are kept as they come: nobody looks at them, and they are joined with the last."""
    reader = Reader()
    first, *others = (framed([b"x" * 50])[at : at + 1] for at in range(52))
    reader.send(first)
    second, *others, last = others
    reader.send(second)
    assert reader.buffer.need == 52
    for octet in others:
        assert not reader.buffer.add(octet)
        assert reader.buffer.data == b""
    assert reader.buffer.add(last)
    assert reader.buffer.data == framed([b"x" * 50])
    assert reader.buffer.need == 0


def test_a_promise_gets_no_room():
    """Of something large there is room for twice what has come, or for the largest that has come before."""
    reader = Reader()
    reader.send((60_000).to_bytes(2, "big"))
    assert len(reader.buffer.target) == LARGE - 2
    reader.send(bytes(LARGE - 2))
    assert len(reader.buffer.target) == LARGE
    reader.send(bytes(60_000 - LARGE + 2))
    assert reader.found == [bytes(60_000)]
    reader.send((60_000).to_bytes(2, "big"))
    assert len(reader.buffer.target) == 60_000


def test_who_may_not_hold_more_has_no_target():
    """Until there is room."""
    reader = Reader(bytes_max=2 * LARGE)
    reader.send((1000).to_bytes(2, "big") + bytes(LARGE - 2))
    assert len(reader.buffer.target) == LARGE
    reader.send(bytes(LARGE))
    assert reader.buffer.target is None
    reader.bytes_max = 11 * LARGE
    reader.buffer.grow(reader.may_hold)
    reader.send(bytes(1000 - 2 * LARGE + 2))
    assert reader.found == [bytes(1000)]


def test_what_comes_large_is_kept_by_who_takes_it():
    """The next one comes into octets of its own, and the buffer keeps neither."""
    reader = Reader()
    reader.send(framed([b"a" * 500])[:-1])
    reader.send(b"a")
    taken = memoryview(reader.buffer.data)
    reader.send(framed([b"b" * 500])[:200])
    reader.send(framed([b"b" * 500])[200:])
    assert bytes(taken) == framed([b"a" * 500])
    assert len(reader.buffer._large) == 0
    assert reader.found == [b"a" * 500, b"b" * 500]


def test_what_will_never_be_whole_is_dropped():
    """A large one keeps no octets when its peer is gone."""
    reader = Reader()
    reader.send(framed([bytes(500)])[:40])
    reader.buffer.drop_large()
    assert reader.buffer.target is None
    assert len(reader.buffer._large) == 0
