"""Coverage-guided fuzzing of a whole connection: any octets may come, only the codecs' own errors may result.

Run by test_fuzzing.py, or by hand: `python tests/faults/fuzz_connection.py -max_total_time=60`.
"""

import sys
import time
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1] / "server" / "amqp"), str(Path(__file__).parents[2])]

with atheris.instrument_imports(include=["protocol", "broker.server.amqp", "broker.core"]):
    from amqp_harness import Client, World

    from protocol.amqp.errors import PeerError
    from protocol.amqp.fields import decode_table

INPUT_MS_MAX = 100


def one_input(data: bytes) -> None:
    """The first octet chooses: a table, a fresh connection, or one that has logged in."""
    if not data:
        return
    began = time.thread_time()
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
    if (time.thread_time() - began) * 1000 > INPUT_MS_MAX:
        raise RuntimeError("one input took too long")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
