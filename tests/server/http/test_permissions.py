"""What a method of AMQP asks before it does something, its twin over HTTP asks as well."""

import pytest

OF_A_QUEUE = [
    ("DELETE", "contents"), ("POST", "get"), ("GET", "browse"), ("GET", "deaths"), ("POST", "replay"),
    ("POST", "redeliver"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "what"), OF_A_QUEUE)
def test_a_queue_that_is_exclusive_to_a_connection_is_locked(http, method, what):
    """405 over AMQP (spec 1.7.2.1, exclusive), which the management API of RabbitMQ answers with 400."""
    client = http.connect()
    client.declare("mine", exclusive=True)
    client.publish("mine", b"kept")
    status, reason = http.refused(method, f"queues/%2F/mine/{what}", {})
    assert (status, reason.partition(".")[0]) == (
        400, "cannot obtain exclusive access to locked queue 'mine' in vhost '/'")  # fmt: skip
    assert client.get("mine")[2] == b"kept"


@pytest.mark.parametrize(("method", "what"), OF_A_QUEUE)
def test_a_queue_is_for_those_who_may_read_it(http, method, what):
    """basic.get, basic.consume and queue.purge ask for `read` (RabbitMQ: access control)."""
    http.allow("scribe", ".*", ".*", "^$")
    http.connect().declare("q")
    assert http.refused(method, f"queues/%2F/q/{what}", {}, user="scribe")[0] == 401


def test_get_asks_what_basic_get_asks(http):
    """A single active consumer of a quorum queue gets all; a get is a use, so that `x-expires` begins anew."""
    client = http.connect()
    client.declare("single", durable=True, x_queue_type="quorum", x_single_active_consumer=True)
    assert http.refused("POST", "queues/%2F/single/get", {})[0] == 400
    client.declare("q", x_expires=1000)
    for _ in range(3):
        http.advance(600)
        assert http.good("POST", "queues/%2F/q/get", {}) == []
    http.advance(1100)
    assert http.refused("POST", "queues/%2F/q/get", {})[0] == 404


@pytest.mark.parametrize("kind", ["policies", "operator-policies"])
def test_a_new_policy_is_201_a_changed_one_204(http, kind):
    """RabbitMQ: rabbit_mgmt_wm_policy.erl (a resource that did not exist was created)."""
    policy = {"pattern": "^q", "definition": {"max-length": 1}}
    for status in (201, 204, 204):
        assert http.ask("PUT", f"{kind}/%2F/p", policy)[0] == status
    http.good("DELETE", f"{kind}/%2F/p")
    assert http.ask("PUT", f"{kind}/%2F/p", policy)[0] == 201
    assert http.ask("PUT", f"{kind}/%2F/other", {**policy, "definition": {"overflow": "drop-head"}})[0] == (
        201 if kind == "policies" else 400)  # fmt: skip
