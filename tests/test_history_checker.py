"""The checker of the fault tests finds each way in which a broker may break its word, and nothing in a good history."""

import pytest

from tests.faults.history import (
    ACKED,
    CONFIRMED,
    KEPT,
    NACKED,
    SURELY_ACKED,
    UNKNOWN,
    Delivery,
    History,
    Publish,
    check,
    make_body,
    read_body,
    summary,
)


def good():
    """Three messages, each delivered once, in order."""
    history = History()
    for sequence in range(3):
        history.publishes.append(Publish(f"p-q-{sequence}", "p", "q", sequence, CONFIRMED))
        history.deliveries.append(Delivery(f"p-q-{sequence}", "q", True, False, ACKED))
    return history


def names(history, **options):
    return [name for name, _ in check(history, **options)]


def test_a_good_history_has_no_findings():
    assert check(good()) == []
    assert check(History()) == []


def test_a_confirmed_message_that_never_comes_is_lost():
    history = good()
    del history.deliveries[1]
    assert names(history) == ["lost"]
    assert names(history, drained=False) == []


def test_a_confirmed_message_that_is_gone_before_its_ack_is_lost():
    history = good()
    history.deliveries[1].settled = KEPT
    assert names(history) == ["lost"]


@pytest.mark.parametrize("outcome", [NACKED, UNKNOWN])
@pytest.mark.parametrize("delivered", [True, False])
def test_what_was_not_confirmed_may_have_happened_or_not(outcome, delivered):
    history = good()
    history.publishes[1].outcome = outcome
    if not delivered:
        del history.deliveries[1]
    assert check(history) == []


def test_a_damaged_body_is_corrupt_and_does_not_count_as_delivered():
    history = good()
    history.deliveries[1].intact = False
    assert names(history) == ["corrupt", "lost"]


@pytest.mark.parametrize(("name", "queue"), [("p-q-7", "q"), ("p-q-1", "other")])
def test_a_message_of_nobody_or_of_another_queue_is_a_stranger(name, queue):
    history = good()
    history.deliveries.append(Delivery(name, queue, True, False, ACKED))
    assert names(history) == ["stranger"]


@pytest.mark.parametrize("settled", [KEPT, ACKED])
def test_a_second_delivery_has_to_be_marked(settled):
    history = good()
    history.deliveries[1].settled = settled
    history.deliveries.append(Delivery("p-q-1", "q", True, True, ACKED))
    assert check(history) == []
    history.deliveries[-1].redelivered = False
    assert names(history) == ["unmarked"]


def test_a_message_whose_ack_was_durable_never_comes_again():
    history = good()
    history.deliveries[1].settled = SURELY_ACKED
    history.deliveries.append(Delivery("p-q-1", "q", True, True, ACKED))
    assert names(history) == ["returned"]
    history.deliveries[-1].redelivered = False
    assert names(history) == ["returned", "unmarked"]
    history.deliveries.append(Delivery("p-q-1", "q", True, True, KEPT))
    assert names(history) == ["returned", "unmarked", "returned"]


def test_a_first_delivery_may_be_marked():
    """After a kill nobody knows what was on its way."""
    history = good()
    history.deliveries[1].redelivered = True
    assert check(history) == []


def test_first_deliveries_of_a_publisher_and_queue_ascend():
    history = good()
    history.deliveries[1], history.deliveries[2] = history.deliveries[2], history.deliveries[1]
    assert names(history) == ["disorder"]


def test_a_second_delivery_may_come_behind_others_and_other_lanes_are_not_compared():
    history = good()
    history.deliveries[0].settled = KEPT
    history.deliveries.append(Delivery("p-q-0", "q", True, True, ACKED))
    for publisher, queue in (("p", "r"), ("o", "q")):
        name = f"{publisher}-{queue}-0"
        history.publishes.append(Publish(name, publisher, queue, 0, CONFIRMED))
        history.deliveries.append(Delivery(name, queue, True, False, ACKED))
    assert check(history) == []


def test_ids_are_unique():
    history = good()
    history.publishes.append(history.publishes[0])
    with pytest.raises(AssertionError, match="unique"):
        check(history)


def test_a_body_proves_itself_at_every_octet():
    body = make_body(Publish("p-q-5", "p", "q", 5), b"filler")
    assert read_body(body) == ("p-q-5", True)
    for position in range(len(body)):
        assert not read_body(body[:position])[1]
        assert not read_body(body[:position] + bytes((body[position] ^ 1,)) + body[position + 1 :])[1]


def test_a_summary_counts_and_shows_some():
    history = good()
    history.deliveries.clear()
    text = summary(check(history), at_most=1)
    assert "'lost': 3" in text
    assert text.count("never delivered") == 1
