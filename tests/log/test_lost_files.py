"""Files of a data directory that are gone, emptied, too short, or nobody's: what a start says, and harms."""

import itertools
import os
import shutil

import pytest

from broker.log import checkpoint, dump, journal
from broker.log.disk import RealDisk
from broker.log.errors import StorageError
from broker.log.recovery import open_store
from protocol.kafka.records import render_record
from tests.log.store_world import read_all, run_checkpoint

pytestmark = pytest.mark.usefixtures("no_syncs")

GONE = "gone"


class Directory:
    """A data directory and the stores that were opened in it."""

    def __init__(self, root):
        self.root = root
        self.uuids = itertools.count(1)

    def open(self):
        self.store = open_store(RealDisk(self.root), lambda: next(self.uuids).to_bytes(16, "big"))
        return self.store

    def close(self):
        self.store.close()
        self.store.disk.close()

    def names(self, folder="journal"):
        return [f"{folder}/{name}" for name in sorted(os.listdir(self.root / folder))]

    def octets(self):
        return {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file() and path.name != "lock"}

    def refuse(self, pattern):
        """It does not open, says so as `pattern` has it, and leaves everything as it was."""
        before = self.octets()
        real = RealDisk(self.root)
        with pytest.raises(StorageError, match=pattern):
            open_store(real, lambda: bytes(16))
        real.close()
        assert self.octets() == before


@pytest.fixture
def directory(tmp_path):
    """One that no store was opened in so far."""
    return Directory(tmp_path / "data")


def append(store, log, count=1, size=100):
    for _ in range(count):
        log.append(render_record(0, bytes(size)), 1, 0)
    store.flush()


def lose(path, how):
    if how == GONE:
        path.unlink()
    else:
        path.write_bytes(b"")


def what(how, name):
    return f"{name}.* is not there" if how == GONE else f"{name} is damaged at position 0: it was synced before"


@pytest.mark.parametrize("how", [GONE, "emptied"])
def test_the_only_journal_before_any_checkpoint(directory, how):
    """A format file alone is a first start that was interrupted only as long as no journal was ever begun."""
    append(directory.open(), directory.store.create_log(durable=True))
    directory.close()
    [name] = directory.names()
    lose(directory.root / name, how)
    directory.refuse(what(how, name))


@pytest.mark.parametrize("how", [GONE, "emptied"])
def test_the_only_journal_behind_a_checkpoint(directory, how):
    """Whether it was written to after the checkpoint or not."""
    store = directory.open()
    run_checkpoint(store)
    append(store, store.create_log(durable=True))
    directory.close()
    [name] = directory.names()
    lose(directory.root / name, how)
    directory.refuse(what(how, name))


@pytest.mark.parametrize("begun_known", [True, False])
@pytest.mark.parametrize("how", [GONE, "emptied"])
def test_a_checkpoint_that_nothing_followed(directory, how, begun_known):
    """Also there the journal goes on with a frame, so that a missing file is one that was lost."""
    run_checkpoint(directory.open())
    directory.close()
    [name] = directory.names()
    lose(directory.root / name, how)
    if not begun_known:
        (directory.root / journal.BEGUN).unlink()
    directory.refuse(what(how, name))


@pytest.mark.parametrize("how", [GONE, "emptied"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_journal_of_several_runs(directory, how, which):
    """The first, the last, and the one between."""
    for _ in range(3):
        store = directory.open()
        append(store, store.create_log(durable=True))
        store.close_in_order()
        store.flush()
        directory.close()
    name = directory.names()[which]
    lose(directory.root / name, how)
    directory.refuse(name)


def test_all_journals_without_their_checkpoint(directory):
    """The journal cannot begin in the middle; what is missing is named, not what is there."""
    store = directory.open()
    append(store, store.create_log(durable=True), 3)
    run_checkpoint(store)
    directory.close()
    (directory.root / "checkpoint-00000000000000000001").unlink()
    directory.refuse(r"begin at position 0 .*is not there, nor is a checkpoint")
    (directory.root / journal.BEGUN).unlink()
    directory.refuse(r"begin at position 0 .*is not there, nor is a checkpoint")


def test_without_syncs_a_checkpoint_says_how_far_the_journal_goes(directory):
    """With flush: os no write waits for the disk, so none says it; a checkpoint does."""
    store = directory.open()
    store.sync = False
    log = store.create_log(durable=True)
    append(store, log)
    store.journal.rotate()
    append(store, log)
    assert journal.read_begun(store.disk) == 0
    run_checkpoint(store)
    assert journal.read_begun(store.disk) == store.journal.files[-1].base > 0
    directory.close()
    [name] = directory.names()
    lose(directory.root / name, GONE)
    directory.refuse(what(GONE, name))


def test_begun_is_damaged(directory):
    """It is written whole, so this is no interrupted start."""
    directory.open()
    directory.close()
    (directory.root / journal.BEGUN).write_bytes(b"")
    directory.refuse("'begun' is damaged")


def test_a_full_disk_puts_begun_off(directory, monkeypatch):
    """Without space or a handle the frame counts all the same, and a later one brings it up to date."""
    store = directory.open()
    log = store.create_log(durable=True)
    run_checkpoint(store)
    position = journal.read_begun(store.disk)
    store.journal.rotate()

    def full(self, old, new):
        raise OSError(28, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "rename", full)
        append(store, log)
    assert store.synced_frame == store.frame - 1
    assert journal.read_begun(store.disk) == position
    append(store, log)
    assert journal.read_begun(store.disk) == store.journal.files[-1].base > position
    directory.close()


def segmented(directory, monkeypatch):
    """A log that lies in two segments; returns it."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 1000)
    store = directory.open()
    log = store.create_log(durable=True)
    for _ in range(10):
        append(store, log, 1, 300)
    run_checkpoint(store)
    assert len(log.segments) >= 2
    return log


def test_a_segment_is_gone_or_too_short(directory, monkeypatch):
    """Every one of them is looked for at the start, not by the first who wants to read it."""
    log = segmented(directory, monkeypatch)
    directory.close()
    for segment in log.segments:
        path = directory.root / segment.name
        original = path.read_bytes()
        path.unlink()
        directory.refuse(f"{segment.name} is not there, checkpoint-0+1 promises {segment.size} octets")
        path.write_bytes(original[:-1])
        directory.refuse(f"{segment.name} has {segment.size - 1} octets, checkpoint-0+1 promises {segment.size}")
        path.write_bytes(original)
    assert len(read_all(directory.open().logs[log.number])) == 10
    directory.close()


STRAY = [
    "journal/.DS_Store",
    "journal/foo.journal",
    "journal/.nfs0001",
    "journal/00000000000000000000.journal.bak",
    "journal/" + "9" * 200 + ".journal",
    "logs/.DS_Store",
    "logs/notes/today.txt",
    "checkpoint-of-mine",
    "checkpoint-of-mine.new",
    "README.txt",
]


def test_what_is_not_ours_is_left_alone(directory):
    """Whatever others put into our folders is told, neither read nor removed, and harms nothing."""
    store = directory.open()
    log = store.create_log(durable=True)
    append(store, log)
    directory.close()
    for name in STRAY:
        (directory.root / name).parent.mkdir(exist_ok=True)
        (directory.root / name).write_text("x")
    store = directory.open()
    assert set(store.recovered.strangers) == set(STRAY[:6]) | {"logs/notes"}
    assert len(read_all(store.logs[log.number])) == 1
    shown = [path.name for path in dump.files_of(directory.root)]
    assert shown == [f"{0:020d}.journal", f"{store.journal.files[-1].base:020d}.journal"]
    run_checkpoint(store)
    directory.close()
    assert all((directory.root / name).exists() for name in STRAY)


def test_a_name_like_ours_that_cannot_be(directory):
    """Twenty digits, but no journal gets so far."""
    directory.open()
    directory.close()
    name = "journal/" + "9" * 20 + ".journal"
    (directory.root / name).write_bytes(bytes(100))
    directory.refuse(f"{name} is named after a position that no journal reaches")


def test_a_new_file_system(directory):
    """lost+found is on every new ext4; anything else in a directory without a format is somebody's."""
    (directory.root / "lost+found").mkdir(parents=True)
    directory.open()
    directory.close()
    shutil.rmtree(directory.root)
    (directory.root / "lost+found").mkdir(parents=True)
    (directory.root / "photos").mkdir()
    directory.refuse("so is not ours: photos$")


def test_a_folder_in_the_folder_of_a_dropped_log(directory, monkeypatch):
    """Its segments go; what we did not make stays, and a checkpoint does not fail of it."""
    log = segmented(directory, monkeypatch)
    folder = directory.root / log.segments[0].name.rpartition("/")[0]
    (folder / "mine").mkdir()
    directory.store.drop_log(log)
    directory.store.flush()
    run_checkpoint(directory.store)
    directory.close()
    assert os.listdir(folder) == ["mine"]
