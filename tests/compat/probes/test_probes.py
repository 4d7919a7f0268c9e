"""The oracle: awkward questions, asked of a broker and held against RabbitMQ's recorded answers."""

import re
from collections import Counter
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
QUESTIONS = [(script, key) for script, answers in RECORDED.items() for key in answers]


@dataclass(frozen=True, slots=True)
class Run:
    """What one broker answered: by script, and by script why it did not end well."""

    answers: dict[str, dict[Key, Answer]]
    failures: dict[str, str]


def _run(pool: Pool) -> Run:
    vhosts = {script: pool.fresh().vhost for script in SCRIPTS}
    vhosts["permissions"] = PROBE_VHOST_OF_READER
    return Run(*run_probes(pool.broker.host, pool.broker.port, vhosts))


@pytest.fixture(scope="session")
def jackalope_run(jackalope: Pool) -> Run:
    return _run(jackalope)


@pytest.fixture(scope="session")
def control_run(rabbitmq: Pool) -> Run:
    return _run(rabbitmq)


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
    if listed.pattern is None:
        assert actual.text == listed.answer
    else:
        assert re.fullmatch(listed.pattern, actual.text), f"\nours:   {actual}\nlisted: {listed.pattern}"


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
        pytest.skip(f"no recorded answers of {version}")
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
