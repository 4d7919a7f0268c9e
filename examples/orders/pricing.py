"""Request-reply: `pricing.py serve [URL]` answers, `pricing.py ask AMOUNT [URL]` asks over direct reply-to."""

import sys

import pika

verb = sys.argv[1]
rest = sys.argv[2:] if verb == "serve" else sys.argv[3:]
url = rest[0] if rest else "amqp://guest:guest@127.0.0.1:5672/%2F"
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
if verb == "serve":

    def answer(channel, method, properties, body):
        """The price with tax, back to whoever asked."""
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, b"%d" % (int(body) * 119 // 100), reply)
        channel.basic_ack(method.delivery_tag)

    channel.basic_qos(prefetch_count=10)
    channel.basic_consume("pricing", answer)
    print("ready", flush=True)
    channel.start_consuming()
else:
    replies = []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *reply: replies.append(reply[3]), auto_ack=True)
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="1")
    channel.basic_publish("", "pricing", sys.argv[2].encode(), properties)
    connection.process_data_events(time_limit=60)
    print(replies[0].decode() if replies else "no answer")
    connection.close()
