"""pika against exchanges and queues: bindings between exchanges, lifetimes, the rules for consumers."""

from typing import Any

import pika
import pytest
from compat_brokers import Target
from pika_sessions import bodies, connected, depth, get, opened, stay, wait_for
from waiting import wait_until


def _refused(channel: Any, call: Any, code: int) -> str:
    """The reply text with which the broker closed the channel on `call`; its code must be `code`."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        call(channel)
    assert closed.value.reply_code == code
    assert channel.is_closed
    return str(closed.value.reply_text)


def test_exchange_to_exchange(broker: Target) -> None:
    """A binding between exchanges routes on with the original key; a loop and two paths give one copy a queue."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        for name in ("in", "left", "right"):
            channel.exchange_declare(name, "fanout" if name == "in" else "topic")
        channel.exchange_bind("left", "in")
        channel.exchange_bind("right", "in")
        channel.exchange_bind("in", "right", "#")
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "left", "a.*")
        channel.queue_bind(queue, "right", "#")
        channel.basic_publish("in", "a.b", b"1")
        channel.basic_publish("in", "z", b"2")
        assert bodies(channel, queue) == [b"1", b"2"]
        channel.exchange_unbind("right", "in")
        channel.basic_publish("in", "z", b"3")
        assert bodies(channel, queue) == []


def test_alternate_exchange(broker: Target) -> None:
    """What an exchange cannot route goes to its alternate, and is then not returned."""
    with opened(broker) as channel:
        channel.confirm_delivery()
        channel.exchange_declare("unrouted", "fanout")
        channel.exchange_declare("main", "direct", arguments={"alternate-exchange": "unrouted"})
        queue = channel.queue_declare("", exclusive=True).method.queue
        known = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "unrouted")
        channel.queue_bind(known, "main", "known")
        channel.basic_publish("main", "known", b"1", mandatory=True)
        channel.basic_publish("main", "unknown", b"2", mandatory=True)
        assert bodies(channel, known) == [b"1"]
        assert bodies(channel, queue) == [b"2"]


def test_consumer_cancel_notification(broker: Target) -> None:
    """When its queue is deleted a consumer is told, and its channel lives on."""
    with connected(broker) as connection, opened(broker) as other:
        channel = connection.channel()
        channel.queue_declare("doomed")
        cancelled: list[str] = []
        channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
        tag = channel.basic_consume("doomed", lambda *_: None)
        other.queue_delete("doomed")
        wait_for(connection, lambda: cancelled == [tag])
        assert channel.queue_declare("", exclusive=True).method.queue


def test_consumer_priorities(broker: Target) -> None:
    """The higher priority gets everything until its prefetch is full; then the lower one."""
    with connected(broker) as connection, opened(broker) as publisher:
        channel = connection.channel()
        channel.queue_declare("vip")
        got: list[tuple[str, bytes]] = []

        def taker(name: str) -> Any:
            return lambda _c, _m, _p, body: got.append((name, body))

        channel.basic_qos(prefetch_count=10)
        channel.basic_consume("vip", taker("low"), arguments={"x-priority": -1})
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume("vip", taker("high"), arguments={"x-priority": 10})
        for number in range(4):
            publisher.basic_publish("", "vip", b"%d" % number)
        wait_for(connection, lambda: len(got) == 4)
        assert sorted(got) == [("high", b"0"), ("high", b"1"), ("low", b"2"), ("low", b"3")]


def test_round_robin_keeps_the_order_on_a_channel(broker: Target) -> None:
    """Two consumers of one queue on one channel take turns, and its messages keep their order (spec 4.7)."""
    with connected(broker) as connection, opened(broker) as publisher:
        channel = connection.channel()
        channel.queue_declare("turns")
        got: list[tuple[str, int]] = []
        for name in ("a", "b"):
            channel.basic_consume(
                "turns", lambda _c, _m, _p, body, name=name: got.append((name, int(body))), auto_ack=True
            )
        for number in range(200):
            publisher.basic_publish("", "turns", b"%d" % number)
        wait_for(connection, lambda: len(got) == 200)
        assert [number for _, number in got] == list(range(200))
        assert [name for name, _ in got] == ["a", "b"] * 100


def test_single_active_consumer(broker: Target) -> None:
    """One consumer at a time; the next in order of registration takes over when it goes."""
    with connected(broker) as first, connected(broker) as second, opened(broker) as publisher:
        publisher.queue_declare("single", arguments={"x-single-active-consumer": True})
        got: list[tuple[str, bytes]] = []
        for name, connection in (("first", first), ("second", second)):
            connection.channel().basic_consume(
                "single", lambda _c, _m, _p, body, name=name: got.append((name, body)), auto_ack=True
            )
        publisher.basic_publish("", "single", b"1")
        publisher.basic_publish("", "single", b"2")
        wait_for(first, lambda: len(got) == 2)
        stay(second, 0.1)
        assert got == [("first", b"1"), ("first", b"2")]
        first.close()
        publisher.basic_publish("", "single", b"3")
        wait_for(second, lambda: len(got) == 3)
        assert got[-1] == ("second", b"3")


def test_exclusive_consumer(broker: Target) -> None:
    """An exclusive consumer keeps others out (403) until it is cancelled."""
    with opened(broker) as owner, connected(broker) as other:
        owner.queue_declare("mine")
        tag = owner.basic_consume("mine", lambda *_: None, exclusive=True)
        text = _refused(other.channel(), lambda channel: channel.basic_consume("mine", lambda *_: None), 403)
        assert text == f"ACCESS_REFUSED - queue 'mine' in vhost '{broker.vhost}' in exclusive use"
        owner.basic_cancel(tag)
        other.channel().basic_consume("mine", lambda *_: None)


def test_server_named_and_exclusive_queues(broker: Target) -> None:
    """amq.gen- names are unique; an exclusive queue is locked to others (405) and goes with its connection."""
    with connected(broker) as owner, connected(broker) as other:
        channel = owner.channel()
        names = {channel.queue_declare("", exclusive=True).method.queue for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("amq.gen-") for name in names)
        queue = names.pop()
        text = _refused(other.channel(), lambda channel: channel.queue_declare(queue, passive=True), 405)
        assert text.startswith(f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}'")
        publisher = other.channel()
        publisher.confirm_delivery()
        publisher.basic_publish("", queue, b"allowed", mandatory=True)
        assert bodies(channel, queue) == [b"allowed"]
        owner.close()

        def refusal() -> int:
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
                other.channel().queue_declare(queue, passive=True)
            return int(closed.value.reply_code)

        assert wait_until(lambda: (code := refusal()) != 405 and code) == 404


def test_passive_declares(broker: Target) -> None:
    """A passive declare counts what is there and answers 404 for what is not, closing only its channel."""
    with connected(broker) as connection:
        channel = connection.channel()
        channel.queue_declare("present")
        channel.confirm_delivery()
        channel.basic_publish("", "present", b"1")
        declared = channel.queue_declare("present", passive=True).method
        assert (declared.message_count, declared.consumer_count) == (1, 0)
        vhost = broker.vhost
        text = _refused(connection.channel(), lambda c: c.queue_declare("absent", passive=True), 404)
        assert text == f"NOT_FOUND - no queue 'absent' in vhost '{vhost}'"
        text = _refused(connection.channel(), lambda c: c.exchange_declare("absent", passive=True), 404)
        assert text == f"NOT_FOUND - no exchange 'absent' in vhost '{vhost}'"
        assert depth(channel, "present") == 1


def test_inequivalent_declares(broker: Target) -> None:
    """Declaring again with other properties is 406 and names the argument; the same again is fine."""
    with connected(broker) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True, arguments={"x-max-length": 5})
        channel.queue_declare("q", durable=True, arguments={"x-max-length": 5})
        text = _refused(connection.channel(), lambda c: c.queue_declare("q", arguments={"x-max-length": 5}), 406)
        assert "inequivalent arg 'durable'" in text
        text = _refused(connection.channel(), lambda c: c.queue_declare("q", durable=True), 406)
        assert text.endswith("received none but current is the value '5' of type 'signedint'")
        other = {"x-max-length": 6}
        text = _refused(connection.channel(), lambda c: c.queue_declare("q", durable=True, arguments=other), 406)
        assert text == (
            f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '{broker.vhost}': "
            "received '6' but current is '5'"
        )
        channel.exchange_declare("x", "topic")
        text = _refused(connection.channel(), lambda c: c.exchange_declare("x", "fanout"), 406)
        assert "inequivalent arg 'type'" in text


def test_auto_delete(broker: Target) -> None:
    """An auto-delete queue goes with its last consumer, an auto-delete exchange with its last binding."""
    with connected(broker) as connection:
        channel = connection.channel()
        channel.exchange_declare("brief", "fanout", auto_delete=True)
        channel.queue_declare("brief", auto_delete=True)
        channel.queue_bind("brief", "brief")
        channel.basic_cancel(channel.basic_consume("brief", lambda *_: None))
        _refused(connection.channel(), lambda c: c.queue_declare("brief", passive=True), 404)
        _refused(connection.channel(), lambda c: c.exchange_declare("brief", passive=True), 404)


def test_delete_if_unused_and_if_empty(broker: Target) -> None:
    """Conditional deletes are refused with 406 while the condition does not hold, then done."""
    with connected(broker) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q")
        channel.exchange_declare("x", "fanout")
        channel.queue_bind("q", "x")
        channel.basic_publish("x", "", b"1")
        _refused(connection.channel(), lambda c: c.queue_delete("q", if_empty=True), 406)
        _refused(connection.channel(), lambda c: c.exchange_delete("x", if_unused=True), 406)
        tag = channel.basic_consume("q", lambda *_: None)
        _refused(connection.channel(), lambda c: c.queue_delete("q", if_unused=True), 406)
        channel.basic_cancel(tag)
        channel.basic_recover(requeue=True)
        assert channel.queue_purge("q").method.message_count == 1
        assert channel.queue_delete("q", if_unused=True, if_empty=True).method.message_count == 0
        channel.exchange_delete("x", if_unused=True)


def test_recover_redelivers(broker: Target) -> None:
    """basic.recover(requeue) puts unacknowledged messages back, marked."""
    with opened(broker) as channel:
        channel.queue_declare("q")
        channel.basic_publish("", "q", b"1")
        assert not get(channel, "q")[0].redelivered
        channel.basic_recover(requeue=True)
        assert get(channel, "q")[0].redelivered


def test_prefetch_per_consumer_and_per_channel(broker: Target) -> None:
    """qos limits each consumer started after it; with global it caps the channel."""
    with connected(broker) as connection, opened(broker) as publisher:
        publisher.queue_declare("q")
        publisher.confirm_delivery()
        for number in range(20):
            publisher.basic_publish("", "q", b"%d" % number)
        for is_global, total in ((False, 6), (True, 5)):
            channel = connection.channel()
            got: list[list[bytes]] = [[], []]
            channel.basic_qos(prefetch_count=5 if is_global else 3, global_qos=is_global)
            for taken in got:
                channel.basic_consume("q", lambda _c, _m, _p, body, taken=taken: taken.append(body))
            wait_for(connection, lambda got=got, total=total: sum(map(len, got)) >= total)
            stay(connection, 0.15)
            counts = [len(taken) for taken in got]
            assert sum(counts) == total
            assert is_global or counts == [3, 3]
            channel.close()
        wait_until(lambda: depth(publisher, "q") >= 20, lambda: depth(publisher, "q"))
        assert depth(publisher, "q") == 20
