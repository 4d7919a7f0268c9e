"""A worker for conf/examples/retries.yaml: `python steady_worker.py charge|ship|receipt LEDGER MENDED [URL]`.

Like worker.py, and it connects again whenever the broker goes away. An order with `"poison": true` cannot be charged
until the file MENDED is there: it goes back, comes again later, and in the end lies among the dead letters.
"""

import json
import pathlib
import sqlite3
import sys
import time

import pika

NEXT = {"charge": "order.charged", "ship": "order.shipped", "receipt": None}

step, ledger, mended = sys.argv[1:4]
url = sys.argv[4] if len(sys.argv) > 4 else "amqp://guest:guest@127.0.0.1:5672/%2F"
database = sqlite3.connect(ledger, timeout=30, isolation_level=None)
database.execute("create table if not exists done (body text primary key)")


def work(channel, method, _properties, body):
    """One order: noted and handed on before it is acknowledged, so that it is never lost, only seen again."""
    if step == "charge" and json.loads(body).get("poison") and not pathlib.Path(mended).exists():
        channel.basic_nack(method.delivery_tag, requeue=True)
        return
    database.execute("insert or ignore into done values (?)", (body.decode(),))
    if NEXT[step] is not None:
        channel.basic_publish("orders", NEXT[step], body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    channel.basic_ack(method.delivery_tag)


print("ready", flush=True)
while True:
    try:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_qos(prefetch_count=20)
            channel.basic_consume(step, work)
            channel.start_consuming()
    except (pika.exceptions.AMQPError, OSError):
        time.sleep(0.2)
