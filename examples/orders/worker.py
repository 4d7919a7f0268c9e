"""A worker of the order flow: `python worker.py charge|ship|receipt LEDGER [URL]`.

Takes an order, notes it in its ledger, hands it to the next step, acknowledges. The ledger makes it idempotent: an
order that comes again after a crash is handed on again, but noted only once.
"""

import sqlite3
import sys

import pika

NEXT = {"charge": "order.charged", "ship": "order.shipped", "receipt": None}

step, ledger = sys.argv[1:3]
url = sys.argv[3] if len(sys.argv) > 3 else "amqp://worker:worker@127.0.0.1:5672/%2F"
database = sqlite3.connect(ledger, timeout=30, isolation_level=None)
database.execute("create table if not exists done (body text primary key)")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_qos(prefetch_count=20)


def work(channel, method, _properties, body):
    """One order."""
    database.execute("insert or ignore into done values (?)", (body.decode(),))
    if NEXT[step] is not None:
        channel.basic_publish("orders", NEXT[step], body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    channel.basic_ack(method.delivery_tag)


channel.basic_consume(step, work)
print("ready", flush=True)
channel.start_consuming()
