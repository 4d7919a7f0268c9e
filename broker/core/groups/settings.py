"""What consumer groups are bound by, and the name of the topic that keeps them.

Apart from `values`, so that who starts a broker need not wait for all of what groups are made of.
"""

from __future__ import annotations

from dataclasses import dataclass

OFFSETS_TOPIC = "__consumer_offsets"
"""Kafka's name of it."""


@dataclass(slots=True, frozen=True)
class GroupSettings:
    """Limits and delays. Those that are configured have the defaults of `broker.config`, which explains them."""

    initial_rebalance_delay_ms: int = 500
    """How long an empty group waits for more members after its first one, and again after each that comes."""
    session_timeout_ms_min: int = 6_000
    session_timeout_ms_max: int = 1_800_000
    rebalance_timeout_ms_max: int = 86_400_000
    """Clients set it to 24 days when they mean "never"; everybody else in the group would be parked that long."""
    new_member_join_timeout_ms: int = 300_000
    """A member whose first join is parked cannot heartbeat; it is given up after this."""
    members_max: int = 1_000
    """Of one group; a rebalance of so many is one step of the loop."""
    groups_max: int = 100_000
    protocols_max: int = 64
    """Of one member; each is looked at in every vote."""
    member_metadata_bytes_max: int = 1 << 18
    """All protocols of one member together."""
    assignment_bytes_max: int = 1 << 20
    """Of one member; Kafka's bound is what fits into one record with all others."""
    bytes_max: int = 1 << 27
    """What all groups together may hold, offsets included. Who is in already may use a quarter more."""
    offset_metadata_chars_max: int = 4_096
    offsets_retention_ms: int = 7 * 86_400_000
