"""The oracle: awkward questions, asked of a broker and held against RabbitMQ's recorded answers."""

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from compat_brokers import PROBE_VHOST_OF_READER, Pool, installed_rabbitmq
from normalise import Answer
from probe_runs import (
    RECORDED_OF,
    SCRIPTS,
    TARGET,
    Difference,
    Key,
    differences,
    recorded,
    recorded_versions,
    run_probes,
)

RECORDED = {script: recorded(script, RECORDED_OF.get(script, TARGET)) for script in SCRIPTS}
DIFFERENCES = differences()
BY_KEY: dict[tuple[str, Key], Difference] = {(d.script, (d.question, d.occurrence)): d for d in DIFFERENCES}
PATIENCES = (1, 2, 4, 4)  # Not more: no handshake that a script leaves off may time out (10 s) within a wait of 1 s.
QUESTIONS = [(script, key) for script, answers in RECORDED.items() for key in answers]


@dataclass(frozen=True, slots=True)
class Run:
    """What one broker answered: by script, and by script why it did not end well."""

    answers: dict[str, dict[Key, Answer]]
    failures: dict[str, str]


def _run(pool: Pool, expected: Mapping[str, Mapping[Key, Answer]], is_right: Callable[[str, Key, Answer], bool]) -> Run:
    """Ask everything; a script with an answer that is not right again, more patiently, until all are or patience ends.

    The scripts take silence for an answer after half a second or so, and on a busy machine that says little. An answer
    that was right stays; one that is wrong however long the script waits is wrong.
    """
    run = Run({}, {})
    scripts = list(SCRIPTS)
    for patience in PATIENCES:
        vhosts = {script: pool.fresh().vhost for script in scripts}
        if "permissions" in vhosts:
            vhosts["permissions"] = PROBE_VHOST_OF_READER
        answers, failures = run_probes(pool.broker.host, pool.broker.port, vhosts, patience)
        for script in list(scripts):
            earlier = run.answers.get(script, {})
            right = {key: answer for key, answer in earlier.items() if is_right(script, key, answer)}
            found = run.answers[script] = {**answers[script], **right}
            run.failures.pop(script, None)
            if script in failures:
                run.failures[script] = failures[script]
            elif set(found) >= set(expected.get(script, {})) and all(is_right(script, *one) for one in found.items()):
                scripts.remove(script)
        if not scripts:
            break
    return run


def _as_recorded_or_listed(script: str, key: Key, answer: Answer) -> bool:
    expected = RECORDED[script].get(key)
    listed = BY_KEY.get((script, key))
    if expected is None or listed is None:
        return expected is not None and answer.agrees(expected)
    return not answer.agrees(expected) and listed.allows(answer)


@pytest.fixture(scope="session")
def jackalope_run(jackalope: Pool) -> Run:
    return _run(jackalope, RECORDED, _as_recorded_or_listed)


@pytest.fixture(scope="session")
def control_run(rabbitmq: Pool) -> Run:
    version = installed_rabbitmq(rabbitmq)
    expected = {}
    for script in SCRIPTS:
        with contextlib.suppress(FileNotFoundError):
            expected[script] = recorded(script, version)

    def as_recorded(script: str, key: Key, answer: Answer) -> bool:
        return script not in expected or (key in expected[script] and answer.agrees(expected[script][key]))

    return _run(rabbitmq, expected, as_recorded)


def _name(value: object) -> str:
    return f"{value[0]}#{value[1]}" if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("script", "key"), QUESTIONS, ids=_name)
def test_answers_as_rabbitmq_4_or_as_listed(jackalope_run: Run, script: str, key: Key) -> None:
    """Every answer is RabbitMQ 4.0.5's, unless differences.yaml lists it; a listed one must still occur."""
    expected = RECORDED[script][key]
    actual = jackalope_run.answers[script].get(key)
    assert actual is not None, f"no answer; the script ended with {jackalope_run.failures.get(script, 'status 0')}"
    listed = BY_KEY.get((script, key))
    if listed is None:
        assert actual.agrees(expected), f"\nours:     {actual}\nRabbitMQ: {expected}"
        return
    assert not actual.agrees(expected), f"listed in differences.yaml, but RabbitMQ answers the same: {actual}"
    assert listed.allows(actual), f"\nours:   {actual}\nlisted: {listed.answer or listed.pattern}"


def test_asks_nothing_that_has_no_recorded_answer(jackalope_run: Run) -> None:
    """A question that appears only with us (a script that went another way) is a difference as well."""
    answers = jackalope_run.answers
    extra = [(script, key) for script in SCRIPTS for key in answers[script] if key not in RECORDED[script]]
    assert extra == []


def test_every_script_ends_well(jackalope_run: Run) -> None:
    """A script that dies half way has left questions unasked."""
    assert jackalope_run.failures == {}


def test_listed_differences_name_questions_and_give_reasons() -> None:
    """A list that has drifted from the questions holds nothing."""
    assert [d for d in DIFFERENCES if (d.script, (d.question, d.occurrence)) not in set(QUESTIONS)] == []
    times = Counter((d.script, d.question, d.occurrence) for d in DIFFERENCES)
    assert [key for key, count in times.items() if count > 1] == []
    assert [d for d in DIFFERENCES if (d.answer is None) == (d.pattern is None)] == []
    assert [d for d in DIFFERENCES if len(d.reason) < 20] == []


@pytest.mark.control
@pytest.mark.parametrize("script", SCRIPTS)
def test_control_answers_as_recorded(control_run: Run, rabbitmq: Pool, script: str) -> None:
    """The harness is sound: RabbitMQ itself passes it without a single difference against its own version's record."""
    version = installed_rabbitmq(rabbitmq)
    if version not in recorded_versions():
        pytest.skip(f"no recorded answers of {version}")  # Another Debian's: what it answers nobody has looked at.
    try:
        expected = recorded(script, version)
    except FileNotFoundError:
        pytest.skip(f"{script} was not recorded against {version}")
    assert control_run.failures.get(script) is None
    answers = control_run.answers[script]
    different = [
        f"{key}\n  now:      {answers.get(key)}\n  recorded: {expected.get(key)}"
        for key in {**expected, **answers}
        if key not in answers or key not in expected or not answers[key].agrees(expected[key])
    ]
    assert not different, "\n".join(different)
