"""A broker process as its operator meets it: mutual TLS with EXTERNAL, reloading users, the ready line."""

import contextlib
import os
import signal
import socket
import ssl
import struct
from pathlib import Path

import pika
import pytest
import trustme
from waiting import HANG_S, PATIENT, wait_until

from tools.bench.control import running_jackalope
from tools.bench.frames import publish
from tools.bench.link import Target, open_link

CONNECTION_BLOCKED = struct.pack(">HH", 10, 60)


def test_external_login_over_mutual_tls(tmp_path):
    """The common name of a verified client certificate is the user; without a certificate there is no connection."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert("alice@example.org", common_name="alice")
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "client")}
    authority.cert_pem.write_to_path(files["ca"])
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    client.private_key_and_cert_chain_pem.write_to_path(files["client"])
    config = tmp_path / "broker.yaml"
    config.write_text(
        f"tls: {{cert: '{files['cert']}', key: '{files['key']}', ca: '{files['ca']}', verify: require}}\n"
        "users:\n  alice:\n    permissions:\n      /: {configure: '.*', write: '.*', read: '.*'}\n"
    )
    with running_jackalope("-c", str(config), settings=["listeners.amqps=127.0.0.1:0"], http=False) as broker:
        context = ssl.create_default_context(cafile=str(files["ca"]))

        def connect():
            options = pika.SSLOptions(context, "127.0.0.1")
            credentials = pika.credentials.ExternalCredentials()
            parameters = pika.ConnectionParameters(
                "127.0.0.1", broker.tls_port, ssl_options=options, credentials=credentials, **PATIENT
            )
            return pika.BlockingConnection(parameters)

        with pytest.raises(pika.exceptions.AMQPError):
            connect()
        context.load_cert_chain(str(files["client"]))
        connection = connect()
        channel = connection.channel()
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"x" * 100_000, pika.BasicProperties(user_id="alice"))
        assert channel.basic_get("q", auto_ack=True)[2] == b"x" * 100_000
        connection.close()


def log_in(broker, user, password):
    """Whether a login succeeds."""
    credentials = pika.PlainCredentials(user, password)
    try:
        parameters = pika.ConnectionParameters(broker.host, broker.port, credentials=credentials, **PATIENT)
        pika.BlockingConnection(parameters).close()
    except pika.exceptions.AMQPError:
        return False
    return True


def test_sighup_swaps_users_or_keeps_the_old_ones(tmp_path):
    """A valid file takes effect without a restart; one with a mistake changes nothing."""
    config = tmp_path / "broker.yaml"
    users = (
        "users: {{{name}: {{password: {name}, permissions: {{/: {{configure: '.*', write: '.*', read: '.*'}}}}}}}}\n"
    )
    config.write_text(users.format(name="one"))
    with running_jackalope("-c", str(config), http=False) as broker:
        log = broker.directory / "stderr.log"

        def reload(told):
            os.kill(broker.root_pid, signal.SIGHUP)
            wait_until(lambda: told in log.read_text(), log.read_text)

        assert log_in(broker, "one", "one")
        config.write_text("usres: {}\n")
        reload("configuration not reloaded")
        assert log_in(broker, "one", "one")
        config.write_text(users.format(name="two"))
        reload("configuration reloaded")
        assert log_in(broker, "two", "two")
        assert not log_in(broker, "one", "one")
        assert "usres" in log.read_text()


def test_the_ready_line_says_that_storage_is_memory():
    """Nothing pretends to be durable: the ready line ends in storage=memory, and the log says why it has no kafka."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "tools.cli.main", "serve", "--set", "listeners.amqp=[::1]:0", "--set",
               "listeners.http=off", "--data", "memory"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline().split()
        process.send_signal(signal.SIGTERM)
        logged = process.communicate(timeout=HANG_S)[1]
        assert process.returncode == 0
    assert "no kafka listener" in logged
    assert line[0] == "ready"
    assert line[1].startswith("amqp=[::1]:")
    assert line[-1] == "storage=memory"


def test_an_orderly_stop_with_a_tls_peer_in_its_handshake(tmp_path):
    """Nothing can be said to it, so it is dropped; the broker still ends in order (exit 0, the data left clean)."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    settings = ["listeners.amqps=127.0.0.1:0", f"tls.cert={tmp_path / 'cert.pem'}", f"tls.key={tmp_path / 'key.pem'}"]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        running_jackalope(settings=settings, http=False, directory=tmp_path) as broker,
        socket.create_connection((broker.host, broker.tls_port)),
    ):
        with socket.create_connection((broker.host, broker.tls_port), timeout=HANG_S) as raw:
            context.wrap_socket(raw, server_hostname="127.0.0.1").close()  # Who came later is through.
        os.kill(broker.root_pid, signal.SIGTERM)
        assert os.waitid(os.P_PID, broker.root_pid, os.WEXITED | os.WNOWAIT).si_status == 0
    with running_jackalope(http=False, directory=tmp_path):
        assert "did not stop in order" not in (tmp_path / "stderr.log").read_text()


def sockets(pid):
    """How many a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sum(one.startswith("socket:") for one in found)


def test_a_blocked_publisher_that_leaves_costs_nothing(tmp_path):
    """Under an alarm its socket is not read; when the peer resets it, it is closed instead of reported for ever."""
    settings = ["limits.memory_watermark=1MiB"]
    with running_jackalope(settings=settings, http=False, directory=tmp_path) as broker:
        before = sockets(broker.root_pid)
        link = open_link(Target(broker.host, broker.port, broker.user, broker.password, broker.vhost, "", ""))
        link.socket.sendall(publish("", "nowhere", b"x"))
        link.socket.settimeout(HANG_S)
        told = b""
        while CONNECTION_BLOCKED not in told:
            told += link.socket.recv(4096)
        assert sockets(broker.root_pid) == before + 1
        link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.socket.close()
        wait_until(lambda: sockets(broker.root_pid) == before, "its socket is open still")


def test_a_tls_peer_that_ends_is_answered(tmp_path):
    """close_notify gets the broker's own, and the socket is closed: who waits for that before it closes (asyncio, for
    30 s) need not. What came with it is worked on."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    settings = ["listeners.amqps=127.0.0.1:0", f"tls.cert={tmp_path / 'cert.pem'}", f"tls.key={tmp_path / 'key.pem'}"]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        running_jackalope(settings=settings, http=False) as broker,
        socket.create_connection((broker.host, broker.tls_port), timeout=HANG_S) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(b"AMQP\0\0\x09\1")
        start = b""
        while not start.endswith(b"\xce"):
            start += sock.recv(4096)
        assert sock.unwrap().recv(1) == b""
