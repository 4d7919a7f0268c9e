"""The order flow of conf/examples/orders.yaml, with its real programs as processes, on both brokers."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "orders"
COUNT = 400
PATIENT = f"?heartbeat=0&socket_timeout={HANG_S}&stack_timeout={HANG_S}"


def start(broker, script, *words, user="worker"):
    """One of the example's programs, once it says that it is ready."""
    url = f"amqp://{user}:{user}@{broker.host}:{broker.port}/%2F{PATIENT}"
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, words), url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "ready"
    return process


def noted(ledger):
    """The orders in a worker's ledger."""
    database = sqlite3.connect(ledger, timeout=HANG_S)
    rows = [json.loads(body)["id"] for (body,) in database.execute("select body from done")]
    database.close()
    return rows


def tool(broker, name, *words):
    """One of rabbitmq-c's tools (Debian: amqp-tools), as guest; returns what it prints."""
    if shutil.which(name) is None:
        missing = pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip
        missing(f"{name} is missing (Debian: apt-get install amqp-tools)")
    url = f"amqp://guest:guest@{broker.host}:{broker.port}/%2F"
    return subprocess.run([name, "-u", url, *words], capture_output=True, timeout=HANG_S, check=True).stdout


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
    url = f"amqp://shop:shop@{shop.host}:{shop.port}/%2F{PATIENT}"
    placing = subprocess.Popen([sys.executable, str(EXAMPLES / "place.py"), str(COUNT), url], stdout=subprocess.PIPE)
    wait_until(lambda: noted(ledgers["ship"]))
    end(workers["ship"])
    workers["ship"] = start(shop, "worker.py", "ship", ledgers["ship"])
    assert placing.wait(HANG_S) == 0
    placing.stdout.close()
    wait_until(lambda: len(noted(ledgers["receipt"])) >= COUNT, lambda: f"{len(noted(ledgers['receipt']))} receipts")
    end(*workers.values())
    everything = {f"order-{number}" for number in range(COUNT)}
    for ledger in ledgers.values():
        assert sorted(noted(ledger)) == sorted(everything)


def test_permissions_of_the_example(shop):
    """The shop may only place orders: no other key, no queue of others."""
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(f"amqp://shop:shop@{shop.host}:{shop.port}/%2F{PATIENT}"))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("orders", "order.created", b"{}")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        channel.basic_publish("orders", "order.shipped", b"{}")
    channel = connection.channel()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        channel.basic_get("charge")
    connection.close()
    url = f"amqp://guest:guest@{shop.host}:{shop.port}/%2F{PATIENT}"
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        assert connection.channel().basic_get("charge", auto_ack=True)[2] == b"{}"


@pytest.mark.compat
def test_an_order_from_the_shell(shop, tmp_path):
    """amqp-publish places an order, the workers take it through, amqp-consume sees what nobody has a queue for."""
    tool(shop, "amqp-publish", "-e", "orders", "-r", "order.lost", "-b", "who wants me?")
    assert tool(shop, "amqp-consume", "-q", "unrouted", "-c", "1", "cat") == b"who wants me?"
    workers = [start(shop, "worker.py", step, tmp_path / step) for step in ("charge", "ship", "receipt")]
    tool(shop, "amqp-publish", "-e", "orders", "-r", "order.created", "-C", "application/json", "-b", '{"id": "shell"}')
    wait_until(lambda: noted(tmp_path / "receipt") == ["shell"], lambda: noted(tmp_path / "receipt"))
    end(*workers)
    assert [noted(tmp_path / step) for step in ("charge", "ship", "receipt")] == [["shell"]] * 3


def test_pricing_by_request_and_reply(shop):
    """A request over direct reply-to is answered by the pricing service."""
    service = start(shop, "pricing.py", "serve", user="guest")
    url = f"amqp://guest:guest@{shop.host}:{shop.port}/%2F{PATIENT}"
    asked = subprocess.run(
        [sys.executable, str(EXAMPLES / "pricing.py"), "ask", "200", url],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    end(service)
    assert asked.stdout.strip() == "238", asked.stderr
