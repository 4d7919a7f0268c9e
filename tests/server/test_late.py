"""Parts that are imported late: in small steps, by name, and only for whom they are."""

import errno
import json
import socket
import subprocess
import sys

import pytest
import trio
import trio.testing
from waiting import HANG_S

from broker.server import late
from broker.server.kafka.handlers import SERVED, handler_of
from protocol.kafka.apis import APIS

MODULES_AT_ONCE_MAX = 16
"""Of the broker's: 1 to 3 ms each. The whole of a part would be 25 to 60."""
READY = """
import json, sys
import broker.app
from importlib import import_module
from broker.server import late

def ours():
    return {name for name in sys.modules if name.partition(".")[0] in ("broker", "protocol")}

steps = {}
before = ours()
for name in (*late.AMQP_PART, *late.KAFKA_PART, *late.HTTP_PART):
    import_module(name)
    steps[name] = len(ours() - before)
    before = ours()
print(json.dumps({"steps": steps, "modules": sorted(before)}))
"""


def told_by(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)
    return json.loads(done.stdout)


def test_no_step_of_a_part_imports_much():
    """Who adds a module to a face is told when a step of its import has grown."""
    steps = told_by(READY)["steps"]
    assert {name: count for name, count in steps.items() if count > MODULES_AT_ONCE_MAX} == {}


@pytest.mark.parametrize("part", [late.AMQP_PART, late.KAFKA_PART, late.HTTP_PART])
def test_being_ready_takes_no_part(part):
    """What is imported before the ready line contains none of the modules that speak with clients."""
    loaded = told_by("import json, sys, broker.app; print(json.dumps(sorted(sys.modules)))")
    assert not {part[-1], "h11", "msgspec", "http.client"} & set(loaded)


def test_apis_that_nobody_has_asked_for_are_not_imported():
    """With Kafka's face alone there, the handlers of its rarer families are not."""
    loaded = set(told_by(READY)["modules"])
    rare = {f"broker.server.kafka.{module}" for module in SERVED.values()} - loaded
    assert {name.rpartition(".")[2] for name in rare} >= {"acls", "cluster", "configs", "group_admin", "topics"}


def test_every_served_api_has_a_handler_and_a_table():
    """The names are right, and each family answers exactly what it is named for."""
    for key in SERVED:
        assert handler_of(key).__module__ == f"broker.server.kafka.{SERVED[key]}"
        assert APIS[key].request is not None


async def test_a_visitor_is_waited_for_and_not_accepted(autojump_clock):
    """Whichever socket it comes to; it is still there to be accepted."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    try:
        with trio.move_on_after(1) as nobody:
            await late.first_visitor(listening)
        assert nobody.cancelled_caught
        with socket.create_connection(listening[1].getsockname()) as visitor, trio.fail_after(HANG_S):
            await late.first_visitor(listening)
            accepted, peer = listening[1].accept()
            accepted.close()
            assert peer == visitor.getsockname()
    finally:
        for sock in listening:
            sock.close()


def test_out_of_handles_an_import_waits(monkeypatch):
    """The broker goes on, and the part is there once a handle is."""
    asked = []

    def import_module(name):
        asked.append(name)
        if len(asked) < 4:
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(late, "import_module", import_module)
    trio.run(late.import_part, ("first", "second"), clock=trio.testing.MockClock(autojump_threshold=0))
    assert asked == ["first"] * 4 + ["second"]
