"""A client that says exactly what a test wants said: one socket, requests and answers of our own codec."""

import itertools
import socket
import struct
import time

from crc32c import crc32c
from waiting import HANG_MS, HANG_S

from protocol.kafka.apis import APIS
from protocol.kafka.headers import RequestHeader, read_response, write_request
from protocol.kafka.records import CRC_START, encode_batch, render_record

SETTINGS = ("listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0")
"""Of a broker for tests."""
ROOT = """
users:
  root:
    password: root
    tags: [administrator]
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
"""
"""The administrator of a configuration file; further users may follow."""
BY_NAME = {api.name: api for api in APIS.values()}
NOW_MS = time.time_ns() // 1_000_000 - 60_000
"""About now: what is older than a topic's retention goes."""


def batch(values, *, producer_id=-1, epoch=-1, sequence=-1, timestamp_ms=NOW_MS, attributes=0, keys=None, records=None):
    """A producer's batch; `records` replaces what stands for the records."""
    if records is None:
        keys = keys or [None] * len(values)
        records = b"".join(
            render_record(n, value, key) for n, (value, key) in enumerate(zip(values, keys, strict=True))
        )
    count = len(values)
    octets = bytearray(
        encode_batch(
            0, count - 1, count, records, leader_epoch=-1, base_timestamp_ms=timestamp_ms, max_timestamp_ms=timestamp_ms
        )
    )
    struct.pack_into(">h", octets, CRC_START, attributes)
    struct.pack_into(">qhi", octets, 43, producer_id, epoch, sequence)
    return resummed(octets)


def resummed(octets):
    """The batch with the checksum that it should have."""
    octets = bytearray(octets)
    struct.pack_into(">I", octets, CRC_START - 4, crc32c(octets[CRC_START:]))
    return bytes(octets)


class Closed(Exception):
    """The broker has closed the connection."""


class Wire:
    """One connection."""

    def __init__(self, address, timeout_s=HANG_S):
        self.sock = socket.create_connection(address, timeout=timeout_s)
        self.numbers = itertools.count(1)
        self.sent = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, name, version, **fields):
        """Send a request; returns its correlation id."""
        api = BY_NAME[name]
        number = next(self.numbers)
        self.sent[number] = (api.key, version)
        request = fields.pop("request", None) or api.request(**fields)
        try:
            self.sock.sendall(write_request(RequestHeader(api.key, version, number, "test"), request))
        except ConnectionError:
            raise Closed from None
        return number

    def _octets(self, count):
        found = b""
        while len(found) < count:
            try:
                piece = self.sock.recv(count - len(found))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed
            found += piece
        return found

    def frame(self):
        """The next frame, without its size."""
        return self._octets(int.from_bytes(self._octets(4), "big"))

    def answer(self):
        """(correlation id, response) of the next answer."""
        data = self.frame()
        number = int.from_bytes(data[:4], "big")
        return read_response(*self.sent.pop(number), data)

    def ask(self, name, version, **fields):
        """Send, and get the answer of just this."""
        number = self.send(name, version, **fields)
        got, response = self.answer()
        assert got == number
        return response

    # What most tests need.

    def create(self, name, partitions=1, configs=None, version=7):
        """Create a topic; returns its id."""
        api = BY_NAME["CreateTopics"]
        topic_class = api.request.SPECS["topics"].of
        config_class = topic_class.SPECS["configs"].of
        topic = topic_class(
            name=name,
            num_partitions=partitions,
            replication_factor=1,
            configs=[config_class(name=key, value=value) for key, value in (configs or {}).items()],
        )
        [result] = self.ask("CreateTopics", version, topics=[topic]).topics
        assert not result.error_code, result
        return result.topic_id

    def send_produce(self, name, records, *, partition=0, acks=-1, version=9):
        """Send one batch to one partition."""
        api = BY_NAME["Produce"]
        topic_class = api.request.SPECS["topic_data"].of
        data_class = topic_class.SPECS["partition_data"].of
        data = data_class(index=partition, records=records)
        return self.send(
            "Produce",
            version,
            acks=acks,
            timeout_ms=HANG_MS,
            topic_data=[topic_class(name=name, partition_data=[data])],
        )

    def produce(self, name, records, **options):
        """The answer for the partition."""
        self.send_produce(name, records, **options)
        return self.answer()[1].responses[0].partition_responses[0]

    def fetch_request(self, wanted, *, max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, session=(0, -1), forgotten=(),
                      partition_max_bytes=1 << 20, epoch=-1):  # fmt: skip
        """A Fetch of {topic name or id: {partition: offset}}."""
        api = BY_NAME["Fetch"].request
        topic_class = api.SPECS["topics"].of
        one_class = topic_class.SPECS["partitions"].of
        forgotten_class = api.SPECS["forgotten_topics_data"].of
        return api(
            max_wait_ms=max_wait_ms,
            min_bytes=min_bytes,
            max_bytes=max_bytes,
            session_id=session[0],
            session_epoch=session[1],
            topics=[
                topic_class(
                    **({"topic": topic} if isinstance(topic, str) else {"topic_id": topic}),
                    partitions=[
                        one_class(partition=index, fetch_offset=offset, partition_max_bytes=partition_max_bytes,
                                  current_leader_epoch=epoch)
                        for index, offset in partitions.items()
                    ],
                )
                for topic, partitions in wanted.items()
            ],
            forgotten_topics_data=[
                forgotten_class(topic=topic, partitions=list(indexes)) for topic, indexes in forgotten
            ],
        )  # fmt: skip

    def fetch(self, name, offset=0, *, partition=0, version=11, **options):
        """The answer for the partition."""
        response = self.ask("Fetch", version, request=self.fetch_request({name: {partition: offset}}, **options))
        assert not response.error_code
        return response.responses[0].partitions[0]

    def end(self, name, partition=0, timestamp=-1):
        """An offset by time, -1 for the end."""
        api = BY_NAME["ListOffsets"].request
        topic_class = api.SPECS["topics"].of
        one = topic_class.SPECS["partitions"].of(partition_index=partition, timestamp=timestamp)
        response = self.ask("ListOffsets", 7, replica_id=-1, topics=[topic_class(name=name, partitions=[one])])
        return response.topics[0].partitions[0]
