"""SCRAM (RFC 5802, RFC 7677): the messages, and the proofs of the server's side. Nonces and salts are handed in.

    client                                     server
    n,,n=user,r=cnonce                     ->
                                           <-  r=cnonce+snonce,s=salt,i=iterations
    c=biws,r=cnonce+snonce,p=proof         ->
                                           <-  v=signature

The client shows that it knows the password without sending it, the server that it knows what was made of it. Channel
binding and mandatory extensions are refused; names and passwords are octets of UTF-8 as they come, without SASLprep,
which no Kafka client does either. `Exchange.server_first` needs no credential, so that nobody can tell from it whether
there is one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import NamedTuple

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
"""Mechanism -> hash. SCRAM-SHA-1 is not served, as in Kafka."""
ITERATIONS_MIN, ITERATIONS_MAX = 4096, 16384
"""RFC 7677 asks for the least; Kafka takes no more than the most."""
MESSAGE_OCTETS_MAX = 4096
NAME_OCTETS_MAX = 255
CLIENT_NONCE_OCTETS_MAX = 1024

# gs2-cbind-flag "," [authzid] "," [reserved-mext ","] username "," nonce ["," extensions]
_CLIENT_FIRST = re.compile(
    rb"(?P<gs2>[ny],(?:a=(?P<authzid>[^,\0]+))?,)(?P<bare>n=(?P<name>[^,\0]+),r=(?P<nonce>[!-+\--~]+)"
    rb"(?:,[A-Za-z]=[^,\0]+)*)"
)
_CLIENT_FINAL = re.compile(
    rb"(?P<unproved>c=(?P<binding>[A-Za-z0-9+/=]+),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)"
    rb",p=(?P<proof>[A-Za-z0-9+/=]+)"
)
_ESCAPE = re.compile("=(2C|3D)?")
_UNESCAPED = {"=2C": ",", "=3D": "="}


class MalformedScram(ValueError):
    """A message that the mechanism does not have. The text is for the log: it never shows what came."""


class Credential(NamedTuple):
    """What the server keeps instead of a password (RFC 5802 section 3)."""

    hash_name: str
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    @classmethod
    def of_password(cls, hash_name: str, password: bytes, salt: bytes, iterations: int) -> Credential:
        """Takes milliseconds: never on the loop."""
        return cls.of_salted(hash_name, hashlib.pbkdf2_hmac(hash_name, password, salt, iterations), salt, iterations)

    @classmethod
    def of_salted(cls, hash_name: str, salted_password: bytes, salt: bytes, iterations: int) -> Credential:
        """Of Hi(password, salt, iterations): what administrators' clients send instead of a password (KIP-554)."""
        client_key = hmac.digest(salted_password, b"Client Key", hash_name)
        stored_key = hashlib.new(hash_name, client_key).digest()
        return cls(hash_name, salt, iterations, stored_key, hmac.digest(salted_password, b"Server Key", hash_name))


class ClientFirst(NamedTuple):
    """The first message: who, and the client's nonce. `gs2_header` and `bare` are its octets, which proofs cover."""

    name: str
    nonce: bytes
    gs2_header: bytes
    bare: bytes


def parse_client_first(message: bytes) -> ClientFirst:
    """Raises MalformedScram: also for channel binding, mandatory extensions, and to act for somebody else."""
    match = _CLIENT_FIRST.fullmatch(message) if len(message) <= MESSAGE_OCTETS_MAX else None
    if match is None:
        raise MalformedScram("the first message is malformed")
    name = _name(match["name"])
    if match["authzid"] is not None and _name(match["authzid"]) != name:
        raise MalformedScram("the authorization identity is another user's")
    if len(match["nonce"]) > CLIENT_NONCE_OCTETS_MAX:
        raise MalformedScram("the nonce is too long")
    return ClientFirst(name, match["nonce"], match["gs2"], match["bare"])


def _name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise MalformedScram("the user name is not UTF-8") from None
    if "=" in name:
        if any(not match[1] for match in _ESCAPE.finditer(name)):
            raise MalformedScram("the user name has a bad escape")
        name = _ESCAPE.sub(lambda match: _UNESCAPED[match[0]], name)
    if len(name.encode()) > NAME_OCTETS_MAX:
        raise MalformedScram("the user name is too long")
    return name


class Exchange:
    """One login: what was said, as far as the proofs cover it."""

    __slots__ = ("_auth_message", "_first", "_nonce", "mechanism", "name", "server_final", "server_first")

    def __init__(self, mechanism: str, first: ClientFirst, server_nonce: bytes, salt: bytes, iterations: int) -> None:
        self.mechanism = mechanism
        self.name = first.name
        self._first = first
        self._nonce = first.nonce + server_nonce
        self._auth_message = b""
        self.server_first = b"r=%b,s=%b,i=%d" % (self._nonce, base64.b64encode(salt), iterations)
        """What to answer to the first message."""
        self.server_final = b""
        """What to answer to the final one, once `end` has been called."""

    def proof_of(self, message: bytes) -> bytes:
        """The proof in the client's final message. Raises MalformedScram for one that is not of this exchange."""
        match = _CLIENT_FINAL.fullmatch(message) if len(message) <= MESSAGE_OCTETS_MAX else None
        if match is None:
            raise MalformedScram("the final message is malformed")
        if _base64(match["binding"]) != self._first.gs2_header:
            raise MalformedScram("the final message is bound to another channel")
        # librdkafka before 2.6.1 says its own nonce twice (librdkafka#4895), for which Kafka compares the end alone.
        # The proof covers what was said, with our part in it.
        nonce = match["nonce"].removeprefix(self._first.nonce)
        if not hmac.compare_digest(nonce, self._nonce) and not hmac.compare_digest(match["nonce"], self._nonce):
            raise MalformedScram("the final message has another nonce")
        self._auth_message = b",".join((self._first.bare, self.server_first, match["unproved"]))
        return _base64(match["proof"])

    def proves(self, proof: bytes, credential: Credential) -> bool:
        """Whether who made the proof knows the password behind the credential; in constant time."""
        hash_name = credential.hash_name
        signature = hmac.digest(credential.stored_key, self._auth_message, hash_name)
        if len(proof) != len(signature):
            return False
        client_key = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
        return hmac.compare_digest(hashlib.new(hash_name, client_key).digest(), credential.stored_key)

    def end(self, credential: Credential) -> None:
        """The client has proved it: it is told that the server knows the credential as well."""
        signature = hmac.digest(credential.server_key, self._auth_message, credential.hash_name)
        self.server_final = b"v=" + base64.b64encode(signature)


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedScram("not base64") from None
