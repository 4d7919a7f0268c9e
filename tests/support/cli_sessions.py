"""The command line against a broker, and channels to it that are closed whatever becomes of it."""

import contextlib
import json
import subprocess
import sys

import pika
from waiting import HANG_S


def jackalope(broker, *arguments):
    """(exit code, parsed lines of stdout, stderr)."""
    url = f"http://guest:guest@{broker.host}:{broker.http_port}"
    command = [sys.executable, "-m", "tools.cli.main", "--url", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


OPEN = []


def close_all():
    """Close what `open_channel` has opened."""
    while OPEN:
        with contextlib.suppress(pika.exceptions.AMQPError):
            OPEN.pop().close()


def patient(broker):
    """Where a broker is, for a client that waits as long as it takes, and may itself be silent as long."""
    return pika.ConnectionParameters(broker.host, broker.port, heartbeat=0, socket_timeout=HANG_S, stack_timeout=HANG_S)


def open_channel(broker):
    """A connection's channel with confirms."""
    OPEN.append(pika.BlockingConnection(patient(broker)))
    channel = OPEN[-1].channel()
    channel.confirm_delivery()
    return channel
