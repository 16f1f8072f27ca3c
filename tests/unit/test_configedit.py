"""Changing a configuration's text: what was asked for and nothing else, comments untouched."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.configedit import EditError, edited, toml
from pipeline.manual import manual

TEXT = """# head
[station]
# who
callsign = "A"   # mine
#grid = ""

[ntp]
servers = [
    "a",  # first
    "b",
]
[ntp.strict]
min_agree = 3
# the channels
[[channels]]
name = "A"
frequency_hz = 1_000_000
"""


@pytest.mark.parametrize(
    ("changes", "removed", "added"),
    [
        ({"station": {"callsign": "B"}}, {'callsign = "A"   # mine'}, {'callsign = "B"'}),
        ({"station": {"grid": "EM38"}}, {'#grid = ""'}, {'grid = "EM38"'}),
        ({"station": {"callsign": None}}, {'callsign = "A"   # mine'}, {'#callsign = "A"   # mine'}),
        ({"station": {"latitude": 1.5}}, set(), {"latitude = 1.5"}),
        ({"ntp": {"strict": {"min_agree": 4}}}, {"min_agree = 3"}, {"min_agree = 4"}),
        ({"logging": {"level": "DEBUG"}}, set(), {"[logging]", 'level = "DEBUG"'}),
        ({"ntp": {"servers": ["c", {"address": "d", "lan": True}]}},
         {"servers = [", '    "a",  # first', '    "b",', "]"}, {'servers = ["c", { address = "d", lan = true }]'}),
        ({"station": {"grid": None, "nothing": None}}, set(), set()),
        ({}, set(), set()),
    ],
)  # fmt: skip
def test_only_the_key_s_own_lines_change(changes: dict[str, Any], removed: set[str], added: set[str]) -> None:
    before, after = TEXT.splitlines(), edited(TEXT, changes).splitlines()
    assert set(before) - set(after) == removed
    assert set(after) - set(before) == added


def test_channels_are_replaced_as_a_whole() -> None:
    channels = [{"name": "X", "frequency_hz": 2e6, "enabled": False}, {"name": "Y", "frequency_hz": 3_000_000}]
    text = edited(TEXT, {"channels": channels})
    assert tomllib.loads(text)["channels"] == channels
    assert text.startswith(TEXT[: TEXT.index("[[channels]]")])
    assert tomllib.loads(edited(text, {"channels": []})).get("channels", []) == []


@pytest.mark.parametrize("text", ['station = { callsign = "A" }\n', 'station.callsign = "A"\n', "x = \n"])
def test_a_form_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(EditError):
        edited(text, {"station": {"callsign": "B"}})


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=20),
    st.lists(st.text("ab#=[]\"\\'", max_size=4), max_size=3),
)


@given(st.dictionaries(st.sampled_from(["callsign", "grid", "new", "min"]), VALUES, max_size=4))
def test_every_value_comes_back(values: dict[str, Any]) -> None:
    for text in (TEXT, manual()):
        found = tomllib.loads(edited(text, {"station": values}))
        assert {key: found["station"][key] for key in values} == values
        assert found.get("ntp") == tomllib.loads(text).get("ntp")


@given(VALUES)
def test_a_value_is_one_line_of_toml(value: Any) -> None:
    text = toml({"a": value})
    assert "\n" not in text
    assert json.dumps(tomllib.loads(f"x = {text}")["x"]["a"]) == json.dumps(value)
