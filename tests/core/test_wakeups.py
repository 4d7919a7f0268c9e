"""When each of many wants to be looked at: against a model, and bounded."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.wakeups import Wakeups

NAMES = st.sampled_from("abcd")


@settings(deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just("ask"), NAMES, st.integers(0, 50)), st.tuples(st.just("forget"), NAMES),
                          st.tuples(st.just("take"), st.integers(0, 50)))))  # fmt: skip
def test_each_comes_up_at_the_earliest_time_it_asked_for(steps):
    """Once, never before its time, and not after it was forgotten."""
    wakeups, model = Wakeups(), {}
    for step, *what in steps:
        if step == "ask":
            name, due_ms = what
            wakeups.ask(name, due_ms)
            model[name] = min(due_ms, model.get(name, due_ms))
        elif step == "forget":
            wakeups.forget(what[0])
            model.pop(what[0], None)
        else:
            due = [name for name, due_ms in model.items() if due_ms <= what[0]]
            taken = wakeups.take(what[0])
            assert (taken is None) == (not due)
            if taken is not None:
                assert model[taken] == min(model.values())
                del model[taken]
        assert wakeups.next_ms == min(model.values(), default=None)


def test_asking_again_and_again_takes_no_memory():
    """Ever earlier times, and names that come and go."""
    wakeups = Wakeups()
    for due_ms in range(100_000, 0, -1):
        wakeups.ask("a", due_ms)
    assert len(wakeups) < 100
    for number in range(100_000):
        wakeups.ask(f"n{number}", number)
        wakeups.forget(f"n{number}")
    assert len(wakeups) < 100
