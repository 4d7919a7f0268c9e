"""Tiny raw AMQP 0-9-1 helper (blocking socket) used by the probes. No client library involved."""

import os, socket, struct, time

HOST = os.environ.get("AMQP_HOST", "127.0.0.1")
PORT = int(os.environ.get("AMQP_PORT", 5672))
VHOST = os.environ.get("AMQP_VHOST", "/")  # Where the harness sends us: every run has a vhost of its own.
# How many times longer than in its first run a script waits before silence is an answer.
PATIENCE = float(os.environ.get("PROBE_PATIENCE", "1"))
FRAME_END = b"\xce"


def wait(s):
    time.sleep(s * PATIENCE)


def shortstr(s):
    s = s.encode() if isinstance(s, str) else s
    return bytes([len(s)]) + s


def longstr(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack(">I", len(s)) + s


def fval(v):
    if isinstance(v, bool):
        return b"t" + bytes([v])
    if isinstance(v, int):
        return b"I" + struct.pack(">i", v) if -(2**31) <= v < 2**31 else b"l" + struct.pack(">q", v)
    if isinstance(v, str):
        return b"S" + longstr(v)
    if isinstance(v, bytes):
        return v  # pre-encoded
    if isinstance(v, dict):
        return b"F" + table(v)
    if isinstance(v, list):
        b = b"".join(fval(x) for x in v)
        return b"A" + struct.pack(">I", len(b)) + b
    if v is None:
        return b"V"
    if isinstance(v, float):
        return b"d" + struct.pack(">d", v)
    raise TypeError(v)


def table(d):
    b = b"".join(shortstr(k) + fval(v) for k, v in d.items())
    return struct.pack(">I", len(b)) + b


def frame(t, ch, p):
    return struct.pack(">BHI", t, ch, len(p)) + p + FRAME_END


def method(ch, c, m, args=b""):
    return frame(1, ch, struct.pack(">HH", c, m) + args)


def rd_short(b, o):
    n = b[o]
    return b[o + 1 : o + 1 + n], o + 1 + n


def rd_table(b, o):
    (n,) = struct.unpack_from(">I", b, o)
    o += 4
    e = o + n
    d = {}
    while o < e:
        k, o = rd_short(b, o)
        v, o = rd_val(b, o)
        d[k.decode("utf8", "replace")] = v
    return d, o


def rd_val(b, o):
    t = chr(b[o])
    o += 1
    if t == "t":
        return bool(b[o]), o + 1
    if t in "S":
        (n,) = struct.unpack_from(">I", b, o)
        return b[o + 4 : o + 4 + n].decode("utf8", "replace"), o + 4 + n
    if t == "x":
        (n,) = struct.unpack_from(">I", b, o)
        return b[o + 4 : o + 4 + n], o + 4 + n
    if t == "F":
        return rd_table(b, o)
    if t == "A":
        (n,) = struct.unpack_from(">I", b, o)
        o += 4
        e = o + n
        r = []
        while o < e:
            v, o = rd_val(b, o)
            r.append(v)
        return r, o
    f = {
        "b": ">b",
        "B": ">B",
        "s": ">h",
        "u": ">H",
        "I": ">i",
        "i": ">I",
        "l": ">q",
        "L": ">q",
        "f": ">f",
        "d": ">d",
        "T": ">Q",
    }.get(t)
    if f:
        return struct.unpack_from(f, b, o)[0], o + struct.calcsize(f)
    if t == "V":
        return None, o
    if t == "D":
        return ("dec", b[o], struct.unpack_from(">i", b, o + 1)[0]), o + 5
    raise ValueError(t)


class Closed(Exception):
    pass


class C:
    def __init__(s, port=PORT, timeout=4):
        s.s = socket.create_connection((HOST, port))
        s.s.settimeout(timeout * PATIENCE)
        s.buf = b""

    def send(s, b):
        s.s.sendall(b)

    def _need(s, n):
        while len(s.buf) < n:
            d = s.s.recv(65536)
            if not d:
                raise Closed("EOF, buffered=%r" % s.buf)
            s.buf += d

    def recv(s, timeout=None):
        "-> (type,ch,payload)"
        if timeout is not None:
            s.s.settimeout(timeout * PATIENCE)
        s._need(7)
        if s.buf[:4] == b"AMQP":
            s._need(8)
            r = s.buf[:8]
            s.buf = s.buf[8:]
            return ("HDR", 0, r)
        t, ch, n = struct.unpack_from(">BHI", s.buf)
        s._need(7 + n + 1)
        p = s.buf[7 : 7 + n]
        s.buf = s.buf[8 + n :]
        return (t, ch, p)

    def rpc(s, b, timeout=4):
        s.send(b)
        return s.show(s.recv(timeout))

    def show(s, f):
        t, ch, p = f
        if t == "HDR":
            return "HEADER %r" % p
        if t == 1:
            c, m = struct.unpack_from(">HH", p)
            if (c, m) in ((10, 50), (20, 40)):
                (code,) = struct.unpack_from(">H", p, 4)
                txt, o = rd_short(p, 6)
                cc, mm = struct.unpack_from(">HH", p, o)
                return "%s.close ch=%d %d %s class=%d method=%d" % (
                    {10: "connection", 20: "channel"}[c],
                    ch,
                    code,
                    txt.decode(),
                    cc,
                    mm,
                )
            return "method %d.%d ch=%d args=%r" % (c, m, ch, p[4:])
        return "frame type=%d ch=%d %r" % (t, ch, p[:80])

    def drain(s, timeout=1.0):
        r = []
        try:
            while True:
                r.append(s.show(s.recv(timeout)))
        except socket.timeout:
            pass  # Silence is the end of what there is to be read.
        except (Closed, ConnectionError) as e:
            r.append("<%s %s>" % (type(e).__name__, e))
        return r

    def open(
        s,
        user="guest",
        pw="guest",
        vhost=VHOST,
        caps=None,
        chmax=2047,
        fmax=131072,
        hb=0,
        mech="PLAIN",
        resp=None,
        locale="en_US",
        props=None,
    ):
        s.send(b"AMQP\0\0\x09\x01")
        f = s.recv()
        s.start = f
        p = dict(props or {})
        if caps is not None:
            p["capabilities"] = caps
        s.send(
            method(
                0,
                10,
                11,
                table(p)
                + shortstr(mech)
                + longstr(resp if resp is not None else "\0%s\0%s" % (user, pw))
                + shortstr(locale),
            )
        )
        f = s.recv()
        s.tune = struct.unpack(">HIH", f[2][4:12]) if f[2][:4] == b"\0\x0a\0\x1e" else s.show(f)
        if isinstance(s.tune, str):
            return s.tune
        s.send(method(0, 10, 31, struct.pack(">HIH", chmax, fmax, hb)) + method(0, 10, 40, shortstr(vhost) + b"\0\0"))
        return s.show(s.recv())

    def ch(s, n=1):
        return s.rpc(method(n, 20, 10, b"\0"))


def qdeclare(ch, q, passive=0, durable=0, excl=0, ad=0, nowait=0, args={}):
    return method(
        ch,
        50,
        10,
        b"\0\0" + shortstr(q) + bytes([passive | durable << 1 | excl << 2 | ad << 3 | nowait << 4]) + table(args),
    )


def xdeclare(ch, x, t, passive=0, durable=0, ad=0, internal=0, nowait=0, args={}):
    return method(
        ch,
        40,
        10,
        b"\0\0"
        + shortstr(x)
        + shortstr(t)
        + bytes([passive | durable << 1 | ad << 2 | internal << 3 | nowait << 4])
        + table(args),
    )


def publish(ch, x, rk, body=b"", flags=0, props=b"\0\0", fmax=131064, cls=60):
    m = method(ch, 60, 40, b"\0\0" + shortstr(x) + shortstr(rk) + bytes([flags]))
    h = frame(2, ch, struct.pack(">HHQ", cls, 0, len(body)) + props)
    return m + h + b"".join(frame(3, ch, body[i : i + fmax]) for i in range(0, len(body), fmax))


def consume(ch, q, tag="", no_local=0, no_ack=0, excl=0, nowait=0, args={}):
    return method(
        ch,
        60,
        20,
        b"\0\0" + shortstr(q) + shortstr(tag) + bytes([no_local | no_ack << 1 | excl << 2 | nowait << 3]) + table(args),
    )


def get(ch, q, no_ack=0):
    return method(ch, 60, 70, b"\0\0" + shortstr(q) + bytes([no_ack]))
