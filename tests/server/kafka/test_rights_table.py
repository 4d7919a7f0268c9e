"""The table of rights in the README beside the handlers names every API that is served, and none that is not."""

import re
from pathlib import Path

from broker.server.kafka.handlers import SERVED

README = Path(__file__).resolve().parents[3] / "broker" / "server" / "kafka" / "README.md"


def test_every_served_api_is_in_the_table_once():
    """Who adds an API says what it asks for."""
    text = README.read_text().partition("## What each API asks")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([A-Za-z, ]+) \| ([0-9, ]+) \| .+ \|$", text, re.MULTILINE)
    numbers = [int(number) for _, some in rows for number in some.split(",")]
    assert sorted(numbers) == sorted(SERVED)
    assert all(len(names.split(",")) == len(some.split(",")) for names, some in rows)
