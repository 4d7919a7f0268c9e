"""The benchmark's pure parts: what it renders, how it counts, and its arithmetic. No broker, no socket."""

import os
import signal
import struct

import pytest

from tools.bench import frames
from tools.bench.amqp import parse_url
from tools.bench.board import Board, Phase
from tools.bench.control import parse_ready_line
from tools.bench.link import Target
from tools.bench.measure import target_of
from tools.bench.processes import Busy, only_one, orderly_end
from tools.bench.report import ratios, row_of, sample_json, spread, verdicts
from tools.bench.scenarios import SCENARIOS, Goal, Load
from tools.bench.window import Sample, Unavailable, percentile
from tools.bench.workers import CHUNK_BYTES, LOADS, Job, render_chunk, render_message


def split_frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """An independent reading of a frame stream: (type, channel, payload) each, with every frame end checked."""
    found, at = [], 0
    while at < len(data):
        kind, channel, size = struct.unpack_from(">BHI", data, at)
        assert data[at + 7 + size] == 0xCE
        found.append((kind, channel, data[at + 7 : at + 7 + size]))
        at += size + 8
    return found


def deliver(tag: int, body: bytes = b"x" * 100, key: str = "orders") -> bytes:
    arguments = frames.shortstr("c00") + struct.pack(">QB", tag, 0) + frames.shortstr("") + frames.shortstr(key)
    header = frames.frame(2, 1, struct.pack(">HHQH", 60, 0, len(body), 0))
    return frames.method(1, 60, 60, arguments) + header + (frames.frame(3, 1, body) if body else b"")


def job(name: str) -> Job:
    return Job(Target("127.0.0.1", 5672), SCENARIOS[name], "abcd1234", 0)


class TestFrames:
    def test_publish_bytes(self):
        """basic.publish is the method, the header with the body's size, and the body, each ended by CE (2.3.5)."""
        data = frames.publish("ex", "key", b"hello", channel=3)
        method, header, body = split_frames(data)
        assert method == (1, 3, b"\x00\x3c\x00\x28" + b"\0\0" + b"\x02ex" + b"\x03key" + b"\0")
        assert header == (2, 3, b"\x00\x3c\0\0" + (5).to_bytes(8, "big") + b"\0\0")
        assert body == (3, 3, b"hello")

    def test_body_is_split_at_frame_max(self):
        """No frame is longer than frame-max, its eight bytes of framing included; an empty body has no frame."""
        kinds = split_frames(frames.publish("", "q", b"z" * 9000, frame_bytes_max=4096))
        assert [len(payload) for kind, _, payload in kinds if kind == 3] == [4088, 4088, 824]
        assert [kind for kind, _, _ in split_frames(frames.publish("", "q", b""))] == [1, 2]

    def test_property_flags_follow_the_wire_order(self):
        """content-type is bit 15, and values come in the order of the bits whatever the order of the call."""
        packed = frames.properties(message_id="m", content_type="t", delivery_mode=2)
        assert packed == struct.pack(">H", 1 << 15 | 1 << 12 | 1 << 7) + b"\x01t" + b"\x02" + b"\x01m"
        with pytest.raises(TypeError, match="colour"):
            frames.properties(colour="red")

    def test_field_table_types(self):
        """Each Python type has its type letter; a bool is not an integer."""
        packed = frames.table({"b": True, "i": -1, "l": 2**40, "s": "x", "v": None, "a": [1], "f": {}})
        assert packed[4:] == (
            b"\x01bt\x01" b"\x01iI\xff\xff\xff\xff" b"\x01ll" + (2**40).to_bytes(8, "big") + b"\x01sS\0\0\0\x01x"
            b"\x01vV" b"\x01aA\0\0\0\x05I\0\0\0\x01" b"\x01fF\0\0\0\0"
        )  # fmt: skip
        assert int.from_bytes(packed[:4], "big") == len(packed) - 4
        with pytest.raises(TypeError, match="set"):
            frames.table({"x": {1}})
        with pytest.raises(ValueError, match="256"):
            frames.shortstr("k" * 256)

    def test_celery_properties_are_realistic(self):
        """The block is about the size that Celery sends, and holds the id three times: itself, header id, root."""
        block = frames.celery_properties("0" * 36)
        assert 700 < len(block) < 900
        assert block.count(b"0" * 36) == 3


class TestChunk:
    def test_restamp_changes_every_message_and_nothing_else(self):
        """After a restamp all messages carry the generation at every mark, and keep their own bytes."""
        messages = [b"head-%03d-####-tail-####" % index for index in range(50)]
        chunk = frames.Chunk(messages, b"####")
        for generation in (0, 1, 15, 16, 0xFFFF):
            chunk.restamp(generation)
            stamp = b"%04x" % generation
            assert bytes(chunk.view) == b"".join(message.replace(b"####", stamp) for message in messages)
        with pytest.raises(ValueError, match="does not fit"):
            chunk.restamp(0x10000)

    def test_unequal_messages_are_refused(self):
        """Messages of unequal length, or with the mark elsewhere, cannot be patched by a stride."""
        with pytest.raises(ValueError, match="one length"):
            frames.Chunk([b"a", b"bb"])
        with pytest.raises(ValueError, match="different places"):
            frames.Chunk([b"a##", b"##a"], b"##")
        with pytest.raises(ValueError, match="one length"):
            frames.Chunk([])

    @pytest.mark.parametrize("name", ["uniquekeys", "celery"])
    def test_what_is_to_be_unique_is_unique(self, name):
        """Over generations no routing key (or task id) repeats, and each message stays a valid publish."""
        chunk, seen = render_chunk(job(name), 0, 131072), set()
        assert len(chunk.data) <= CHUNK_BYTES
        for generation in range(3):
            chunk.restamp(generation)
            for _, method, header in _publishes(bytes(chunk.view)):
                seen.add(method if name == "uniquekeys" else header)
        assert len(seen) == 3 * chunk.count

    def test_a_plain_chunk_is_the_message_repeated(self):
        """Without marks every message of a chunk is the same publish to the default exchange."""
        plain = job("autoack")
        chunk = render_chunk(plain, 0, 131072)
        assert bytes(chunk.view) == render_message(plain, 0, 0, 131072) * chunk.count
        assert split_frames(bytes(chunk.view[: chunk.stride]))[0][2].endswith(b"\x12bench.abcd1234.000\0")


def _publishes(data):
    found = split_frames(data)
    for at in range(0, len(found), 3):
        (_, _, method), (_, _, header), (_, _, body) = found[at : at + 3]
        yield body, method, header


class TestAcks:
    def test_the_sheet_is_what_single_acks_would_be(self):
        """Slices of the sheet equal acks rendered one by one, across the borders of its blocks and far beyond."""
        sheet = frames.AckSheet()
        for first, last in ((1, 10), (65530, 65545), (2**33 - 3, 2**33 + 3), (1, 2)):
            sent = b"".join(bytes(part) for part in sheet.slices(first, last))
            assert sent == b"".join(frames.ack(tag) for tag in range(first, last + 1))
        assert list(sheet.slices(5, 4)) == []

    def test_multiple(self):
        """basic.ack is tag and one bit."""
        assert split_frames(frames.ack(7, multiple=True)) == [
            (1, 1, b"\x00\x3c\x00\x50" + (7).to_bytes(8, "big") + b"\x01")
        ]


class TestDeliveryCounter:
    @pytest.mark.parametrize("step", [1, 7, 190, 10_000])
    def test_counts_whole_deliveries_however_they_are_cut(self, step):
        """The count is that of complete deliveries, whatever pieces the bytes come in."""
        data = b"".join(deliver(tag) for tag in range(1, 21))
        counter, total = frames.DeliveryCounter(), 0
        for at in range(0, len(data), step):
            total += counter.feed(memoryview(data)[at : at + step])
            assert counter.count == min(at + step, len(data)) // len(deliver(1)) == total
        assert counter.count == 20

    def test_another_stream_is_refused(self):
        """A close instead of the first delivery, or where a later one must begin, is an error and not a count."""
        close = frames.method(0, 10, 50, struct.pack(">H", 320) + frames.shortstr("bye" * 40) + bytes(4))
        with pytest.raises(frames.StreamError, match="bye"):
            frames.DeliveryCounter().feed(memoryview(close))
        counter = frames.DeliveryCounter()
        counter.feed(memoryview(deliver(1) * 3))
        with pytest.raises(frames.StreamError, match="not a delivery"):
            counter.feed(memoryview(close))

    def test_length_of_a_delivery_in_several_body_frames(self):
        """The length spans all body frames, and is unknown until the last one is there; an empty body has none."""
        head = deliver(1, b"")
        assert frames.delivery_bytes(head) == len(head)
        split = head[: -len(frames.frame(2, 1, bytes(14)))]
        split += frames.frame(2, 1, struct.pack(">HHQH", 60, 0, 10, 0)) + frames.frame(3, 1, b"aaaaaa")
        assert frames.delivery_bytes(split) == 0
        whole = split + frames.frame(3, 1, b"bbbb")
        assert frames.delivery_bytes(whole + deliver(2)) == len(whole)


class TestConfirmCounter:
    @pytest.mark.parametrize(
        ("acks", "prefix", "count"),
        [
            ([(tag, False) for tag in range(1, 601)], 600, 600),
            ([(5, True), (9, True)], 9, 9),
            ([(2, False), (3, False)], 0, 2),
            ([(2, False), (3, False), (1, False)], 3, 3),
            ([(4, False), (6, False), (5, True)], 6, 6),
            ([(3, True), (2, True)], 3, 3),
        ],
    )
    @pytest.mark.parametrize("step", [1, 21, 50, 100_000])
    def test_any_grouping(self, acks, prefix, count, step):
        """Singles in or out of order and multiples give the same count however the bytes are cut."""
        data, counter = b"".join(frames.ack(tag, multiple=multiple) for tag, multiple in acks), frames.ConfirmCounter()
        for at in range(0, len(data), step):
            counter.feed(data[at : at + step], 600)
        assert (counter.prefix, counter.count) == (prefix, count)

    def test_a_nack_is_an_error(self):
        """A broker that refuses a message is not counted as one that confirmed it, first in a batch or later."""
        nack = frames.ack(2).replace(b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78")
        for data in (nack, frames.ack(1) + nack):
            with pytest.raises(frames.StreamError, match="not a confirm"):
                frames.ConfirmCounter().feed(data, 10)

    @pytest.mark.parametrize("acks", [[(1, False), (2, False), (3, False)], [(3, False)], [(3, True)]])
    def test_a_confirm_of_what_was_not_published_is_an_error(self, acks):
        """A tag above those sent would open the window for good and turn the scenario into a flood."""
        data = b"".join(frames.ack(tag, multiple=multiple) for tag, multiple in acks)
        frames.ConfirmCounter().feed(data, 3)
        with pytest.raises(frames.StreamError, match="confirm of 3, published 2"):
            frames.ConfirmCounter().feed(data, 2)


class TestReport:
    def sample(self, rate, cpu_us, p99_us=None, name="ours", **extra):
        cpu_s = None if cpu_us is None else cpu_us * rate * 2 / 1e6
        return Sample(name, "autoack", int(rate * 2), 2.0, cpu_s, 0.1, None, p99_us, extra)

    def test_median_and_spread(self):
        """The median is not moved by one bad run; the spread shows it."""
        found = spread([3.0, 1.0, 2.0, 50.0, 2.5])
        assert (found.median, found.low, found.high) == (2.5, 1.0, 50.0)
        assert spread([]) is None
        assert spread([1.0, None]) is None

    def test_ratio_is_taken_by_alternation(self):
        """A drift of the machine that halves both brokers' rates leaves the ratio alone."""
        found = ratios([600.0, 300.0, 150.0], [100.0, 50.0, 25.0])
        assert (found.median, found.low, found.high) == (6.0, 6.0, 6.0)
        assert ratios([1.0], [None]) is None
        with pytest.raises(ValueError, match="2 runs against 1"):
            ratios([1.0, 2.0], [1.0])

    def test_row(self):
        """A row has both sides' medians, the ratios and whether each goal is met."""
        ours = [self.sample(700_000, 1.4), self.sample(500_000, 1.6), self.sample(600_000, 1.5)]
        theirs = [self.sample(100_000, 15.0, name="theirs") for _ in range(3)]
        row = row_of(SCENARIOS["autoack"], ours, theirs)
        assert row.ours.rate.median == 600_000
        assert row.throughput.median == pytest.approx(6.0)
        assert row.cpu.median == pytest.approx(0.1)
        assert row.verdicts == {"throughput": True, "cpu": True}
        line = row.as_json()
        assert line["broker"]["cpu_us"]["median"] == pytest.approx(1.5)
        assert line["peer"]["name"] == "theirs"
        assert "p99_ratio" not in line

    def test_a_missed_goal_is_a_missed_goal(self):
        """Each goal is judged by its own median, at least or at most; what was not compared has no verdict."""
        goal = Goal(throughput_min=4.0, cpu_max=0.25, p99_max=1.0)
        found = verdicts(goal, spread([3.9, 4.1, 3.8]), spread([0.25, 0.2]), None)
        assert found == {"throughput": False, "cpu": True}
        assert verdicts(goal, None, None, spread([1.2])) == {"p99": False}

    def test_idle_goal(self):
        """With idle connections, CPU per message may be 10% over that without."""
        for ratio, met in ((1.05, True), (1.2, False)):
            row = row_of(SCENARIOS["autoack_idle"], [self.sample(1000, 2.0, cpu_ratio_idle=ratio)], [])
            assert row.verdicts == {"idle": met}

    def test_a_broker_of_unknown_processes_has_no_cpu_figure(self):
        """No CPU figure is better than one of zero."""
        line = sample_json(self.sample(1000, None), 1)
        assert "cpu_us" not in line
        assert line["rate"] == 1000.0

    def test_percentile(self):
        """Nearest rank, in any order of the values."""
        values = list(range(100, 0, -1))
        assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7], 0.99)) == (51.0, 100.0, 7.0)
        with pytest.raises(ValueError, match="no values"):
            percentile([], 0.5)


class TestTables:
    def test_every_scenario_is_runnable(self):
        """Each load that a scenario names exists, the key is its name, and floods have a queue for each connection."""
        from tools.bench import user_clients

        for name, scenario in SCENARIOS.items():
            assert scenario.name == name
            for load in scenario.loads:
                assert load in LOADS or callable(getattr(user_clients, load))
            if "floods" in scenario.loads:
                assert scenario.connections == scenario.queues
        assert set(LOADS) <= set(Load.__args__)

    def test_ready_line(self):
        """Addresses by listener, IPv6 without its brackets; words of another shape are no address."""
        found = parse_ready_line("ready amqp=127.0.0.1:5700 http=[::1]:15672 storage=memory\n")
        assert found == {"amqp": ("127.0.0.1", 5700), "http": ("::1", 15672)}
        with pytest.raises(ValueError, match="not a ready line"):
            parse_ready_line("listening on 5672")

    def test_urls(self):
        """User, password and vhost are percent-decoded; TLS scenarios need a TLS listener."""
        broker = parse_url("amqp://al%40ice:s%2Fecret@127.0.0.1:5700/a%2Fb", pid=1)
        assert (broker.user, broker.password, broker.vhost, broker.port) == ("al@ice", "s/ecret", "a/b", 5700)
        assert parse_url(broker.url).vhost == "a/b"
        assert parse_url("amqp://127.0.0.1").vhost == "/"
        with pytest.raises(ValueError, match="not an AMQP URL"):
            parse_url("http://127.0.0.1:1")
        with pytest.raises(Unavailable, match="TLS"):
            target_of(broker, SCENARIOS["tls"], "ca.pem", "")

    def test_board(self):
        """Counters add up over workers, latencies are kept, and the end of its life stops every loop."""
        board = Board(life_s=60)
        board.set_delivered(0, 5)
        board.set_delivered(3, 7)
        board.set_published(1, 9)
        board.add_latency_ns(1234)
        board.phase = Phase.MEASURE
        assert (board.delivered, board.published, list(board.latencies_ns())) == (12, 9, [1234])
        assert board.running
        assert board.measuring
        board.phase = Phase.STOP
        assert not board.running
        assert not Board(life_s=-1).running


class TestEnding:
    def test_one_bench_at_a_time(self, tmp_path):
        """A second bench is refused while the first runs, and let in afterwards."""
        lock = tmp_path / "lock"
        with only_one(lock), pytest.raises(Busy, match="another bench"), only_one(lock):
            pytest.fail("two at once")
        with only_one(lock):
            assert lock.exists()

    def test_sigterm_unwinds(self):
        """SIGTERM runs the clean-up of what is open, and the old handler is back afterwards."""
        before, cleaned = signal.getsignal(signal.SIGTERM), []

        def work():
            with orderly_end():
                try:
                    os.kill(os.getpid(), signal.SIGTERM)
                    pytest.fail("it went on")
                finally:
                    cleaned.append(True)

        with pytest.raises(SystemExit) as ended:
            work()
        assert ended.value.code == 128 + signal.SIGTERM
        assert cleaned == [True]
        assert signal.getsignal(signal.SIGTERM) is before
