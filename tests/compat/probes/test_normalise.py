"""The oracle's comparison: what may vary is forgiven, and nothing else is."""

import pytest
from normalise import normalise, parse


@pytest.mark.parametrize(
    ("question", "ours", "theirs"),
    [
        ("q", "404 no queue 'x' in vhost 'fresh-001'", "404 no queue 'x' in vhost 'fresh-002'"),
        ("q", "['<ConnectionResetError [Errno 104] Connection reset by peer>']", "[\"<Closed EOF, buffered=b''>\"]"),
        ("server named", "args=b'\\x1eamq.gen-zyD2GYNwCh1Ee2TVG6rOIQ'", "args=b'\\x1eamq.gen-Fj4NXeyC_0QjMQZLhySNfw'"),
        ("tune-ok chmax=0", "(['x'], '3.0s')", "(['x'], '3.4s')"),
        ("tune-ok chmax=0", "(['x'], '4.4s')", "(['x'], '3.0s')"),
        ("confirms for 20 transient", "1 [\"method 60.80 ch=1 args=b'x'\"]", "8 [\"method 60.80 ch=1 args=b'y'\"]"),
    ],
)
def test_forgives_what_varies(question: str, ours: str, theirs: str) -> None:
    """Vhost names, generated names, RST or EOF, times within the tolerance, and the coalescing of confirms."""
    assert normalise(question, ours, "fresh-001").agrees(normalise(question, theirs, "fresh-002"))


@pytest.mark.parametrize(
    ("question", "ours", "theirs"),
    [
        ("q", "404 no queue 'x' in vhost 'other'", "404 no queue 'x' in vhost 'fresh-001'"),
        ("q", "connection.close ch=0 503 class=1", "<ConnectionResetError [Errno 104] Connection reset by peer>"),
        ("server named", "args=b'\\x1eamq.gen-short'", "args=b'\\x1eamq.gen-Fj4NXeyC_0QjMQZLhySNfw'"),
        ("tune-ok chmax=0", "(['x'], '0.0s')", "(['x'], '3.0s')"),
        ("tune-ok chmax=0", "(['x'], '3.0s')", "(['x'], '0.0s')"),
        ("tune-ok chmax=0", "(['x'], '3.0s')", "(['x'], '4.4s')"),
        ("confirms for 20 transient", "1 [\"method 60.120 ch=1 args=b'x'\"]", "8 [\"method 60.80 ch=1 args=b'y'\"]"),
        ("no_local ignored?", "0", "6"),
    ],
)
def test_forgives_nothing_else(question: str, ours: str, theirs: str) -> None:
    """Another vhost, another code, another shape of name, another delay, a nack, no delivery."""
    assert not normalise(question, ours, "fresh-001").agrees(normalise(question, theirs, "fresh-001"))


def test_reads_repeated_questions_and_raised_ones() -> None:
    """A question asked twice is told apart by its place; one that raised is found by the name in its source."""
    raised = "## EXC :: <Closed EOF, buffered=b''> in: c=C(); P('b <4',c.open())"
    output = f"## a :: 1\n## a :: 2\nmore\n{raised}\n## c ::\n"
    answers = parse(output)
    assert answers == {("a", 1): "1", ("a", 2): "2\nmore", ("b <4", 1): "<Closed EOF, buffered=b''>", ("c", 1): ""}
