"""How long a member may be silent: bounds that are configuration (Kafka's group.min.session.timeout.ms and
group.max.session.timeout.ms, defaults 6 s and 30 min; outside of them INVALID_SESSION_TIMEOUT, GroupCoordinator.scala's
handleJoinGroup)."""

import pytest
from kafka_wire import BY_NAME, Wire
from waiting import wait_until

from protocol.kafka.errors import ErrorCode
from tools.bench.control import running_jackalope


def join(wire, group, timeout_ms):
    """The answer to a JoinGroup."""
    request = BY_NAME["JoinGroup"].request
    protocols = [request.SPECS["protocols"].of(name="range", metadata=b"")]
    return wire.ask(
        "JoinGroup", 3, protocols=protocols, protocol_type="consumer", group_id=group, session_timeout_ms=timeout_ms,
        rebalance_timeout_ms=10_000,
    )  # fmt: skip


def test_kafkas_bounds_by_default(wire):
    """Both inclusive."""
    for timeout_ms, code in (
        (5_999, ErrorCode.INVALID_SESSION_TIMEOUT),
        (6_000, 0),
        (1_800_000, 0),
        (1_800_001, ErrorCode.INVALID_SESSION_TIMEOUT),
    ):
        assert join(wire, f"default-{timeout_ms}", timeout_ms).error_code == code


@pytest.fixture(scope="module")
def narrow():
    """A broker with bounds of its own."""
    settings = (
        "listeners.kafka=127.0.0.1:0", "kafka.group_initial_rebalance_delay_s=0",
        "kafka.group_session_timeout_min_s=100ms", "kafka.group_session_timeout_max_s=200ms",
    )  # fmt: skip
    with running_jackalope(settings=settings, http=False) as broker:
        yield broker


def test_bounds_of_the_configuration(narrow):
    """A member with a session of 100 ms that says nothing is gone after that, and its group is empty."""
    with Wire(narrow.addresses["kafka"]) as wire:
        assert join(wire, "g", 99).error_code == ErrorCode.INVALID_SESSION_TIMEOUT
        assert join(wire, "g", 201).error_code == ErrorCode.INVALID_SESSION_TIMEOUT
        joined = join(wire, "g", 100)
        assert joined.error_code == 0
        answer = wire.ask("SyncGroup", 1, group_id="g", generation_id=joined.generation_id, member_id=joined.member_id)
        assert answer.error_code == 0
        wait_until(lambda: wire.ask("DescribeGroups", 0, groups=["g"]).groups[0].group_state == "Empty")
