"""Book payments as a member of a group: `python bookkeeper.py BOOKS MENDED [URL]`.

Connects again whenever the broker goes away. An amount that is no number cannot be booked until the file MENDED is
there: the payment is rejected, and lies among the dead letters until it is replayed.
"""

import json
import pathlib
import sqlite3
import sys
import time

import pika

TOPIC = "payments"
GROUP = {"x-group": "bookkeepers", "x-dead-letter-topic": f"{TOPIC}.dead"}
WORDS = {"ten": 10}

path, mended = sys.argv[1:3]
url = sys.argv[3] if len(sys.argv) > 3 else "amqp://guest:guest@127.0.0.1:5672/%2F"
books = sqlite3.connect(path, timeout=30, isolation_level=None)
books.execute("PRAGMA journal_mode=WAL")
books.execute("CREATE TABLE IF NOT EXISTS booked (id INTEGER PRIMARY KEY, amount INTEGER)")


def amount_of(payment):
    """As a number. Raises ValueError."""
    amount = payment["amount"]
    if isinstance(amount, str) and pathlib.Path(mended).exists():
        amount = WORDS.get(amount, amount)
    return int(amount)


def book(channel, method, _properties, body):
    """One payment: booked before it is acknowledged, so that it is never lost, only seen again."""
    payment = json.loads(body)
    try:
        amount = amount_of(payment)
    except ValueError:
        channel.basic_reject(method.delivery_tag, requeue=False)
        return
    books.execute("INSERT OR IGNORE INTO booked VALUES (?, ?)", (payment["id"], amount))
    channel.basic_ack(method.delivery_tag)


print("ready", flush=True)
while True:
    try:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=20)
            channel.basic_consume(TOPIC, book, arguments=GROUP)
            channel.start_consuming()
    except (pika.exceptions.AMQPError, OSError):
        time.sleep(0.2)
