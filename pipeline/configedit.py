"""Sets keys in a configuration's text and leaves its comments alone; pure.

Line by line: a key's line, or the commented line that shows its default, is replaced. What
comes out is read again and held against what was asked for, so a file written in a form
that this does not understand is refused and never spoilt.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import PipelineError

_SECTION = re.compile(r"\s*\[+\s*([A-Za-z0-9_.-]+)\s*\]+\s*(?:#.*)?")
_KEY = re.compile(r"\s*(#?)([A-Za-z0-9_-]+) *= *")
CHANNELS = "channels"
Table = Mapping[str, Any]


class EditError(PipelineError):
    """The text cannot be changed in this way."""


def edited(text: str, changes: Table) -> str:
    """`text` with the keys of `changes`, tables in tables, set; null takes a key back to its default.

    A list of channels takes the place of all that there are. Raises EditError when the text is not
    TOML or is written in a form that cannot be changed line by line.
    """
    before = _parsed(text)
    lines = text.splitlines()
    for section, key, value in _flat(changes, ""):
        if key == CHANNELS and not section:
            lines = _with_channels(lines, value)
        else:
            lines = _with_key(lines, section, key, value)
    new = "\n".join(lines) + "\n"
    if _comparable(_parsed(new)) != _comparable(_merged(before, changes)):
        raise EditError("the file is written in a form that cannot be changed key by key; edit it by hand")
    return new


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise EditError(f"not TOML: {error}") from None


def _flat(table: Table, path: str) -> Iterator[tuple[str, str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.{key}" if path else key)
        else:
            yield path, key, value


def _merged(table: Table, changes: Table) -> dict[str, Any]:
    result = dict(table)
    for key, value in changes.items():
        if isinstance(value, Mapping):
            result[key] = _merged(result.get(key, {}), value)
        elif value is None or (key == CHANNELS and not value):
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _comparable(table: Table) -> str:
    """Text that is equal for equal tables, NaN and empty tables included."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: p for k, v in value.items() if (p := plain(v)) != {}}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(table), sort_keys=True, default=str)


def _with_key(lines: Sequence[str], section: str, key: str, value: Any) -> list[str]:
    at: int | None = None  # the line to replace: the key's own, else the last that shows its default
    end, head, here = 0, None, ""
    for i, line in enumerate(lines):
        if found := _SECTION.fullmatch(line):
            here = found[1]
            head = i if here == section else head
        elif here == section and (found := _KEY.match(line)) and found[2] == key:
            at, end = i, _end(lines, i) if not found[1] else i + 1
            if not found[1]:
                break
    if value is None:
        if at is None or lines[at].lstrip().startswith("#"):
            return list(lines)
        return [*lines[:at], *(f"#{line}" for line in lines[at:end]), *lines[end:]]
    new = f"{key} = {toml(value)}"
    if at is not None:
        return [*lines[:at], new, *lines[end:]]
    if head is None and section:
        return [*lines, "", f"[{section}]", new]
    at = 0 if head is None else head + 1
    return [*lines[:at], new, *lines[at:]]


def _end(lines: Sequence[str], start: int) -> int:
    """Behind the last line of the value that begins in `start`."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except ValueError:
            continue
        return end
    return start + 1


def _with_channels(lines: Sequence[str], channels: Sequence[Table]) -> list[str]:
    kept: list[str] = []
    at, here = None, ""
    for line in lines:
        if found := _SECTION.fullmatch(line):
            here = found[1]
        if here != CHANNELS:
            kept.append(line)
        elif at is None:
            at = len(kept)
    at = len(kept) if at is None else at
    tables = [line for channel in channels for line in ("[[channels]]", *_body(channel), "")]
    return [*kept[:at], *tables[:-1], *kept[at:]]


def _body(table: Table) -> Iterator[str]:
    yield from (f"{key} = {toml(value)}" for key, value in table.items())


def toml(value: Any) -> str:
    """A value as TOML, in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    # A JSON string is a TOML basic string, but for DEL, which no key may hold.
    return json.dumps(value, ensure_ascii=False)
