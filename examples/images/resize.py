"""Shrink pictures and put them on one sheet: `python resize.py FOLDER PICTURE...`; prints what came of it as JSON.

A picture that is not there yet is waited for. The thumbnails are deleted two seconds after the sheet is done.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celery import chord
from tasks import contact_sheet, forget, thumbnail

folder, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
making = chord(thumbnail.s(str(folder / name), 200) for name in names)(contact_sheet.s(str(folder / "sheet.jpg")))
made = making.get(timeout=600)

asked_s = time.time()
due = datetime.now(UTC) + timedelta(seconds=2)
forgotten = forget.apply_async(([path for path, *_ in made["thumbnails"]],), eta=due).get(timeout=600)
report = {
    "sheet": made["sheet"],
    "sizes": {Path(path).name: [width, height] for path, width, height, _ in made["thumbnails"]},
    "retried": [Path(path).name for path, *_, retries in made["thumbnails"] if retries],
    "forgotten": forgotten,
    "waited_s": round(time.time() - asked_s, 1),
}
print(json.dumps(report))
