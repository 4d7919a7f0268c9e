"""The two brokers that the compatibility tests ask, behind one shape.

Owns: their configuration (a pool of vhosts, the users, TLS) and the `Target` handed to a test.
Must not know: clients, tests.
"""

import contextlib
import os
import shlex
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import yaml

from tools.bench.control import HOST, Broker, TlsFiles, rabbitmq_missing, running_jackalope, running_rabbitmq

EXCHANGE_PLUGINS = (
    "rabbitmq_consistent_hash_exchange", "rabbitmq_random_exchange", "rabbitmq_recent_history_exchange",
)  # fmt: skip
VHOSTS = 160  # One a test and one a run of a probe script; a run that needs more says so.
USER, PASSWORD = "guest", "guest"
READER, READER_PASSWORD = "bunny_reader", "reader_password"
PROBE_VHOST_OF_READER = "fresh-reader"
EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
# A user who may read everything in one vhost and do nothing else there: no name matches the other two patterns.
READER_PERMISSIONS = {"configure": "^---$", "write": "^---$", "read": ".*"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a test's client connects: a broker and a vhost that nobody has used before."""

    name: str
    host: str
    port: int
    tls_port: int
    ca_file: Path
    vhost: str
    user: str = USER
    password: str = field(default=PASSWORD, repr=False)

    @property
    def url(self) -> str:
        """An AMQP URL with the vhost percent-encoded."""
        return f"amqp://{self.user}:{self.password}@{self.host}:{self.port}/{quote(self.vhost, safe='')}"

    @property
    def tls_url(self) -> str:
        """The same over TLS. The certificate names localhost."""
        return f"amqps://{self.user}:{self.password}@localhost:{self.tls_port}/{quote(self.vhost, safe='')}"

    def ssl_context(self) -> ssl.SSLContext:
        """A client context that trusts only the test's own authority and checks the host name."""
        return ssl.create_default_context(cafile=str(self.ca_file))


class Pool:
    """Hands out the vhosts of one running broker, each once."""

    def __init__(self, broker: Broker, tls: TlsFiles) -> None:
        assert broker.tls_port is not None
        self.broker = broker
        self._tls = tls
        self._unused = iter(vhost_names())

    def fresh(self) -> Target:
        """A target in an unused vhost. Raises AssertionError when the pool is used up or the broker has ended."""
        assert self.broker.pids(), f"the broker has ended: {self.log()[-4000:]}"
        vhost = next(self._unused, None)
        assert vhost is not None, f"more than {VHOSTS} vhosts were asked for: raise VHOSTS"
        return Target(self.broker.name, self.broker.host, self.broker.port, self.broker.tls_port or 0,
                      self._tls.ca_file, vhost)  # fmt: skip

    def log(self) -> str:
        """What a Jackalope wrote to stderr; empty for RabbitMQ."""
        path = (self.broker.directory or Path()) / "stderr.log"
        return path.read_text(errors="replace") if path.exists() else ""


def vhost_names() -> list[str]:
    """The names of the pool."""
    return [f"fresh-{number:03d}" for number in range(VHOSTS)]


@contextlib.contextmanager
def rabbitmq_pool(tls: TlsFiles) -> Iterator[Pool]:
    """A private rabbitmq-server with the pool's vhosts. Raises BrokerStartError."""
    vhosts = ["/", PROBE_VHOST_OF_READER, *vhost_names()]
    definitions = {
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "users": [
            {"name": USER, "password": PASSWORD, "tags": "administrator"},
            {"name": READER, "password": READER_PASSWORD, "tags": ""},
        ],
        "permissions": [
            *({"user": USER, "vhost": vhost, **EVERYTHING} for vhost in vhosts),
            {"user": READER, "vhost": PROBE_VHOST_OF_READER, **READER_PERMISSIONS},
        ],
    }
    with running_rabbitmq(definitions=definitions, tls=tls, plugins=EXCHANGE_PLUGINS) as broker:
        yield Pool(broker, tls)


def installed_rabbitmq(pool: Pool) -> str:
    """The control's version as it says itself in connection.start, such as `rabbitmq-3.10.8`."""
    import pika

    parameters = pika.ConnectionParameters(pool.broker.host, pool.broker.port, "/")
    with pika.BlockingConnection(parameters) as connection:
        properties = connection._impl.server_properties
        return f"rabbitmq-{properties['version']}"


def control_missing() -> str | None:
    """Why the control cannot run here, or None."""
    return rabbitmq_missing()


@contextlib.contextmanager
def jackalope_pool(tls: TlsFiles, directory: Path, settings: Sequence[str] = ()) -> Iterator[Pool]:
    """A Jackalope with the pool's vhosts: of this checkout, or what JACKALOPE_COMMAND starts (`jackalope serve`).

    Raises BrokerStartError.
    """
    command = shlex.split(os.environ.get("JACKALOPE_COMMAND", "")) or None
    vhosts = ["/", PROBE_VHOST_OF_READER, *vhost_names()]
    config = {
        "listeners": {"amqps": f"{HOST}:0"},
        # A probe that is waiting for silence is not to see how long a peer may take to answer connection.close.
        "limits": {"close_timeout_s": 600},
        "tls": {"cert": str(tls.cert_file), "key": str(tls.key_file)},
        "vhosts": {vhost: {} for vhost in vhosts},
        "users": {
            USER: {
                "password": PASSWORD,
                "tags": ["administrator"],
                "permissions": dict.fromkeys(vhosts, EVERYTHING),
            },
            READER: {"password": READER_PASSWORD, "permissions": {PROBE_VHOST_OF_READER: READER_PERMISSIONS}},
        },
    }
    path = directory / "jackalope.yaml"
    path.write_text(yaml.safe_dump(config))
    with running_jackalope("-c", str(path), command=command, settings=settings, http=False) as broker:
        pool = Pool(broker, tls)
        yield pool
        # Whatever clients did, none of it may have met an error that the broker does not know.
        assert "Traceback" not in pool.log(), pool.log()[-8000:]
