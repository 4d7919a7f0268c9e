import sys

sys.path.insert(0, __import__("os").path.dirname(__import__("os").path.abspath(__file__)))
import pika, time
from wire import *


def P(n, *a):
    print("## %s ::" % n, *[x if isinstance(x, str) else repr(x) for x in a], flush=True)


c = pika.BlockingConnection(pika.ConnectionParameters(HOST, PORT, VHOST))
ch = c.channel()
ch.queue_declare("p5", auto_delete=False)


def fresh():
    d = C()
    d.open()
    d.ch(1)
    return d


def put(n=1):
    m, p, b = ch.basic_get(n, auto_ack=True) if 0 else (0, 0, 0)


# headers via raw tables (types)
d = fresh()


def bind(args):
    return d.rpc(
        method(1, 50, 20, b"\0\0" + shortstr("p5") + shortstr("amq.headers") + shortstr("") + b"\0" + table(args))
    )


def unbind(args):
    return d.rpc(method(1, 50, 50, b"\0\0" + shortstr("p5") + shortstr("amq.headers") + shortstr("") + table(args)))


def pub(h):
    d.send(
        publish(1, "amq.headers", "", b"x", props=(struct.pack(">H", 1 << 13) + table(h)) if h is not None else b"\0\0")
    )
    wait(0.04)
    r = d.rpc(method(1, 50, 30, b"\0\0" + shortstr("p5") + b"\0"))
    return struct.unpack(">I", eval(r.split("args=")[1]))[0]


for n, a, h in [
    ("empty binding vs no headers", {}, None),
    ("x-match=any, empty", {"x-match": "any"}, {"a": 1}),
    ("int vs str", {"a": 1}, {"a": "1"}),
    ("void arg = key exists", {"a": None}, {"a": 5}),
    ("x-foo ignored with all", {"x-match": "all", "x-foo": 1, "a": 1}, {"a": 1}),
    ("all-with-x counts x-foo", {"x-match": "all-with-x", "x-foo": 1, "a": 1}, {"a": 1}),
    ("int8 b5 vs int32 I5", {"a": b"b\x05"}, {"a": 5}),
    ("int32 vs int64", {"a": 5}, {"a": b"l" + b"\0" * 7 + b"\5"}),
    ("double 5.0 vs int 5", {"a": b"d@\x14\0\0\0\0\0\0"}, {"a": 5}),
    ("bool t1 vs int 1", {"a": True}, {"a": 1}),
    ("S vs x bytes same", {"a": "z"}, {"a": b"x\0\0\0\1z"}),
    ("list equal", {"a": [1]}, {"a": [1]}),
    ("any 1 of 2", {"x-match": "any", "a": 1, "b": 2}, {"b": 2}),
]:
    try:
        bind(a)
        P("headers: " + n, pub(h))
        unbind(a)
    except Exception as e:
        P("headers: " + n, repr(e))
        d = fresh()
# max message size
d = fresh()
d.s.settimeout(20)
size = 134217729
d.send(
    method(1, 60, 40, b"\0\0" + shortstr("") + shortstr("p5") + b"\0")
    + frame(2, 1, struct.pack(">HHQ", 60, 0, size) + b"\0\0")
)
left = size
try:
    while left:
        n = min(left, 131064)
        d.send(frame(3, 1, b"x" * n))
        left -= n
except Exception as e:
    P("send exc", repr(e))
P("max_message_size+1", d.drain(8))
# confirm ordering w/ multiple; basic.return codes
d = fresh()
d.rpc(method(1, 85, 10, b"\0"))
d.send(b"".join(publish(1, "", "p5", b"x") for _ in range(20)))
r = d.drain(0.6)
P("confirms for 20 transient", len(r), r[:4])
ch.queue_purge("p5")
# channel exception drops later pipelined publishes on that channel
d = fresh()
d.send(publish(1, "", "p5", b"1") + publish(1, "nope-x", "a", b"2") + publish(1, "", "p5", b"3"))
P("pipelined publishes around bad one", d.drain(0.5), ch.queue_declare("p5", passive=True).method.message_count)
ch.queue_purge("p5")
# default exchange cannot be used to bind but implicit rk = queue; publish to other vhost perms n/a
# queue.declare with durable bit but autodelete+exclusive
d = fresh()
P("redeclare after own exclusive", d.rpc(qdeclare(1, "p5e", excl=1)), d.rpc(qdeclare(1, "p5e", excl=0)))
d = fresh()
P(
    "exclusive queue passive by owner w/o excl bit",
    d.rpc(qdeclare(1, "p5f", excl=1)),
    d.rpc(qdeclare(1, "p5f", passive=1)),
)
# arg equivalence int vs long
d = fresh()
P(
    "arg equivalence int32 vs int64",
    d.rpc(qdeclare(1, "p5g", ad=1, args={"x-message-ttl": 60000})),
    d.rpc(qdeclare(1, "p5g", ad=1, args={"x-message-ttl": b"l" + struct.pack(">q", 60000)})),
)
d = fresh()
P("exchange type unknown", d.rpc(xdeclare(1, "p5x", "zz")), d.drain(0.3))
d = fresh()
P(
    "exchange x-unknown arg differs",
    d.rpc(xdeclare(1, "p5y", "direct", ad=1, args={"x-a": 1})),
    d.rpc(xdeclare(1, "p5y", "direct", ad=1, args={"x-a": 2})),
)
d = fresh()
P(
    "alternate-exchange differs",
    d.rpc(xdeclare(1, "p5z", "direct", args={"alternate-exchange": "amq.fanout"})),
    d.rpc(xdeclare(1, "p5z", "direct", args={"alternate-exchange": "amq.topic"})),
)
ch.exchange_delete("p5z")
ch.exchange_delete("p5y")
d = fresh()
P("queue name 256 impossible; name with newline", d.rpc(qdeclare(1, "p5\nq", ad=1)))
d = fresh()
P('exchange.declare name empty via declare passive=0 type=""', d.rpc(xdeclare(1, "p5w", "")), d.drain(0.3))
d = fresh()
d.rpc(consume(1, "p5", "t1", no_ack=1))
d.send(publish(1, "", "p5", b"z"))
P("deliver frame", d.drain(0.4))
d.send(method(1, 60, 30, shortstr("t1") + b"\1"))
P("cancel nowait", d.drain(0.3))
# ack on other channel
d = fresh()
d.ch(2)
d.send(publish(1, "", "p5", b"z"))
wait(0.1)
d.rpc(get(1, "p5"))
d.recv()
d.recv()
P("ack on wrong channel", d.rpc(method(2, 60, 80, struct.pack(">QB", 1, 0))))
# exclusive consumer flag + no_local ignored
d = fresh()
ch.queue_purge("p5")
d.rpc(consume(1, "p5", "t1", no_local=1, no_ack=1))
d.send(publish(1, "", "p5", b"loc"))
P("no_local ignored?", len(d.drain(0.4)))
d = fresh()
P("if_unused exchange delete", d.rpc(method(1, 40, 20, b"\0\0" + shortstr("amq.fanout") + b"\1")))
d = fresh()
d.send(method(1, 20, 40, struct.pack(">H", 200) + shortstr("bye") + struct.pack(">HH", 0, 0)) + qdeclare(1, "x1", ad=1))
P("method after own channel.close", d.drain(0.5))
d = fresh()
d.send(method(0, 10, 50, struct.pack(">H", 200) + shortstr("bye") + struct.pack(">HH", 0, 0)))
P("connection.close", d.drain(0.5))
# dead-letter to missing exchange
ch.queue_delete("p5d")
ch.queue_declare("p5d", arguments={"x-dead-letter-exchange": "missing-x"})
ch.basic_publish("", "p5d", b"1")
wait(0.1)
m, p, b = ch.basic_get("p5d")
ch.basic_reject(m.delivery_tag, requeue=False)
wait(0.2)
P("DLX missing: silently dropped; queue still open", ch.queue_declare("p5d", passive=True).method.message_count)
ch.queue_delete("p5d")
# mandatory+DLX n/a ; x-expires
ch.queue_declare("p5exp", arguments={"x-expires": 300})
wait(0.8)
k = c.channel()
try:
    k.queue_declare("p5exp", passive=True)
    P("x-expires", "still")
except Exception as e:
    P("x-expires", str(e)[:80])
# purge does not touch unacked
ch.queue_purge("p5")
ch.basic_publish("", "p5", b"1")
wait(0.1)
m, _, _ = ch.basic_get("p5")
P(
    "purge w/ 1 unacked",
    ch.queue_purge("p5").method.message_count,
    "depth(declare-ok counts ready only)",
    ch.queue_declare("p5", passive=True).method.message_count,
    "delete-ok count",
    ch.queue_delete("p5").method.message_count,
)
