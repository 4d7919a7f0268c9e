"""Password hashes."""

import base64
import hashlib

import pytest

from broker.core.passwords import make_hash, parse_hash

SALT = bytes(range(16))
TAIL = "QUFBQUFBQUE=$QUFBQUFBQUFBQUFBQUFBQQ=="
"""A salt and a hash of lengths that are accepted."""


def test_scrypt_round_trip():
    """What we write we read; only the password verifies."""
    text = make_hash(b"correct horse", SALT, n=1024)
    assert text.startswith("scrypt$1024$8$1$")
    parsed = parse_hash(text)
    assert parsed.slow
    assert parsed.verify(b"correct horse")
    assert not parsed.verify(b"correct horsf")
    assert not parsed.verify(b"")


def test_scrypt_vector():
    """RFC 7914, section 12: ("password", "NaCl", N=1024, r=8, p=16)."""
    digest = bytes.fromhex(
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
    text = f"scrypt$1024$8$16${base64.b64encode(b'NaCl').decode()}${base64.b64encode(digest).decode()}"
    with pytest.raises(ValueError, match="salt has 8"):
        parse_hash(text)  # The vector's salt is shorter than what we accept; so the function itself is asked.
    assert base64.b64decode(make_hash(b"password", b"NaCl", 1024, 8, 16).split("$")[5]) == digest[:32]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_rabbitmq_hashes(algorithm):
    """base64(salt + digest(salt + password)), salt of four bytes."""
    salt = b"\x01\x02\x03\x04"
    text = base64.b64encode(salt + hashlib.new(algorithm, salt + b"test12").digest()).decode()
    parsed = parse_hash(text)
    assert not parsed.slow
    assert parsed.verify(b"test12")
    assert not parsed.verify(b"test13")
    assert parse_hash("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR").verify(b"test12")  # RabbitMQ's documentation


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "====", "bm90IG9uZQ==", "scrypt$", "scrypt$1024$8$1$AAAA", f"scrypt$1000$8$1${TAIL}",
        f"scrypt$0$8$1${TAIL}", f"scrypt$1024$0$1${TAIL}", f"scrypt$-2$8$1${TAIL}", f"scrypt$1073741824$8$1${TAIL}",
        f"scrypt$16384$8$1000${TAIL}", f"scrypt$99999999999999999999$8$1${TAIL}", "scrypt$1024$8$1$QUFBQUFBQUE=$QUFB",
        "scrypt$1024$8$1$!$QUFBQUFBQUFBQUFBQUFBQQ==", f"scrypt$\u0661$8$1${TAIL}",
    ],
)  # fmt: skip
def test_refused(text):
    """What is no hash, or would choose our memory and time, is a ValueError without the text in it."""
    with pytest.raises(ValueError, match=r"scrypt|password hash") as caught:
        parse_hash(text)
    assert len(text) < 8 or text not in str(caught.value)


def test_repr_shows_no_hash():
    """A hash in a log invites guessing."""
    text = make_hash(b"x", SALT, n=16)
    assert repr(parse_hash(text)) == "ScryptHash(n=16, r=8, p=1)"
