"""Files, directories, --set and the environment to a Config; every mistake with its place."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from broker.config import Address, Binding, Config, Secret, check, load
from broker.errors import ConfigError


@pytest.fixture
def errors(tmp_path):
    """What `check` says of a YAML text, with the directory cut from the paths."""

    def run(text, *sets, environ=None):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        found = check([file], sets, environ or {}).errors
        return [error.replace(f"{tmp_path}/", "") for error in found]

    return run


def test_nothing_given():
    """The defaults: AMQP and HTTP on loopback, guest with everything on '/' from loopback peers only."""
    config = load()
    assert config == Config()
    assert config.listeners.amqp == (Address("127.0.0.1", 5672), Address("::1", 5672))
    assert config.listeners.http == (Address("127.0.0.1", 15672), Address("::1", 15672))
    assert config.listeners.amqps is None
    assert config.listeners.kafka == (Address("127.0.0.1", 9092), Address("::1", 9092))
    assert config.listeners.kafkas is None
    assert config.storage.dir == "./jackalope-data"
    assert [vhost.name for vhost in config.declared().vhosts] == ["/"]
    (guest,) = config.declared().users
    assert (guest.name, guest.tags, guest.from_loopback_only) == ("guest", ("administrator",), True)
    assert guest.password == Secret("guest")
    assert guest.permissions["/"].write == ".*"


def test_it_is_frozen():
    """Nothing can be assigned, also not a name that does not exist."""
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.limits.channel_max = 1  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        config.limits.chanel_max = 1  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        del config.limits.channel_max
    assert config == Config()


def test_sections_are_compared_and_shown_by_their_fields():
    """Which is how a reload finds out what has changed; a password is not shown, nor where something was written."""
    one, other = Config(), replace(Config(), limits=replace(Config().limits, channel_max=7))
    assert one != other
    assert (one.tls, one.users) == (other.tls, other.users)
    assert one.limits != other.limits
    assert one.tls != one.storage
    assert "channel_max=7" in repr(other)
    assert "root=" not in repr(one)
    assert "Secret('guest')" not in repr(one)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("listeners.amqp", "0.0.0.0:5672", (Address("0.0.0.0", 5672),)),
        ("listeners.amqp", "'[::1]:0'", (Address("::1", 0),)),
        ("listeners.amqp", "['127.0.0.1:1', '[::1]:2', '127.0.0.1:1']", (Address("127.0.0.1", 1), Address("::1", 2))),
        ("listeners.amqp", "off", None),
        ("listeners.kafka", "off", None),
        ("limits.heartbeat_s", "5m", 300),
        ("limits.heartbeat_s", "0", 0),
        ("limits.handshake_timeout_s", "500ms", 0.5),
        ("limits.handshake_timeout_s", "1.5", 1.5),
        ("limits.handshake_timeout_s", "10 s", 10.0),
        ("limits.message_size_max_bytes", "64MiB", 64 * 2**20),
        ("limits.message_size_max_bytes", "1GB", None),
        ("limits.message_size_max_bytes", "1.5MiB", 3 * 2**19),
        ("limits.message_size_max_bytes", "2000", 2000),
        ("limits.memory_watermark", "0.4", 0.4),
        ("limits.memory_watermark", "2GiB", 2 * 2**30),
        ("limits.memory_watermark", "1.5", None),
        ("limits.memory_watermark", "0", None),
        ("limits.memory_watermark", "100", None),
        ("compat.version", "4.0", "4.0"),
        ("compat.version", "null", None),
        ("compat.product", "RabbitMQ", "RabbitMQ"),
        ("log.level", "debug", "debug"),
        ("limits.channel_max", "'100'", 100),
        ("limits.channel_max", "null", 2047),
    ],
)
def test_values(errors, tmp_path, key, text, value):
    """Durations, sizes, addresses; null is the default. (None here for numbers: refused.)"""
    section, name = key.split(".")
    found = errors(f"{section}: {{{name}: {text}}}")
    if value is None and section == "limits":
        assert len(found) == 1
        assert key in found[0]
        return
    assert found == []
    assert getattr(getattr(load([tmp_path / "c.yaml"], (), {}), section), name) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listners: {}", "c.yaml:1: listners: unknown key; did you mean 'listeners'?"),
        ("limits:\n  hartbeat_s: 5", "c.yaml:2: limits.hartbeat_s: unknown key; did you mean 'heartbeat_s'?"),
        ("limits:\n  zzzzz: 5", "c.yaml:2: limits.zzzzz: unknown key"),
        ("limits: 5", "c.yaml:1: limits: expected a mapping, got '5'"),
        ("limits: {channel_max: many}", "limits.channel_max: expected a whole number, got 'many'"),
        ("limits: {channel_max: true}", "limits.channel_max: expected a whole number, got 'true'"),
        ("limits: {channel_max: -1}", "limits.channel_max: must be from 0 to 65535, got '-1'"),
        ("limits: {channel_max: [1]}", "limits.channel_max: expected a whole number, got a list"),
        ("limits: {heartbeat_s: 500ms}", "limits.heartbeat_s: expected whole seconds, got '500ms'"),
        ("limits: {heartbeat_s: 60x}", "limits.heartbeat_s: expected a duration such as 500ms, 30s or 5m, got '60x'"),
        ("limits: {frame_max_bytes: 64Kb}", "expected a size such as 64KiB or 16MiB, got '64Kb'"),
        ("limits: {frame_max_bytes: 1KiB}", "must be from 8KiB to 16MiB, got '1KiB'"),
        ("limits: {frame_max_bytes: -8192}", "expected a size"),
        ("listeners: {amqp: 5672}", "expected HOST:PORT, [IPV6]:PORT, a list of them or off, got '5672'"),
        ("listeners: {amqp: []}", "listeners.amqp: expected 1 to 16 addresses, got 0"),
        ("listeners: {amqp: ['h:1', 'off']}", "listeners.amqp[1]: expected HOST:PORT or [IPV6]:PORT, got 'off'"),
        ("listeners: {amqp: '::1:5672'}", "expected HOST:PORT"),
        ("listeners: {amqp: 'h:99999'}", "expected HOST:PORT"),
        ("listeners: {amqp: false}", "expected HOST:PORT"),
        ("listeners: {kafkas: h:1}", "c.yaml:1: listeners.kafkas: needs tls.cert and tls.key"),
        ("listeners: {amqps: h:1}", "c.yaml:1: listeners.amqps: needs tls.cert and tls.key"),
        ("tls: {cert: /nonexistent/c.pem}", "tls.cert: cannot read /nonexistent/c.pem"),
        ("tls: {verify: require}", "tls.verify: needs tls.ca"),
        ("tls: {verify: requier}", "got 'requier'; did you mean 'require'?"),
        ("tls: {min_version: 1.1}", "expected one of 1.2, 1.3, got '1.1'"),
        ("compat: {product: ''}", "compat.product: must not be empty"),
        ("limits: {read_chunk_bytes: 256KiB}", "must not be more than limits.read_chunk_bytes_max"),
        (
            "kafka: {group_session_timeout_min_s: 31m}",
            "kafka.group_session_timeout_min_s: must not be more than kafka.group_session_timeout_max_s (1800s)",
        ),
        ("vhosts: {/: {queues: {q: {durable: yes}}}}", "queues.q.durable: expected true or false, got 'yes'"),
        ("vhosts: {/: {queues: {q: {durabel: true}}}}", "durabel: unknown key; did you mean 'durable'?"),
        ("vhosts: {/: {queues: {q: {arguments: 3}}}}", "arguments: expected a mapping, got '3'"),
        ("vhosts: {/: {queues: {q: {arguments: {x-max-length: -1}}}}}", "invalid arg 'x-max-length'"),
        ("vhosts: {/: {queues: {amq.q: {}}}}", "names that begin with 'amq.' are reserved"),
        ("vhosts: {/: {exchanges: {amq.x: {}}}}", "names that begin with 'amq.' are reserved"),
        ("vhosts: {/: {exchanges: {x: {type: topci}}}}", "unknown exchange type 'topci'; did you mean 'topic'?"),
        ("vhosts: {/: {exchanges: {x: {type: x-message-deduplication}}}}", "'x-cache-size'"),
        ("vhosts: {/: {bindings: {}}}", "bindings: expected a list, got a mapping"),
        ("vhosts: {/: {bindings: [{source: amq.topic}]}}", "vhosts./.bindings[0].destination: must be given"),
        ("vhosts: {/: {bindings: [{source: amq.topic, destination: q}]}}", "destination: no queue 'q'"),
        (
            "vhosts: {/: {queues: {jobs: {}}, bindings: [{source: amq.topic, destination: job}]}}",
            "vhosts./.bindings.0.destination: no queue 'job'; did you mean 'jobs'?",
        ),
        ("vhosts: {/: {queues: {q: {bindings: [{source: nope}]}}}}", "bindings.0.source: no exchange 'nope'"),
        (
            "vhosts: {/: {queues: {q: {bindings: [{source: amq.headers, arguments: {x-match: some}}]}}}}",
            "x-match",
        ),
        ("vhosts: {'': {}}", "a name has 1 to 255 bytes"),
        (f"vhosts: {{/: {{queues: {{{'é' * 128}: {{}}}}}}}}", "a name has 1 to 255 bytes"),
        ("users: [a]\nlimits: {}\n", "users: expected a mapping of names, got a list"),
        ("users: {a: {password: ''}}", "users.a.password: must not be empty"),
        ("users: {a: {password: {env: NOPE}}}", "the environment variable NOPE is not set"),
        ("users: {a: {password: {file: /nonexistent}}}", "cannot read /nonexistent: No such file or directory"),
        ("users: {a: {password: {file: /dev/zero}}}", "cannot read /dev/zero"),
        ("users: {a: {password: x, password_hash: y}}", "has both a password and a password_hash"),
        ("users: {a: {password_hash: bm90IG9uZQ==}}", "users.a.password_hash: not a password hash"),
        ("users: {a: {tags: [adminstrator]}}", "unknown tag 'adminstrator'; did you mean 'administrator'?"),
        ("users: {a: {permissions: {/x: {}}}}", "no vhost '/x'; did you mean '/'?"),
        ("users: {a: {permissions: {/: {read: '('}}}}", "users.a.permissions./.read: pattern '('"),
        ("users: {a: {permissions: {/: {read: '(?!b).*'}}}}", "look-around and back-references are not supported"),
        ("users: {a: {topic_permissions: {/: {x: {write: '['}}}}}", "topic_permissions./.x.write: pattern '['"),
        ("log: {level: '${LEVEL}'}", "c.yaml:1: the environment variable LEVEL is not set"),
    ],
)
def test_one_mistake(errors, text, expected):
    """One mistake is one error, which names file, line, key, and the nearest valid name."""
    found = errors(text)
    assert len(found) == 1, found
    assert expected in found[0]
    assert found[0].startswith("c.yaml:")


def test_every_mistake_is_reported(errors):
    """One run reports them all; load raises them as one message of lines."""
    found = errors("limits:\n  a: 1\n  channel_max: x\nlog:\n  level: loud\n", "storage.dri=/x")
    assert [error.split(": ")[0] for error in found] == ["c.yaml:2", "c.yaml:3", "c.yaml:5", "--set storage.dri"]
    with pytest.raises(ConfigError) as caught:
        load([], ["storage.dri=/x", "log.lvl=1"], {})
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_cannot_be_read(tmp_path):
    """A missing file, a directory without files and bytes that are not UTF-8 are errors with their path."""
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"a: \xff\n")
    empty = tmp_path / "conf.d"
    empty.mkdir()
    found = check([tmp_path / "none.yaml", empty, binary], (), {}).errors
    assert [error.removeprefix(str(tmp_path)) for error in found] == [
        "/none.yaml: No such file or directory",
        "/conf.d: no *.yaml or *.json in this directory",
        "/b.yaml: not UTF-8",
    ]


def test_a_directory_is_merged_by_name(tmp_path):
    """conf.d: later names win by key, bindings add up, --set is above all; other files are not looked at."""
    (tmp_path / "10-base.yaml").write_text(
        "limits: {channel_max: 10, heartbeat_s: 30}\n"
        "users: {a: {tags: [monitoring]}}\n"
        "vhosts: {/: {queues: {q: {}}, bindings: [{source: amq.topic, destination: q, routing_key: a}]}}\n"
    )
    (tmp_path / "20-more.yml").write_text(
        "limits: {channel_max: 20}\n"
        "users: {a: {password: x}}\n"
        "vhosts: {/: {bindings: [{source: amq.topic, destination: q, routing_key: b}]}}\n"
    )
    (tmp_path / "README").write_text("not: [read")
    config = load([tmp_path], ["limits.heartbeat_s=5s"], {})
    assert (config.limits.channel_max, config.limits.heartbeat_s) == (20, 5)
    assert config.users["a"].tags == ("monitoring",)
    assert config.users["a"].password == Secret("x")
    assert [binding.routing_key for binding in config.vhosts["/"].bindings] == ["a", "b"]


def test_topology(tmp_path):
    """Bindings below queues are bindings of the vhost; defaults are durable and not auto-delete."""
    file = tmp_path / "c.yaml"
    file.write_text("""
vhosts:
  shop:
    exchanges:
      orders: {type: topic}
      audit: {type: fanout, durable: false, internal: true}
    queues:
      charge:
        arguments: {x-message-ttl: 60000, x-dead-letter-exchange: audit}
        bindings: [{source: orders, routing_key: order.*.placed}]
      ship:
    bindings:
      - {source: orders, destination: audit, destination_type: exchange, routing_key: '#'}
users:
  shop: {password: 12345, permissions: {shop: {configure: '', write: orders, read: '.*'}}}
""")
    config = load([file], (), {})
    (vhost,) = config.declared().vhosts
    assert vhost.all_bindings() == (
        Binding("orders", "audit", "exchange", "#", {}),
        Binding("orders", "charge", "queue", "order.*.placed", {}),
    )
    assert vhost.queues["charge"].arguments == {"x-message-ttl": 60000, "x-dead-letter-exchange": "audit"}
    assert (vhost.queues["ship"].durable, vhost.queues["ship"].auto_delete) == (True, False)
    assert (vhost.exchanges["audit"].durable, vhost.exchanges["audit"].internal) == (False, True)
    assert config.users["shop"].password == Secret("12345")  # As written: not the number.
    assert not config.users["shop"].from_loopback_only


def test_guest_stays_on_loopback_unless_said(tmp_path):
    """A guest that a file defines is from loopback only, like the default one; only `loopback_only: false` opens it."""
    config = load([], ["users.guest.password=x"], {})
    assert config.users["guest"].from_loopback_only
    config = load([], ["users.guest.password=x", "users.guest.loopback_only=false"], {})
    assert not config.users["guest"].from_loopback_only


def test_importing_is_cheap():
    """The defaults need neither YAML nor re2 nor difflib: start-up pays for imports."""
    script = (
        "import sys; from broker.config import load; load();"
        "print(*(set(sys.modules) & {'yaml', 're2', 'difflib', 'json'}))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == ""


def test_vhosts_of_listeners(errors):
    """Named as the listener is, which has a port of its own; `advertised` would lead everybody to one of them."""
    listeners = "listeners: {kafka: ['127.0.0.1:9092', '[::1]:9093', '127.0.0.1:0']}\n"
    assert errors(listeners + "kafka: {vhosts: {'[::1]:9093': shop}}") == []
    assert errors(listeners + "kafka: {vhosts: {'[::1]:9093': shop}, advertised: 'a:1'}") == [
        "c.yaml:2: kafka.advertised: leads everybody to one listener, and kafka.vhosts tells vhosts by listener"
    ]
    there = "127.0.0.1:9092, [::1]:9093, 127.0.0.1:0"
    for name, text in (
        ("localhost:9092", f"no listener for Kafka's clients has this address: {there}"),
        ("127.0.0.1:0", "give the listener a port: with 0 nobody knows which one has this vhost"),
    ):
        assert errors(listeners + f"kafka: {{vhosts: {{'{name}': shop}}}}") == [
            f"c.yaml:2: kafka.vhosts.{name}: {text}"
        ]
    assert len(errors("kafka: {vhosts: {'127.0.0.1:9092': ''}}")) == 1
