"""Read as a member of a group: SERVER TOPIC GROUP LEDGER least|most. `least` commits after the work, `most` before.

The ledger (SQLite) has a row for each time that a record was worked on.
"""

import sqlite3
import sys

from confluent_kafka import Consumer, KafkaException, Message

BATCH = 20


def commit(consumer: Consumer) -> bool:
    """Whether what was handed out so far is committed: not when others have taken over meanwhile."""
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        print("not committed:", error, file=sys.stderr)
        return False
    return True


def work(ledger: sqlite3.Connection, messages: list[Message]) -> None:
    """What there is to do: here, a note of each."""
    rows = [(one.key().decode(), int(one.value()), one.partition(), one.offset()) for one in messages]
    with ledger:
        ledger.executemany("INSERT INTO done VALUES (?, ?, ?, ?)", rows)


def main(server: str, topic: str, group: str, path: str, semantics: str) -> None:
    """Read for ever."""
    ledger = sqlite3.connect(path, timeout=30)
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.execute("CREATE TABLE IF NOT EXISTS done (key TEXT, number INTEGER, partition INTEGER, position INTEGER)")
    consumer = Consumer(
        {
            "bootstrap.servers": server,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            "reconnect.backoff.max.ms": 200,
        }
    )
    consumer.subscribe([topic])
    while True:
        messages = [one for one in consumer.consume(BATCH, timeout=0.2) if one.error() is None]
        if not messages:
            continue
        if semantics == "most":
            if commit(consumer):
                work(ledger, messages)
        else:
            work(ledger, messages)
            commit(consumer)


if __name__ == "__main__":
    main(*sys.argv[1:6])
