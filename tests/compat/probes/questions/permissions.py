import sys

sys.path.insert(0, __import__("os").path.dirname(__import__("os").path.abspath(__file__)))
from wire import *


def P(n, *a):
    print("## %s ::" % n, *[x if isinstance(x, str) else repr(x) for x in a], flush=True)


def r():
    d = C()
    d.open("bunny_reader", "reader_password", VHOST)
    d.ch(1)
    return d


g = C()
g.open(vhost=VHOST)
g.ch(1)
g.rpc(qdeclare(1, "p6q"))
P("declare w/o configure", r().rpc(qdeclare(1, "p6new")))
P("passive declare w/o configure (3.10)", r().rpc(qdeclare(1, "p6q", passive=1)))
P("redeclare existing same w/o configure", r().rpc(qdeclare(1, "p6q")))
d = r()
d.send(publish(1, "", "p6q", b"x"))
P("publish default exch w/o write", d.drain(0.4))
d = r()
d.send(publish(1, "amq.direct", "p6q", b"x"))
P("publish amq.direct w/o write", d.drain(0.4))
P(
    "bind: needs write on queue + read on exchange",
    r().rpc(method(1, 50, 20, b"\0\0" + shortstr("p6q") + shortstr("amq.direct") + shortstr("a") + b"\0" + table({}))),
)
P("consume with read", r().rpc(consume(1, "p6q")))
P("purge with read", r().rpc(method(1, 50, 30, b"\0\0" + shortstr("p6q") + b"\0")))
P("delete w/o configure", r().rpc(method(1, 50, 40, b"\0\0" + shortstr("p6q") + b"\0")))
P("server-named queue w/o configure", r().rpc(qdeclare(1, "", excl=1)))
d = C()
P("vhost without any permission", d.open("bunny_reader", "reader_password", "/"), d.drain(0.5))
g.rpc(qdeclare(1, "p6dl", args={"x-dead-letter-exchange": "amq.fanout"}))
P("declare with DLX w/o read/write", r().rpc(qdeclare(1, "p6dl2", args={"x-dead-letter-exchange": "amq.fanout"})))
g.rpc(method(1, 50, 40, b"\0\0" + shortstr("p6q") + b"\0"))
g.rpc(method(1, 50, 40, b"\0\0" + shortstr("p6dl") + b"\0"))
