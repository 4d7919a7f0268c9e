"""The loggers of this process as resources of DescribeConfigs and IncrementalAlterConfigs (BROKER_LOGGER, KIP-412).

Changes hold until the process ends, as in Kafka. `root` is the logger that all others of the broker's are below.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from broker.core.topics.errors import TopicRefused
from protocol.kafka.apis.describe_configs import DescribeConfigsResourceResult
from protocol.kafka.apis.incremental_alter_configs import AlterableConfig
from protocol.kafka.errors import ErrorCode

ROOT = "root"
_ROOT_NAME = "jackalope"
LOGGER_SOURCE = 6
SET, DELETE = 0, 1
LEVELS = {
    "TRACE": logging.DEBUG - 5, "DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARN": logging.WARNING,
    "ERROR": logging.ERROR, "FATAL": logging.CRITICAL,
}  # fmt: skip


def describe_loggers() -> list[DescribeConfigsResourceResult]:
    """Every logger with the level that holds for it."""
    return [
        DescribeConfigsResourceResult(
            name=name, value=_level_name(logger), config_source=LOGGER_SOURCE, documentation=None
        )
        for name, logger in _loggers().items()
    ]


def alter_loggers(changes: Iterable[AlterableConfig], *, validate_only: bool) -> None:
    """Set levels, or have loggers follow the one above again. Raises TopicRefused 40, 42, and changes nothing then."""
    loggers = _loggers()
    wanted = [(change.name, _wanted(change, loggers)) for change in changes]
    if not validate_only:
        for name, level in wanted:
            loggers[name].setLevel(level)


def _wanted(change: AlterableConfig, loggers: dict[str, logging.Logger]) -> int:
    name, value = change.name, change.value or ""
    if change.config_operation not in (SET, DELETE):
        text = f"Operation {change.config_operation} is not allowed for the loggers of a broker"
        raise TopicRefused(ErrorCode.INVALID_REQUEST, text)
    if name not in loggers:
        raise TopicRefused(ErrorCode.INVALID_CONFIG, f"Logger {name} does not exist!")
    if change.config_operation == DELETE:
        if name == ROOT:
            text = "Removing the log level of the root logger is not allowed"
            raise TopicRefused(ErrorCode.INVALID_REQUEST, text)
        return logging.NOTSET
    if value not in LEVELS:
        text = (
            f"Cannot set the log level of {name} to {value} as it is not a supported log level. "
            f"Valid log levels are {', '.join(sorted(LEVELS))}"
        )
        raise TopicRefused(ErrorCode.INVALID_CONFIG, text)
    return LEVELS[value]


def _loggers() -> dict[str, logging.Logger]:
    known = sorted(name for name in logging.root.manager.loggerDict if name.startswith(_ROOT_NAME + "."))
    return {ROOT: logging.getLogger(_ROOT_NAME), **{name: logging.getLogger(name) for name in known}}


def _level_name(logger: logging.Logger) -> str:
    level = logger.getEffectiveLevel()
    return next((name for name, value in LEVELS.items() if level <= value), "FATAL")
