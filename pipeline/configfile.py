"""Finds and reads the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.config import Config, ConfigError, parse_config
from pipeline.schema import Fault

ENVIRONMENT_VARIABLE = "GRAPE_PIPELINE_CONFIG"
DEFAULT_PATH = Path("/etc/grape-pipeline/grape-pipeline.toml")


class ConfigMissing(ConfigError):
    """There is no configuration file where one was looked for."""


def locate(path: Path | None = None) -> Path:
    """Where the configuration is expected: `path`, else the environment's, else /etc."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return (path or (Path(named) if named else DEFAULT_PATH)).absolute()


def load(path: Path | None = None, *, need_channels: bool = True) -> Config:
    """See `pipeline.config.load_config`."""
    found = locate(path)
    try:
        text = found.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "there is no such file; write one with: grape-pipeline init"
        raise ConfigMissing(found, [Fault("", None, hint)]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(found, [Fault("", None, f"not UTF-8 text: byte {error.start}")]) from None
    except OSError as error:
        raise ConfigError(found, [Fault("", None, f"cannot be read: {error.strerror}")]) from None
    return parse_config(text, found, need_channels=need_channels)
