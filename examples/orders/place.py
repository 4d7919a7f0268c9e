"""Places orders: `place.py COUNT [URL]`. Each is confirmed, and an error if nothing is bound for it."""

import json
import sys

import pika

count = int(sys.argv[1])
url = sys.argv[2] if len(sys.argv) > 2 else "amqp://shop:shop@127.0.0.1:5672/%2F"
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
PERSISTENT = pika.BasicProperties(delivery_mode=2)
for number in range(count):
    order = {"id": f"order-{number}", "amount": 100 + number}
    channel.basic_publish("orders", "order.created", json.dumps(order).encode(), PERSISTENT, mandatory=True)
connection.close()
print(f"placed {count}")
