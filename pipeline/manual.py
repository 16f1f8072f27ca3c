"""The commented configuration that comes with the package, and copies of it with some keys set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from pipeline.config import parse_config

_SECTION = re.compile(r"\[+([a-z_.]+)\]+")
_KEY = re.compile(r"#?([a-z0-9_]+) = ")


def manual() -> str:
    """The text of `grape-pipeline.toml`: every key with meaning, unit, default and reason."""
    return resources.files("pipeline").joinpath("data/grape-pipeline.toml").read_text(encoding="utf-8")


def filled_in(values: Mapping[str, str | float], path: Path, channels: str = "") -> str:
    """The manual with `section.key` set to each value; what the rest says stays as it is.

    `channels`, TOML tables, take the place of the manual's own if there are any.

    Raises ConfigError naming `path` when a value is not allowed.
    """
    section, lines, left = "", [], dict(values)
    for line in manual().splitlines():
        if head := _SECTION.match(line):
            section = head[1]
        key = _KEY.match(line)
        name = f"{section}.{key[1]}" if key else ""
        lines.append(f"{key[1]} = {_toml(left.pop(name))}" if key and name in left else line)
    if left:
        raise KeyError(f"not in the manual: {', '.join(left)}")
    if channels:
        lines = [*lines[: lines.index("[[channels]]")], channels.rstrip("\n")]
    text = "\n".join(lines) + "\n"
    parse_config(text, path)
    return text


def _toml(value: str | float) -> str:
    # A JSON string is a TOML basic string, but for DEL, which no key may hold.
    return json.dumps(value, ensure_ascii=False)
