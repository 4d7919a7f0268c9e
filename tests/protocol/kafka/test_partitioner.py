"""The partition of a key, against what Kafka's clients answer."""

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as theirs

from protocol.kafka.partitioner import murmur2, partition_for_key

JAVA = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829, b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107}  # fmt: skip
"""UtilsTest.testMurmur2 of Kafka's clients."""


def test_as_java_hashes():
    """The values that Kafka's own test expects."""
    for key, value in JAVA.items():
        assert murmur2(key) == value & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 1000))
def test_as_kafka_python_hashes(key, partitions):
    """Any key, of any length."""
    assert murmur2(key) == theirs(key) & 0xFFFFFFFF
    assert partition_for_key(key, partitions) == (theirs(key) & 0x7FFFFFFF) % partitions
