"""A world for each test."""

import pytest
from http_world import HttpWorld


@pytest.fixture
def http():
    """A broker with a disk, and its HTTP API."""
    return HttpWorld()
