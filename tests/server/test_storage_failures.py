"""A broker process whose directory is damaged, or goes, or that meets what nobody expected, as its operator sees it."""

import contextlib
import shutil
import subprocess
import sys

import pika
import pytest
from waiting import HANG_S

from tests.faults.load import PERSISTENT, connected, exit_code
from tools.bench.control import REPOSITORY, running_jackalope

STORAGE_FAILED, OWN_ERROR = 74, 70


def publish(broker, count=1):
    """Confirmed messages in a durable queue."""
    with contextlib.closing(connected(broker)) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        for _ in range(count):
            channel.basic_publish("", "q", b"x", PERSISTENT)


def serve(directory):
    """A start that is expected to be refused: (exit code, stderr)."""
    argv = [sys.executable, "-m", "tools.cli.main", "serve", "--data", str(directory / "data")]
    argv += ["--set", "listeners.amqp=127.0.0.1:0", "--set", "listeners.http=off", "--set", "listeners.kafka=off"]
    done = subprocess.run(
        argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANG_S, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stderr


def broken(statements):
    """The command of a broker in which something was replaced."""
    script = f"import sys\nfrom tools.cli.main import main\n{statements}\nsys.argv[0] = 'jackalope'\nmain()\n"
    return (sys.executable, "-c", script, "serve")


def said(directory):
    """What a broker wrote to stderr, and how often as critical."""
    text = (directory / "stderr.log").read_text()
    return text, text.count(" CRITICAL ")


def test_a_lost_journal_is_refused(tmp_path):
    """One line with the file's name and exit code 1; with the file put back everything is there."""
    with running_jackalope(directory=tmp_path, http=False) as broker:
        publish(broker)
    [journal] = (tmp_path / "data" / "journal").iterdir()
    journal.rename(tmp_path / "kept")
    code, errors = serve(tmp_path)
    assert code == 1
    assert errors.startswith(f"jackalope: the journal that should begin at position 0 (journal/{journal.name}) is not")
    assert errors.count("\n") == 1
    (tmp_path / "kept").rename(journal)
    with running_jackalope(directory=tmp_path, http=False) as broker:
        connection = connected(broker)
        assert connection.channel().queue_declare("q", passive=True).method.message_count == 1
        connection.close()


def test_stray_files_and_a_new_file_system(tmp_path):
    """lost+found is no stranger; what others leave in our folders is told in one line and left alone."""
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    with running_jackalope(directory=tmp_path, http=False):
        pass
    for name in ("journal/.DS_Store", "logs/.DS_Store"):
        (tmp_path / "data" / name).write_text("x")
    with running_jackalope(directory=tmp_path, http=False):
        pass
    text, _ = said(tmp_path)
    assert "left alone, not the broker's: journal/.DS_Store, logs/.DS_Store\n" in text
    assert text.count("WARNING") == 1


@pytest.mark.parametrize("keep_root", [False, True])
def test_the_directory_goes(tmp_path, keep_root):
    """It is a storage failure like any other: one line, exit code 74, and soon, not when the next file is begun."""
    with running_jackalope(directory=tmp_path, http=False) as broker:
        publish(broker)
        data = tmp_path / "data"
        for path in list(data.iterdir()) if keep_root else [data]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert exit_code(broker.root_pid) == STORAGE_FAILED
        text, criticals = said(tmp_path)
    assert criticals == 1
    assert "CRITICAL jackalope.storage storage failed, stopping: [Errno 2]" in text
    assert "Traceback" not in text


TICKER = """
from broker.log.errors import Corrupt
from broker.server.amqp.hub import AmqpHub
from broker.server.amqp.state import State
from broker.server.ticker import Ticker
owner = {owner}
real = owner.{method}
def fall(self, *arguments):
    face = self if isinstance(self, AmqpHub) else self._hub.amqp
    if face is not None and any(one.state is State.RUNNING for one in face.connections):
        raise {error}
    real(self, *arguments)
owner.{method} = fall
"""


@pytest.mark.parametrize(
    ("owner", "method", "error", "code", "line"),
    [
        ("Ticker", "_tick", "KeyError('ours')", OWN_ERROR, "an error of the broker's own"),
        ("Ticker", "_tick", "Corrupt('x is bad')", STORAGE_FAILED, "storage failed, stopping: x is bad"),
        ("Ticker", "_tick", "OSError(5, 'bad')", STORAGE_FAILED, "storage failed, stopping: [Errno 5] bad"),
        # Where nobody expects storage to say anything: it is a job of the scheduler, and most of those read the disk.
        ("AmqpHub", "_watch", "KeyError('ours')", OWN_ERROR, "an error of the broker's own"),
        ("AmqpHub", "_watch", "Corrupt('x is bad')", STORAGE_FAILED, "storage failed, stopping: x is bad"),
        ("AmqpHub", "_watch", "OSError(5, 'bad')", STORAGE_FAILED, "storage failed, stopping: [Errno 5] bad"),
    ],
)
def test_what_the_ticker_meets(tmp_path, owner, method, error, code, line):
    """The process ends at once and says why once, with a traceback when it is the broker's own error."""
    command = broken(TICKER.format(owner=owner, method=method, error=error))
    with running_jackalope(directory=tmp_path, http=False, command=command) as broker:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connected(broker).process_data_events(HANG_S)
        assert exit_code(broker.root_pid) == code
        text, criticals = said(tmp_path)
    assert criticals == 1
    assert line in text
    assert ("Traceback" in text) == (code == OWN_ERROR)


WRITER = """
from broker.log.journal import Write
real = Write.run
def fall(write):
    if b"poison" in b"".join(write.parts):
        raise AssertionError("ours")
    real(write)
Write.run = fall
"""


def test_an_error_of_ours_in_the_journals_thread(tmp_path):
    """Nobody waits for a thread that has ended: what was in flight is refused, and the process ends."""
    with running_jackalope(directory=tmp_path, http=False, command=broken(WRITER)) as broker:
        publish(broker)
        connection = connected(broker)
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises((pika.exceptions.NackError, pika.exceptions.AMQPConnectionError)):
            channel.basic_publish("", "q", b"poison", PERSISTENT)
        with contextlib.suppress(pika.exceptions.AMQPError):
            if connection.is_open:
                connection.process_data_events(HANG_S)
        assert exit_code(broker.root_pid) == STORAGE_FAILED
        text, criticals = said(tmp_path)
    assert criticals == 1
    assert "Traceback" in text
    with running_jackalope(directory=tmp_path, http=False) as broker:
        connection = connected(broker)
        assert connection.channel().queue_declare("q", passive=True).method.message_count == 1
        connection.close()
