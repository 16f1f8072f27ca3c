"""The truth file: complete after a kill, exact to the nanosecond."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.simulator.signal import counter_iq
from pipeline.simulator.spec import SimulatorError
from pipeline.simulator.truth import Stretch, Timeline, Truth, TruthFile, expected_iq, frames_ns

LINE = Timeline(
    number=0,
    ssrc=7,
    name="WWV 10 MHz",
    frequency_hz=10e6,
    rate_hz=16_000,
    ppm=0.0,
    encoding="S16BE",
    channels=2,
    programme="counter",
    seed=1,
    counter_key=99,
    start_rtp=2**32 - 320,
    start_utc_ns=1_795_321_260_000_000_123,
    first_seq=0,
    source_port=40_000,
    generation=0,
    reason="start",
)


def write(path: Path) -> None:
    truth = TruthFile(path)
    truth.note("simulator", seed=1)
    truth.timeline(LINE)
    truth.note("packet", fate="dropped", ssrc=7, timeline=0, seq=3, rtp=640, frames=320, utc_ns=1)
    truth.note("packet", fate="late", ssrc=7, timeline=0, seq=4, rtp=960, frames=320, utc_ns=1)
    truth.note("mute", ssrc=7, timeline=0, rtp=1280, frames=320)
    truth.note("zero", ssrc=7, timeline=1, rtp=1600, frames=320)
    truth.note("progress", ssrc=7, timeline=0, rtp_next=1920, seq_next=6, frames=2240, utc_ns=1)
    truth.close()
    truth.note("after", closing=True)


def test_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    write(path)
    truth = Truth.read(path)
    assert truth.header["seed"] == 1
    assert truth.timelines == (LINE,)
    assert truth.of(7) == (LINE,)
    assert truth.of(8) == ()
    assert truth.stretches(0) == (Stretch(7, 0, 640, 320, "dropped"), Stretch(7, 0, 1280, 320, "mute"))
    assert truth.stretches(1) == (Stretch(7, 1, 1600, 320, "zero"),)
    assert truth.rtp_next(0) == 1920
    assert truth.rtp_next(1) is None
    assert [e["kind"] for e in truth.events][-1] == "progress"


def test_a_file_cut_anywhere_reads_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    write(path)
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        truth = Truth.read(path)
        assert bool(truth.header) + len(truth.timelines) + len(truth.events) == data[:cut].count(b"\n")


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"no": "kind"}'])
def test_what_is_no_truth_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(f'{{"kind": "x", "timeline": 0}}\n{line}\n')
    with pytest.raises(SimulatorError, match="line 2"):
        Truth.read(path)


def test_unwritable_and_missing_files_are_simulator_errors(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match="No such file"):
        TruthFile(tmp_path / "no" / "truth.jsonl")
    with pytest.raises(SimulatorError, match="No such file"):
        Truth.read(tmp_path / "none.jsonl")


@given(st.integers(0, 2**40), st.sampled_from([8_000, 16_000, 44_100]), st.integers(-(10**6), 10**6))
def test_frames_become_nanoseconds_exactly(frames: int, rate_hz: int, thousandths: int) -> None:
    exact = Fraction(frames * 10**9) / (rate_hz * (1 + Fraction(thousandths, 10**9)))
    assert 0 <= exact - frames_ns(frames, rate_hz, thousandths / 1000) < 1


def test_timestamps_become_frames_over_the_wrap() -> None:
    assert [LINE.frame(rtp) for rtp in (2**32 - 320, 2**32 - 1, 0, 5)] == [0, 319, 320, 325]
    assert LINE.utc_ns(LINE.frame(0)) == LINE.start_utc_ns + 20_000_000


def test_expected_counter_samples_come_from_the_timestamp() -> None:
    assert np.array_equal(expected_iq(LINE, 5, 10), counter_iq(5, 10, 99))


def test_expected_wwv_samples_are_the_same_in_any_portion() -> None:
    wwv = replace(LINE, programme="wwv")
    whole = expected_iq(wwv, 2**32 - 320, 40_000)
    assert np.array_equal(whole[330:500], expected_iq(wwv, 10, 170))


def test_chu_is_known_by_name_or_frequency() -> None:
    chu = replace(LINE, programme="wwv", name="7850000", frequency_hz=7_850_000.0)
    wwv = replace(chu, frequency_hz=7_850_001.0)
    named = replace(wwv, name="CHU 7.85 MHz")
    assert [getattr(line.source(), "chu", None) for line in (chu, wwv, named)] == [True, False, True]
