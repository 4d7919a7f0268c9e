"""What the parts of a broker are told: their settings, made of the configuration. Pure, but for the TLS files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from broker.config import Config
from broker.core.groups.settings import GroupSettings
from broker.core.vhosts.vhost import VHostLimits
from broker.errors import ConfigError

if TYPE_CHECKING:
    import ssl

MEMORY = "memory"
"""The storage.dir of a broker that keeps nothing; its ready line says so."""


def own_version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version  # 20 ms that nobody need wait for.

    try:
        return version("jackalope")
    except PackageNotFoundError:
        return "0.0.0"


def vhost_limits(config: Config) -> VHostLimits:
    """How many of each a vhost may hold."""
    limits = config.limits
    return VHostLimits(
        queues_max=limits.queues_max,
        exchanges_max=limits.exchanges_max,
        bindings_max=limits.bindings_max,
        partitions_max=limits.partitions_max,
        retention_check_ms=int(config.kafka.retention_check_s * 1000),
    )


def group_settings(config: Config) -> GroupSettings:
    """What consumer groups are bound by."""
    limits = config.limits
    return GroupSettings(
        initial_rebalance_delay_ms=int(config.kafka.group_initial_rebalance_delay_s * 1000),
        members_max=limits.kafka_group_members_max,
        groups_max=limits.kafka_groups_max,
        member_metadata_bytes_max=limits.kafka_group_metadata_bytes_max,
        assignment_bytes_max=limits.kafka_group_assignment_bytes_max,
        bytes_max=limits.kafka_groups_bytes_max,
        offset_metadata_chars_max=limits.kafka_offset_metadata_chars_max,
        session_timeout_ms_min=round(config.kafka.group_session_timeout_min_s * 1000),
        session_timeout_ms_max=round(config.kafka.group_session_timeout_max_s * 1000),
        offsets_retention_ms=int(config.kafka.offsets_retention_s * 1000),
    )


def tls_context(config: Config) -> ssl.SSLContext:
    """The server's TLS context. Raises ConfigError when a file cannot be used."""
    import ssl

    tls = config.tls
    if tls.cert is None or tls.key is None:
        raise ConfigError("a TLS listener needs tls.cert and tls.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls: {error}") from None
    context.verify_mode = {"none": ssl.CERT_NONE, "request": ssl.CERT_OPTIONAL, "require": ssl.CERT_REQUIRED}[
        tls.verify
    ]
    return context


def memory_watermark_bytes(watermark: float) -> int:
    """An absolute size, or the share of this machine's (or container's) memory that a value up to 1 means."""
    if watermark > 1:
        return int(watermark)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(limit, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue  # This kernel keeps the other one.
        if text.isdigit():
            total = min(total, int(text))
    return int(total * watermark)
