import sys

sys.path.insert(0, __import__("os").path.dirname(__import__("os").path.abspath(__file__)))
from wire import *


def P(n, *a):
    print("## %s ::" % n, *[x if isinstance(x, str) else repr(x) for x in a], flush=True)


def fresh(**k):
    d = C()
    d.open(**k)
    d.ch(1)
    return d


def T(n, f):
    try:
        P(n, f())
    except Exception as e:
        P(n, "EXC", repr(e))


q = "p8"
z = fresh()
z.rpc(method(1, 50, 40, b"\0\0" + shortstr(q) + b"\0"))
z.rpc(qdeclare(1, q))


def purge(d):
    return d.rpc(method(1, 50, 30, b"\0\0" + shortstr(q) + b"\0"))


def bodies(d, n=10):
    o = []
    for _ in range(n):
        m = d.rpc(get(1, q, 1))
        if "60.71" not in m:
            break
        h = d.recv()
        b = b""
        if struct.unpack(">Q", h[2][4:12])[0]:
            b = d.recv()[2]
        o.append(b)
    return o


T(
    "confirm.select twice",
    lambda: (lambda d: (d.rpc(method(1, 85, 10, b"\0")), d.rpc(method(1, 85, 10, b"\0"))))(fresh()),
)


def pos():
    d = fresh()
    [d.send(publish(1, "", q, bytes([c]))) for c in b"abcd"]
    wait(0.2)
    k = fresh()
    for _ in range(2):
        k.rpc(get(1, q))
        k.recv()
        k.recv()
    k.s.close()
    wait(0.4)
    return bodies(d)


T("conn death requeues at original position", pos)


def txack():
    d = fresh()
    purge(d)
    d.send(publish(1, "", q, b"1"))
    wait(0.1)
    d.rpc(method(1, 90, 10))
    d.rpc(get(1, q))
    d.recv()
    d.recv()
    d.send(method(1, 60, 80, struct.pack(">QB", 1, 0)))
    d.rpc(method(1, 90, 30))
    d.send(method(1, 60, 80, struct.pack(">QB", 1, 0)))
    r = d.rpc(method(1, 90, 20))
    d.send(method(1, 20, 40, struct.pack(">H", 0) + shortstr("") + struct.pack(">HH", 0, 0)))
    d.recv()
    d.ch(1)
    return r, bodies(d)


T("tx: ack, rollback, ack again, commit -> gone", txack)


def getq():
    d = fresh()
    purge(d)
    d.rpc(method(1, 60, 10, struct.pack(">IHB", 0, 1, 0)))
    [d.send(publish(1, "", q, b"x")) for _ in range(3)]
    wait(0.1)
    r = []
    for _ in range(3):
        r.append(d.rpc(get(1, q))[:13])
        d.recv()
        d.recv()
    return r


T("basic.get ignores prefetch=1", getq)


def cap(caps):
    d = fresh(caps=caps)
    d.rpc(qdeclare(1, "p8c"))
    d.rpc(consume(1, "p8c", "t"))
    z.rpc(method(1, 50, 40, b"\0\0" + shortstr("p8c") + b"\0"))
    return d.drain(0.5)


T("queue deleted, no consumer_cancel_notify", lambda: cap(None))
T("queue deleted, with capability", lambda: cap({"consumer_cancel_notify": True}))


def rr():
    d = fresh()
    purge(d)
    d.rpc(consume(1, q, "A", no_ack=1))
    d.rpc(consume(1, q, "B", no_ack=1))
    d.send(b"".join(publish(1, "", q) for _ in range(4)))
    return [x[24:40] for x in d.drain(0.4) if "60.60" in x]


T("round robin + empty body has no body frame", rr)


def maxl():
    d = fresh()
    d.rpc(qdeclare(1, "p8m", ad=0, args={"x-max-length": 2}))
    [d.send(publish(1, "", "p8m", bytes([c]))) for c in b"ab"]
    wait(0.1)
    d.rpc(get(1, "p8m"))
    d.recv()
    d.recv()
    [d.send(publish(1, "", "p8m", bytes([c]))) for c in b"cd"]
    wait(0.1)
    a = d.rpc(qdeclare(1, "p8m", passive=1))
    d.send(method(1, 60, 120, struct.pack(">QB", 1, 2)))
    wait(0.2)
    b = d.rpc(qdeclare(1, "p8m", passive=1))
    g = []
    for _ in range(3):
        m = d.rpc(get(1, "p8m", 1))
        if "60.71" in m:
            d.recv()
            g.append(d.recv()[2])
    z.rpc(method(1, 50, 40, b"\0\0" + shortstr("p8m") + b"\0"))
    return a[-22:], b[-22:], g


T("max-length 2 with 1 unacked, then requeue", maxl)


def mult():
    d = fresh()
    purge(d)
    [d.send(publish(1, "", q, b"x")) for _ in range(3)]
    wait(0.1)
    for _ in range(2):
        d.rpc(get(1, q))
        d.recv()
        d.recv()
    d.send(method(1, 60, 80, struct.pack(">QB", 7, 1)))
    return d.drain(0.4)


T("ack multiple with unknown higher tag", mult)


def emptybind():
    d = fresh()
    n = d.rpc(qdeclare(1, "", excl=1))
    d.rpc(method(1, 50, 20, b"\0\0" + shortstr("") + shortstr("amq.direct") + shortstr("") + b"\0" + table({})))
    name = eval(n.split("args=")[1])
    name = name[1 : 1 + name[0]].decode()
    d.send(publish(1, "amq.direct", name, b"k"))
    wait(0.1)
    return d.rpc(qdeclare(1, name, passive=1))[-30:]


T("bind with empty queue+rk => rk becomes queue name", emptybind)


def pipe():
    d = C()
    d.send(b"AMQP\0\0\x09\x01")
    d.recv()
    d.send(method(0, 10, 11, table({}) + shortstr("PLAIN") + longstr("\0guest\0guest") + shortstr("en_US")))
    d.recv()
    d.send(
        method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0))
        + method(0, 10, 40, shortstr(VHOST) + b"\0\0")
        + method(1, 20, 10, b"\0")
        + qdeclare(1, "", excl=1)
    )
    return [x[:30] for x in d.drain(0.5)]


T("pipeline tune-ok+open+channel.open+declare", pipe)
z.rpc(method(1, 50, 40, b"\0\0" + shortstr(q) + b"\0"))
