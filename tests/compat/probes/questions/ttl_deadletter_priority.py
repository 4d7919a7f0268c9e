from wire import PATIENCE, wait
import pika, time, json, urllib.request, base64, sys
from datetime import datetime


def P(n, *a):
    print("## %s ::" % n, *[x if isinstance(x, str) else repr(x) for x in a], flush=True)


def conn(**k):
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            __import__("os").environ.get("AMQP_HOST", "127.0.0.1"),
            int(__import__("os").environ.get("AMQP_PORT", 5672)),
            __import__("os").environ.get("AMQP_VHOST", "/"),
            pika.PlainCredentials("guest", "guest"),
            **k,
        )
    )


def pump(
    c, s
):  # pika hands over its first batch and returns: stay for the whole period, so that chunking does not change answers.
    end = time.monotonic() + s * PATIENCE
    while (left := end - time.monotonic()) > 0:
        c.process_data_events(left)


c = conn()
ch = c.channel()


def drain(ch, q, n=50):
    r = []
    for _ in range(n):
        m, p, b = ch.basic_get(q, auto_ack=True)
        if m is None:
            break
        r.append((b, p.headers, p.expiration, m.exchange, m.routing_key, m.redelivered))
    return r


def T(n, f):
    try:
        P(n, f())
    except Exception as e:  # Whatever else the client raises is an answer, and is compared.
        P(n, "EXC", repr(e)[:250])
        global c, ch
        try:
            c.close()
        except pika.exceptions.AMQPError:
            pass  # The broker has closed it already, which is the answer.
        c = conn()
        ch = c.channel()


for q in ("p4a", "p4b", "p4c", "p4d"):
    ch.queue_delete(q)


def xdeath():
    ch.queue_declare(
        "p4a", arguments={"x-message-ttl": 100, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "p4b"}
    )
    ch.queue_declare("p4b")
    ch.basic_publish("", "p4a", b"1", pika.BasicProperties(expiration="60", headers={"CC": ["p4none"], "foo": "bar"}))
    wait(0.5)
    return drain(ch, "p4b")


T("x-death expired (per-msg ttl; orig expiration removed)", xdeath)


def xrej():
    ch.queue_purge("p4b")
    ch.queue_delete("p4a")
    ch.queue_declare("p4a", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "p4b"})
    out = []
    ch.basic_publish("", "p4a", b"1")
    for i in range(2):
        m, p, b = ch.basic_get("p4a")
        ch.basic_reject(m.delivery_tag, requeue=False)
        wait(0.2)
        m, p, b = ch.basic_get("p4b", auto_ack=True)
        out.append(p.headers)
        ch.basic_publish("", "p4a", b, p)
    return out


T("x-death reject twice (count)", xrej)


def xmaxlen():
    ch.queue_delete("p4a")
    ch.queue_purge("p4b")
    ch.queue_declare("p4a", arguments={"x-max-length": 1, "x-dead-letter-exchange": "amq.fanout"})
    ch.queue_bind("p4b", "amq.fanout", "")
    ch.basic_publish("", "p4a", b"1")
    ch.basic_publish("", "p4a", b"2")
    wait(0.3)
    r = drain(ch, "p4b")
    ch.queue_unbind("p4b", "amq.fanout", "")
    return r, drain(ch, "p4a")


T("x-death maxlen drop-head, DLX w/o dl-rk keeps rk", xmaxlen)


def cyc():
    ch.queue_delete("p4a")
    ch.queue_declare(
        "p4a", arguments={"x-message-ttl": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "p4a"}
    )
    ch.basic_publish("", "p4a", b"1")
    wait(0.4)
    return ch.queue_declare("p4a", passive=True).method.message_count


T("automatic cycle (expired, no reject) dropped -> count", cyc)


def ttl0():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a", arguments={"x-message-ttl": 0})
    ch.basic_publish("", "p4a", b"1")
    wait(0.1)
    a = ch.queue_declare("p4a", passive=True).method.message_count
    got = []
    ch.basic_consume("p4a", lambda c, m, p, b: got.append(b), auto_ack=True)
    ch.basic_publish("", "p4a", b"2")
    pump(c, 0.3)
    ch.cancel()
    return a, got


T("x-message-ttl=0: expires unless deliverable immediately", ttl0)


def hol():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    ch.basic_publish("", "p4a", b"long", pika.BasicProperties(expiration="60000"))
    ch.basic_publish("", "p4a", b"short", pika.BasicProperties(expiration="50"))
    wait(0.4)
    return ch.queue_declare("p4a", passive=True).method.message_count, drain(ch, "p4a")


T("per-msg ttl HOL: count after short expired behind long", hol)


def rejpub():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    k = conn()
    kc = k.channel()
    kc.confirm_delivery()
    r = []
    for i in range(2):
        try:
            kc.basic_publish("", "p4a", b"x")
            r.append("ack")
        except Exception as e:
            r.append(type(e).__name__)
    k.close()
    return r


T("reject-publish confirm", rejpub)


def prio():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a", arguments={"x-max-priority": 5})
    for p in (None, 1, 9, 5, 0):
        ch.basic_publish("", "p4a", str(p).encode(), pika.BasicProperties(priority=p))
    wait(0.2)
    return [x[0] for x in drain(ch, "p4a")]


T("priority > max clamps; order", prio)


def cc():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    ch.queue_purge("p4b")
    ch.queue_declare("p4c")
    ch.basic_publish("", "p4a", b"1", pika.BasicProperties(headers={"CC": ["p4b", "p4a"], "BCC": ["p4c"]}))
    wait(0.2)
    return drain(ch, "p4a"), drain(ch, "p4b"), drain(ch, "p4c")


T("CC/BCC", cc)


def topic():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    r = {}
    for pat, keys in {
        "a.*": ["a.b", "a", "a.", "a.b.c"],
        "#": ["", "a", "."],
        "a.#": ["a", "a.b", "ab"],
        "a.#.b": ["a.b", "a.x.b", "a.x.y.b"],
        "*": ["", "a", "a.b"],
        "#.#": ["", "a"],
        "*.#": ["", "a"],
    }.items():
        ch.queue_bind("p4a", "amq.topic", pat)
        for k in keys:
            ch.basic_publish("amq.topic", k, b"")
            wait(0.03)
            r[pat, k] = len(drain(ch, "p4a"))
        ch.queue_unbind("p4a", "amq.topic", pat)
    return r


T("topic edge cases", topic)


def hdr():
    r = {}

    def t(name, args, headers):
        ch.queue_bind("p4a", "amq.headers", "", arguments=args)
        ch.basic_publish("amq.headers", "", b"", pika.BasicProperties(headers=headers))
        wait(0.03)
        r[name] = len(drain(ch, "p4a"))
        ch.queue_unbind("p4a", "amq.headers", "", arguments=args)

    t("all empty binding, no headers", {}, None)
    t("any empty binding", {"x-match": "any"}, {"a": 1})
    t('all a=1 vs a="1"', {"a": 1}, {"a": "1"})
    t("a=void present", {"a": None}, {"a": 5})
    t("x-foo ignored in all", {"x-match": "all", "x-foo": 1, "a": 1}, {"a": 1})
    t("all-with-x", {"x-match": "all-with-x", "x-foo": 1, "a": 1}, {"a": 1})
    t("int8 vs int64", {"a": 1}, {"a": 2**40 - 2**40 + 1})
    t("float 1.0 vs int 1", {"a": 1}, {"a": 1.0})
    t("bool vs int", {"a": True}, {"a": 1})
    return r


T("headers edge cases", hdr)


def multibind():
    ch.queue_bind("p4a", "amq.topic", "x.#")
    ch.queue_bind("p4a", "amq.topic", "x.*")
    ch.queue_bind("p4a", "amq.topic", "x.*")
    ch.basic_publish("amq.topic", "x.y", b"")
    wait(0.1)
    r = len(drain(ch, "p4a"))
    ch.queue_unbind("p4a", "amq.topic", "x.#")
    ch.queue_unbind("p4a", "amq.topic", "x.*")
    return r


T("two matching bindings -> copies", multibind)


def rr():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    got = []
    ch.basic_consume("p4a", lambda c, m, p, b: got.append(("lo", b)), auto_ack=True, arguments={"x-priority": 0})
    ch.basic_consume("p4a", lambda c, m, p, b: got.append(("hi", b)), auto_ack=True, arguments={"x-priority": 5})
    for i in range(3):
        ch.basic_publish("", "p4a", str(i).encode())
    pump(c, 0.4)
    for t in list(ch.consumer_tags):
        ch.basic_cancel(t)
    return got


T("consumer priority", rr)


def cancelnotify():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    k = conn()
    kc = k.channel()
    got = []
    kc.add_on_cancel_callback(lambda m: got.append(repr(m.method)))
    kc.basic_consume("p4a", lambda *a: 0)
    ch.queue_delete("p4a")
    pump(k, 0.4)
    k.close()
    return got


T("consumer_cancel_notify on queue delete", cancelnotify)


def sac():
    ch.queue_declare("p4s", arguments={"x-single-active-consumer": True}, auto_delete=True)
    got = []
    t1 = ch.basic_consume("p4s", lambda c, m, p, b: got.append(1), auto_ack=True)
    t2 = ch.basic_consume("p4s", lambda c, m, p, b: got.append(2), auto_ack=True)
    for i in range(2):
        ch.basic_publish("", "p4s", b"")
    pump(c, 0.3)
    ch.basic_cancel(t1)
    ch.basic_publish("", "p4s", b"")
    pump(c, 0.3)
    try:
        ch.basic_consume("p4s", lambda *a: 0, exclusive=True)
        x = "ok"
    except Exception as e:
        x = repr(e)[:160]
    return got, x


T("SAC; exclusive consume on SAC", sac)
c = conn()
ch = c.channel()


def prefetch():
    ch.queue_delete("p4a")
    ch.queue_declare("p4a")
    [ch.basic_publish("", "p4a", b"") for _ in range(10)]
    wait(0.1)
    x = c.channel()
    got = [0, 0]
    x.basic_qos(prefetch_count=2)

    def cb(i):
        def f(*a):
            got[i] += 1

        return f

    x.basic_consume("p4a", cb(0))
    x.basic_qos(prefetch_count=3)
    x.basic_consume("p4a", cb(1))
    pump(c, 0.4)
    a = list(got)
    x.basic_qos(prefetch_count=6, global_qos=True)
    pump(c, 0.4)
    b = list(got)
    x.close()
    return a, b


T("qos per consumer 2 then 3; then global 6", prefetch)


def requeue_close():
    wait(0.2)
    m, p, b = ch.basic_get("p4a")
    return m.redelivered, m.message_count


T("after channel close requeued: redelivered flag", requeue_close)


def autodel():
    ch.queue_declare("p4ad", auto_delete=True)
    m = ch.basic_get("p4ad")
    wait(0.2)
    a = ch.queue_declare("p4ad", passive=True).method.queue
    t = ch.basic_consume("p4ad", lambda *a: 0)
    ch.basic_cancel(t)
    wait(0.2)
    k = conn()
    kc = k.channel()
    try:
        kc.queue_declare("p4ad", passive=True)
        r = "still there"
    except Exception as e:
        r = str(e)[:60]
    return a, r


T("auto_delete only after last consumer goes; never-consumed stays", autodel)


def rk_ddl():
    ch.exchange_declare("p4ae", "fanout", auto_delete=True)
    ch.exchange_declare("p4x", "direct", arguments={"alternate-exchange": "p4ae"}, auto_delete=True)
    ch.queue_declare("p4a")
    ch.queue_purge("p4a")
    ch.queue_bind("p4a", "p4ae", "")
    k = conn()
    kc = k.channel()
    kc.confirm_delivery()
    kc.basic_publish("p4x", "zz", b"hi", mandatory=True)
    k.close()
    wait(0.1)
    return drain(ch, "p4a")


T("alternate exchange + mandatory => not returned", rk_ddl)


def ts():
    ch.queue_purge("p4a")
    ch.basic_publish(
        "", "p4a", b"x", pika.BasicProperties(timestamp=5, delivery_mode=2, headers={"t": datetime(2020, 1, 1)})
    )
    wait(0.1)
    m, p, b = ch.basic_get("p4a", auto_ack=True)
    return p.timestamp, p.headers, p.delivery_mode


T("timestamp", ts)


def persistonly():
    # delivery_mode invalid 3
    ch.basic_publish("", "p4a", b"x", pika.BasicProperties(delivery_mode=3))
    wait(0.1)
    return ch.queue_declare("p4a", passive=True).method.message_count


T("delivery_mode=3", persistonly)


def dr():
    ch.queue_purge("p4a")
    got = []
    ch.basic_consume(
        "amq.rabbitmq.reply-to", lambda c, m, p, b: got.append((m.exchange, m.routing_key[:30], b)), auto_ack=True
    )
    ch.basic_publish("", "p4a", b"rq", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    wait(0.2)
    m, p, b = ch.basic_get("p4a", auto_ack=True)
    ch.basic_publish("", p.reply_to, b"rs", mandatory=True)
    pump(c, 0.3)
    return p.reply_to, got


T("direct reply-to", dr)
c = conn()
ch = c.channel()


def stream():
    ch.queue_delete("p4st")
    ch.queue_declare("p4st", durable=True, arguments={"x-queue-type": "stream"})
    ch.confirm_delivery()
    for i in range(5):
        ch.basic_publish("", "p4st", str(i).encode())
    k = conn()
    kc = k.channel()
    kc.basic_qos(prefetch_count=100)
    got = []
    kc.basic_consume(
        "p4st", lambda c, m, p, b: got.append((b, p.headers, m.redelivered)), arguments={"x-stream-offset": 2}
    )
    pump(k, 0.6)
    k.close()
    n = ch.queue_declare("p4st", passive=True, durable=True).method.message_count
    ch.queue_delete("p4st")
    return got, n


T("stream offset consume", stream)


def qq():
    ch.queue_delete("p4qq")
    ch.queue_declare("p4qq", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 2})
    wait(0.3)
    ch.basic_publish("", "p4qq", b"1")
    wait(0.3)
    r = []
    for i in range(5):
        m, p, b = ch.basic_get("p4qq")
        if m is None:
            r.append(None)
            break
        r.append((m.redelivered, p.headers))
        ch.basic_nack(m.delivery_tag, requeue=True)
        wait(0.2)
    ch.queue_delete("p4qq")
    return r


T("quorum delivery-limit 2: x-delivery-count", qq)
for q in ("p4a", "p4b", "p4c", "p4d"):
    ch.queue_delete(q)
