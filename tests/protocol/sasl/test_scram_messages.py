"""SCRAM's messages and proofs, against the RFCs' own exchanges and against what is hostile."""

import base64
import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scram_client import ScramClient

from protocol.sasl.scram import Credential, Exchange, MalformedScram, parse_client_first

MECHANISMS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
RFC_5802 = (
    "sha1",
    b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
    b"3rfcNHYJY1ZVvWVs7j",
    b"QSXCR+Q6sek8bf92",
    b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
RFC_7677 = (
    "sha256",
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    b"W22ZaJ0SNY7soEsUEjb6gQ==",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)


@pytest.mark.parametrize("vector", [RFC_5802, RFC_7677], ids=["RFC 5802", "RFC 7677"])
def test_the_exchanges_of_the_rfcs(vector):
    """RFC 5802 section 5 and RFC 7677 section 3: the user `user` with the password `pencil`, octet for octet."""
    hash_name, first, nonce, salt, server_first, final, server_final = vector
    salt = base64.b64decode(salt)
    exchange = Exchange("SCRAM", parse_client_first(first), nonce, salt, 4096)
    assert exchange.name == "user"
    assert exchange.server_first == server_first
    credential = Credential.of_password(hash_name, b"pencil", salt, 4096)
    proof = exchange.proof_of(final)
    assert exchange.proves(proof, credential)
    assert not exchange.proves(proof, Credential.of_password(hash_name, b"pencils", salt, 4096))
    exchange.end(credential)
    assert exchange.server_final == server_final


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("name", ["alice", "a=b,c", "ü", "=2C"])
def test_both_ends(mechanism, name):
    """A client of our own, which checks the server's signature: names with what is escaped, too."""
    client = ScramClient(mechanism, name, "pä=ss,word")
    exchange = Exchange(mechanism, parse_client_first(client.first()), b"server", b"salt", 4096)
    assert exchange.name == name
    credential = Credential.of_password(MECHANISMS[mechanism], "pä=ss,word".encode(), b"salt", 4096)
    assert exchange.proves(exchange.proof_of(client.final(exchange.server_first)), credential)
    exchange.end(credential)
    client.check(exchange.server_final)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n,,",
        b"n,,n=,r=x",
        b"n,,n=user",
        b"n,,n=user,r=",
        b"n,,r=x,n=user",
        b"p=tls-unique,,n=user,r=x",
        b"x,,n=user,r=x",
        b"n,a=other,n=user,r=x",
        b"n,,m=ext,n=user,r=x",
        b"n,,n=us=er,r=x",
        b"n,,n=us=2cer,r=x",
        b"n,,n=\xff\xfe,r=x",
        b"n,,n=us\0er,r=x",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=x,tokenauth=true",
        b"n,,n=user,r=x\n",
        b"n,,n=" + b"u" * 256 + b",r=x",
        b"n,,n=user,r=" + b"x" * 2000,
        b"n,,n=user,r=x" + b",e=x" * 3000,
    ],
)
def test_no_first_message(message):
    """Channel binding, somebody else's identity, mandatory extensions, bad escapes, what is too long: all refused."""
    with pytest.raises(MalformedScram) as caught:
        parse_client_first(message)
    assert b"user" not in message or "us=er" not in str(caught.value)


@pytest.mark.parametrize("message", [b"y,,n=user,r=x", b"n,a=user,n=user,r=x", b"n,,n=user,r=x,e=more"])
def test_other_first_messages(message):
    """A client that could bind to the channel, its own authorization identity, and an extension that may be ignored."""
    assert parse_client_first(message).name == "user"


@pytest.mark.parametrize(
    "change",
    [
        lambda final: b"",
        lambda final: final.replace(b"c=biws", b"c=eSws"),
        lambda final: final.replace(b"c=biws", b"c=!"),
        lambda final: final.replace(b"server", b"serves"),
        lambda final: final.replace(b"server", b""),
        lambda final: final.partition(b",p=")[0],
        lambda final: final.partition(b",p=")[0] + b",p=A",
        lambda final: final.partition(b",p=")[0] + b",p=" + b"A" * 5000,
        lambda final: final + b",x=y",
        lambda final: final + b"\0",
    ],
)
def test_no_final_message(change):
    """Another binding, another nonce, no proof, what is behind the proof: all refused, whoever it would be."""
    exchange, final, _ = _exchange()
    with pytest.raises(MalformedScram):
        exchange.proof_of(change(final))


def test_a_client_that_says_its_nonce_twice():
    """librdkafka before 2.6.1 (that of Debian 12's kcat) does, and is let in, as by Kafka; what else is said is not."""
    client = ScramClient("SCRAM-SHA-256", "user", "pencil", times_said=2)
    exchange = Exchange("SCRAM-SHA-256", parse_client_first(client.first()), b"server", b"salt", 4096)
    credential = Credential.of_password("sha256", b"pencil", b"salt", 4096)
    final = client.final(exchange.server_first)
    assert final.startswith(b"c=biws,r=clientclientserver,")
    assert exchange.proves(exchange.proof_of(final), credential)
    exchange.end(credential)
    client.check(exchange.server_final)
    for other in (b"clientclientclientserver", b"sclientclientserver", b"clientxclientserver"):
        with pytest.raises(MalformedScram):
            exchange.proof_of(final.replace(b"clientclientserver", other))


def test_a_proof_of_another_length():
    """It proves nothing."""
    exchange, final, credential = _exchange()
    for size in (0, 20, 31, 33, 64):
        text = final.partition(b",p=")[0] + b",p=" + (base64.b64encode(bytes(size)) or b"====")
        try:
            assert not exchange.proves(exchange.proof_of(text), credential)
        except MalformedScram:
            assert size == 0


def test_every_bit_of_the_proof_counts():
    """None may be another one."""
    exchange, final, credential = _exchange()
    proof = exchange.proof_of(final)
    assert exchange.proves(proof, credential)
    for place in range(len(proof)):
        for bit in range(8):
            changed = bytearray(proof)
            changed[place] ^= 1 << bit
            assert not exchange.proves(bytes(changed), credential)


def _exchange():
    client = ScramClient("SCRAM-SHA-256", "user", "pencil")
    exchange = Exchange("SCRAM-SHA-256", parse_client_first(client.first()), b"server", b"salt", 4096)
    credential = Credential.of_password("sha256", b"pencil", b"salt", 4096)
    return exchange, client.final(exchange.server_first), credential


def test_salted_passwords():
    """What an administrator's client sends makes the same keys as the password (KIP-554)."""
    salted = hashlib.pbkdf2_hmac("sha512", b"tea", b"salt", 5000)
    assert Credential.of_salted("sha512", salted, b"salt", 5000) == Credential.of_password(
        "sha512", b"tea", b"salt", 5000
    )


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"n,,n=u,r=x", b"c=biws,r=xserver,p=AAAA")
def test_any_octets(first, final):
    """Nothing but the mechanism's own error comes of them."""
    try:
        exchange = Exchange("SCRAM-SHA-256", parse_client_first(first), b"server", b"salt", 4096)
    except MalformedScram:
        exchange = Exchange("SCRAM-SHA-256", parse_client_first(b"n,,n=u,r=x"), b"server", b"salt", 4096)
    try:
        proof = exchange.proof_of(final)
    except MalformedScram:
        return
    assert not exchange.proves(proof, Credential("sha256", b"salt", 4096, bytes(32), bytes(32)))
