"""RabbitMQ's definitions files."""

import base64
import hashlib
import json

import pytest

from broker.config import Binding, check, load
from broker.config.loader import ERRORS_TOLD_MAX
from broker.core.passwords import parse_hash
from broker.errors import ConfigError

SALT = b"\x90\x8d\xc6\x0a"
HASH = base64.b64encode(SALT + hashlib.sha256(SALT + b"test12").digest()).decode()

EXPORT = {
    "rabbit_version": "3.10.8",
    "rabbitmq_version": "3.10.8",
    "product_name": "RabbitMQ",
    "product_version": "3.10.8",
    "users": [
        {
            "name": "app", "password_hash": HASH, "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["management"], "limits": {},
        },
        {"name": "cert", "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "a, b"},
    ],
    "vhosts": [{"name": "/", "limits": [], "metadata": {"tags": []}}, {"name": "shop"}],
    "permissions": [{"user": "app", "vhost": "shop", "configure": "^shop", "write": ".*", "read": ""}],
    "topic_permissions": [{"user": "app", "vhost": "shop", "exchange": "orders", "write": "^a", "read": "^b"}],
    "parameters": [],
    "global_parameters": [{"name": "internal_cluster_id", "value": "x"}],
    "policies": [{"vhost": "/", "name": "p", "pattern": "^x", "apply-to": "queues",
                  "definition": {"max-length": 5}, "priority": 0}],
    "queues": [
        {"name": "charge", "vhost": "shop", "durable": True, "auto_delete": False, "arguments": {"x-max-length": 10}},
        {"name": "big", "vhost": "shop", "durable": True, "auto_delete": False, "type": "quorum", "arguments": {}},
    ],
    "exchanges": [
        {
            "name": "orders", "vhost": "shop", "type": "topic", "durable": True, "auto_delete": False,
            "internal": False, "arguments": {},
        },
    ],
    "bindings": [
        {
            "source": "orders", "vhost": "shop", "destination": "charge", "destination_type": "queue",
            "routing_key": "${NOT_A_VARIABLE}", "arguments": {},
        },
    ],
}  # fmt: skip


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_an_export_is_taken_over(tmp_path):
    """Users with their salted hashes, permissions, vhosts, exchanges, queues, bindings and policies."""
    config = load([write(tmp_path / "definitions.json", EXPORT)], (), {})
    app, cert = config.users.values()
    assert app.tags == ("management",)
    assert parse_hash(app.password_hash.reveal()).verify(b"test12")
    assert (app.permissions["shop"].configure, app.permissions["shop"].read) == ("^shop", "")
    assert app.topic_permissions["shop"]["orders"].write == "^a"
    assert cert.password is None
    assert cert.password_hash is None
    assert cert.tags == ("a", "b")
    assert set(config.vhosts) == {"/", "shop"}
    shop = config.vhosts["shop"]
    assert shop.queues["charge"].arguments == {"x-max-length": 10}
    assert shop.queues["big"].arguments == {"x-queue-type": "quorum"}
    assert shop.bindings == (Binding("orders", "charge", "queue", "${NOT_A_VARIABLE}", {}),)
    policy = config.vhosts["/"].policies["p"]
    assert (policy.pattern, policy.apply_to, policy.definition) == ("^x", "queues", {"max-length": 5})
    assert not config.warnings


def test_beside_a_server_file(tmp_path):
    """A definitions file stands wherever a topology does: in conf.d, merged with our own keys."""
    write(tmp_path / "20-definitions.json", EXPORT)
    (tmp_path / "10-server.yaml").write_text("limits: {channel_max: 9}\nusers: {app: {tags: [administrator]}}\n")
    config = load([tmp_path], ["vhosts.shop.queues.charge.durable=false"], {})
    assert config.limits.channel_max == 9
    assert config.users["app"].tags == ("management",)
    assert not config.vhosts["shop"].queues["charge"].durable


def test_our_own_keys_in_json(tmp_path):
    """JSON that is no definitions file is a configuration like any other."""
    config = load([write(tmp_path / "c.json", {"limits": {"channel_max": 7}})], (), {})
    assert config.limits.channel_max == 7


def test_an_export_of_one_vhost(tmp_path):
    """Its objects name no vhost; they go to '/'. Without users the default one stays."""
    export = {
        "rabbitmq_version": "4.1.0",
        "metadata": {},
        "queues": [{"name": "q", "durable": True, "auto_delete": False, "arguments": {}}],
    }
    config = load([write(tmp_path / "d.json", export)], (), {})
    assert list(config.vhosts["/"].queues) == ["q"]
    assert list(config.users) == ["guest"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"queues": [{"name": "q", "vhost": "nope"}]}, "queues[0]: no vhost 'nope' in this file"),
        ({"queues": [{"name": "q", "vhost": ""}]}, "queues[0]: no vhost '' in this file"),
        ({"queues": [{"vhost": "/"}]}, "queues[0]: 'name' must be a string"),
        ({"queues": ["q"]}, "queues[0]: expected an object"),
        ({"queues": {"q": 1}}, "queues: expected a list"),
        ({"permissions": [{"user": "nope", "vhost": "/"}]}, "permissions[0]: no user 'nope' in this file"),
        (
            {"users": [{"name": "a", "password_hash": "x", "hashing_algorithm": "rabbit_password_hashing_md5"}]},
            "rabbit_password_hashing_md5 is not accepted",
        ),
        (
            {"users": [{"name": "a", "password_hash": "eA=="}], "permissions": []},
            "not a password hash",
        ),
        ({"exchanges": [{"name": "x", "vhost": "/", "type": "nope"}], "bindings": []}, "unknown exchange type 'nope'"),
    ],
)
def test_refused(tmp_path, change, said):
    """What names nothing, or something that is not there, is an error with the object's place."""
    base = {**EXPORT, "topic_permissions": [], "permissions": []}
    found = check([write(tmp_path / "d.json", {**base, **change})], (), {}).errors
    assert any(said in error for error in found), found


def test_all_mistakes_are_told_at_once(tmp_path):
    """Of every object, also two of one; what names a mistaken user or vhost of this file is no mistake of its own."""
    export = {
        "rabbit_version": "3.10.8",
        "vhosts": [{"name": "/"}, "shop"],
        "users": [
            {"name": "app", "password_hash": "x", "hashing_algorithm": "md5"},
            {"tags": 3},
            {"name": "odd", "password_hash": "x", "hashing_algorithm": 5},
        ],
        "permissions": [{"user": "app", "vhost": "/"}, {"user": "no", "vhost": "where"}, {"vhost": 3}],
        "topic_permissions": {"user": "app"},
        "queues": [{"name": 7, "vhost": "nope"}, {"name": "q", "vhost": "/"}, 5],
        "policies": [{"vhost": "/"}],
        "bindings": [{"vhost": "nope"}],
    }
    path = write(tmp_path / "d.json", export)
    found = check([path], (), {}).errors
    assert [error.split(": ", 1)[1] for error in found] == [
        "vhosts[1]: expected an object",
        "users[0]: md5 is not accepted, only rabbit_password_hashing_sha256 and rabbit_password_hashing_sha512",
        "users[1]: 'name' must be a string",
        "users[2]: 'hashing_algorithm' must be a string",
        "permissions[1]: no vhost 'where' in this file",
        "permissions[1]: no user 'no' in this file",
        "permissions[2]: 'vhost' must be a string",
        "permissions[2]: 'user' must be a string",
        "topic_permissions: expected a list",
        "queues[0]: no vhost 'nope' in this file",
        "queues[0]: 'name' must be a string",
        "queues[2]: expected an object",
        "bindings[0]: no vhost 'nope' in this file",
        "policies[0]: 'name' must be a string",
    ]
    with pytest.raises(ConfigError) as refused:
        load([path], (), {})
    assert str(refused.value).splitlines() == list(found)


def test_not_all_of_very_many(tmp_path):
    """A hundred are told, and how many there are beside them."""
    path = write(tmp_path / "d.json", {"rabbit_version": "4", "queues": [{"name": 1}] * 1000})
    found = check([path], (), {}).errors
    assert len(found) == ERRORS_TOLD_MAX + 1
    assert found[-1] == "900 more mistakes"
