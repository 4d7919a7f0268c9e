"""Who goes when too many connections have not logged in."""

from broker.server.half_open import HalfOpen


class Waiting:
    """What HalfOpen needs of a connection."""

    def __init__(self, host):
        self.peer = (host, 1)


def fill(half_open, host, count):
    """Connections from a host, oldest first."""
    made = [Waiting(host) for _ in range(count)]
    for connection in made:
        half_open.add(connection)
    return made


def test_the_oldest_of_the_same_host_goes():
    """A host at its limit gives up its own oldest."""
    half_open = HalfOpen()
    first, *_ = fill(half_open, "a", 3)
    fill(half_open, "b", 2)
    assert half_open.surplus("a", 3, 100) is first
    assert half_open.surplus("b", 3, 100) is None


def test_the_greediest_host_pays_for_the_total():
    """At the limit of all hosts together, the host with the most gives up its oldest, whoever knocks."""
    half_open = HalfOpen()
    fill(half_open, "a", 1)
    first, *_ = fill(half_open, "b", 4)
    assert half_open.surplus("c", 10, 5) is first
    assert half_open.surplus("c", 10, 6) is None


def test_who_is_open_or_gone_is_not_counted():
    """Leaving twice is leaving once."""
    half_open = HalfOpen()
    first, second = fill(half_open, "a", 2)
    half_open.discard(first)
    half_open.discard(first)
    assert half_open.count == 1
    assert half_open.surplus("a", 1, 10) is second
    half_open.discard(second)
    assert half_open.count == 0
    assert half_open.surplus("a", 1, 1) is None


def test_who_has_spoken_goes_last():
    """A client in its handshake is not turned out by silent sockets, older or newer."""
    half_open = HalfOpen()
    first, second, third = fill(half_open, "a", 3)
    half_open.heard(first)
    assert half_open.surplus("a", 3, 10) is second
    half_open.discard(second)
    half_open.heard(third)
    assert half_open.surplus("a", 2, 10) is first
    half_open.discard(first)
    half_open.discard(third)
    assert half_open.count == 0
    half_open.heard(third)
    assert half_open.surplus("a", 1, 1) is None


def test_newcomers_have_room_beside_those_who_begin_and_stop():
    """A flood that sends something and stops is the longer list, and pays; who has not had time to speak stays."""
    half_open = HalfOpen()
    stopped = fill(half_open, "a", 5)
    for one in stopped:
        half_open.heard(one)
    fill(half_open, "a", 1)
    assert half_open.surplus("a", 6, 10) is stopped[0]


def test_who_has_just_spoken_goes_last():
    """Among those in their handshake, who goes on with it is not turned out by newer ones that have stopped."""
    half_open = HalfOpen()
    first, second, third = fill(half_open, "a", 3)
    for one in (first, second, third, first):
        half_open.heard(one)
    assert half_open.surplus("a", 3, 10) is second
    half_open.discard(second)
    assert half_open.surplus("a", 2, 10) is third
