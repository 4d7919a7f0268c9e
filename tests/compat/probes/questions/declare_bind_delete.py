from wire import wait
import pika, sys, time, json, uuid, threading


def P(n, *a):
    print("## %s ::" % n, *[x if isinstance(x, str) else repr(x) for x in a], flush=True)


def conn(user="guest", pw="guest", vhost=__import__("os").environ.get("AMQP_VHOST", "/"), **k):
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            __import__("os").environ.get("AMQP_HOST", "127.0.0.1"),
            int(__import__("os").environ.get("AMQP_PORT", 5672)),
            vhost,
            pika.PlainCredentials(user, pw),
            **k,
        )
    )


def err(n, f):
    c = conn()
    ch = c.channel()
    try:
        r = f(ch)
        P(n, "OK", r)
    except pika.exceptions.ChannelClosedByBroker as e:
        P(n, "CHANNEL %s %s" % (e.reply_code, e.reply_text))
    except pika.exceptions.ConnectionClosedByBroker as e:
        P(n, "CONNECTION %s %s" % (e.reply_code, e.reply_text))
    except Exception as e:  # Whatever else the client raises is an answer, and is compared.
        P(n, "EXC", repr(e)[:300])
    finally:
        try:
            c.close()
        except pika.exceptions.AMQPError:
            pass  # The broker has closed it already, which is the answer.


u = "p2-"
cc = conn()
C = cc.channel()
C.queue_declare(u + "q", durable=True)
C.queue_declare(u + "ex", exclusive=True)
err("queue.declare passive missing", lambda ch: ch.queue_declare("nope", passive=True))
err("queue.declare inequiv durable", lambda ch: ch.queue_declare(u + "q", durable=False))
err("queue.declare inequiv arg", lambda ch: ch.queue_declare(u + "q", durable=True, arguments={"x-message-ttl": 5}))
err("queue.declare unknown x-arg", lambda ch: ch.queue_declare(u + "q2", auto_delete=True, arguments={"x-unknown": 5}))
err("queue.declare same + unknown non-x arg", lambda ch: ch.queue_declare(u + "q", durable=True, arguments={"foo": 5}))
err("queue.declare auto_delete differs", lambda ch: ch.queue_declare(u + "q", durable=True, auto_delete=True))
err("queue.declare amq. prefix", lambda ch: ch.queue_declare("amq.foo"))
err("queue.declare amq. passive missing", lambda ch: ch.queue_declare("amq.foo", passive=True))
err("exclusive queue other conn declare", lambda ch: ch.queue_declare(u + "ex", exclusive=True))
err("exclusive queue other conn consume", lambda ch: ch.basic_consume(u + "ex", lambda *a: 0))
err("exclusive queue other conn passive", lambda ch: ch.queue_declare(u + "ex", passive=True))
err("exclusive queue other conn delete", lambda ch: ch.queue_delete(u + "ex"))
err("exclusive queue other conn purge", lambda ch: ch.queue_purge(u + "ex"))
err("exclusive queue other conn bind", lambda ch: ch.queue_bind(u + "ex", "amq.direct", "a"))
err("exclusive queue other conn get", lambda ch: ch.basic_get(u + "ex"))
err(
    "publish to exclusive from other conn (default exch)",
    lambda ch: (
        ch.basic_publish("", u + "ex", b"x"),
        wait(0.2),
        ch.queue_declare(u + "z", auto_delete=True).method.queue,
    ),
)
err("bad ttl -1", lambda ch: ch.queue_declare(u + "t", arguments={"x-message-ttl": -1}))
err("bad ttl string", lambda ch: ch.queue_declare(u + "t", arguments={"x-message-ttl": "5"}))
err("x-expires 0", lambda ch: ch.queue_declare(u + "t", arguments={"x-expires": 0}))
err("x-max-length -1", lambda ch: ch.queue_declare(u + "t", arguments={"x-max-length": -1}))
err("x-overflow bad", lambda ch: ch.queue_declare(u + "t", arguments={"x-overflow": "foo"}))
err("x-max-priority 256", lambda ch: ch.queue_declare(u + "t", arguments={"x-max-priority": 256}))
err("x-max-priority 0", lambda ch: ch.queue_declare(u + "t0", auto_delete=True, arguments={"x-max-priority": 0}))
err("x-queue-mode bad", lambda ch: ch.queue_declare(u + "t", arguments={"x-queue-mode": "foo"}))
err("x-queue-type bad", lambda ch: ch.queue_declare(u + "t", arguments={"x-queue-type": "foo"}))
err(
    "x-dead-letter-rk without dlx", lambda ch: ch.queue_declare(u + "t", arguments={"x-dead-letter-routing-key": "foo"})
)
err(
    "x-single-active-consumer string",
    lambda ch: ch.queue_declare(u + "t", arguments={"x-single-active-consumer": "foo"}),
)
err("quorum non-durable", lambda ch: ch.queue_declare(u + "qq", arguments={"x-queue-type": "quorum"}))
err(
    "quorum exclusive",
    lambda ch: ch.queue_declare(u + "qq", durable=True, exclusive=True, arguments={"x-queue-type": "quorum"}),
)
err(
    "quorum + max-priority",
    lambda ch: ch.queue_declare(u + "qq", durable=True, arguments={"x-queue-type": "quorum", "x-max-priority": 3}),
)
err(
    "quorum + reject-publish-dlx",
    lambda ch: ch.queue_declare(
        u + "qq", durable=True, arguments={"x-queue-type": "quorum", "x-overflow": "reject-publish-dlx"}
    ),
)
err(
    "equal ttl declared as int8 vs int64 equivalence",
    lambda ch: (
        ch.queue_declare(u + "tt", auto_delete=True, arguments={"x-message-ttl": 5}),
        ch.queue_declare(u + "tt", auto_delete=True, arguments={"x-message-ttl": 2**33 // 2**33 * 5}),
    ),
)
err("exchange.declare inequiv type", lambda ch: ch.exchange_declare("amq.direct", "topic", durable=True))
err("exchange.declare amq.direct same", lambda ch: ch.exchange_declare("amq.direct", "direct", durable=True))
err("exchange.declare amq.new", lambda ch: ch.exchange_declare("amq.new", "direct"))
err('exchange.declare default ""', lambda ch: ch.exchange_declare("", "direct"))
err('exchange.declare passive ""', lambda ch: ch.exchange_declare("", "direct", passive=True))
err("exchange.declare passive missing", lambda ch: ch.exchange_declare("nope", "direct", passive=True))
err("exchange.declare passive exists wrong type", lambda ch: ch.exchange_declare("amq.direct", "topic", passive=True))
err("exchange.delete amq.direct", lambda ch: ch.exchange_delete("amq.direct"))
err('exchange.delete ""', lambda ch: ch.exchange_delete(""))
err("exchange.delete missing", lambda ch: ch.exchange_delete("nope"))
err("queue.delete missing", lambda ch: ch.queue_delete("nope").method)
err(
    "queue.delete if-empty nonempty",
    lambda ch: (ch.basic_publish("", u + "q", b"x"), ch.confirm_delivery(), ch.queue_delete(u + "q", if_empty=True)),
)
err("queue.purge missing", lambda ch: ch.queue_purge("nope"))
err("queue.purge", lambda ch: ch.queue_purge(u + "q").method)
err("queue.unbind missing queue", lambda ch: ch.queue_unbind("nope", "amq.direct", "x"))
err("queue.unbind missing binding", lambda ch: ch.queue_unbind(u + "q", "amq.direct", "x").method)
err("queue.bind missing exchange", lambda ch: ch.queue_bind(u + "q", "nope", "x"))
err("queue.bind missing queue", lambda ch: ch.queue_bind("nope", "amq.direct", "x"))
err("queue.bind default exchange", lambda ch: ch.queue_bind(u + "q", "", "x"))
err("exchange.bind default exchange", lambda ch: ch.exchange_bind("", "amq.direct", "x"))
err("exchange.bind", lambda ch: ch.exchange_bind("amq.fanout", "amq.direct", "p2x").method)
C.exchange_unbind("amq.fanout", "amq.direct", "p2x")
err("publish missing exchange", lambda ch: (ch.confirm_delivery(), ch.basic_publish("nope", "x", b"x")))
C.exchange_declare(u + "int", "direct", internal=True, auto_delete=True)
err("publish internal exchange", lambda ch: (ch.confirm_delivery(), ch.basic_publish(u + "int", "x", b"x")))
err("publish immediate", lambda ch: ch._impl.basic_publish("", u + "q", b"x") if 0 else None)
err("get missing", lambda ch: ch.basic_get("nope"))
err("consume missing", lambda ch: ch.basic_consume("nope", lambda *a: 0))
err(
    "duplicate consumer tag (same ch)",
    lambda ch: ch._impl.basic_consume(u + "q", lambda *a: 0, consumer_tag="dup") and None,
)
err("ack unknown tag", lambda ch: (ch.basic_ack(99), ch.queue_declare(u + "q", passive=True)))
err(
    "ack tag 0 multiple, none outstanding",
    lambda ch: (ch.basic_ack(0, multiple=True), ch.queue_declare(u + "q", passive=True).method.queue),
)
err("ack tag 0 single", lambda ch: (ch.basic_ack(0), ch.queue_declare(u + "q", passive=True)))
err("nack unknown", lambda ch: (ch.basic_nack(99), ch.queue_declare(u + "q", passive=True)))
err("reject unknown", lambda ch: (ch.basic_reject(99), ch.queue_declare(u + "q", passive=True)))
err(
    "double ack",
    lambda ch: (
        ch.basic_publish("", u + "q", b"y"),
        wait(0.1),
        [ch.basic_ack(1) for _ in range(2) if ch.basic_get(u + "q") or 1],
        ch.queue_declare(u + "q", passive=True),
    ),
)
err("tx.select then confirm.select", lambda ch: (ch.tx_select(), ch.confirm_delivery()))
err("confirm then tx.select", lambda ch: (ch.confirm_delivery(), ch.tx_select()))
err("tx.commit without select", lambda ch: ch.tx_commit())
err("qos prefetch_size !=0", lambda ch: ch.basic_qos(prefetch_size=10))
err("qos count 65535", lambda ch: ch.basic_qos(prefetch_count=65535).__class__)
err("basic.recover requeue=false", lambda ch: ch.basic_recover(requeue=False))
err("cancel unknown tag", lambda ch: ch._impl.basic_cancel("nope"))
err(
    "user_id wrong",
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(user_id="bob"))),
)
err(
    "user_id right",
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(user_id="guest"))),
)
err(
    'expiration "abc"',
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(expiration="abc"))),
)
err(
    'expiration "-1"',
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(expiration="-1"))),
)
err(
    "CC not a list",
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(headers={"CC": "a"}))),
)
err(
    "CC list ints",
    lambda ch: (ch.confirm_delivery(), ch.basic_publish("", u + "q", b"x", pika.BasicProperties(headers={"CC": [1]}))),
)
err("consumer x-priority string", lambda ch: ch.basic_consume(u + "q", lambda *a: 0, arguments={"x-priority": "a"}))
err(
    "direct reply-to consume with ack",
    lambda ch: ch.basic_consume("amq.rabbitmq.reply-to", lambda *a: 0, auto_ack=False),
)
err(
    "direct reply-to twice",
    lambda ch: (
        ch.basic_consume("amq.rabbitmq.reply-to", lambda *a: 0, auto_ack=True),
        ch.basic_consume("amq.rabbitmq.reply-to", lambda *a: 0, auto_ack=True),
    ),
)
err(
    "publish reply-to without consumer",
    lambda ch: (
        ch.basic_publish("", u + "q", b"x", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")),
        ch.queue_declare(u + "q", passive=True),
    ),
)
err("declare passive amq.rabbitmq.reply-to", lambda ch: ch.queue_declare("amq.rabbitmq.reply-to", passive=True).method)
err("headers bad x-match", lambda ch: ch.queue_bind(u + "q", "amq.headers", "", arguments={"x-match": "foo"}))
err(
    "headers no x-match",
    lambda ch: (
        ch.queue_bind(u + "q", "amq.headers", "", arguments={"zz": 1}),
        ch.queue_unbind(u + "q", "amq.headers", "", arguments={"zz": 1}),
    ),
)
err(
    "headers any-with-x (3.10)",
    lambda ch: (
        ch.queue_bind(u + "q", "amq.headers", "", arguments={"x-match": "any-with-x"}),
        ch.queue_unbind(u + "q", "amq.headers", "", arguments={"x-match": "any-with-x"}),
    ),
)
err("empty queue name, no last declared: bind", lambda ch: ch.queue_bind("", "amq.direct", "x"))
err(
    "empty queue name after declare uses last",
    lambda ch: (
        ch.queue_declare("", exclusive=True).method.queue[:7],
        ch.queue_bind("", "amq.direct", "").__class__.__name__,
        ch.queue_purge("").method.message_count,
    ),
)
err(
    "consumer exclusive when others exist",
    lambda ch: (ch.basic_consume(u + "q", lambda *a: 0), ch.basic_consume(u + "q", lambda *a: 0, exclusive=True)),
)
err(
    "second consumer on exclusively consumed",
    lambda ch: (ch.basic_consume(u + "q", lambda *a: 0, exclusive=True), ch.basic_consume(u + "q", lambda *a: 0)),
)
err(
    "queue.delete if-unused in use",
    lambda ch: (ch.basic_consume(u + "q", lambda *a: 0), ch.queue_delete(u + "q", if_unused=True)),
)
err(
    "stream consume without qos",
    lambda ch: (
        ch.queue_declare(u + "st", durable=True, arguments={"x-queue-type": "stream"}),
        ch.basic_consume(u + "st", lambda *a: 0),
    ),
)
err(
    "stream consume auto_ack",
    lambda ch: (ch.basic_qos(prefetch_count=10), ch.basic_consume(u + "st", lambda *a: 0, auto_ack=True)),
)
err("stream basic.get", lambda ch: ch.basic_get(u + "st"))
err("stream purge", lambda ch: ch.queue_purge(u + "st"))
err(
    "stream bad offset",
    lambda ch: (
        ch.basic_qos(prefetch_count=10),
        ch.basic_consume(u + "st", lambda *a: 0, arguments={"x-stream-offset": "foo"}),
    ),
)
err(
    "stream global qos",
    lambda ch: (ch.basic_qos(prefetch_count=10, global_qos=True), ch.basic_consume(u + "st", lambda *a: 0)),
)
C.queue_delete(u + "q")
C.queue_delete(u + "st")
