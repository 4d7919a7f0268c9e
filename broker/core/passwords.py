"""Password hashes: their text forms, and verifying against them. Pure; scrypt takes tens of ms, so never on the loop.

| form | what |
|---|---|
| `scrypt$N$r$p$SALT$HASH` | RFC 7914, salt and hash in base64; what we write |
| base64 of 4 bytes of salt + digest | RabbitMQ's salted SHA-256 (36 bytes) or SHA-512 (68 bytes) |
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

SCRYPT_N = 2**15
SCRYPT_R = 8
SCRYPT_P = 1
"""79 ms and 32 MiB a verification (measured); twice that doubles what a login storm costs."""
SCRYPT_MEMORY_BYTES_MAX = 128 * 2**20
"""128 * N * r of an accepted hash: a definitions file must not choose our memory."""
SCRYPT_WORK_MAX = 2**22
"""N * r * p of an accepted hash: about 1.5 s."""
_SALTED = {36: "sha256", 68: "sha512"}
_SALT_BYTES = 4


class ScryptHash:
    """One scrypt hash with its parameters. `slow`: verify in a thread."""

    __slots__ = ("digest", "n", "p", "r", "salt")
    slow = True

    def __init__(self, n: int, r: int, p: int, salt: bytes, digest: bytes) -> None:
        self.n, self.r, self.p = n, r, p
        self.salt = salt
        self.digest = digest

    def verify(self, password: bytes) -> bool:
        """Whether the password is the one; always takes the full time."""
        computed = _scrypt(password, self.salt, self.n, self.r, self.p, len(self.digest))
        return hmac.compare_digest(computed, self.digest)

    def __repr__(self) -> str:
        return f"ScryptHash(n={self.n}, r={self.r}, p={self.p})"


class SaltedHash:
    """RabbitMQ's: digest(salt + password). Fast, so as weak as its password."""

    __slots__ = ("algorithm", "digest", "salt")
    slow = False

    def __init__(self, algorithm: str, salt: bytes, digest: bytes) -> None:
        self.algorithm = algorithm
        self.salt = salt
        self.digest = digest

    def verify(self, password: bytes) -> bool:
        """Whether the password is the one."""
        return hmac.compare_digest(hashlib.new(self.algorithm, self.salt + password).digest(), self.digest)

    def __repr__(self) -> str:
        return f"SaltedHash({self.algorithm})"


def parse_hash(text: str) -> ScryptHash | SaltedHash:
    """The hash behind a text form. Raises ValueError, which never shows the text."""
    if text.startswith("scrypt$"):
        return _parse_scrypt(text)
    raw = _base64(text)
    algorithm = _SALTED.get(len(raw))
    if algorithm is None:
        raise ValueError("not a password hash: neither scrypt$N$r$p$SALT$HASH nor a salted SHA-256 or SHA-512")
    return SaltedHash(algorithm, raw[:_SALT_BYTES], raw[_SALT_BYTES:])


def make_hash(password: bytes, salt: bytes, n: int = SCRYPT_N, r: int = SCRYPT_R, p: int = SCRYPT_P) -> str:
    """The scrypt text form of a password; `salt` is 16 random bytes."""
    digest = _scrypt(password, salt, n, r, p, 32)
    return f"scrypt${n}${r}${p}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _parse_scrypt(text: str) -> ScryptHash:
    parts = text.split("$")
    if len(parts) != 6 or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts[1:4]):
        raise ValueError("not a password hash: expected scrypt$N$r$p$SALT$HASH")
    n, r, p = map(int, parts[1:4])
    if n < 2 or n & (n - 1) or r < 1 or p < 1:
        raise ValueError("scrypt: N must be a power of two above 1, r and p at least 1")
    if 128 * n * r > SCRYPT_MEMORY_BYTES_MAX or n * r * p > SCRYPT_WORK_MAX:
        raise ValueError(f"scrypt: N={n}, r={r}, p={p} needs too much memory or time")
    salt, digest = _base64(parts[4]), _base64(parts[5])
    if not 8 <= len(salt) <= 64 or not 16 <= len(digest) <= 64:
        raise ValueError("scrypt: the salt has 8 to 64 bytes and the hash 16 to 64")
    return ScryptHash(n, r, p, salt, digest)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a password hash: not base64") from None


def _scrypt(password: bytes, salt: bytes, n: int, r: int, p: int, size: int) -> bytes:
    memory = 128 * r * (n + p + 4) + 4096  # What RFC 7914 asks for; OpenSSL's default cap is below N = 2^15.
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=size)
