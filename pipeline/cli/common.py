"""What the commands share: where the configuration comes from, and how JSON is printed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.config import LOG_LEVELS, Config, load_config
from pipeline.logs import apply_level, setup_logging

F = TypeVar("F", bound=Callable[..., Any])


def _choose_level(_context: click.Context, _option: click.Parameter, level: str | None) -> None:
    if level:
        setup_logging(level)


def log_level_option(command: F) -> F:
    """Add `--log-level LEVEL`, which takes effect before the command runs; the command gets no argument."""
    return click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS, case_sensitive=False),
        callback=_choose_level,
        expose_value=False,
        help="What to log to stderr; overrules environment and configuration.",
    )(command)


def config_option(command: F) -> F:
    """Add `-c/--config FILE` and `--log-level`; the command gets `config_path: Path | None`, for `load`."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        help="Configuration file; default $GRAPE_PIPELINE_CONFIG, else /etc/grape-pipeline/grape-pipeline.toml.",
    )(log_level_option(command))


def json_option(command: F) -> F:
    """Add `--json`; the command gets `as_json: bool` and then prints JSON and nothing else on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on stdout.")(command)


def load(config_path: Path | None, *, instance: str | None = None, need_channels: bool = True) -> Config:
    """The configuration that `-c` or the defaults name, with its log level in force.

    Raises ConfigError (exit 78).
    """
    config = load_config(config_path, instance=instance, need_channels=need_channels)
    apply_level(config.logging.level)
    return config


def print_json(value: object) -> None:
    """Print one JSON document; what is not a number there (NaN, infinities) becomes null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
