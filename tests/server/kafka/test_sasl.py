"""Logging in over Kafka's protocol."""

import ssl
import struct
import time

import pytest
import trustme
from kafka_wire import Closed, Wire, batch

from broker.server.auth import new_hash
from protocol.kafka.errors import ErrorCode
from tools.bench.control import running_jackalope

CONFIG = """
users:
  alice:
    password: wonder
    permissions: {"/": {configure: "^alice", write: "^(alice|shared)", read: ".*"}}
  hatter:
    password_hash: HASH
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
kafka: {anonymous: null}
security: {login_refused_delay_s: 0.3}
limits: {handshake_timeout_s: 600}
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A broker that nobody uses without a login."""
    path = tmp_path_factory.mktemp("sasl") / "c.yaml"
    path.write_text(CONFIG.replace("HASH", new_hash("tea")))
    settings = ("listeners.kafka=127.0.0.1:0",)
    with running_jackalope("-c", str(path), settings=settings, http=False) as broker:
        yield broker.addresses["kafka"]


def token(name, password, authzid=""):
    """PLAIN's (RFC 4616)."""
    return f"{authzid}\0{name}\0{password}".encode()


def log_in(wire, name, password):
    """The answer to a login."""
    assert wire.ask("SaslHandshake", 1, mechanism="PLAIN").error_code == 0
    return wire.ask("SaslAuthenticate", 2, auth_bytes=token(name, password))


@pytest.mark.parametrize(("name", "password"), [("alice", "wonder"), ("hatter", "tea")])
def test_a_user_of_the_configuration(locked, name, password):
    """With a password, or a hash that takes a thread to be checked; afterwards everything is as usual."""
    with Wire(locked) as wire:
        assert log_in(wire, name, password).error_code == 0
        wire.create(f"alice-{name}")
        assert wire.produce(f"alice-{name}", batch([b"x"])).base_offset == 0


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("hatter", "wrong"), ("nobody", "x"), ("alice", "")]
)
def test_a_wrong_login(locked, name, password):
    """All alike: error 58 after a while, and the end."""
    with Wire(locked) as wire:
        began_s = time.monotonic()
        answer = log_in(wire, name, password)
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert time.monotonic() - began_s >= 0.25
        assert name not in answer.error_message
        with pytest.raises(Closed):
            wire.ask("ApiVersions", 0)


def test_requests_behind_a_wrong_login_are_not_served(locked):
    """Whatever was sent along with it."""
    with Wire(locked) as wire:
        wire.ask("SaslHandshake", 1, mechanism="PLAIN")
        wire.send("SaslAuthenticate", 2, auth_bytes=token("alice", "wrong"))
        wire.send("SaslAuthenticate", 2, auth_bytes=token("alice", "wonder"))
        assert wire.answer()[1].error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        with pytest.raises(Closed):
            wire.answer()


def test_mechanisms(locked):
    """Another mechanism is error 33 with the list, and the connection goes on."""
    with Wire(locked) as wire:
        refused = wire.ask("SaslHandshake", 1, mechanism="GSSAPI")
        assert (refused.error_code, refused.mechanisms) == (
            ErrorCode.UNSUPPORTED_SASL_MECHANISM, ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        )  # fmt: skip
        assert log_in(wire, "alice", "wonder").error_code == 0


def test_tokens_without_requests(locked):
    """After a handshake of version 0 the token is a frame of its own, and so is the answer."""
    with Wire(locked) as wire:
        wire.ask("SaslHandshake", 0, mechanism="PLAIN")
        octets = token("alice", "wonder")
        wire.sock.sendall(struct.pack(">i", len(octets)) + octets)
        assert wire.frame() == b""
        assert wire.ask("Metadata", 9, topics=[]).cluster_id


def test_a_token_before_the_handshake(locked):
    """ILLEGAL_SASL_STATE."""
    with Wire(locked) as wire:
        answer = wire.ask("SaslAuthenticate", 2, auth_bytes=token("alice", "wonder"))
        assert answer.error_code == ErrorCode.ILLEGAL_SASL_STATE


def test_again_as_the_same_user_only(locked):
    """A second login of the same user is fine, of another one it is the end (KIP-368)."""
    with Wire(locked) as wire:
        for _ in range(2):
            assert log_in(wire, "alice", "wonder").error_code == 0
        assert log_in(wire, "hatter", "tea").error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        with pytest.raises(Closed):
            wire.answer()


def test_garbage(locked):
    """A token of anything is a wrong login."""
    for octets in (b"", b"\xff" * 50, b"\0\0", b"alice\0hatter\0tea", bytes(9000)):
        with Wire(locked) as wire:
            wire.ask("SaslHandshake", 1, mechanism="PLAIN")
            assert wire.ask("SaslAuthenticate", 2, auth_bytes=octets).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED


def test_who_never_logs_in():
    """Is closed after the handshake timeout, also when something was asked for that needs no login."""
    settings = ("listeners.kafka=127.0.0.1:0", "kafka.anonymous=null", "limits.handshake_timeout_s=4")
    with running_jackalope(settings=settings, http=False) as broker:
        began_s = time.monotonic()
        with Wire(broker.addresses["kafka"]) as wire:
            wire.send("ApiVersions", 0)
            with pytest.raises(Closed):
                [wire.frame() for _ in range(2)]
        assert time.monotonic() - began_s > 2


def test_permissions(locked):
    """What the vhost's permissions do not allow has Kafka's codes, and the connection goes on."""
    with Wire(locked) as hatter:
        log_in(hatter, "hatter", "tea")
        hatter.create("tea-party")
        with Wire(locked) as wire:
            log_in(wire, "alice", "wonder")
            assert wire.produce("tea-party", batch([b"x"])).error_code == ErrorCode.TOPIC_AUTHORIZATION_FAILED
            assert wire.fetch("tea-party").error_code == 0
            with pytest.raises(AssertionError, match=r"error_code=29"):
                wire.create("not-hers")
            assert wire.ask("DeleteTopics", 5, topic_names=["tea-party"], timeout_ms=10).responses[0].error_code == (
                ErrorCode.TOPIC_AUTHORIZATION_FAILED
            )


# Client certificates.


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """(address, context maker) of a TLS listener that asks for certificates; context(name) is a client's."""
    directory = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    server.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    server.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "c.yaml").write_text(
        CONFIG.replace("HASH", new_hash("tea")).replace("{anonymous: null}", "{anonymous: hatter}")
        + f"tls: {{cert: '{directory}/cert.pem', key: '{directory}/key.pem', ca: '{directory}/ca.pem',"
        " verify: request}\n"
    )

    def context(name, issuer=authority):
        made = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        if name is not None:
            issuer.issue_cert("client@example.org", common_name=name).configure_cert(made)
        return made

    settings = ("listeners.kafka=off", "listeners.kafkas=127.0.0.1:0")
    with running_jackalope("-c", str(directory / "c.yaml"), settings=settings, http=False) as broker:
        yield broker.addresses["kafkas"], context, stranger


class TlsWire(Wire):
    """One connection over TLS."""

    def __init__(self, address, context):
        super().__init__(address)
        self.sock = context.wrap_socket(self.sock, server_hostname=address[0])


def may_create(wire, name):
    """Whether the user of the connection may create that topic: alice may `alice...`, hatter anything."""
    try:
        wire.create(name)
    except AssertionError as error:
        return "error_code=29" not in str(error) and pytest.fail(str(error))
    return True


def test_a_certificate_is_a_login(certified):
    """Its name is the user, without SASL; without one the listener's peers are anonymous; a SASL login replaces it."""
    address, context, _ = certified
    with TlsWire(address, context("alice")) as wire:
        assert may_create(wire, "alice-by-certificate")
        assert not may_create(wire, "other")
        assert log_in(wire, "hatter", "tea").error_code == 0
        assert may_create(wire, "other")
    with TlsWire(address, context(None)) as wire:
        assert may_create(wire, "by-nobody")


def test_a_certificate_of_no_user(certified):
    """Who has a name is not anonymous: nothing is answered before a login by SASL, which opens."""
    address, context, _ = certified
    with TlsWire(address, context("nobody")) as wire, pytest.raises(Closed):
        wire.ask("Metadata", 9, topics=[])
    with TlsWire(address, context("nobody")) as wire:
        assert log_in(wire, "alice", "wonder").error_code == 0
        assert may_create(wire, "alice-by-sasl")


def test_a_certificate_of_another_authority(certified):
    """Is no certificate: the handshake fails."""
    address, context, stranger = certified
    with (
        pytest.raises((ssl.SSLError, Closed, ConnectionResetError)),
        TlsWire(address, context("alice", stranger)) as wire,
    ):
        wire.ask("ApiVersions", 0)
