"""What all of the server's tests may want."""

import gc

import pytest


@pytest.fixture
def as_served():
    """What was there before does not take part in garbage collection, and collections are as rare as in a broker that
    serves (`broker.app`)."""
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 50, 50)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
