"""The example's broker, and its control: the same topology, users and permissions on Jackalope and on RabbitMQ."""

from pathlib import Path

import pytest
import yaml
from needed import need

from tools.bench.control import rabbitmq_missing, running_jackalope, running_rabbitmq

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGY = ROOT / "conf" / "examples" / "orders.yaml"


def definitions(topology):
    """RabbitMQ's definitions document with what one of our YAML files declares."""
    found = {
        "vhosts": [], "users": [], "permissions": [], "topic_permissions": [],
        "exchanges": [], "queues": [], "bindings": [],
    }  # fmt: skip
    for vhost, parts in topology["vhosts"].items():
        found["vhosts"].append({"name": vhost})
        for name, exchange in parts["exchanges"].items():
            found["exchanges"].append(
                {"name": name, "vhost": vhost, "type": exchange["type"], "durable": True, "auto_delete": False,
                 "internal": False, "arguments": exchange.get("arguments", {})}
            )  # fmt: skip
        for name, queue in parts["queues"].items():
            found["queues"].append(
                {"name": name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": {}}
            )
            found["bindings"] += [
                {"vhost": vhost, "source": binding["source"], "destination": name, "destination_type": "queue",
                 "routing_key": binding.get("routing_key", ""), "arguments": {}}
                for binding in queue.get("bindings", [])
            ]  # fmt: skip
    for name, user in topology["users"].items():
        tags = ",".join(user.get("tags", []))
        found["users"].append({"name": name, "password": user["password"], "tags": tags})
        for vhost, patterns in user["permissions"].items():
            found["permissions"].append({"user": name, "vhost": vhost, **patterns})
        for vhost, exchanges in user.get("topic_permissions", {}).items():
            found["topic_permissions"] += [
                {"user": name, "vhost": vhost, "exchange": exchange, **patterns}
                for exchange, patterns in exchanges.items()
            ]
    return found


@pytest.fixture(scope="module", params=["jackalope", pytest.param("rabbitmq", marks=pytest.mark.control)])
def shop(request):
    """A broker with the example's topology, users and permissions: Jackalope, and RabbitMQ as the control."""
    if request.param == "jackalope":
        with running_jackalope("-c", str(TOPOLOGY)) as broker:
            yield broker
        return
    need(rabbitmq_missing())
    with running_rabbitmq(definitions=definitions(yaml.safe_load(TOPOLOGY.read_text()))) as broker:
        yield broker
