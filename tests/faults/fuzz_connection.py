"""Coverage-guided fuzzing of a whole connection: any octets may come, only the codecs' own errors may result.

Run by test_fuzzing.py, or by hand: `python tests/faults/fuzz_connection.py -max_total_time=60`.
"""

import sys
import time
from pathlib import Path

import atheris

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "support"), str(HERE.parent)]

with atheris.instrument_imports(include=["protocol", "broker.server.amqp", "broker.core"]):
    from amqp_harness import Client, World
    from steps import work_ratio

    from protocol.amqp.errors import PeerError
    from protocol.amqp.fields import decode_table

INPUT_MS_MAX = 100
"""An input that takes more is looked at again."""
INPUT_RUNS_MAX = 150
"""None costs more, again and again, than so many runs of a reference loop."""


def one_input(data: bytes) -> None:
    """Whatever it is, it is soon over."""
    began = time.thread_time()
    converse(data)
    if (time.thread_time() - began) * 1000 > INPUT_MS_MAX and work_ratio(lambda: converse(data)) > INPUT_RUNS_MAX:
        raise RuntimeError("one input takes too long")


def converse(data: bytes) -> None:
    """The first octet chooses: a table, a fresh connection, or one that has logged in."""
    if not data:
        return
    choice, rest = data[0] % 3, data[1:]
    if choice == 0:
        try:
            decode_table(rest)
        except PeerError:
            return
        return
    world = World(frame_max_bytes=4096, message_size_max_bytes=8192)
    client = Client(world)
    if choice == 2:
        client.log_in(frame_max=4096)
        client.send(1, "channel.open", "")
        client.send(1, "queue.declare", 0, "q", False, False, False, False, False, {})
        client.raw()
    client.feed(rest)
    client.drop()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
