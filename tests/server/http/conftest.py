"""A world for each test."""

import pytest
from http_world import HttpWorld
from waiting import HANG_S

from broker.server.http import browse


@pytest.fixture(autouse=True)
def whole_looks(monkeypatch):
    """A look ends when it has seen enough, not when its time is over: how far it came is the same on any machine."""
    monkeypatch.setattr(browse, "LOOK_S", HANG_S)


@pytest.fixture
def http():
    """A broker with a disk, and its HTTP API."""
    return HttpWorld()
