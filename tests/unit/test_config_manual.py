"""The manual (etc/grape-pipeline.toml) says what the program does: every key, every default."""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from helpers import REPOSITORY
from pipeline.config import Channel, Config, ConfigError, Server, parse_config
from pipeline.manual import filled_in, manual
from pipeline.schema import NOT_A_KEY

# Absent by default, which TOML cannot say: the manual shows an example.
ABSENT = {"radiod.status_address": None, "radiod.source_address": None}


def uncommented() -> dict[str, Any]:
    """The manual's table with every key that it shows taken into effect."""
    return tomllib.loads(re.sub(r"^#(?=[a-z0-9_]+ = )", "", manual(), flags=re.MULTILINE))


def keys(kind: type, path: str = "") -> Iterator[tuple[str, type, str]]:
    """(section, dataclass, key) of everything that can be configured."""
    hints = typing.get_type_hints(kind)
    for field in fields(kind):
        if field.metadata == NOT_A_KEY:
            continue
        hint = hints[field.name]
        inner = next((a for a in typing.get_args(hint) if is_dataclass(a)), hint)
        if is_dataclass(inner):
            assert isinstance(inner, type)
            yield from keys(inner, f"{path}{field.name}.")
        else:
            assert not isinstance(inner, types.GenericAlias) or not any(map(is_dataclass, typing.get_args(inner)))
            yield path, kind, field.name


def test_etc_is_the_packaged_manual() -> None:
    assert (REPOSITORY / "etc" / "grape-pipeline.toml").read_text() == manual()


def test_uncommented_manual_is_the_defaults() -> None:
    table = uncommented()
    for name in ABSENT:
        section, key = name.split(".")
        del table[section][key]
    config = parse_config(table)
    assert len(config.channels) == 9
    # repr, since NaN differs from itself
    assert repr(replace(config, channels=())) == repr(Config())
    for channel in config.channels:
        plain = Channel(channel.name, channel.frequency_hz, int(channel.frequency_hz), stations=channel.stations)
        assert channel == plain


def test_manual_as_shipped_differs_from_the_defaults_only_in_its_channels() -> None:
    assert repr(replace(parse_config(manual()), channels=())) == repr(Config())


@pytest.mark.parametrize(("section", "kind", "key"), list(keys(Config)), ids=str)
def test_every_key_is_in_the_manual(section: str, kind: type, key: str) -> None:
    table: Any = uncommented()
    if kind is Server:
        assert f"{key} = " in manual()
        return
    for part in section.rstrip(".").split("."):
        table = table[part]
    assert key in (table[0] if isinstance(table, list) else table)
    # a channel's keys are described in a table, all others by a sentence above them
    described = rf"^# {key} +\S" if kind is Channel else rf"^# .*\n(#?[a-z0-9_]+ = .*\n)*#?{key} = "
    assert re.search(described, manual(), flags=re.MULTILINE)


def test_the_nine_channels() -> None:
    found = {c.name: (c.frequency_hz, c.stations) for c in parse_config(manual()).channels}
    both, wwv, chu = ("WWV", "WWVH"), ("WWV",), ("CHU",)
    assert found == {
        "WWV 2.5 MHz": (2.5e6, both),
        "CHU 3.33 MHz": (3.33e6, chu),
        "WWV 5 MHz": (5e6, both),
        "CHU 7.85 MHz": (7.85e6, chu),
        "WWV 10 MHz": (10e6, both),
        "CHU 14.67 MHz": (14.67e6, chu),
        "WWV 15 MHz": (15e6, both),
        "WWV 20 MHz": (20e6, wwv),
        "WWV 25 MHz": (25e6, wwv),
    }


def test_filling_in_changes_only_what_was_given() -> None:
    values = {"station.callsign": 'A "quoted" é', "station.latitude": 38.5, "radiod.data_address": "239.7.7.7"}
    text = filled_in(values, Path("/etc/x.toml"))
    config = parse_config(text)
    assert (config.station.callsign, config.station.latitude) == ('A "quoted" é', 38.5)
    assert {c.data_address for c in config.channels} == {config.radiod.data_address} == {"239.7.7.7:5004"}
    changed = [b for a, b in zip(manual().splitlines(), text.splitlines(), strict=True) if a != b]
    assert len(changed) == 3


def test_filling_in_refuses_what_the_program_would_refuse() -> None:
    with pytest.raises(ConfigError, match=r"/etc/x.toml: radiod.data_address"):
        filled_in({"radiod.data_address": "10.0.0.1"}, Path("/etc/x.toml"))
