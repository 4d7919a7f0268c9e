"""Read as a member of a group over AMQP: URL TOPIC GROUP LEDGER least|most. `least` acknowledges after the work.

`most` notes where a record is before it works on it, and works on nothing whose place is noted already: an
acknowledgement alone is committed a quarter of a second later, and may be lost with the broker until then.
Connects again whenever the broker goes away. The ledger (SQLite) has a row for each time that a record was worked on.
"""

import sqlite3
import sys
import time

import pika

PREFETCH = 20


def main(url: str, topic: str, group: str, path: str, semantics: str) -> None:
    """Read for ever."""
    ledger = sqlite3.connect(path, timeout=30, isolation_level=None)
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT, number INTEGER, partition INTEGER, position INTEGER)")
    ledger.execute(
        "CREATE TABLE IF NOT EXISTS begun (partition INTEGER, position INTEGER, UNIQUE (partition, position))"
    )

    def on_message(channel, method, properties, body):
        place = properties.headers.get("x-stream-partition", 0), properties.headers["x-stream-offset"]
        if semantics == "most":
            is_new = ledger.execute("INSERT OR IGNORE INTO begun VALUES (?, ?)", place).rowcount
            channel.basic_ack(method.delivery_tag)
            if not is_new:
                return
        ledger.execute("INSERT INTO done VALUES (?, ?, ?, ?)", (method.routing_key, int(body), *place))  # The work.
        if semantics == "least":
            channel.basic_ack(method.delivery_tag)

    while True:
        try:
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=PREFETCH)
                channel.basic_consume(topic, on_message, arguments={"x-group": group})
                channel.start_consuming()
        except (pika.exceptions.AMQPError, OSError):
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:6])
