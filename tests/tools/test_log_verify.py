"""`jackalope log verify`: every damage of a data directory, and nothing where there is none."""

import pytest
from click.testing import CliRunner

from broker.log.checkpoint import Checkpoint
from broker.log.disk import RealDisk
from broker.log.recovery import open_store
from protocol.kafka.records import parse_header, render_record
from tools.cli.main import main


@pytest.fixture(params=[20])
def root(tmp_path, request):
    """A data directory with two segments, a checkpoint and a journal; its broker is still there. With more messages
    they stay in a sealed file instead."""
    uuids = iter(range(1, 9))
    store = open_store(RealDisk(tmp_path), lambda: next(uuids).to_bytes(16, "big"))
    for log in [store.create_log(durable=True) for _ in range(2)]:
        for number in range(request.param):
            log.append(render_record(0, b"x" * 9000), 1, number)
    store.flush()
    for job in Checkpoint(store).steps():
        if job is not None:
            job()
        store.flush()
    store.put(b"key", b"value")
    store.flush()
    yield tmp_path
    store.close()


def verify(root):
    """(exit code, lines)."""
    run = CliRunner().invoke(main, ["log", "verify", str(root)])
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    return run.exit_code, run.output.splitlines()


def flip(path, position):
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_all_is_whole(root):
    """Octets behind what the checkpoint promises are nobody's."""
    (first, _) = sorted(root.glob("logs/*/*.log"))
    first.write_bytes(first.read_bytes() + b"left over")
    assert verify(root)[0] == 0


def test_every_damage(root):
    """Two in one segment, the other is gone, one in the checkpoint: four lines."""
    first, second = sorted(root.glob("logs/*/*.log"))
    size = parse_header(first.read_bytes()).size
    flip(first, 2 * size + 300)
    flip(first, 7 * size + 9)
    second.unlink()
    (checkpoint,) = root.glob("checkpoint-*")
    flip(checkpoint, checkpoint.stat().st_size - 1)
    code, lines = verify(root)
    assert code == 3
    assert sum(f"{first.name} at {2 * size}: offsets 2 to 2" in line for line in lines) == 1
    assert sum(f"{first.name} at {7 * size}: offsets 7 to 7" in line for line in lines) == 1
    assert sum("is not there: offsets 0 to 19" in line for line in lines) == 1
    assert sum(checkpoint.name in line for line in lines) == 1
    assert len(lines) == 4


def test_a_short_segment(root):
    """What is missing is told with its offsets."""
    first, _ = sorted(root.glob("logs/*/*.log"))
    data = first.read_bytes()
    first.write_bytes(data[: len(data) // 2])
    code, lines = verify(root)
    assert code == 3
    assert any("the checkpoint promises" in line for line in lines)


def test_the_torn_end_of_the_journal(root):
    """A kill leaves one; the next start cuts it."""
    journal = max(root.glob("journal/*.journal"))
    end = len(journal.read_bytes().rstrip(b"\0"))
    with journal.open("r+b") as file:
        file.seek(end)
        file.write(b"torn")
    code, lines = verify(root)
    assert code == 0
    assert "torn end" in lines[0]


def test_no_directory(tmp_path):
    """4, as `log dump` has it."""
    assert verify(tmp_path / "none")[0] == 4
    assert verify(tmp_path)[0] == 4


@pytest.mark.parametrize("root", [40], indirect=True)
def test_sealed_files(root):
    """A bit of a batch, a file that was cut short, an index that is damaged or gone; all else in it is nobody's."""
    (index,) = root.glob("journal/*.index")
    sealed = root / "journal" / index.name.replace("-00001.index", ".journal")
    assert not list(root.glob("logs/*/*.log"))
    assert verify(root)[0] == 0
    flip(sealed, 5)
    assert verify(root)[0] == 0
    flip(sealed, 100_000)
    code, lines = verify(root)
    assert code == 3
    assert len(lines) == 1
    assert "offsets 11 to 11" in lines[0]
    whole, of_index = sealed.read_bytes(), index.read_bytes()
    sealed.write_bytes(whole[:400_000])
    assert f"has 400000 octets, the checkpoint promises {len(whole)}" in "\n".join(verify(root)[1])
    sealed.unlink()
    assert [line for line in verify(root)[1] if "is not there: offsets 0 to 39" in line]
    sealed.write_bytes(whole)
    flip(index, 60)
    assert [line for line in verify(root)[1] if index.name in line and "no whole frame" in line]
    index.unlink()
    assert [line for line in verify(root)[1] if index.name in line and "is not there" in line]
    index.write_bytes(of_index)
    assert len(verify(root)[1]) == 1
