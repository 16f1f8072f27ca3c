"""What a minute file says: every key of the contract with its kind, and what old readers rely on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minutes import CHANNEL, NTP, PACKETS, RATE, arrays_of, context, cut_all, one_cut, play, recording, stream
from pipeline import npz
from pipeline.config import Station
from pipeline.minutefile import (
    PARTS,
    HostEvidence,
    build,
    minute_path,
    part_path,
    stamp,
)
from pipeline.records import AnchorSource, NtpRecord
from pipeline.stream.cutter import Cut
from pipeline.stream.minute import Minute
from pipeline.stream.timeline import SECOND, Anchor
from streams import T0, Recording, Sent, counter_iq
from truthcheck import check_file, segments

WRAP = 1 << 32
SAMPLES = 60 * RATE

# signal-recorder's keys: what np.savez makes of the values that its writer hands over.
SEED = {
    "iq": "<c8", "rtp_timestamp": "<i8", "rtp_ssrc": "<i8", "sample_rate": "<i8", "time_snap_rtp": "<i8",
    "time_snap_utc": "<f8", "time_snap_source": "U", "time_snap_confidence": "<f8", "time_snap_station": "U",
    "tone_power_1000_hz_db": "<f8", "tone_power_1200_hz_db": "<f8", "wwvh_differential_delay_ms": "<f8",
    "frequency_hz": "<f8", "channel_name": "U", "unix_timestamp": "<f8", "ntp_wall_clock_time": "<f8",
    "ntp_offset_ms": "<f8", "gaps_filled": "<i8", "gaps_count": "<i8", "packets_received": "<i8",
    "packets_expected": "<i8", "recorder_version": "U", "created_timestamp": "<f8", "gap_rtp_timestamps": "<u4",
    "gap_sample_indices": "<u4", "gap_samples_filled": "<u4", "gap_packets_lost": "<u4",
}  # fmt: skip
NEW = {
    "format_version": "U", "session_id": "U", "station_json": "U", "sample0_utc_ns": "<i8",
    "anchor_rtp": "<i8", "anchor_utc_ns": "<i8", "anchor_source": "U", "anchor_uncertainty_ns": "<i8",
    "anchor_age_s": "<f8", "epoch_id": "<i8", "epoch_reason": "U", "segment_sample_indices": "<i8",
    "segment_samples": "<i8", "segment_rtp_timestamps": "<i8", "segment_epoch_ids": "<i8", "segment_utc_ns": "<i8",
    "gap_cause": "U", "valid_samples": "<i8", "completeness_pct": "<f8", "packets_lost": "<i8",
    "packets_late": "<i8", "packets_duplicate": "<i8", "packets_reordered": "<i8", "packets_bad": "<i8",
    "ntp_valid": "|b1", "ntp_synced": "|b1", "ntp_uncertainty_ms": "<f8", "ntp_jitter_ms": "<f8", "ntp_age_s": "<f8",
    "ntp_source": "U", "ntp_state": "U", "ntp_quality": "U", "ntp_stratum": "<i8", "ntp_leap": "<i8",
    "host_utc_ns": "<i8",
    "host_monotonic_ns": "<i8", "host_rtp": "<i8", "rtp_rate_ppm": "<f8", "rtp_vs_host_ns": "<i8",
    "rtp_rate_sigma_ppm": "<f8", "host_clock_set_by_ns": "<i8", "chain_delay_ns": "<i8",
    "radiod_status_json": "U", "iq_extra": "<c8", "tone_detected": "|b1", "tone_station": "U",
    "tone_onset_ms": "<f8", "tone_uncertainty_ms": "<f8", "tone_snr_db": "<f8", "tone_residual_ms": "<f8",
    "tone_residual_uncertainty_ms": "<f8", "tick_onset_ms": "<f8",
    "tick_uncertainty_ms": "<f8", "tick_count": "<i8",
}  # fmt: skip
GAPS = ("gap_sample_indices", "gap_samples_filled", "gap_rtp_timestamps", "gap_packets_lost", "gap_cause")
LISTS = {name for name in (*SEED, *NEW) if name.startswith(("gap_", "segment_", "iq"))}
# What signal-recorder's analytics casts without asking whether the key is there.
HARD_SCALARS = {
    "rtp_timestamp": int, "rtp_ssrc": int, "sample_rate": int, "frequency_hz": float, "channel_name": str,
    "unix_timestamp": float, "gaps_filled": int, "gaps_count": int, "packets_received": int,
    "packets_expected": int, "recorder_version": str, "created_timestamp": float,
}  # fmt: skip
SOFT_SCALARS = {
    "time_snap_rtp": int, "time_snap_utc": float, "time_snap_source": str, "time_snap_confidence": float,
    "time_snap_station": str, "tone_power_1000_hz_db": float, "tone_power_1200_hz_db": float,
    "wwvh_differential_delay_ms": float, "ntp_wall_clock_time": float, "ntp_offset_ms": float,
}  # fmt: skip


def without(*numbers: int) -> list[int]:
    """All packets of a minute but these."""
    return [n for n in range(PACKETS) if n not in numbers]


def lossy() -> Cut:
    """A minute without its packets 10, 11 and 300, and without its end."""
    return one_cut(without(10, 11, 300, *range(590, PACKETS)))


def restarted() -> Cut:
    """A minute in whose middle radiod was started again: 30 s, 5 s of nothing, 25 s."""
    recorded = recording()
    play(recorded, stream(), range(300))
    after = stream(start_ns=T0 + 35 * SECOND, first_rtp=777, first_sequence=5000)
    play(recorded, after, range(250), origin=("127.0.0.1", 41_000))
    [cut] = cut_all(recorded)
    return cut


def unknown() -> dict[str, Any]:
    """The arrays of a minute recorded when nothing was known beside the samples."""
    cut = lossy()
    return arrays_of(cut, ntp=NtpRecord(), ntp_view=NtpRecord().at(0, 30.0), host=HostEvidence(), status_detail={})


CASES = {
    "whole": lambda: arrays_of(one_cut()),
    "lossy": lambda: arrays_of(lossy()),
    "restarted": lambda: arrays_of(restarted()),
    "unknown": unknown,
}


@pytest.fixture(params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each of the cases as a file."""
    path = tmp_path / "x_iq.npz"
    npz.write(path, CASES[request.param](), 2)
    return path


# -- kinds --


def test_every_key_has_its_kind_and_nothing_needs_pickle(saved: Path) -> None:
    kinds = {**SEED, **NEW}
    with np.load(saved) as plain:
        found = {name: plain[name] for name in plain.files}
    assert set(found) == set(kinds)
    for name, array in found.items():
        kind = kinds[name]
        assert (array.dtype.kind if kind == "U" else array.dtype.str) == kind, name
        assert array.ndim == (1 if name in LISTS else 0), name
        assert not array.dtype.hasobject


def test_analytics_loader_of_signal_recorder_takes_it(saved: Path) -> None:
    with np.load(saved) as data:
        for name, cast in {**HARD_SCALARS, **SOFT_SCALARS}.items():
            cast(data[name])
        assert data["iq"].dtype == np.complex64
        assert len(data["iq"]) == 60 * int(data["sample_rate"])
        lengths = {len(data[name]) for name in GAPS}
        assert lengths == {int(data["gaps_count"])}
        assert str(data["time_snap_source"]) in {"ntp", "wall_clock"}
        assert str(data["time_snap_station"]) in {"NTP", "WALL_CLOCK"}
        # Its sample times come from this pair, over a signed half of 2^32 samples.
        since = (int(data["rtp_timestamp"]) - int(data["time_snap_rtp"])) & 0xFFFFFFFF
        begin = float(data["time_snap_utc"]) + since / int(data["sample_rate"])
        assert abs(begin - float(data["unix_timestamp"])) < 0.6 / RATE
        assert float(data["unix_timestamp"]) % 60 == 0


def test_file_agrees_with_itself(saved: Path) -> None:
    assert check_file({**npz.read(saved), "path": saved}) == []


def test_unknown_is_nan_empty_or_minus_999() -> None:
    arrays = unknown()
    expected = {"ntp_offset_ms": math.nan, "ntp_uncertainty_ms": math.nan, "ntp_jitter_ms": math.nan,
                "ntp_age_s": math.nan, "ntp_source": "", "ntp_state": "starting", "ntp_quality": "",
                "ntp_stratum": -999, "ntp_leap": 3,
                "ntp_valid": False, "ntp_synced": False, "ntp_wall_clock_time": math.nan, "host_utc_ns": -999,
                "host_monotonic_ns": -999, "host_rtp": -999, "rtp_rate_ppm": math.nan, "rtp_vs_host_ns": -999,
                "rtp_rate_sigma_ppm": math.nan, "host_clock_set_by_ns": 0, "chain_delay_ns": 0,
                "tone_power_1000_hz_db": -999.0, "tone_power_1200_hz_db": -999.0,
                "wwvh_differential_delay_ms": math.nan, "time_snap_source": "wall_clock",
                "time_snap_station": "WALL_CLOCK", "time_snap_confidence": 0.3, "radiod_status_json": "{}"}  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


def test_what_is_known_is_stated() -> None:
    arrays = arrays_of(one_cut())
    expected = {"ntp_offset_ms": -0.25, "ntp_uncertainty_ms": 3.5, "ntp_jitter_ms": 0.125, "ntp_age_s": 4.0,
                "ntp_source": "servers:a", "ntp_state": "synced", "ntp_stratum": 2, "ntp_leap": 0, "ntp_valid": True,
                "ntp_quality": "strict",
                "ntp_synced": True, "rtp_rate_ppm": 1.5, "time_snap_source": "ntp", "time_snap_confidence": 0.7,
                "host_monotonic_ns": 77 * SECOND, "session_id": "20261122T000000Z-abc", "format_version": "1",
                "channel_name": "WWV 10 MHz", "frequency_hz": 10e6, "rtp_ssrc": CHANNEL.ssrc, "sample_rate": RATE,
                "created_timestamp": T0 / 1e9 + 63, "unix_timestamp": T0 / 1e9, "epoch_reason": "start",
                "anchor_source": "radiod", "packets_received": PACKETS, "packets_expected": PACKETS,
                "completeness_pct": 100.0, "valid_samples": SAMPLES}  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    assert str(arrays["recorder_version"]).startswith("grape-pipeline ")
    assert json.loads(str(arrays["radiod_status_json"])) == {
        "description": "radiod under test", "gain": 20.0, "agc_enable": False,
    }  # fmt: skip


def test_station_json_has_no_nan() -> None:
    text = str(arrays_of(one_cut(), station=Station(callsign="AC0G", latitude=38.9))["station_json"])
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"callsign": "AC0G", "latitude": 38.9, "grid": "", "receiver_name": "", "psws_station_id": "",
                     "psws_instrument_id": ""}  # fmt: skip


def test_stale_monitor_makes_the_file_say_unsynced() -> None:
    arrays = arrays_of(one_cut(), ntp_view=NTP.at(36 * SECOND, 30.0))
    assert (bool(arrays["ntp_valid"]), bool(arrays["ntp_synced"]), str(arrays["ntp_state"])) == (
        False, False, "unsynced",
    )  # fmt: skip
    assert str(arrays["time_snap_source"]) == "wall_clock"
    assert float(arrays["ntp_age_s"]) == 34.0


# -- samples --


def test_samples_are_where_their_timestamps_say() -> None:
    iq = arrays_of(lossy())["iq"]
    expected = counter_iq(0, SAMPLES)
    for begin, end in ((1000, 1200), (30_000, 30_100), (59_000, SAMPLES)):
        expected[begin:end] = 0
    np.testing.assert_array_equal(iq, expected)


def test_int16_storage_gives_the_same_samples(tmp_path: Path) -> None:
    cut = lossy()
    npz.write(tmp_path / "pairs.npz", arrays_of(cut, storage="int16"), 2)
    npz.write(tmp_path / "complex.npz", arrays_of(cut), 2)
    pairs, plain = npz.read(tmp_path / "pairs.npz"), npz.read(tmp_path / "complex.npz")
    with np.load(tmp_path / "pairs.npz") as stored:
        assert "iq" not in stored.files
        assert (stored["iq_int16"].dtype, stored["iq_int16"].shape) == (np.int16, (SAMPLES, 2))
        assert (stored["iq_scale"].dtype, float(stored["iq_scale"])) == (np.float64, 1 / 32768)
    assert pairs["iq"].dtype == np.complex64
    assert pairs["iq"].tobytes() == plain["iq"].tobytes()
    assert set(pairs) - set(plain) == {"iq_int16", "iq_scale"}


def test_int16_storage_of_floats_stays_complex() -> None:
    recorded = Recording(rate_hz=RATE, encoding="F32LE")
    payload = np.full(2 * 100, 0.3, "<f4").tobytes()
    for number in range(PACKETS):
        recorded.packet(number, number * 100, payload, T0 + (number + 1) * SECOND // 10)
    minute = cut_all(recorded)[0].minutes[0]
    arrays = build(minute, context(minute, storage="int16"))
    assert "iq_int16" not in arrays
    assert np.count_nonzero(np.asarray(arrays["iq"]) == np.complex64(np.float32(0.3) * (1 + 1j))) > SAMPLES // 2


def test_extra_samples_are_those_after_the_last() -> None:
    cut = one_cut()
    [minute] = cut.minutes
    minute.extra = [replace(minute.runs[0], index=0, frames=7, payload=minute.runs[0].payload[: 7 * 4])]
    minute.extra_samples = 9
    extra = build(minute, context(minute))["iq_extra"]
    np.testing.assert_array_equal(extra, np.concatenate((counter_iq(0, 7), [0, 0])))


# -- time --


def moved(minute: Minute, first: int, ahead: int = 0) -> Minute:
    """The minute on another stretch of the RTP line; the anchor is `ahead` samples after its first sample."""
    utc = T0 + (ahead * SECOND) // RATE
    return replace(
        minute,
        first_timestamp=first,
        anchor=Anchor(first + ahead, utc, RATE, AnchorSource.RADIOD, 1, T0),
        segments=[replace(minute.segments[0], timestamp=first)],
        gaps=[],
        last_timestamp=first + SAMPLES,
    )


@cache
def sound() -> Minute:
    """A whole minute; not to be changed."""
    return one_cut().minutes[0]


@given(
    first=st.one_of(
        st.integers(0, 1 << 40), st.integers(WRAP - 70_000, WRAP + 10), st.integers(3 * WRAP - 2000, 3 * WRAP + 2000)
    ),
    ahead=st.integers(-5_000_000_000, 5_000_000_000),
)
@settings(max_examples=200)
def test_anchor_is_one_line_with_the_first_sample(first: int, ahead: int) -> None:
    minute = moved(sound(), first, ahead)
    arrays = build(replace(minute, runs=[]), context(minute))
    rtp, anchor = int(arrays["rtp_timestamp"]), int(arrays["anchor_rtp"])
    assert 0 <= rtp < WRAP
    assert 0 <= anchor < WRAP
    assert rtp == first % WRAP == int(arrays["segment_rtp_timestamps"][0])
    # Integers, and no modulo: what a reader would write.
    line = int(arrays["anchor_utc_ns"]) + (rtp - anchor) * SECOND // RATE
    assert abs(line - int(arrays["sample0_utc_ns"])) <= 1
    assert abs(rtp - anchor) <= RATE
    assert abs(int(arrays["sample0_utc_ns"]) - T0) <= 1


def test_wrap_within_the_file() -> None:
    arrays = arrays_of(one_cut(without(1, 3, 4), first_rtp=WRAP - 250))
    assert int(arrays["rtp_timestamp"]) == int(arrays["time_snap_rtp"]) == WRAP - 250
    assert arrays["gap_rtp_timestamps"].tolist() == [WRAP - 150, 50]
    assert arrays["gap_sample_indices"].tolist() == [100, 300]
    assert int(arrays["host_rtp"]) == SAMPLES - 250
    assert int(arrays["rtp_vs_host_ns"]) == 0


@pytest.mark.parametrize("late_ms", [0, 3])
def test_host_clock_evidence(late_ms: int) -> None:
    recorded = recording()
    play(recorded, stream(), range(PACKETS))
    [cut] = cut_all(recorded)
    [minute] = cut.minutes
    host = HostEvidence(minute.last_arrival_ns + late_ms * 10**6, 5, minute.last_timestamp, 2.0)
    arrays = build(minute, context(minute, host=host))
    assert int(arrays["rtp_vs_host_ns"]) == -late_ms * 10**6
    assert int(arrays["host_utc_ns"]) == T0 + 60 * SECOND + late_ms * 10**6
    assert float(arrays["ntp_wall_clock_time"]) == pytest.approx(T0 / 1e9 + late_ms / 1e3, abs=1e-6)


def test_anchor_age_counts_from_the_newest_evidence() -> None:
    assert float(arrays_of(one_cut())["anchor_age_s"]) == 1.0
    minute = replace(sound(), anchor=replace(sound().anchor, evidence_ns=T0 + 90 * SECOND))
    assert float(build(minute, context(minute))["anchor_age_s"]) == 0.0


@pytest.mark.parametrize("source", [s for s in AnchorSource if s is not AnchorSource.NONE])
def test_anchor_source_words(source: AnchorSource) -> None:
    minute = replace(sound(), anchor=replace(sound().anchor, source=source))
    found = str(build(minute, context(minute))["anchor_source"])
    assert found in {"radiod", "ntp", "wall_clock", "wwv", "wwvh", "chu"}


# -- two timelines --


def test_two_segments() -> None:
    cut = restarted()
    arrays = arrays_of(cut)
    rows = segments({name: arrays[name] for name in arrays})
    assert rows == [
        (0, 30_000, (WRAP - 320), 1, T0),
        (35_000, 25_000, 777, 2, T0 + 35 * SECOND),
    ]
    assert arrays["gap_sample_indices"].tolist() == [30_000]
    assert arrays["gap_samples_filled"].tolist() == [5_000]
    assert arrays["gap_cause"].tolist() == [gap.cause for gap in cut.minutes[0].gaps]
    assert (int(arrays["epoch_id"]), int(arrays["valid_samples"])) == (1, 55_000)
    np.testing.assert_array_equal(arrays["iq"][:30_000], counter_iq(0, 30_000))
    np.testing.assert_array_equal(arrays["iq"][35_000:], counter_iq(0, 25_000))


def test_host_evidence_never_crosses_two_timelines() -> None:
    arrays = arrays_of(restarted())
    assert int(arrays["host_rtp"]) == 777 + 25_000
    assert int(arrays["rtp_vs_host_ns"]) == 0
    assert float(arrays["ntp_wall_clock_time"]) == pytest.approx(T0 / 1e9, abs=1e-6)


# -- gaps and counts --


def test_gap_lists() -> None:
    arrays = arrays_of(lossy())
    first = WRAP - 320
    assert arrays["gap_sample_indices"].tolist() == [1000, 30_000, 59_000]
    assert arrays["gap_samples_filled"].tolist() == [200, 100, 1000]
    assert arrays["gap_rtp_timestamps"].tolist() == [(first + n) % WRAP for n in (1000, 30_000, 59_000)]
    assert arrays["gap_packets_lost"].tolist() == [2, 1, 0]
    assert arrays["gap_cause"].tolist() == ["network", "network", "stop"]
    counts = {"gaps_count": 3, "gaps_filled": 1300, "packets_lost": 3, "packets_received": 587,
              "packets_expected": 600, "valid_samples": SAMPLES - 1300}  # fmt: skip
    assert {name: int(arrays[name]) for name in counts} == counts
    assert float(arrays["completeness_pct"]) == pytest.approx(100 * (SAMPLES - 1300) / SAMPLES)


def test_minute_begun_in_its_middle() -> None:
    cut = one_cut(range(400), start_ns=T0 + 20 * SECOND)
    arrays = arrays_of(cut)
    assert int(arrays["sample0_utc_ns"]) == T0
    assert arrays["gap_cause"].tolist() == ["start"]
    assert arrays["gap_samples_filled"].tolist() == [20_000]
    assert int(arrays["rtp_timestamp"]) == (WRAP - 320 - 20_000) % WRAP
    np.testing.assert_array_equal(arrays["iq"][20_000:], counter_iq(0, 40_000))


def test_duplicates_late_and_bad_packets_are_counted() -> None:
    minute = replace(sound(), packets_late=1, packets_duplicate=2, packets_reordered=3, packets_bad=4)
    arrays = build(minute, context(minute))
    names = ("packets_late", "packets_duplicate", "packets_reordered", "packets_bad")
    assert [int(arrays[name]) for name in names] == [1, 2, 3, 4]


def test_minute_without_a_packet_of_its_own_expects_none() -> None:
    minute = replace(sound(), samples_per_packet=0)
    assert int(build(minute, context(minute))["packets_expected"]) == 0


def test_default_rate_has_960000_samples() -> None:
    recorded = Recording()
    sent = Sent(T0)
    play(recorded, sent, range(300))
    cut = cut_all(recorded)[0]
    arrays = arrays_of(cut, channel=replace(CHANNEL, sample_rate_hz=16_000))
    assert arrays["iq"].shape == (960_000,)
    assert int(arrays["packets_expected"]) == 3000


# -- names --


def test_names_are_signal_recorders(tmp_path: Path) -> None:
    channel = replace(CHANNEL, name="WWV 2.5 MHz", frequency_hz=2_500_000.75)
    assert minute_path(tmp_path, channel, T0) == tmp_path / "archives/WWV_2.5_MHz" / f"{stamp(T0)}_2500000_iq.npz"
    assert stamp(1_764_118_920 * SECOND) == "20251126T010200Z"
    assert stamp(0) == "19700101T000000Z"


def test_second_parts_are_out_of_old_readers_way(tmp_path: Path) -> None:
    path = part_path(tmp_path, CHANNEL, T0, 8000, 2)
    assert path == tmp_path / PARTS / CHANNEL.id / f"{stamp(T0)}_10000000_8000sps_2_iq.npz"
    assert "archives" not in path.relative_to(tmp_path).parts
