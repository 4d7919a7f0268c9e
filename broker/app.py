"""Wiring, and nothing else: configuration -> core -> listeners, one nursery, an ordered stop.

Start: every socket is opened before anything is promised; then the ready line. Stop (SIGTERM, SIGINT): no new
connections, connection.close 320 to those that are there, a bounded wait, exit 0; a second signal exits at once.
SIGHUP reads the configuration again: users and permissions are swapped when all of it is valid, or nothing is.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from broker.config import Config, load
from broker.config.secret import Secret
from broker.core.access import Access
from broker.core.access_lists import restore_access_lists
from broker.core.broker import Broker
from broker.errors import ConfigError
from broker.log.disk import RealDisk
from broker.log.errors import StorageError
from broker.log.recovery import begin_run, open_store
from broker.log.store import Store
from broker.server.auth import Authenticator, apply_users
from broker.server.clock import Clock
from broker.server.durability import Durability
from broker.server.env import Env
from broker.server.half_open import AcceptLimits
from broker.server.hub import Hub
from broker.server.late import AMQP_PART, HTTP_PART, KAFKA_PART, first_visitor, import_part
from broker.server.listener import (
    Admit,
    Listener,
    TlsListening,
    open_listeners,
    shown_address,
)
from broker.server.log_lines import LogLines
from broker.server.poller import Poller
from broker.server.pump import PumpLimits
from broker.server.ticker import Ticker
from broker.settings import (
    MEMORY,
    group_settings,
    memory_watermark_bytes,
    own_version,
    tls_context,
    vhost_limits,
)
from broker.topology import declare_topology

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("jackalope")

SWITCH_INTERVAL_S = 0.0005
COLLECTED_AT = (10_000, 6, 2_000)
"""For `gc.set_threshold`. A collection stops everything: of the youngest it looks at 10,000 objects, of those that have
outlived one at 70,000, which takes 10 ms; the oldest are looked at once in 160 million."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""
FREED_BYTES_KEPT, BLOCK_BYTES_MAX = 32 << 20, 8 << 20
STORAGE_FAILED_DRAIN_S = 1.0
STRANGERS_SHOWN = 5
EXIT_OWN_ERROR = 70
"""EX_SOFTWARE: an exception that nobody expected."""
EXIT_STORAGE_FAILED = 74
"""EX_IOERR: a write or sync has failed, what was in flight was refused."""


def run(config_paths: Sequence[str], data: str | None, sets: Sequence[str]) -> int:
    """`jackalope serve`: until a signal ends it.

    Returns the exit code: 0 stopped, 1 could not start, 70 an error of the broker's own, 74 the disk has failed.
    """
    sets = [*sets, *([f"storage.dir={data}"] if data is not None else [])]
    try:
        config = load(config_paths, sets)
        _set_up_logging(config)
        for warning in config.warnings:
            log.warning("%s", warning)
        return trio.run(_Server(config, tuple(config_paths), tuple(sets)).run)
    except (ConfigError, StorageError) as error:
        print(f"jackalope: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - the last one who can tell
        return _fallen(error)


def _fallen(error: Exception) -> int:
    """Log, as one line and perhaps a traceback, what has ended everything; returns the exit code.

    Nothing is written any more: for the data directory it is a kill.
    """
    others = error.split(StorageError)[1] if isinstance(error, ExceptionGroup) else error
    if others is None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        log.critical("storage failed, stopping: %s", error)
        return EXIT_STORAGE_FAILED
    log.critical("an error of the broker's own, stopping at once: please report it", exc_info=error)
    return EXIT_OWN_ERROR


def _set_up_logging(config: Config) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if config.log.format == "json":
        from broker.logs import JsonFormatter

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("jackalope")
    root.addHandler(handler)
    root.setLevel(config.log.level.upper())


@dataclass
class _Server:
    """One run of the broker."""

    config: Config
    paths: tuple[str, ...]
    sets: tuple[str, ...]
    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    stopping: bool = False

    async def run(self) -> int:
        config, limits = self.config, self.config.limits
        env = Env()
        store = open_storage(config, env.random_bytes)
        broker = Broker(env.randrange, vhost_limits(config), store)
        broker.scheduler.report = _report
        access = Access()
        authenticator = Authenticator(access, config.security, env.monotonic_s)
        apply_users(config.users.values(), access, authenticator)
        durability = Durability(store, env) if store is not None else None
        hub = Hub(broker, access, authenticator, durability, limits.unfinished_bytes_max, env)
        clock = Clock(hub, env.monotonic_ns, env.time_ns)
        hub.read_clock = clock.read
        hub.group_settings = group_settings(config)
        broker.restore(hub.now_ms)
        if store is not None:
            restore_access_lists(access, store.catalog, broker.leave_aside)
        self._declare(hub, config)
        hub.restore_groups()
        listeners = config.listeners
        context = tls_context(config) if listeners.amqps is not None or listeners.kafkas is not None else None
        self._listen(topics=store is not None)
        if store is not None:
            _flush(store, config)  # From here on the run counts: whatever could have ended the start has not.
        ticker = Ticker(
            hub,
            set_clock=clock.set,
            memory_watermark_bytes=memory_watermark_bytes(limits.memory_watermark),
            disk_free_bytes_min=config.storage.disk_free_bytes_min,
        )
        async with trio.open_nursery() as nursery:
            pump_limits = PumpLimits(limits.read_chunk_bytes, limits.read_chunk_bytes_max, limits.out_buffer_bytes_max)
            poller = Poller(hub, nursery, pump_limits)
            if durability is not None:
                poller.watch(durability.flusher.fd, durability.flusher.collect)
                durability.set_space = hub.set_space
                nursery.start_soon(self._stop_when_failed, durability, hub, nursery.cancel_scope)
            nursery.start_soon(poller.run)
            nursery.start_soon(ticker.run)
            accepting = trio.CancelScope()
            nursery.start_soon(self._accept, accepting, nursery, hub, poller, context, ticker)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                self._settle_memory()
                print(ready_line(self.sockets, durable=store is not None), flush=True)
                async for number in signals:
                    if number == signal.SIGHUP:
                        self._reload(hub)
                    elif self.stopping:
                        os._exit(1)
                    else:
                        self.stopping = True
                        log.info("stopping: %d connections", hub.open_count)
                        accepting.cancel()
                        nursery.start_soon(self._drain, hub, nursery.cancel_scope)
        return self._close_storage(broker, durability)

    def _declare(self, hub: Hub, config: Config) -> None:
        """The topology; what conflicts with what is there is told. Raises ConfigError where that ends the start."""
        broker = hub.broker
        for text in broker.left_aside:
            log.error(
                "catalog: left aside, cannot be used: %s (`jackalope catalog ls` shows it, `catalog rm` drops it)", text
            )
        for text in broker.damage():
            log.error("storage: %s", text)
        broker.conflicts = declare_topology(broker, config, hub.now_ms)
        if broker.conflicts and config.topology.strict:
            raise ConfigError("\n".join([*broker.conflicts, "topology.strict is true: nothing was changed"]))
        for text in broker.conflicts:
            log.warning("topology: %s", text)
        self.config = replace(config, root=None)  # Nobody asks any more where something was written.

    def _listen(self, *, topics: bool) -> None:
        """Open what is configured; without topics there is nothing for Kafka's clients, and the log says so."""
        for name in ("amqp", "amqps", "kafka", "kafkas", "http"):
            addresses = getattr(self.config.listeners, name)
            if addresses is None:
                continue
            if not topics and name in ("kafka", "kafkas"):
                log.info("no %s listener: topics need a data directory, and storage.dir is memory", name)
                continue
            self.sockets[name] = open_listeners(addresses)

    async def _stop_when_failed(self, durability: Durability, hub: Hub, everything: trio.CancelScope) -> None:
        """The disk has failed: tell every peer, then end. Nothing that was in flight is confirmed."""
        await durability.failed.wait()
        hub.end_all(failed=True)
        with trio.move_on_after(STORAGE_FAILED_DRAIN_S):
            while hub.open_count:
                await trio.sleep(0.02)
        everything.cancel()

    @staticmethod
    def _close_storage(broker: Broker, durability: Durability | None) -> int:
        """Write what is left and that it was left in order; returns the exit code."""
        if durability is None:
            return 0
        if durability.flusher.failed is not None:
            return EXIT_STORAGE_FAILED
        try:
            broker.close_in_order()
            durability.flusher.stop()
        except (OSError, StorageError) as error:
            log.critical("storage failed while stopping: %s", error)
            return EXIT_STORAGE_FAILED
        durability.store.close()
        return 0

    async def _accept(
        self,
        scope: trio.CancelScope,
        connections: trio.Nursery,
        hub: Hub,
        poller: Poller,
        context: ssl.SSLContext | None,
        ticker: Ticker,
    ) -> None:
        """Let everybody in until the scope is cancelled; whoever is in stays, HTTP's in a nursery of theirs.

        What speaks with clients is imported here: open sockets are enough for being ready.
        """
        limits = self.config.limits
        accept = AcceptLimits(
            limits.connections_max,
            limits.connections_per_ip_max,
            limits.connections_unauthenticated_max,
            limits.connections_unauthenticated_per_ip_max,
        )
        with scope:
            async with trio.open_nursery() as nursery:
                await import_part(AMQP_PART)
                from broker.server.amqp.door import AmqpDoor, amqp_settings
                from broker.server.amqp.hub import AmqpHub

                version = self.config.compat.version or own_version()
                timeouts_ms = int(limits.handshake_timeout_s * 1000), int(limits.send_timeout_s * 1000)
                amqp = AmqpDoor(AmqpHub(hub, *timeouts_ms), poller, amqp_settings(self.config, version), accept)
                if not self.sockets.keys().isdisjoint(("kafka", "kafkas")):
                    await import_part(KAFKA_PART)
                    from broker.server.kafka.door import kafka_doors

                    # Before anybody is let in: it makes the vhosts that its listeners lead to.
                    doors = kafka_doors(hub, poller, self.config, accept, self._password_of)
                    self._let_in("kafka", doors, nursery, context, hub.log_lines)
                self._let_in("amqp", lambda _: amqp, nursery, context, hub.log_lines)
                if "http" in self.sockets:
                    nursery.start_soon(self._serve_http, connections, hub, ticker)
        for sockets in self.sockets.values():
            for sock in sockets:
                sock.close()

    def _let_in(
        self,
        face: str,
        door: Callable[[socket.socket], Admit],
        nursery: trio.Nursery,
        context: ssl.SSLContext | None,
        log_lines: LogLines,
    ) -> None:
        """Accept on the sockets of a face, those with TLS too; each leads to its door."""
        tls = TlsListening(context, self.config.tls.login_from) if context is not None else None
        for name, over in ((face, None), (face + "s", tls)):
            for sock in self.sockets.get(name, ()):
                nursery.start_soon(Listener(sock, door(sock), log_lines, over).run)

    async def _serve_http(self, connections: trio.Nursery, hub: Hub, ticker: Ticker) -> None:
        """The management API, from its first visitor on: many brokers have none, and it takes 3 MB."""
        await first_visitor(self.sockets["http"])
        try:
            await import_part(HTTP_PART)
        except ImportError as error:  # Its files were changed under the running broker; messages must not end by that.
            log.error("the management API is off: it cannot be imported: %s", error)
            return
        from broker.server.http.server import HttpServer

        def statistics() -> dict[str, Any]:
            return {**hub.statistics(), **ticker.statistics(), "version": own_version()}

        await HttpServer(hub, connections, self.sockets["http"], self.config.limits, statistics).run()

    async def _drain(self, hub: Hub, everything: trio.CancelScope) -> None:
        """Ask every peer to go, wait a bounded time, then end all tasks."""
        hub.end_all(failed=False)
        with trio.move_on_after(self.config.limits.drain_timeout_s):
            while hub.open_count:
                await trio.sleep(0.02)
        everything.cancel()

    def _password_of(self, name: str) -> Secret | None:
        user = self.config.users.get(name)
        return user.password if user is not None else None

    def _reload(self, hub: Hub) -> None:
        """Validate everything, then swap users and permissions; keep the old ones when anything is wrong."""
        try:
            config = load(self.paths, self.sets)
        except ConfigError as error:
            log.error("configuration not reloaded, the old one stays: %s", error)
            return
        apply_users(config.users.values(), hub.access, hub.authenticator)
        if hub.kafka is not None:
            hub.kafka.scram.forget_others(hub.access.users.keys())
        for name in ("listeners", "tls", "limits", "storage", "kafka", "compat", "log", "vhosts"):
            if getattr(config, name) != getattr(self.config, name):
                log.warning("configuration: %s changed, takes effect at the next start", name)
        self.config = replace(config, root=None)
        log.info("configuration reloaded: %d users", len(config.users))

    @staticmethod
    def _settle_memory() -> None:
        """What start-up made stays; messages are tuples of bytes, so collections find little and may be rare.

        The little garbage of the start stays as well: to look for it takes a tenth of the start.
        """
        gc.freeze()
        gc.enable()  # `serve` has switched it off.
        gc.set_threshold(*COLLECTED_AT)
        _keep_freed_memory()
        # A thread that has synced has to get the interpreter back soon, or confirms wait for the default's 5 ms.
        sys.setswitchinterval(SWITCH_INTERVAL_S)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to a bound, and take large blocks from that.

    By default what a batch of a megabyte has used goes back to the kernel, and the next one pays for fresh pages: that
    was a third of the system's time per megabyte produced. Other C libraries have no such knob, or need none.
    """
    import ctypes  # trio has imported it.

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, FREED_BYTES_KEPT)
        mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES_MAX)


def _report(text: str, error: Exception) -> None:
    logging.getLogger("jackalope.core").error("%s: %s", text, error)


def open_storage(config: Config, random_bytes: Callable[[int], bytes]) -> Store | None:
    """The store of the data directory; None when all is to be kept in memory. Raises StorageError."""
    if config.storage.dir == MEMORY:
        return None
    try:
        store = open_store(RealDisk(Path(config.storage.dir)), lambda: random_bytes(16), begin=False)
    except OSError as error:
        raise StorageError(f"the data directory {config.storage.dir} cannot be used: {error}") from None
    store.sync = config.storage.flush == "ack"
    found = store.recovered
    log.info("storage: %s, %d logs, %d frames replayed%s%s", config.storage.dir, len(store.logs), found.frames,
             "" if found.clean else ", the last run did not stop in order",
             f", {found.cut_bytes} octets of a torn tail cut" if found.cut_bytes else "")  # fmt: skip
    if found.strangers:
        log.warning("storage: left alone, not the broker's: %s", ", ".join(found.strangers[:STRANGERS_SHOWN]))
    return store


def _flush(store: Store, config: Config) -> None:
    """Write what the configuration has declared. Raises StorageError."""
    try:
        begin_run(store)
    except OSError as error:
        raise StorageError(f"the data directory {config.storage.dir} cannot be written: {error}") from None


def ready_line(sockets: dict[str, list[socket.socket]], *, durable: bool) -> str:
    """`ready amqp=HOST:PORT http=HOST:PORT`, with the ports that were found; `storage=memory` when that is all.

    Of several addresses the first.
    """
    parts = [f"{name}={shown_address(*some[0].getsockname()[:2])}" for name, some in sockets.items()]
    return " ".join(["ready", *parts, *([] if durable else [f"storage={MEMORY}"])])
