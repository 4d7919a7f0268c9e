"""Fixtures of several files here."""

import os

import pytest

from broker.log import checkpoint, disk


@pytest.fixture
def no_syncs(monkeypatch):
    """The power stays on: thousands of directories may be opened."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    monkeypatch.setattr(disk, "RESERVE_BYTES", 0)


@pytest.fixture
def small_limits(monkeypatch):
    """Nothing is carried, and there are several segments."""
    monkeypatch.setattr(checkpoint, "CARRY_BYTES_MAX", 0)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES_MAX", 1000)
