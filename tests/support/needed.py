"""What a test needs of the machine. In CI everything is to be there that `tools/dev/debian-tools` installs."""

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() == "true"


def need(reason: str | None) -> None:
    """Go on unless there is a reason why something is missing: that is a skip, and a failure in CI."""
    if reason is not None:
        (pytest.fail if IN_CI else pytest.skip)(reason)
