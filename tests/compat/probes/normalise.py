"""What varies between two runs of one probe, taken out, so that answers can be compared by meaning.

Owns: reading a probe's output and the list of what may vary (generated names, times, how a socket died, chunking).
Must not know: brokers, processes, which answer is right.

Text is compared exactly after this; times are kept beside the text and compared within `EARLY_S` and `LATE_S`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

EARLY_S = 0.75
LATE_S = 1.5  # Half of the shortest silence that means something (3 s): a busy machine is late, and never early.
VHOST = "VHOST"
TIME = "TIME"

_LINE = re.compile(r"^## (?P<question>.*?) ::(?: (?P<answer>.*))?$")
# A question that ended in an exception prints the head of its own source, in which its name stands.
_RAISED = re.compile(r"^(?P<error><.*?>) in: .*?P\('(?P<question>[^']*)'")

_ANYWHERE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"amq\.gen-[A-Za-z0-9_-]{22}"), "amq.gen-*"),
    (re.compile(r"amq\.ctag-[A-Za-z0-9_-]{22}"), "amq.ctag-*"),
    (re.compile(r"ctag\d+\.[0-9a-f]{32}"), "ctag-*"),
    (re.compile(r"amq\.rabbitmq\.reply-to\.[^'\" ]+"), "amq.rabbitmq.reply-to.*"),
    (re.compile(r"'time': datetime\.datetime\([^()]*(?:\([^()]*\))?[^()]*\)"), "'time': *"),
    (re.compile(r"'cluster_name': '[^']*'"), "'cluster_name': '*'"),
    # connection.start holds product and version: the question `start` compares its fields one by one.
    (re.compile(r"method 10\.10 ch=0 args=b'.*'"), "method 10.10 ch=0 <start>"),
    # Whether a closed peer is seen as RST or as EOF depends on what was still unread in its socket.
    (re.compile(r"<(?:ConnectionResetError|BrokenPipeError|ConnectionAbortedError|Closed)\b[^>]*>"), "<closed>"),
    (re.compile(r"(?:ConnectionResetError|BrokenPipeError|ConnectionAbortedError)\(\d+, '[^']*'\)"), "<closed>"),
    (re.compile(r"Closed\((?:\"[^\"]*\"|'[^']*')\)"), "<closed>"),
    (re.compile(r"EXC (?:ConnectionResetError|BrokenPipeError) \[Errno \d+\] [A-Z][a-z ]+"), "EXC <closed>"),
    (re.compile(r"EXC Closed EOF.*"), "EXC <closed>"),
    (re.compile(r"\"<closed>\""), "'<closed>'"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A comparable answer: its text, and the seconds that stood in it where the text now says TIME."""

    text: str
    times_s: tuple[float, ...] = ()

    def agrees(self, other: "Answer") -> bool:
        """Equal text, and no time more than `EARLY_S` before or `LATE_S` behind its counterpart in `other`."""
        return (
            self.text == other.text
            and len(self.times_s) == len(other.times_s)
            and all(-EARLY_S <= a - b <= LATE_S for a, b in zip(self.times_s, other.times_s, strict=True))
        )

    def __str__(self) -> str:
        return self.text if not self.times_s else f"{self.text} [{', '.join(f'{t:.1f} s' for t in self.times_s)}]"


def parse(output: str) -> dict[tuple[str, int], str]:
    """A probe's output -> {(question, occurrence from 1): raw answer}. A line of another shape continues an answer."""
    answers: dict[tuple[str, int], str] = {}
    last: tuple[str, int] | None = None
    for line in output.splitlines():
        if (found := _LINE.match(line)) is None:
            if last is not None:
                answers[last] += f"\n{line}"
            continue
        question, answer = found["question"], found["answer"] or ""
        if question == "EXC" and (raised := _RAISED.match(answer)) is not None:
            question, answer = raised["question"], raised["error"]
        occurrence = 1 + sum(1 for known, _ in answers if known == question)
        last = (question, occurrence)
        answers[last] = answer
    return answers


def normalise(question: str, answer: str, vhost: str) -> Answer:
    """One raw answer of a run in `vhost`, comparable with the answer of any other run."""
    text = re.sub(rf"vhost (\\*'){re.escape(vhost)}(\\*')", rf"vhost \1{VHOST}\2", answer)
    for pattern, replacement in _ANYWHERE:
        text = pattern.sub(replacement, text)
    for start, rule in _BY_QUESTION:
        if question.startswith(start):
            return rule(text)
    return Answer(text)


def _timed(text: str) -> Answer:
    """Seconds such as 3.00s, '3.0s' or a bare 3.0 at the end."""
    pattern = re.compile(r"\b(\d+\.\d+)(?:s\b|$)")
    return Answer(pattern.sub(TIME, text), tuple(float(found) for found in pattern.findall(text)))


def _heartbeats(text: str) -> Answer:
    """How many heartbeats arrived before the end is a race at the last one: keep what came, the pace, and the end."""
    events = re.findall(r"\((\"[^\"]*\"|'[^']*'|<closed>|[A-Za-z]+\([^)]*\)), (\d+\.\d+)\)", text)
    beats_s = [float(at) for what, at in events if "frame type=8 ch=0 b''" in what]
    others = [(what, float(at)) for what, at in events if "frame type=8 ch=0 b''" not in what]
    if not beats_s or not others:
        return Answer(text)
    pace_s = (beats_s[-1] - beats_s[0]) / max(1, len(beats_s) - 1)
    return Answer(f"heartbeats every TIME, then {[what for what, _ in others]} at TIME", (pace_s, others[-1][1]))


def _acks_only(text: str) -> Answer:
    """How confirms are coalesced is the broker's choice; here only that nothing but basic.ack came."""
    methods = re.findall(r"method (\d+\.\d+) ", text)
    return Answer("basic.ack only" if methods and set(methods) == {"60.80"} else text)


def _any_delivery(text: str) -> Answer:
    """Besides the one published, a message requeued by a connection just gone may arrive: only none or some counts."""
    return Answer("some" if text.isdigit() and int(text) else text)


def _who_first(text: str) -> Answer:
    """The probe stops at the first batch its client library hands over: keep each consumer once, in order."""
    seen: list[str] = []
    for name in re.findall(r"\('(lo|hi)', b'\d'\)", text):
        if name not in seen:
            seen.append(name)
    return Answer(f"delivered to {seen}" if seen else text)


def _active_first(text: str) -> Answer:
    """As above: keep which consumer was served first, and how the exclusive consume was answered."""
    found = re.match(r"\(\[(\d)[^\]]*\], (.*)\)$", text)
    return Answer(f"first served: {found[1]}; exclusive: {found[2]}" if found else text)


def _mechanisms(text: str) -> Answer:
    """The order of SASL mechanisms is that of an unordered table."""
    found = re.search(r" b'([A-Z -]+)' b'en_US'$", text)
    if found is None:
        return Answer(text)
    return Answer(f"{text[: found.start()]} {' '.join(sorted(found[1].split()))} b'en_US'")


_BY_QUESTION: tuple[tuple[str, Callable[[str], Answer]], ...] = (
    ("start", _mechanisms),
    ("bad-password", _timed),
    ("tune-ok", _timed),
    ("unknown mech", _timed),
    ("idle before header", _timed),
    ("heartbeat=1, client silent", _heartbeats),
    ("confirms for 20 transient", _acks_only),
    ("no_local ignored?", _any_delivery),
    ("consumer priority", _who_first),
    ("SAC; exclusive consume on SAC", _active_first),
)
