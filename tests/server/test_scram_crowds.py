"""Many SCRAM logins of one user at once, before and while the keys of the password are made."""

import os
import random
import threading
from collections import Counter

import pytest
import trio
import trio.testing
from auth_world import LOCAL, World
from scram_client import ScramClient
from sim_disk import SimDisk
from waiting import HANG_S

from broker.config.secret import Secret
from broker.log.recovery import open_store
from broker.server import scram as module
from broker.server.auth import LoginRefused
from broker.server.scram import Scram

MECHANISM = "SCRAM-SHA-256"
BURST, CROWD = 5, 100


@pytest.fixture
def gate(monkeypatch):
    """Keys are made once it is set; `made` counts how often."""
    gate = threading.Event()
    gate.made = 0
    real = module.Credential.of_password

    def of_password(*arguments):
        assert gate.wait(HANG_S)
        gate.made += 1
        return real(*arguments)

    monkeypatch.setattr(module.Credential, "of_password", of_password)
    return gate


@pytest.fixture
def scram():
    """alice's password is `wonder`; five failures of a name are one too many."""
    world = World(login_failures_burst=BURST)
    store = open_store(SimDisk(random.Random(1).randrange), lambda: b"\1" * 16)
    secret = Secret("wonder")
    return Scram(world.auth, store, 4096, lambda name: secret if name == "alice" else None, os.urandom)


def crowd(scram, gate, passwords):
    """All of them have sent their final message before keys are made; returns how often each outcome came."""
    outcomes = Counter()

    async def log_in(password):
        client = ScramClient(MECHANISM, "alice", password)
        exchange = scram.begin(MECHANISM, client.first())
        final = client.final(exchange.server_first)
        try:
            user = scram.finish_nowait(exchange, final, LOCAL) or await scram.finish(exchange, final, LOCAL)
        except LoginRefused as refused:
            outcomes[str(refused).rpartition(": ")[2]] += 1
        else:
            outcomes[user.name] += 1

    async def run():
        async with trio.open_nursery() as nursery:
            for password in passwords:
                nursery.start_soon(log_in, password)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()

    trio.run(run)
    return outcomes


def test_a_service_that_starts_again(scram, gate):
    """A hundred right logins all get in, and the keys are made once."""
    assert crowd(scram, gate, ["wonder"] * CROWD) == {"alice": CROWD}
    assert gate.made == 1


def test_a_crowd_of_guesses(scram, gate):
    """As many are tried as may fail one after the other: having come at once is no way around that."""
    outcomes = crowd(scram, gate, [f"guess {number}" for number in range(CROWD)])
    assert outcomes == {"wrong password or no such user": BURST, "too many failed logins": CROWD - BURST}
