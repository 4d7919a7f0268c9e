"""SCRAM over Kafka's protocol, and the credentials that administrators set."""

import hashlib
import os
import signal
import struct
import threading
import time

import pytest
from kafka_wire import BY_NAME, ROOT, Closed, Wire
from scram_client import ScramClient
from waiting import wait_until

from broker.server.auth import new_hash
from protocol.kafka.errors import ErrorCode
from tools.bench.control import running_jackalope

CONFIG = (
    ROOT
    + """\
  alice:
    password: PASSWORD
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
  hatter:
    password_hash: HASH
    permissions: {"/": {configure: ".*", write: ".*", read: ".*"}}
kafka: {anonymous: null}
security: {login_refused_delay_s: 0.2, login_failure_refill_s: REFILL}
limits: {handshake_timeout_s: 600}
"""
)
HASH = new_hash("tea")
SHA_256, SHA_512 = "SCRAM-SHA-256", "SCRAM-SHA-512"
BOTH = pytest.mark.parametrize("mechanism", [SHA_256, SHA_512])


class Locked:
    """A broker that nobody uses without a login; it may be killed, started again, and told other users."""

    def __init__(self, directory):
        self.directory = directory
        self.file = directory / "c.yaml"
        self.write(CONFIG)
        self.running = None

    def write(self, config, password="wonder", refill_s=1):
        values = {"HASH": HASH, "PASSWORD": password, "REFILL": str(refill_s)}
        for name, value in values.items():
            config = config.replace(name, value)
        self.file.write_text(config)

    def start(self):
        settings = ("listeners.kafka=127.0.0.1:0",)
        self.running = running_jackalope(
            "-c", str(self.file), settings=settings, http=False, directory=self.directory / "data"
        )
        self.broker = self.running.__enter__()
        return self

    def stop(self):
        self.running.__exit__(None, None, None)

    def kill(self):
        os.kill(self.broker.root_pid, signal.SIGKILL)
        self.stop()

    def reload(self):
        log = self.directory / "data" / "stderr.log"
        before = log.read_text().count("configuration reloaded")
        os.kill(self.broker.root_pid, signal.SIGHUP)
        wait_until(lambda: log.read_text().count("configuration reloaded") > before, log.read_text)

    @property
    def address(self):
        return self.broker.addresses["kafka"]


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """One for the tests that leave its users alone."""
    directory = tmp_path_factory.mktemp("scram")
    (directory / "data").mkdir()
    started = Locked(directory).start()
    yield started.address
    started.stop()


@pytest.fixture
def own(tmp_path):
    """One of the test's own."""
    (tmp_path / "data").mkdir()
    started = Locked(tmp_path).start()
    yield started
    started.stop()


def begin(wire, mechanism, client):
    """The server's first message."""
    assert wire.ask("SaslHandshake", 1, mechanism=mechanism).error_code == 0
    answer = wire.ask("SaslAuthenticate", 2, auth_bytes=client.first())
    assert answer.error_code == 0
    return answer.auth_bytes


def log_in(wire, name, password, mechanism=SHA_256):
    """The error code of a login; the server's signature is checked."""
    client = ScramClient(mechanism, name, password, nonce=os.urandom(12).hex().encode())
    answer = wire.ask("SaslAuthenticate", 2, auth_bytes=client.final(begin(wire, mechanism, client)))
    if not answer.error_code:
        client.check(answer.auth_bytes)
    else:
        assert not answer.auth_bytes
    return answer.error_code


def tries(address, name, password, mechanism=SHA_256):
    """The same on a connection of its own."""
    with Wire(address) as wire:
        return log_in(wire, name, password, mechanism)


@BOTH
def test_a_user_whose_password_is_in_the_configuration(locked, mechanism):
    """Logs in, again on the same connection, and is served."""
    with Wire(locked) as wire:
        for _ in range(2):
            assert log_in(wire, "alice", "wonder", mechanism) == 0
        wire.create(f"alice-{mechanism}")


@BOTH
def test_tokens_without_requests(locked, mechanism):
    """After a handshake of version 0 both messages, and both answers, are frames of their own."""
    client = ScramClient(mechanism, "alice", "wonder")
    with Wire(locked) as wire:
        wire.ask("SaslHandshake", 0, mechanism=mechanism)
        wire.sock.sendall(struct.pack(">i", len(client.first())) + client.first())
        final = client.final(wire.frame())
        wire.sock.sendall(struct.pack(">i", len(final)) + final)
        client.check(wire.frame())
        assert wire.ask("Metadata", 9, topics=[]).cluster_id


@BOTH
@pytest.mark.parametrize("name", ["alice", "hatter", "nobody"])
def test_a_wrong_login(locked, mechanism, name):
    """A wrong password, a user who has no credentials, and nobody: all get salt and iterations, fail at the end with
    error 58 after the delay, and the connection ends."""
    with Wire(locked) as wire:
        client = ScramClient(mechanism, name, "wrong")
        final = client.final(begin(wire, mechanism, client))
        began_s = time.monotonic()
        answer = wire.ask("SaslAuthenticate", 2, auth_bytes=final)
        assert answer.error_code == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert time.monotonic() - began_s >= 0.15
        assert name not in answer.error_message
        with pytest.raises(Closed):
            wire.answer()


def test_nobody_looks_like_somebody(locked):
    """The same salt for a name each time, of the same size, and the same iterations, whether there is such a user."""
    shapes = set()
    for name in ("alice", "hatter", "nobody", "nobody else"):
        salts = set()
        for _ in range(3):
            with Wire(locked) as wire:
                fields = begin(wire, SHA_256, ScramClient(SHA_256, name, "x")).split(b",")
            salts.add(fields[1])
            shapes.add((len(fields[0]), len(fields[1]), fields[2]))
        assert len(salts) == 1
    assert shapes == {(2 + 6 + 24, 2 + 24, b"i=8192")}


def test_a_final_message_of_another_exchange(locked):
    """What was recorded is good for nothing: the nonce is another one."""
    client = ScramClient(SHA_256, "alice", "wonder")
    with Wire(locked) as wire:
        final = client.final(begin(wire, SHA_256, client))
        assert wire.ask("SaslAuthenticate", 2, auth_bytes=final).error_code == 0
        begin(wire, SHA_256, client)
        assert wire.ask("SaslAuthenticate", 2, auth_bytes=final).error_code == ErrorCode.SASL_AUTHENTICATION_FAILED


@pytest.mark.parametrize("octets", [b"", b"\xff" * 50, b"n,,n=,r=x", b"p=tls-unique,,n=alice,r=x", bytes(9000)])
def test_garbage(locked, octets):
    """Anything else is a wrong login, as first message or as final one."""
    for is_final in (False, True):
        with Wire(locked) as wire:
            if is_final:
                begin(wire, SHA_256, ScramClient(SHA_256, "alice", "wonder"))
            else:
                wire.ask("SaslHandshake", 1, mechanism=SHA_256)
            assert wire.ask("SaslAuthenticate", 2, auth_bytes=octets).error_code == (
                ErrorCode.SASL_AUTHENTICATION_FAILED
            )


def test_guessing_is_slowed(own):
    """SCRAM and PLAIN share what failures a user has from an address; then right passwords are refused as well."""
    own.stop()
    own.write(CONFIG, refill_s=3600)
    own.start()
    codes = []

    def guess():
        codes.append(tries(own.address, "alice", "wrong"))

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {ErrorCode.SASL_AUTHENTICATION_FAILED}
    assert tries(own.address, "alice", "wonder") == ErrorCode.SASL_AUTHENTICATION_FAILED
    with Wire(own.address) as wire:
        wire.ask("SaslHandshake", 1, mechanism="PLAIN")
        assert wire.ask("SaslAuthenticate", 2, auth_bytes=b"\0alice\0wonder").error_code
    assert tries(own.address, "root", "root") == 0


def test_many_at_once(locked):
    """A service that starts again logs in a hundred times: everybody gets in, and the loop is not held."""
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(tries(locked, "root", "root"))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0] * 100


# What administrators set.


def alter(wire, upsertions=(), deletions=()):
    """{user: error code}: upsertions are (name, mechanism number, password, iterations) with what may be wrong."""
    request = BY_NAME["AlterUserScramCredentials"].request
    upsertion, deletion = request.SPECS["upsertions"].of, request.SPECS["deletions"].of
    made = []
    for name, mechanism, password, iterations in upsertions:
        salted = hashlib.pbkdf2_hmac("sha512" if mechanism == 2 else "sha256", password, b"salt", max(iterations, 1))
        made.append(
            upsertion(name=name, mechanism=mechanism, iterations=iterations, salt=b"salt", salted_password=salted)
        )
    answer = wire.ask(
        "AlterUserScramCredentials", 0, upsertions=made,
        deletions=[deletion(name=name, mechanism=mechanism) for name, mechanism in deletions],
    )  # fmt: skip
    return {one.user: one.error_code for one in answer.results}


def described(wire, *names):
    """{user: error code or [(mechanism, iterations)]}."""
    request = BY_NAME["DescribeUserScramCredentials"].request
    users = [request.SPECS["users"].of(name=name) for name in names] or None
    answer = wire.ask("DescribeUserScramCredentials", 0, users=users)
    return answer.error_code or {
        one.user: one.error_code or [(info.mechanism, info.iterations) for info in one.credential_infos]
        for one in answer.results
    }


def test_credentials_of_a_user_who_has_a_hash(own):
    """They let the user in, hold over a kill, and end with their deletion; the hash goes on for PLAIN."""
    assert tries(own.address, "hatter", "tea") == ErrorCode.SASL_AUTHENTICATION_FAILED
    with Wire(own.address) as wire:
        log_in(wire, "root", "root")
        assert described(wire, "hatter") == {"hatter": ErrorCode.RESOURCE_NOT_FOUND}
        assert alter(wire, [("hatter", 1, b"tea", 4096), ("hatter", 2, b"more tea", 5000)]) == {"hatter": 0}
        own.kill()
    own.start()
    assert tries(own.address, "hatter", "tea") == 0
    assert tries(own.address, "hatter", "more tea", SHA_512) == 0
    assert tries(own.address, "hatter", "tea", SHA_512) == ErrorCode.SASL_AUTHENTICATION_FAILED
    with Wire(own.address) as wire:
        log_in(wire, "root", "root")
        assert described(wire, "hatter", "alice") == {
            "hatter": [(1, 4096), (2, 5000)],
            "alice": [(1, 8192), (2, 8192)],
        }
        assert set(described(wire)) == {"alice", "hatter", "root"}
        assert alter(wire, deletions=[("hatter", 1), ("hatter", 2)]) == {"hatter": 0}
    assert tries(own.address, "hatter", "tea") == ErrorCode.SASL_AUTHENTICATION_FAILED
    with Wire(own.address) as wire:
        wire.ask("SaslHandshake", 1, mechanism="PLAIN")
        assert wire.ask("SaslAuthenticate", 2, auth_bytes=b"\0hatter\0tea").error_code == 0


def test_credentials_instead_of_the_password(own):
    """What was set counts, and the password again when it is deleted."""
    with Wire(own.address) as wire:
        log_in(wire, "root", "root")
        alter(wire, [("alice", 1, b"other", 4096)])
        assert tries(own.address, "alice", "other") == 0
        assert tries(own.address, "alice", "wonder") == ErrorCode.SASL_AUTHENTICATION_FAILED
        assert tries(own.address, "alice", "wonder", SHA_512) == 0
        alter(wire, deletions=[("alice", 1)])
    assert tries(own.address, "alice", "wonder") == 0


def test_reloading(own):
    """Another password in the configuration is the one that counts; credentials go with their user for good."""
    assert tries(own.address, "alice", "wonder") == 0
    with Wire(own.address) as wire:
        log_in(wire, "root", "root")
        alter(wire, [("hatter", 1, b"tea", 4096)])
    own.write(CONFIG, password="glass")
    own.reload()
    assert tries(own.address, "alice", "wonder") == ErrorCode.SASL_AUTHENTICATION_FAILED
    assert tries(own.address, "alice", "glass") == 0
    assert tries(own.address, "hatter", "tea") == 0
    own.write(CONFIG.replace("  hatter:", "  hare:"))
    own.reload()
    own.write(CONFIG)
    own.reload()
    assert tries(own.address, "hatter", "tea") == ErrorCode.SASL_AUTHENTICATION_FAILED
    own.kill()
    own.start()
    assert tries(own.address, "hatter", "tea") == ErrorCode.SASL_AUTHENTICATION_FAILED


def test_what_may_not_be_set(locked):
    """Kafka's codes, for each user by itself; nothing is done for a user of whom a part is refused."""
    with Wire(locked) as wire:
        log_in(wire, "root", "root")
        cases = [
            ([("hatter", 3, b"x", 4096)], ErrorCode.UNSUPPORTED_SASL_MECHANISM),
            ([("hatter", 1, b"x", 4095)], ErrorCode.UNACCEPTABLE_CREDENTIAL),
            ([("hatter", 1, b"x", 20_000)], ErrorCode.UNACCEPTABLE_CREDENTIAL),
            ([("hatter", 1, b"x", -1)], ErrorCode.UNACCEPTABLE_CREDENTIAL),
            ([("hatter", 1, b"x", 4096), ("hatter", 1, b"y", 4096)], ErrorCode.DUPLICATE_RESOURCE),
            ([("hatter", 1, b"x", 4096), ("hatter", 2, b"x", 1)], ErrorCode.UNACCEPTABLE_CREDENTIAL),
            ([("nobody", 1, b"x", 4096)], ErrorCode.RESOURCE_NOT_FOUND),
            ([("", 1, b"x", 4096)], ErrorCode.UNACCEPTABLE_CREDENTIAL),
        ]
        for upsertions, code in cases:
            assert alter(wire, upsertions) == {upsertions[0][0]: code}
        assert alter(wire, deletions=[("alice", 1)]) == {"alice": ErrorCode.RESOURCE_NOT_FOUND}
        assert described(wire, "hatter", "hatter", "nobody") == {
            "hatter": ErrorCode.DUPLICATE_RESOURCE,
            "nobody": ErrorCode.RESOURCE_NOT_FOUND,
        }
        assert described(wire, "hatter") == {"hatter": ErrorCode.RESOURCE_NOT_FOUND}


def test_who_is_no_administrator(locked):
    """Neither sees nor changes anything."""
    with Wire(locked) as wire:
        log_in(wire, "alice", "wonder")
        assert described(wire) == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        assert alter(wire, [("alice", 1, b"x", 4096)]) == {"alice": ErrorCode.CLUSTER_AUTHORIZATION_FAILED}
    assert tries(locked, "alice", "x") == ErrorCode.SASL_AUTHENTICATION_FAILED
