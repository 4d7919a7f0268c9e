"""The order flow of conf/examples/orders.yaml, with its real programs as processes, on both brokers."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "orders"
COUNT = 400


def start(broker, script, *words, user="worker"):
    """One of the example's programs, once it says that it is ready."""
    url = f"amqp://{user}:{user}@{broker.host}:{broker.port}/%2F"
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, words), url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    return process


def noted(ledger):
    """The orders in a worker's ledger."""
    database = sqlite3.connect(ledger)
    rows = [json.loads(body)["id"] for (body,) in database.execute("select body from done")]
    database.close()
    return rows


def tool(broker, name, *words):
    """One of rabbitmq-c's tools (Debian: amqp-tools), as guest; returns what it prints."""
    if shutil.which(name) is None:
        missing = pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip
        missing(f"{name} is missing (Debian: apt-get install amqp-tools)")
    url = f"amqp://guest:guest@{broker.host}:{broker.port}/%2F"
    return subprocess.run([name, "-u", url, *words], capture_output=True, timeout=30, check=True).stdout


def end(*processes):
    """End processes that this test started."""
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_every_order_is_charged_shipped_and_receipted_once(shop, tmp_path):
    """With a worker killed by SIGKILL in between: what it held comes again, and each ledger has every order once."""
    ledgers = {step: tmp_path / f"{step}.db" for step in ("charge", "ship", "receipt")}
    workers = {step: start(shop, "worker.py", step, ledger) for step, ledger in ledgers.items()}
    url = f"amqp://shop:shop@{shop.host}:{shop.port}/%2F"
    placing = subprocess.Popen([sys.executable, str(EXAMPLES / "place.py"), str(COUNT), url], stdout=subprocess.PIPE)
    while not noted(ledgers["ship"]):
        time.sleep(0.02)
    end(workers["ship"])
    workers["ship"] = start(shop, "worker.py", "ship", ledgers["ship"])
    assert placing.wait(60) == 0
    placing.stdout.close()
    deadline = time.monotonic() + 60
    while len(noted(ledgers["receipt"])) < COUNT and time.monotonic() < deadline:
        time.sleep(0.1)
    end(*workers.values())
    everything = {f"order-{number}" for number in range(COUNT)}
    for ledger in ledgers.values():
        assert sorted(noted(ledger)) == sorted(everything)


def test_permissions_of_the_example(shop):
    """The shop may only place orders: no other key, no queue of others."""
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://shop:shop@{shop.host}:{shop.port}/%2F"))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("orders", "order.created", b"{}")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        channel.basic_publish("orders", "order.shipped", b"{}")
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        channel.basic_get("charge")
    connection.close()
    with pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@{shop.host}:{shop.port}/%2F")) as connection:
        assert connection.channel().basic_get("charge", auto_ack=True)[2] == b"{}"


@pytest.mark.compat
def test_an_order_from_the_shell(shop, tmp_path):
    """amqp-publish places an order, the workers take it through, amqp-consume sees what nobody has a queue for."""
    tool(shop, "amqp-publish", "-e", "orders", "-r", "order.lost", "-b", "who wants me?")
    assert tool(shop, "amqp-consume", "-q", "unrouted", "-c", "1", "cat") == b"who wants me?"
    workers = [start(shop, "worker.py", step, tmp_path / step) for step in ("charge", "ship", "receipt")]
    tool(shop, "amqp-publish", "-e", "orders", "-r", "order.created", "-C", "application/json", "-b", '{"id": "shell"}')
    deadline = time.monotonic() + 30
    while noted(tmp_path / "receipt") != ["shell"] and time.monotonic() < deadline:
        time.sleep(0.05)
    end(*workers)
    assert [noted(tmp_path / step) for step in ("charge", "ship", "receipt")] == [["shell"]] * 3


def test_pricing_by_request_and_reply(shop):
    """A request over direct reply-to is answered by the pricing service."""
    service = start(shop, "pricing.py", "serve", user="guest")
    url = f"amqp://guest:guest@{shop.host}:{shop.port}/%2F"
    asked = subprocess.run(
        [sys.executable, str(EXAMPLES / "pricing.py"), "ask", "200", url], capture_output=True, text=True, timeout=30
    )
    end(service)
    assert asked.stdout.strip() == "238", asked.stderr
