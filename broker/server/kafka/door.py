"""Who comes in over Kafka's protocol, and what they find: wiring, from the configuration to connections."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from broker.config import Config
from broker.config.secret import Secret
from broker.server.bulk import BulkPump
from broker.server.half_open import AcceptLimits
from broker.server.hub import Hub
from broker.server.kafka.connection import KafkaConnection
from broker.server.kafka.hub import KafkaHub
from broker.server.kafka.settings import KafkaSettings
from broker.server.listener import Admit, bound_hosts
from broker.server.poller import Poller
from broker.server.scram import Scram
from broker.server.tls import Tls

CLUSTER_ID_KEY = b"c"


@dataclass(frozen=True, slots=True)
class KafkaDoor:
    """An `Admit`, of the listeners that lead to one vhost; `everybody` are the faces of all, of which it is one."""

    hub: KafkaHub
    everybody: Sequence[KafkaHub]
    poller: Poller
    limits: AcceptLimits

    def __call__(self, sock: socket.socket, peer: tuple[str, int], tls: Tls | None) -> bool:
        """Everybody up to the limit of connections; half open ones, of either protocol, make room for new ones."""
        limits = self.limits
        if (
            sum(len(hub.connections) for hub in self.everybody) >= limits.connections_max
            or self.hub.hub.hosts.count(peer[0]) >= limits.per_host_max
        ):
            return False
        self.hub.hub.half_open.make_room(peer[0], limits)
        self.hub.hub.read_clock()
        connection = KafkaConnection(self.hub, peer, sock.getsockname()[:2])
        self.hub.add(connection)
        self.poller.add(BulkPump(self.hub, self.poller, sock, connection, tls))
        return True


def vhost_of(config: Config, sock: socket.socket) -> str:
    """The vhost that a listener for Kafka's clients leads to."""
    bound = sock.getsockname()[:2]
    for address in chain(config.listeners.kafka or (), config.listeners.kafkas or ()):
        vhost = config.kafka.vhosts.get(str(address))
        if vhost is not None and address.port == bound[1] and bound[0] in bound_hosts(address.host):
            return vhost
    return config.kafka.vhost


def kafka_settings(config: Config, cluster_uuid: bytes) -> KafkaSettings:
    """What connections are told and bound by."""
    plain, secured = ("PLAINTEXT", "SSL") if config.kafka.anonymous is not None else ("SASL_PLAINTEXT", "SASL_SSL")
    listening = [(plain, one) for one in config.listeners.kafka or ()]
    listening += [(secured, one) for one in config.listeners.kafkas or ()]
    advertised = config.kafka.advertised
    return KafkaSettings(
        vhost=config.kafka.vhost,
        node_id=config.kafka.node_id,
        cluster_id=base64.urlsafe_b64encode(cluster_uuid).decode().rstrip("="),
        advertised=(advertised.host, advertised.port) if advertised is not None else None,
        listeners=",".join([f"{protocol}://{address}" for protocol, address in listening]),
        anonymous=config.kafka.anonymous,
        request_bytes_max=config.limits.kafka_request_bytes_max,
        fetch_bytes_max=config.limits.kafka_fetch_bytes_max,
        answers_bytes_max=config.limits.kafka_answers_bytes_max,
        answers_per_connection_bytes_max=config.limits.kafka_answers_per_connection_bytes_max,
        auto_create_topics=config.kafka.auto_create_topics,
        acls_max=config.limits.acls_max,
        partitions_default=config.kafka.partitions_default,
        login_timeout_ms=int(config.limits.handshake_timeout_s * 1000),
        login_refused_delay_ms=int(config.security.login_refused_delay_s * 1000),
        send_timeout_ms=int(config.limits.send_timeout_s * 1000),
        idle_timeout_ms=int(config.limits.kafka_idle_timeout_s * 1000),
    )


def kafka_doors(
    hub: Hub, poller: Poller, config: Config, accept: AcceptLimits, password_of: Callable[[str], Secret | None]
) -> Callable[[socket.socket], Admit]:
    """The door behind each listening socket, into one of the Kafka faces of this process: one for each vhost that a
    listener leads to, and for `kafka.vhost`.

    There has to be a store. `password_of` is for SCRAM, see there.
    """
    durability = hub.durability
    assert durability is not None
    store = durability.store
    if CLUSTER_ID_KEY not in store.catalog:
        store.put(CLUSTER_ID_KEY, store.new_uuid())
    settings = kafka_settings(config, store.catalog[CLUSTER_ID_KEY])
    scram = Scram(hub.authenticator, store, config.security.scram_iterations, password_of, hub.env.random_bytes)
    scram.forget_others(hub.access.users.keys())
    faces: dict[str, KafkaHub] = {}
    for vhost in (config.kafka.vhost, *config.kafka.vhosts.values()):
        if vhost not in faces:
            topics = hub.broker.add_vhost(vhost).topics
            assert topics is not None
            faces[vhost] = KafkaHub(hub, topics, durability, replace(settings, vhost=vhost), scram)
    hub.kafka = faces[config.kafka.vhost]
    everybody = tuple(faces.values())
    doors = {vhost: KafkaDoor(face, everybody, poller, accept) for vhost, face in faces.items()}
    return lambda sock: doors[vhost_of(config, sock)]
