"""What a start would find, without starting: for `jackalope config check`, with a data directory or without one.

The catalog is read from the files as they lie there, beside a running broker or without one, and the configuration is
declared into a broker of its own, which is thrown away. Nothing in the directory is locked or changed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import uuid4

from broker.config import Config
from broker.core.broker import Broker
from broker.core.vhosts.vhost import VHostLimits
from broker.log.disk import RealDisk
from broker.log.dump import catalog_of
from broker.log.log import Log
from broker.log.recovery import open_store
from broker.settings import MEMORY
from broker.topology import declare_topology


def conflicts_with(config: Config, directory: Path | None, limits: VHostLimits) -> list[str]:
    """Return what of the configuration conflicts with what is in the directory, or where nothing is, with itself.

    Raises OSError and StorageError.
    """
    if directory is None and config.storage.dir == MEMORY:
        return declare_topology(Broker(lambda _: 0, limits), config, 0)
    with tempfile.TemporaryDirectory(prefix="jackalope-check-") as folder:
        store = open_store(RealDisk(Path(folder)), lambda: uuid4().bytes, begin=False)
        try:
            found, uuids = catalog_of(directory) if directory is not None else ({}, {})
            store.catalog.update(found)
            broker = Broker(lambda _: 0, limits, store)
            broker.scheduler.report = lambda *_: None  # Of policies that are not applied: a start says so.
            for number, uuid in uuids.items():
                log = Log(number, uuid, 0, store.filling, durable=True)
                store.logs[number] = store.by_uuid[uuid] = log
            broker.restore(0)
            left = [f"{one} (left aside, cannot be used)" for one in broker.left_aside]
            return [*left, *declare_topology(broker, config, 0)]
        finally:
            store.close()
