"""Write COUNT numbered records for each of eight keys: SERVER TOPIC COUNT. Each is there once, and in order."""

import sys

from confluent_kafka import Producer

KEYS = 8


def main(server: str, topic: str, count: int) -> None:
    """Send all, wait for all."""
    failed = []
    producer = Producer(
        {
            "bootstrap.servers": server,
            "enable.idempotence": True,
            "delivery.timeout.ms": 120_000,
            "retry.backoff.max.ms": 200,
            "reconnect.backoff.max.ms": 200,
        }
    )
    for number in range(count):
        for key in range(KEYS):
            producer.produce(
                topic, key=f"key-{key}", value=str(number), on_delivery=lambda error, _: error and failed.append(error)
            )
        producer.poll(0.002)
    producer.flush()
    if failed:
        sys.exit(f"{len(failed)} records were not written: {failed[0]}")
    print("written")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
