"""Reads a TOML table into a frozen dataclass, and says everything that is wrong with it at once.

The dataclass is the schema: its field types say what a key may hold, `Annotated` rules
narrow it, its defaults fill what the table leaves out. A rule is a function that returns
the value, perhaps in a normal form, or raises ValueError saying what is allowed. A
dataclass may have a class method `from_toml(value)` that turns the short forms of its
table into the full one before it is read.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")
NOT_A_KEY: Final = {"toml": False}  # metadata of a dataclass field that no key sets
_BAD: Final = object()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to mend: the key's path, the value found there and what is allowed."""

    key: str
    value: object
    allowed: str

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.key}: {self.allowed}" if self.key else self.allowed
        return f"{self.key} = {shown(self.value)}: {self.allowed}"


def shown(value: object) -> str:
    """A value as the operator wrote it in TOML, cut to a length that fits a line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # an integer of more digits than Python prints
        text = f"({type(value).__name__}, too long to show)"
    return text if len(text) <= 80 else text[:77] + "..."


def one_of(*names: str) -> Callable[[str], str]:
    """Rule: one of these words."""

    def rule(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return rule


def between(low: float, high: float) -> Callable[[Any], Any]:
    """Rule: low <= value <= high; NaN passes only where the reader lets it (see `read`)."""

    def rule(value: Any) -> Any:
        if value < low or value > high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return rule


def at_least(low: float) -> Callable[[Any], Any]:
    """Rule: value >= low."""

    def rule(value: Any) -> Any:
        if value < low:
            raise ValueError(f"must be at least {low}")
        return value

    return rule


def above(low: float) -> Callable[[Any], Any]:
    """Rule: value > low."""

    def rule(value: Any) -> Any:
        if value <= low:
            raise ValueError(f"must be more than {low}")
        return value

    return rule


def matching(pattern: str, allowed: str) -> Callable[[str], str]:
    """Rule: the whole text matches; `allowed` tells people what the pattern means."""
    compiled = re.compile(pattern)

    def rule(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(allowed)
        return value

    return rule


def read(kind: type[T], table: object, path: str, faults: list[Fault], base: T | None = None) -> T | None:
    """A `kind` from `table`; what is absent comes from `base` or the dataclass defaults.

    Faults are appended with `path` before each key. A faulty optional key keeps its
    default, so that the rest can still be checked; None when a required one is unusable.
    """
    prepare = getattr(kind, "from_toml", None)
    if prepare is not None:
        try:
            table = prepare(table)
        except ValueError as error:
            faults.append(Fault(path, table, str(error)))
            return None
    if not isinstance(table, Mapping):
        faults.append(Fault(path, table, "must be a table"))
        return None
    known = {f.name: f for f in fields(kind) if f.metadata != NOT_A_KEY}  # type: ignore[arg-type]
    _unknown_keys(table, known, path, faults)
    hints = typing.get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    whole = True
    for name, field in known.items():
        key = f"{path}.{name}" if path else name
        fallback = getattr(base, name) if base is not None else _default(field)
        value = _convert(hints[name], table[name], key, faults, fallback) if name in table else fallback
        if name not in table and fallback is MISSING:
            faults.append(Fault(key, None, "is missing"))
        value = fallback if value is _BAD else value
        whole = whole and value is not MISSING
        values[name] = value
    return kind(**values) if whole else None


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _unknown_keys(table: Mapping[str, Any], known: Mapping[str, Any], path: str, faults: list[Fault]) -> None:
    for name in table:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        key = f"{path}.{name}" if path else name
        faults.append(Fault(key, table[name], f"unknown key; {hint}"))


def _convert(hint: Any, value: Any, key: str, faults: list[Fault], fallback: Any) -> Any:
    """`value` as the type `hint`, or _BAD with the fault noted."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *rules = typing.get_args(hint)
        found = _convert(inner, value, key, faults, fallback)
        return _BAD if found is _BAD else _apply(rules, found, Fault(key, value, ""), faults)
    if origin in (types.UnionType, typing.Union):  # `X | None`: TOML has no null, absence is None
        inner = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return _convert(inner, value, key, faults, fallback)
    if origin is tuple:
        return _convert_list(typing.get_args(hint)[0], value, key, faults)
    if isinstance(hint, type) and is_dataclass(hint):
        found = read(hint, value, key, faults, None if fallback is MISSING else fallback)
        return _BAD if found is None else found
    try:
        return _SCALARS[hint](value, isinstance(fallback, float) and math.isnan(fallback))
    except ValueError as error:
        faults.append(Fault(key, value, str(error)))
        return _BAD


def _apply(rules: list[Callable[[Any], Any]], value: Any, fault: Fault, faults: list[Fault]) -> Any:
    for rule in rules:
        try:
            value = rule(value)
        except ValueError as error:
            faults.append(replace(fault, allowed=str(error)))
            return _BAD
    return value


def _convert_list(inner: Any, value: Any, key: str, faults: list[Fault]) -> Any:
    if not isinstance(value, list | tuple):
        faults.append(Fault(key, value, "must be a list"))
        return _BAD
    items = [_convert(inner, item, f"{key}[{i}]", faults, MISSING) for i, item in enumerate(value)]
    return tuple(item for item in items if item is not _BAD)


def _bool(value: object, _nan_ok: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _int(value: object, _nan_ok: bool) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _float(value: object, nan_ok: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("must be a finite number") from None
    if not (math.isfinite(number) or (nan_ok and math.isnan(number))):
        raise ValueError("must be a finite number")
    return number


def _str(value: object, _nan_ok: bool) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    if not value.isprintable():
        raise ValueError("must be one line of printable text")
    return value


def _path(value: object, nan_ok: bool) -> Path:
    if isinstance(value, Path):
        return value
    if not (text := _str(value, nan_ok)):
        raise ValueError("must name a folder")
    return Path(text)


_SCALARS: Final[dict[Any, Callable[[object, bool], Any]]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
}
