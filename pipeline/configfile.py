"""Finds and reads the configuration file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import INSTANCE, Config, ConfigError, Radiod, parse_config
from pipeline.coordination import radiod_variable, variables
from pipeline.schema import Fault, read

ENVIRONMENT_VARIABLE = "GRAPE_PIPELINE_CONFIG"
DEFAULT_PATH = Path("/etc/grape-pipeline/grape-pipeline.toml")
# key of [radiod]: the fact that a coordinator may state about this radiod
COORDINATED = {"status_address": "STATUS", "chain_delay_ns": "CHAIN_DELAY_NS"}


class ConfigMissing(ConfigError):
    """There is no configuration file where one was looked for."""


def locate(path: Path | None = None, instance: str | None = None) -> Path:
    """Where the configuration is expected: `path`, else the environment's, else in /etc.

    There an instance may have a file of its own, named after it.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if path is None and not named and instance and re.fullmatch(INSTANCE, instance):
        own = DEFAULT_PATH.with_name(f"{instance}.toml")
        if own.is_file():
            return own.absolute()
    return (path or (Path(named) if named else DEFAULT_PATH)).absolute()


def locate_all(path: Path | None = None) -> list[Path]:
    """The configuration of every instance: `path` or the environment's alone, else all in /etc."""
    first = locate(path)
    if path is not None or os.environ.get(ENVIRONMENT_VARIABLE):
        return [first]
    others = sorted(p.absolute() for p in DEFAULT_PATH.parent.glob("*.toml"))
    return [first] * (first in others or not others) + [p for p in others if p != first]


def load(path: Path | None = None, *, instance: str | None = None, need_channels: bool = True) -> Config:
    """See `pipeline.config.load_config`."""
    found = locate(path, instance)
    try:
        text = found.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "there is no such file; write one with: grape-pipeline init"
        raise ConfigMissing(found, [Fault("", None, hint)]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(found, [Fault("", None, f"not UTF-8 text: byte {error.start}")]) from None
    except OSError as error:
        raise ConfigError(found, [Fault("", None, f"cannot be read: {error.strerror}")]) from None
    return _coordinated(parse_config(text, found, need_channels=need_channels), variables())


def _coordinated(config: Config, told: Mapping[str, str]) -> Config:
    """The configuration with what a coordinator says of its radiod. Raises ConfigError naming the variable."""
    if not config.radiod.name:
        return config
    names = {key: radiod_variable(config.radiod.name, fact) for key, fact in COORDINATED.items()}
    given: dict[str, Any] = {key: told[name] for key, name in names.items() if told.get(name)}
    if re.fullmatch(r"[+-]?\d{1,12}", given.get("chain_delay_ns", "")):
        given["chain_delay_ns"] = int(given["chain_delay_ns"])
    faults: list[Fault] = []
    radiod = read(Radiod, given, "", faults, config.radiod)
    if faults or radiod is None:
        raise ConfigError(config.path, [replace(f, key=f"environment: {names[f.key]}") for f in faults])
    return replace(config, radiod=radiod)
