"""Payments into the topic `payments`, every tenth of them poison: `python pay.py COUNT [SERVER]`."""

import json
import sys
import time

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4

count = int(sys.argv[1])
server = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:9092"
admin = AdminClient({"bootstrap.servers": server})
try:
    admin.create_topics([NewTopic("payments", PARTITIONS)])["payments"].result(300)
except KafkaException as error:
    print(error, file=sys.stderr)  # It is there already.
producer = Producer({"bootstrap.servers": server, "enable.idempotence": True, "reconnect.backoff.max.ms": 200})
for number in range(count):
    payment = {"id": number, "amount": "ten" if number % 10 == 0 else number}
    producer.produce("payments", json.dumps(payment), f"account-{number % 17}")
    producer.poll(0)
    time.sleep(0.002)
sys.exit(producer.flush(300))
