"""The Celery application of examples/images over real files: a chord, retries and an ETA, on both brokers."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from waiting import HANG_S, wait_until

from tools.bench.processes import end_all

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "images"
NAMES = [f"picture-{number:02d}.jpg" for number in range(11)]

pytestmark = pytest.mark.compat


def draw(path, seed):
    """A picture of 1600 by 1200 that does not compress to nothing."""
    noise = Image.frombytes("RGB", (160, 120), random.Random(seed).randbytes(160 * 120 * 3))
    noise.resize((1600, 1200)).save(path, "JPEG")


def environment(broker, results):
    """Of worker and client."""
    url = f"amqp://guest:guest@{broker.host}:{broker.port}//"
    return {**os.environ, "BROKER_URL": url, "RESULT_BACKEND": f"file://{results}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def results(tmp_path):
    """Where Celery keeps its results."""
    directory = tmp_path / "results"
    directory.mkdir()
    return directory


@pytest.fixture
def worker(shop, results, tmp_path):
    """A worker with two processes, once it is ready; gives its log."""
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "INFO"],
            env=environment(shop, results), cwd=EXAMPLE, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(lambda: b" ready." in log.read_bytes() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()[-3000:]
        yield log
    finally:
        end_all([process.pid], grace_s=10)
        process.wait(HANG_S)


def test_pictures_become_thumbnails_and_a_sheet(shop, worker, results, tmp_path):
    """Twelve pictures, one of which arrives late: it is retried until it is there; the chord waits for it; the ETA
    task runs when it is due and not before."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        draw(folder / name, seed)
    client = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "resize.py"), str(folder), *NAMES, "late.jpg"],
        env=environment(shop, results), cwd=EXAMPLE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: b"Retry in 0.3s" in worker.read_bytes(), worker.read_text)  # What is not there yet.
        draw(folder / "upload", 99)
        (folder / "upload").rename(folder / "late.jpg")
        out, err = client.communicate(timeout=HANG_S)
    finally:
        if client.poll() is None:
            client.kill()
            client.communicate()
    assert client.returncode == 0, err + worker.read_text()[-3000:]
    report = json.loads(out)
    assert report.pop("waited_s") >= 2
    assert report == {
        "sheet": [800, 600],
        "sizes": {name: [200, 150] for name in [*NAMES, "late.jpg"]},
        "retried": ["late.jpg"],
        "forgotten": 12,
    }
    with Image.open(folder / "sheet.jpg") as sheet:
        assert sheet.size == (800, 600)
    assert list((folder / "thumbs").iterdir()) == []
