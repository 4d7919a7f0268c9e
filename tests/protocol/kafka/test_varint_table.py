"""The records' own octets."""

from protocol.kafka.records import VARINTS, read_varint, varint


def test_the_table_of_varints_is_what_varint_makes():
    """Each of it, and what is read back; behind its end numbers take three octets."""
    assert list(VARINTS) == [varint(number) for number in range(len(VARINTS))]
    assert all(read_varint(octets, 0) == (number, len(octets)) for number, octets in enumerate(VARINTS))
    assert (len(VARINTS[-1]), len(varint(len(VARINTS)))) == (2, 3)
