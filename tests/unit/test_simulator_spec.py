"""The specification: refuses the impossible, survives the way to another process."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from pipeline.simulator.spec import (
    WWV_CHU,
    ChannelSpec,
    FaultPlan,
    SimulatorError,
    SimulatorSpec,
    ntp_farm,
    spec_from_json,
    spec_to_json,
)

FULL = SimulatorSpec(
    channels=(
        *WWV_CHU,
        ChannelSpec("x", 1e6, 5, 24_000, "F32LE", faults=FaultPlan(drops=((1.0, 3),)), data_address=("239.0.0.1", 5)),
    ),
    faults=FaultPlan(mutes=((1.0, 2.5), (9.0, 1.0)), packet_frames=(180, 140), start_rtp=7),
    restarts=((60.0, 5.0),),
    frontend_stalls=((3.0, 0.5),),
    duration_s=12.5,
    truth=Path("/tmp/truth.jsonl"),
    ntp_servers=ntp_farm(3, 20_000),
    ppm=-1.5,
    ttl=1,
)


@pytest.mark.parametrize("spec", [SimulatorSpec(), SimulatorSpec(channels=()), FULL])
def test_specification_survives_json(spec: SimulatorSpec) -> None:
    text = spec_to_json(spec)
    assert "\n" not in text
    assert spec_from_json(text) == spec


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"channels": 3}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SimulatorError, match="not a simulator specification"):
        spec_from_json(text)


def test_unknown_keys_are_refused() -> None:
    facts = json.loads(spec_to_json(SimulatorSpec())) | {"volume": 11}
    with pytest.raises(SimulatorError, match="volume"):
        spec_from_json(json.dumps(facts))


@pytest.mark.parametrize("wrong", [{"ttl": 256}, {"ttl": -1}, {"programme": "jazz"}, {"ppm": 1e6}])
def test_impossible_runs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SimulatorError, match=next(iter(wrong))):
        replace(SimulatorSpec(), **wrong)  # type: ignore[arg-type]


def test_nothing_leaves_this_machine_by_default() -> None:
    spec = SimulatorSpec()
    assert (spec.interface, spec.ttl) == ("lo", 0)
    assert not any(
        getattr(spec.faults, field.name)
        for field in fields(FaultPlan)
        if field.type == "float"
        and field.name in ("loss", "burst", "reorder", "duplicate", "late", "zero_block", "late_status")
    )


def test_nine_channels_have_their_frequency_as_ssrc() -> None:
    assert [channel.ssrc for channel in WWV_CHU] == [round(channel.frequency_hz) for channel in WWV_CHU]
    assert len(WWV_CHU) == 9


def test_farm_ports_follow_the_base_port() -> None:
    assert [server.port for server in ntp_farm(3, 20_000)] == [20_000, 20_001, 20_002]
    assert {server.port for server in ntp_farm(3)} == {0}
