"""Secrets never print."""

import json
import logging
import pickle
import traceback

import pytest

from broker.config import Config, Secret, check, load
from broker.errors import ConfigError

CANARY = "canary-5d1c"


def test_no_way_of_printing_shows_it(caplog):
    """repr, str, format, logs and containers show ***; pickling and hashing are refused."""
    secret = Secret(CANARY)
    logging.getLogger("jackalope").warning("%s %r", secret, {"a": [secret]})
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>5}", repr([secret]), caplog.text]
    assert not any(CANARY in one for one in shown)
    assert "***" in caplog.text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert secret.reveal() == CANARY


def test_equality():
    """Two configurations can be compared by value."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_the_configuration_does_not_show_it(tmp_path):
    """Neither a whole Config nor its topology shows a password or a hash, from wherever it came."""
    file = tmp_path / "pw"
    file.write_text(CANARY + "\n")
    config = load(
        [],
        [f"users.a.password={CANARY}", f"users.b.password={{file: {file}}}", "users.c.password={env: PW}"],
        {"PW": CANARY},
    )
    assert CANARY not in repr(config)
    assert CANARY not in str(config.declared())
    assert [user.password for user in config.users.values()] == [Secret(CANARY)] * 3
    assert "guest'" not in repr(Config().users["guest"].password)


@pytest.mark.parametrize(
    "text",
    [
        f"users: {{a: {{passwrod: {CANARY}}}}}",
        f"users: {{a: {{password: [{CANARY}]}}}}",
        f"users: {{a: {{password: {{value: {CANARY}}}}}}}",
        f"users: {{a: {{password_hash: {CANARY}}}}}",
        f"users: {{a: {{password_hash: scrypt$3$8$1${CANARY}$x}}}}",
        f"users: {{a: {{password: x, password_hash: {CANARY}}}}}",
        f"users: {{a: {{password: {CANARY}: x}}}}",
        f"users: {{a: {{password: '{CANARY}, tags: []}}}}",
        f'users: {{a: {{password: "{CANARY}\\z"}}}}',
    ],
)
def test_no_error_shows_it(tmp_path, text):
    """A mistake at or beside a secret is reported without it, also in the traceback."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load([file], (), {})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert check([file], (), {}).errors


def test_set_errors_show_the_key_only():
    """--set on the command line may carry a secret."""
    for assignment in (f"users.a.passwrod={CANARY}", f"users.a.password=[{CANARY}]", f"users.a.password={{{CANARY}}}"):
        report = check([], [assignment], {})
        assert report.errors
        assert CANARY not in "".join(report.errors)
