"""An authenticator with users of every kind, and responses to give it."""

import base64
import hashlib

from broker.config import Security
from broker.core.access import Access
from broker.core.passwords import make_hash
from broker.server.auth import Authenticator
from protocol.amqp.fields import encode_table

LOCAL, REMOTE = "127.0.0.1", "10.1.2.3"
FAST_N = 1024  # scrypt of 2 ms: tests need its code, not its cost.


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class World:
    """An authenticator with users: alice by plain text, sam by scrypt, rita by RabbitMQ's hash, eve by certificate."""

    def __init__(self, **security):
        self.clock = Clock()
        self.access = Access()
        self.auth = Authenticator(self.access, Security(**security), self.clock)
        for name in ("alice", "sam", "rita", "eve"):
            self.access.put_user(name)
        self.access.put_user("guest", ["administrator"], loopback_only=True)
        self.auth.set_password("guest", "guest")
        self.auth.set_password("alice", "pw-alice")
        salt = b"abcd"
        rita = base64.b64encode(salt + hashlib.sha256(salt + b"pw-rita").digest()).decode()
        self.auth.set_hash("rita", rita)

    def add_sam(self):
        self.auth.set_hash("sam", make_hash(b"pw-sam", b"s" * 16, n=FAST_N))
        return self

    def plain(self, name, password, host=LOCAL):
        return self.auth.authenticate_nowait("PLAIN", plain(name, password), host)


def plain(name, password, authzid=""):
    return f"{authzid}\0{name}\0{password}".encode()


def amqplain(**values):
    return encode_table(values)[4:]
