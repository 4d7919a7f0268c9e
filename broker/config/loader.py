"""From files, `--set` and the environment to a checked `Config`.

Owns the order: files as given (a directory is its *.yaml, *.yml and *.json by name), later above earlier, `--set` on
top. Every mistake is reported, not the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker.config import source
from broker.config.kinds import Reading, Wrong
from broker.config.schema import Config
from broker.config.sections import read_struct
from broker.config.source import Item
from broker.errors import ConfigError

ERRORS_TOLD_MAX = 100
"""Mistakes that are told one by one: a generated file has one in each of its objects, or none."""
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` found: one complete sentence each. No errors means that the broker would start with it."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def load(
    paths: Sequence[str | Path] = (), sets: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Config:
    """The configuration; nothing given is the defaults. `environ` is os.environ unless given.

    Raises ConfigError with one line for each mistake.
    """
    config, errors = _read(paths, sets, os.environ if environ is None else environ)
    if errors:
        raise ConfigError("\n".join(_told(errors)))
    return config


def check(
    paths: Sequence[str | Path] = (), sets: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Report:
    """Everything that `load` would refuse or warn of, without raising."""
    config, errors = _read(paths, sets, os.environ if environ is None else environ)
    return Report(tuple(_told(errors)), config.warnings)


def _told(errors: list[str]) -> list[str]:
    more = len(errors) - ERRORS_TOLD_MAX
    return errors if more <= 0 else [*errors[:ERRORS_TOLD_MAX], f"{more} more mistakes"]


def _read(paths: Sequence[str | Path], sets: Sequence[str], environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    reading = Reading(environ, read_text)
    warnings: list[str] = []
    if not paths and not sets:
        return Config(), []
    trees: list[Item] = []
    for path in paths:
        try:
            trees.extend([_parse(file, reading, warnings) for file in _files(Path(path))])
        except ConfigError as error:
            reading.errors.append(str(error))
    for assignment in sets:
        try:
            trees.append(source.parse_set(assignment, environ, reading.errors))
        except ConfigError as error:
            reading.errors.append(str(error))
    if reading.errors:  # What is missing from a tree would only raise false alarms.
        return Config(), reading.errors
    try:
        root = source.overlay(trees)
        config = read_struct(Config, root, "", reading)
    except (ConfigError, Wrong) as error:
        return Config(), [*reading.errors, str(error)]
    from broker.config import validate  # Brings in what it checks with, so not for the defaults.

    reading.errors.extend(validate.problems(config, root, reading.wrong))
    warnings += validate.warnings(config, root)
    return replace(config, warnings=tuple(warnings), root=root), reading.errors


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        raise ConfigError(f"{path}: no *.yaml or *.json in this directory")
    return files


def _parse(path: Path, reading: Reading, warnings: list[str]) -> Item:
    from broker.config import definitions

    file = str(path)
    try:
        text = read_text(file, source.FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or 'cannot be read'}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    if path.suffix == ".json":
        root = source.parse_json(text, file)
    else:
        root = source.parse_yaml(text, file, reading.environ, reading.errors)
    return definitions.translate(root, reading.errors, warnings) if definitions.is_definitions(root) else root


def read_text(path: str, bytes_max: int) -> str:
    """A file's text. Raises OSError, or ValueError (which never shows the text) when it is too long or not UTF-8."""
    with open(path, "rb") as file:
        raw = file.read(bytes_max + 1)
    if len(raw) > bytes_max:
        raise ValueError(f"longer than {bytes_max} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
