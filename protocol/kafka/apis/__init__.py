"""The APIs that have a table: their keys, the versions that may be served, and from which on they are flexible.

A row's module holds its structs and is imported when the API is first used: start-up need not read all of them. What is
served is what has a handler as well (`broker.server.kafka.handlers`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

NEVER = 1 << 15
ADVERTISED_FROM = {0: 0}
"""Produce: clients of librdkafka look for version 0 to tell what a broker can; nobody sends it."""


class Api(NamedTuple):
    """One API; `versions` are inclusive. From `flexible_from` on its messages are compact, with tagged fields."""

    key: int
    name: str
    min_version: int
    max_version: int
    flexible_from: int

    def is_flexible(self, version: int) -> bool:
        """Whether the version is compact, with tagged fields."""
        return version >= self.flexible_from

    @property
    def advertised_min(self) -> int:
        """The lowest version that ApiVersions tells."""
        return ADVERTISED_FROM.get(self.key, self.min_version)

    @property
    def request(self) -> Any:
        """The class of its requests."""
        return getattr(self._module, self.name + "Request")

    @property
    def response(self) -> Any:
        """The class of its responses."""
        return getattr(self._module, self.name + "Response")

    @property
    def _module(self) -> Any:
        words = "".join("_" + letter.lower() if letter.isupper() else letter for letter in self.name)
        return import_module(f"protocol.kafka.apis.{words[1:]}")


def _row(key: int, name: str, min_version: int, max_version: int, flexible_from: int | None) -> Api:
    return Api(key, name, min_version, max_version, NEVER if flexible_from is None else flexible_from)


_ROWS = (
    _row(0, "Produce", 3, 12, 9),
    _row(1, "Fetch", 4, 17, 12),
    _row(2, "ListOffsets", 1, 9, 6),
    _row(3, "Metadata", 0, 13, 9),
    _row(8, "OffsetCommit", 2, 9, 8),
    _row(9, "OffsetFetch", 1, 9, 6),
    _row(10, "FindCoordinator", 0, 5, 3),
    _row(11, "JoinGroup", 0, 9, 6),
    _row(12, "Heartbeat", 0, 4, 4),
    _row(13, "LeaveGroup", 0, 5, 4),
    _row(14, "SyncGroup", 0, 5, 4),
    _row(15, "DescribeGroups", 0, 6, 5),
    _row(16, "ListGroups", 0, 5, 3),
    _row(17, "SaslHandshake", 0, 1, None),
    _row(18, "ApiVersions", 0, 4, 3),
    _row(19, "CreateTopics", 2, 7, 5),
    _row(20, "DeleteTopics", 1, 6, 4),
    _row(21, "DeleteRecords", 0, 2, 2),
    _row(22, "InitProducerId", 0, 5, 2),
    _row(23, "OffsetForLeaderEpoch", 2, 4, 4),
    _row(24, "AddPartitionsToTxn", 0, 3, 3),
    _row(25, "AddOffsetsToTxn", 0, 4, 3),
    _row(26, "EndTxn", 0, 4, 3),
    _row(27, "WriteTxnMarkers", 1, 1, 1),
    _row(28, "TxnOffsetCommit", 0, 4, 3),
    _row(29, "DescribeAcls", 1, 3, 2),
    _row(30, "CreateAcls", 1, 3, 2),
    _row(31, "DeleteAcls", 1, 3, 2),
    _row(32, "DescribeConfigs", 1, 4, 4),
    _row(33, "AlterConfigs", 0, 2, 2),
    _row(34, "AlterReplicaLogDirs", 1, 2, 2),
    _row(35, "DescribeLogDirs", 1, 4, 2),
    _row(36, "SaslAuthenticate", 0, 2, 2),
    _row(37, "CreatePartitions", 0, 3, 2),
    _row(42, "DeleteGroups", 0, 2, 2),
    _row(43, "ElectLeaders", 0, 2, 2),
    _row(44, "IncrementalAlterConfigs", 0, 1, 1),
    _row(45, "AlterPartitionReassignments", 0, 0, 0),
    _row(46, "ListPartitionReassignments", 0, 0, 0),
    _row(47, "OffsetDelete", 0, 0, None),
    _row(48, "DescribeClientQuotas", 0, 1, 1),
    _row(50, "DescribeUserScramCredentials", 0, 0, 0),
    _row(51, "AlterUserScramCredentials", 0, 0, 0),
    _row(55, "DescribeQuorum", 0, 2, 0),
    _row(57, "UpdateFeatures", 0, 2, 0),
    _row(60, "DescribeCluster", 0, 2, 0),
    _row(61, "DescribeProducers", 0, 0, 0),
    _row(65, "DescribeTransactions", 0, 0, 0),
    _row(66, "ListTransactions", 0, 2, 0),
    _row(74, "ListConfigResources", 0, 1, 0),
    _row(75, "DescribeTopicPartitions", 0, 0, 0),
)
APIS: dict[int, Api] = {row.key: row for row in _ROWS}
