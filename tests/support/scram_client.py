"""The client's side of SCRAM (RFC 5802), written from the RFC for tests."""

import base64
import hashlib
import hmac


class ScramClient:
    """One login. `times_said`: how often the nonce stands in the final message; 2 is librdkafka before 2.6.1."""

    def __init__(self, mechanism, name, password, nonce=b"client", times_said=1):
        self.hash_name = mechanism.removeprefix("SCRAM-").replace("-", "").lower()
        self.name = name.replace("=", "=3D").replace(",", "=2C").encode()
        self.password = password.encode()
        self.nonce = nonce
        self.said_again = nonce * (times_said - 1)

    def _mac(self, key, text):
        return hmac.digest(key, text, self.hash_name)

    def first(self):
        """The first message."""
        self.bare = b"n=" + self.name + b",r=" + self.nonce
        return b"n,," + self.bare

    def final(self, server_first):
        """The final one."""
        fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
        assert fields[b"r"].startswith(self.nonce)
        assert len(fields[b"r"]) > len(self.nonce)
        salt, self.iterations = base64.b64decode(fields[b"s"]), int(fields[b"i"])
        salted = hashlib.pbkdf2_hmac(self.hash_name, self.password, salt, self.iterations)
        unproved = b"c=biws,r=" + self.said_again + fields[b"r"]
        self.said = b",".join((self.bare, server_first, unproved))
        client_key = self._mac(salted, b"Client Key")
        signature = self._mac(hashlib.new(self.hash_name, client_key).digest(), self.said)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self.server_key = self._mac(salted, b"Server Key")
        return unproved + b",p=" + base64.b64encode(proof)

    def check(self, server_final):
        """The server has to know the password, too."""
        assert server_final == b"v=" + base64.b64encode(self._mac(self.server_key, self.said))
