"""The commented configuration that comes with the package, and copies of it with some keys set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.config import parse_config
from pipeline.configedit import CHANNELS, edited


def manual() -> str:
    """The text of `grape-pipeline.toml`: every key with meaning, unit, default and reason."""
    return resources.files("pipeline").joinpath("data/grape-pipeline.toml").read_text(encoding="utf-8")


def filled_in(values: Mapping[str, str | float], path: Path, channels: str = "") -> str:
    """The manual with `section.key` set to each value; what the rest says stays as it is.

    `channels`, TOML tables, take the place of the manual's own if there are any.

    Raises ConfigError naming `path` when a value is not allowed.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        changes.setdefault(section, {})[key] = value
    text = edited(manual(), changes)
    if channels:
        lines = text.splitlines()
        text = "\n".join([*lines[: lines.index(f"[[{CHANNELS}]]")], channels.rstrip("\n")]) + "\n"
    parse_config(text, path)
    return text
