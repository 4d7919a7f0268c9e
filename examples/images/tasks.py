"""Thumbnails as Celery tasks: `celery -A tasks worker` in this folder.

BROKER_URL and RESULT_BACKEND say where broker and results are. Results are files, since chords need a backend that all
workers share and Celery's rpc:// has none.
"""

import os
import tempfile
from pathlib import Path

from celery import Celery
from PIL import Image

results = Path(tempfile.gettempdir()) / "images-results"
results.mkdir(exist_ok=True)
app = Celery(
    "images",
    broker=os.environ.get("BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//"),
    backend=os.environ.get("RESULT_BACKEND", f"file://{results}"),
)
app.conf.update(
    task_default_queue="images",
    task_acks_late=True,  # A worker that dies gives its picture to another one.
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    result_chord_retry_interval=0.2,
)


@app.task(bind=True, max_retries=None)
def thumbnail(self, path, width):
    """Shrink one picture; one that is still on its way is tried again. Returns file, width, height, retries."""
    source = Path(path)
    target = source.parent / "thumbs" / source.name
    target.parent.mkdir(exist_ok=True)
    try:
        with Image.open(source) as picture:
            picture.thumbnail((width, width))
            picture.save(target)
            return [str(target), *picture.size, self.request.retries]
    except FileNotFoundError as error:
        raise self.retry(countdown=0.3, exc=error) from error


@app.task
def contact_sheet(thumbnails, path, columns=4):
    """All thumbnails on one sheet, in a grid. Returns them, and the sheet's size."""
    cell = max(max(width, height) for _, width, height, _ in thumbnails)
    rows = -(-len(thumbnails) // columns)
    with Image.new("RGB", (columns * cell, rows * cell), "white") as sheet:
        for index, (name, *_) in enumerate(thumbnails):
            with Image.open(name) as picture:
                sheet.paste(picture, (index % columns * cell, index // columns * cell))
        sheet.save(path)
        return {"thumbnails": thumbnails, "sheet": list(sheet.size)}


@app.task
def forget(paths):
    """Delete files; returns how many there were."""
    for path in paths:
        Path(path).unlink()
    return len(paths)
