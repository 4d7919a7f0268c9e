"""A bounded run of the fuzzer: a crash is any exception but the codecs' own, or an input that holds the loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_S

pytestmark = pytest.mark.faults
SECONDS = 15 if os.environ.get("JACKALOPE_FAULTS") == "short" else 120


def seeds(folder):
    """Some valid conversations to start from."""
    from protocol.amqp import content
    from protocol.amqp.fields import encode_table
    from protocol.amqp.frames import PROTOCOL_HEADER, method_frame

    publish = method_frame(1, "basic.publish", 0, "", "q", True, False) + content.encode_content(
        1, b"\x04text\x02", content.CONTENT_TYPE | content.DELIVERY_MODE, b"body", 4096
    )
    samples = [
        b"\x00" + encode_table({"a": 1, "b": [True, None, {"c": "d"}], "e": 1.5}),
        b"\x01" + PROTOCOL_HEADER + method_frame(0, "connection.start-ok", {}, "PLAIN", b"\0guest\0guest", "en_US"),
        b"\x02" + publish + method_frame(1, "basic.get", 0, "q", False) + method_frame(1, "basic.ack", 0, True),
        b"\x02" + method_frame(1, "tx.select") + publish + method_frame(1, "tx.commit"),
        b"\x02"
        + method_frame(1, "basic.consume", 0, "q", "c", False, False, False, False, {"x-priority": 1})
        + publish,
    ]
    for number, sample in enumerate(samples):
        (folder / str(number)).write_bytes(sample)


def kafka_seeds(folder):
    """Each request of Kafka's protocol, in its first and its last version, with what it has by default."""
    from protocol.kafka.apis import APIS
    from protocol.kafka.headers import RequestHeader, write_request

    for place, key in enumerate(sorted(APIS)):
        api = APIS[key]
        for version in {api.min_version, api.max_version}:
            frame = write_request(RequestHeader(key, version, 1, None), api.request())
            body = frame[4 + 10 + (1 if api.is_flexible(version) else 0) :]
            (folder / f"{key}-{version}").write_bytes(bytes((2, place, version - api.min_version)) + body)
            (folder / f"{key}-{version}-raw").write_bytes(b"\x01" + frame)


@pytest.mark.parametrize(("name", "make_seeds"), [("fuzz_connection", seeds), ("fuzz_kafka", kafka_seeds)])
def test_fuzzing_finds_nothing(tmp_path, name, make_seeds):
    """Coverage-guided, from valid conversations, for a bounded time: AMQP's connections and Kafka's."""
    if sys.version_info >= (3, 14):
        pytest.skip("the fuzzer has no wheel for this Python")
    make_seeds(tmp_path)
    script = Path(__file__).parent / f"{name}.py"
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            f"-max_total_time={SECONDS}",
            "-max_len=6000",
            f"-timeout={HANG_S:.0f}",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS + 2 * HANG_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
