"""The audit of our own trees: sound when they are, and every promise that is broken is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from minutes import CHANNEL, PACKETS, RATE, arrays_of, context, cut_all, one_cut, play, recording, stream
from pipeline import npz
from pipeline.audit.codes import CODES
from pipeline.audit.days import table
from pipeline.audit.examine import LATER_KEYS
from pipeline.audit.findings import Findings, Issue
from pipeline.audit.onefile import parse_name
from pipeline.cli import cli
from pipeline.config import Recorder
from pipeline.minutefile import ARCHIVES, PARTS, minute_path, part_path
from pipeline.stream.timeline import SECOND
from pipeline.verify import NotATree, verify_tree
from pipeline.writer import Writer
from stream_world import Faults, Part, World
from streams import T0
from trees import TreeRecording

Arrays = dict[str, Any]
SAMPLES = 60 * RATE


def put(tree: Path, arrays: Arrays, path: Path | None = None) -> Path:
    """Write a file where it belongs."""
    path = path or minute_path(tree, CHANNEL, round(float(arrays["unix_timestamp"])) * SECOND)
    npz.write(path, {name: np.asarray(value) for name, value in arrays.items()}, 1)
    return path


def codes(tree: Path) -> list[str]:
    """Names of what is wrong in a tree, each once."""
    audit = verify_tree(tree)
    return sorted({f.issue.code for f in audit.findings.kept if f.issue.severity != "info"})


def minutes(tree: Path, numbers: list[int], **facts: Any) -> list[Arrays]:
    """The arrays of every minute of a stream, not written yet."""
    recorded = recording()
    play(recorded, stream(**facts), numbers)
    return [arrays_of(cut, number) for cut in cut_all(recorded) for number in range(len(cut.minutes))]


THREE = list(range(3 * PACKETS))


def test_a_tree_of_ours_is_sound(tmp_path: Path) -> None:
    """Losses, a late start and a stop are listed; that is no fault."""
    lossy = [n for n in THREE if n not in (5, 6, 700, 1100)][40:-30]
    for arrays in minutes(tmp_path, lossy):
        put(tmp_path, arrays)
    audit = verify_tree(tmp_path)
    assert audit.findings.kept == []
    assert audit.findings.sound
    assert audit.files == 3
    [day] = audit.days.rows.values()
    assert day.files == 3
    assert day.missing_s == pytest.approx({"start": 4.2, "stop": 3.0, "network": 0.2})
    assert day.recorded_pct == pytest.approx(100 * (180 - 7.4) / 180)
    assert audit.to_json()["sound"] is True


def test_what_the_writer_writes_is_sound(tmp_path: Path) -> None:
    recorded = recording()
    play(recorded, stream(), [n for n in THREE if n % 97])
    writer = Writer(CHANNEL, Recorder(data_dir=tmp_path, min_free_gb=0.0, storage="int16"), lambda: None)
    for cut in cut_all(recorded):
        writer.start(cut, [context(minute, storage="int16") for minute in cut.minutes])
        written = writer.poll(20.0)
        assert written is not None
        assert written.error is None
    assert codes(tmp_path) == []


def test_causes_in_the_files_are_those_of_the_stream(tmp_path: Path) -> None:
    """A start 4 s into a minute, losses, a mute, radiod started anew, a stop."""
    parts = (
        Part(seconds=100, sizes=(100,), mutes=((30, 2_000, True),)),
        Part(seconds=50, sizes=(100,), first_rtp=1 << 30, port=40_001, pause_s=5),
    )
    world = World(parts, Faults(), T0 + 4 * SECOND)
    world.lose(50, 51, 52, 53, 54, 700, 702)
    recorded = TreeRecording(RATE, tree=tmp_path)
    world.play(recorded)
    audit = verify_tree(tmp_path)
    assert audit.findings.sound
    [day] = audit.days.rows.values()
    # Whole seconds of the three minutes: 4 before, 50 + 100 received but for what is missing, 5 between.
    assert day.missing_s == pytest.approx({"start": 4.0, "network": 0.7, "mute": 2.0, "restart": 5.0, "stop": 21.0})


def broken(**changes: Callable[[Arrays], Any]) -> Callable[[Arrays], None]:
    """A change of some keys, each a function of the file."""

    def apply(arrays: Arrays) -> None:
        arrays.update({name: np.asarray(change(arrays)) for name, change in changes.items()})

    return apply


def cut_off(arrays: Arrays) -> None:
    """A file that lost its last second."""
    arrays["iq"] = arrays["iq"][:-RATE]


def without(*names: str) -> Callable[[Arrays], None]:
    """A file that lacks keys."""
    return lambda arrays: [arrays.pop(name) for name in names] and None


def silence(arrays: Arrays) -> None:
    """Zeros that no list tells of."""
    arrays["iq"][30_000:30_500] = 0


def noise_in_gap(arrays: Arrays) -> None:
    """Samples where the list says there are none."""
    arrays["iq"][int(arrays["gap_sample_indices"][0]) + 7] = 1 + 1j


def twice(arrays: Arrays) -> None:
    """One gap listed two times."""
    for name in [n for n in arrays if n.startswith("gap_")]:
        arrays[name] = np.concatenate((arrays[name], arrays[name]))


def two_rows(arrays: Arrays) -> None:
    """One timeline told as two, the second where it is."""
    half, rate = SAMPLES // 2, RATE
    index, rtp = int(arrays["segment_sample_indices"][0]), int(arrays["segment_rtp_timestamps"][0])
    utc, samples = int(arrays["segment_utc_ns"][0]), int(arrays["segment_samples"][0])
    arrays["segment_sample_indices"] = np.array([index, half])
    arrays["segment_samples"] = np.array([half - index, samples - half + index])
    arrays["segment_rtp_timestamps"] = np.array([rtp, (rtp + half - index) % 2**32])
    arrays["segment_utc_ns"] = np.array([utc, utc + (half - index) * SECOND // rate])
    arrays["segment_epoch_ids"] = np.repeat(arrays["segment_epoch_ids"], 2)


FAULTS: dict[str, tuple[Callable[[Arrays], None], list[str]]] = {
    "cut off": (cut_off, ["gap_sums", "length", "segments"]),
    "a key less": (without("anchor_uncertainty_ns"), ["keys"]),
    "a key of the ancestor less": (without("packets_expected"), ["keys"]),
    "text for a number": (broken(sample_rate=lambda a: "16k"), ["keys"]),
    "samples in a gap": (noise_in_gap, ["gap_not_zero"]),
    "zeros not listed": (silence, ["unlisted_zeros"]),
    "a gap twice": (twice, ["gap_overlap", "gap_sums"]),
    "a gap outside": (broken(gap_sample_indices=lambda a: a["gap_sample_indices"] + 60_000),
                      ["gap_range", "gap_rtp", "gap_sums", "unlisted_zeros"]),
    "valid_samples": (broken(valid_samples=lambda a: a["valid_samples"] + 1), ["gap_sums"]),
    "gaps_count": (broken(gaps_count=lambda a: 7), ["gap_sums"]),
    "completeness": (broken(completeness_pct=lambda a: 100.0), ["gap_sums"]),
    "packets_lost": (broken(packets_lost=lambda a: a["packets_lost"] + 1), ["gap_sums"]),
    "a gap's timestamp": (broken(gap_rtp_timestamps=lambda a: a["gap_rtp_timestamps"] + 1), ["gap_rtp"]),
    "rtp beyond 32 bits": (broken(rtp_timestamp=lambda a: a["rtp_timestamp"] + 2**32), ["rtp_not_wrapped", "segments"]),
    "iq[0] elsewhere": (broken(sample0_utc_ns=lambda a: a["sample0_utc_ns"] + 5 * SECOND,
                               anchor_utc_ns=lambda a: a["anchor_utc_ns"] + 5 * SECOND,
                               segment_utc_ns=lambda a: a["segment_utc_ns"] + 5 * SECOND), ["mid_minute"]),
    "anchor and label apart": (broken(anchor_utc_ns=lambda a: a["anchor_utc_ns"] + 2), ["label_line"]),
    "no bound": (broken(anchor_uncertainty_ns=lambda a: 0), ["no_bound"]),
    "no source": (broken(anchor_source=lambda a: ""), ["no_bound"]),
    "a segment too long": (broken(segment_samples=lambda a: a["segment_samples"] + 1), ["segments"]),
    "a segment too short": (broken(segment_samples=lambda a: a["segment_samples"] - 1), ["segments"]),
    "a row's time": (broken(segment_utc_ns=lambda a: a["segment_utc_ns"] + 2_000_000), ["anchor_within", "segments"]),
    "an anchor that moves within a sample": (broken(segment_utc_ns=lambda a: a["segment_utc_ns"] + 200_000),
                                             ["anchor_within"]),
    "a timeline twice": (two_rows, ["anchor_within"]),
    "a bound of half a minute": (broken(anchor_uncertainty_ns=lambda a: 40 * SECOND), ["wide_bound"]),
    "a source that is none": (broken(anchor_source=lambda a: "guess"), ["no_bound"]),
    "a cause that is none": (broken(gap_cause=lambda a: np.array(["weather"])), ["gap_cause"]),
    "a mute that lost packets": (broken(gap_cause=lambda a: np.array(["mute"])), ["gap_cause"]),
    "no packet but samples": (broken(packets_received=lambda a: 0), ["packets"]),
    "packets below zero": (broken(packets_late=lambda a: -1), ["packets"]),
    "no frequency": (broken(frequency_hz=lambda a: np.nan), ["nonsense"]),
    "created never": (broken(created_timestamp=lambda a: np.inf), ["nonsense"]),
    "samples lost on USB": (broken(rtp_rate_ppm=lambda a: -180.0, rtp_rate_sigma_ppm=lambda a: 2.0), ["sample_clock"]),
    "a sample clock not measured well": (broken(rtp_rate_ppm=lambda a: -180.0, rtp_rate_sigma_ppm=lambda a: 50.0), []),
    "a file of the first version": (without(*sorted(LATER_KEYS)), []),
    "the tone's residual": (broken(tone_detected=lambda a: True, tone_station=lambda a: "WWV",
                                   tone_onset_ms=lambda a: 9.0, tone_residual_ms=lambda a: 5000.0,
                                   tone_residual_uncertainty_ms=lambda a: 1.0), ["tone"]),
    "not a number": (broken(iq=lambda a: np.where(np.arange(SAMPLES) == 9, np.nan, a["iq"]).astype(np.complex64)),
                     ["not_finite"]),
    "host clock": (broken(rtp_vs_host_ns=lambda a: -90 * SECOND), ["host_clock"]),
    "host clock the other way": (broken(rtp_vs_host_ns=lambda a: 90 * SECOND), ["host_clock"]),
    "the minute of the name": (broken(unix_timestamp=lambda a: a["unix_timestamp"] + 60), ["mid_minute", "name"]),
    "the frequency of the name": (broken(frequency_hz=lambda a: 5e6), ["name"]),
    "the folder": (broken(channel_name=lambda a: "WWV 5 MHz"), ["name"]),
    "tone before it was sent": (broken(tone_detected=lambda a: True, tone_station=lambda a: "WWV",
                                       tone_onset_ms=lambda a: -900.0, tone_uncertainty_ms=lambda a: 1.0), ["tone"]),
    "tone from beyond the earth": (broken(tone_detected=lambda a: True, tone_station=lambda a: "WWV",
                                          tone_onset_ms=lambda a: 900.0, tone_uncertainty_ms=lambda a: 1.0), ["tone"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_in_a_file(fault: str, tmp_path: Path) -> None:
    change, expected = FAULTS[fault]
    arrays = arrays_of(one_cut([n for n in range(PACKETS) if n != 100]))
    path = minute_path(tmp_path, CHANNEL, T0)
    change(arrays)
    put(tmp_path, arrays, path)
    assert codes(tmp_path) == expected


def test_files_that_are_none(tmp_path: Path) -> None:
    path = put(tmp_path, arrays_of(one_cut()))
    path.with_name("notes.npz").write_bytes(b"x")
    orphan = path.with_name(f".{path.name}.123.tmp")
    orphan.write_bytes(b"x")
    # One that is being written at this moment is none.
    path.with_name(f".{path.name}.124.tmp").write_bytes(b"x")
    os.utime(orphan, (1e9, 1e9))
    whole = path.read_bytes()
    later = path.with_name(path.name.replace("0400Z", "0500Z").replace("1600Z", "1700Z"))
    later.write_bytes(whole[:-100])
    audit = verify_tree(tmp_path)
    assert {f.issue.code: f.count for f in audit.findings.kept} == {"stray": 1, "temporary": 1, "unreadable": 1}
    assert not audit.findings.sound


def test_file_that_is_gone_and_one_that_is_moved(tmp_path: Path) -> None:
    first, _, third = minutes(tmp_path, THREE)
    put(tmp_path, first)
    put(tmp_path, third)
    assert codes(tmp_path) == ["missing_minutes"]
    [absence] = verify_tree(tmp_path).channels[0].series.absent
    assert (absence.minutes, absence.first_s) == (1, T0 // SECOND + 60)


def shifted(arrays: Arrays, samples: int) -> Arrays:
    """The same file with its timestamps moved along, its labels as they were."""
    moved = dict(arrays)
    for name in ("rtp_timestamp", "anchor_rtp", "segment_rtp_timestamps", "gap_rtp_timestamps", "time_snap_rtp"):
        moved[name] = ((np.asarray(arrays[name]).astype(np.int64) + samples) % 2**32).astype(
            np.asarray(arrays[name]).dtype
        )
    return moved


@pytest.mark.parametrize(("samples", "name"), [(3, "hole"), (-3, "overlap"), (600, "label_step")])
def test_stream_that_does_not_go_on_where_it_ended(samples: int, name: str, tmp_path: Path) -> None:
    """Labels that go with the hole make it a hole; labels that do not make it a step."""
    first, second, _ = minutes(tmp_path, THREE)
    put(tmp_path, first)
    moved = shifted(second, samples)
    if name != "label_step":
        step = samples * SECOND // RATE
        for key in ("sample0_utc_ns", "anchor_utc_ns", "segment_utc_ns"):
            moved[key] = np.asarray(second[key]) + step
    else:
        moved["anchor_uncertainty_ns"] = np.asarray(1_000)
        first["anchor_uncertainty_ns"] = np.asarray(1_000)
    put(tmp_path, moved)
    assert name in codes(tmp_path)


@pytest.mark.parametrize(("doubt_ms", "shown"), [(1.5, "-0.41 ms"), (38.0, "-")])
def test_table_tells_the_tones_residual_where_the_way_is_known(doubt_ms: float, shown: str, tmp_path: Path) -> None:
    put(tmp_path, {**arrays_of(one_cut()), "tone_detected": True, "tone_station": "WWV", "tone_onset_ms": 4.0,
                   "tone_residual_ms": -0.412, "tone_residual_uncertainty_ms": doubt_ms})  # fmt: skip
    header, row = table(verify_tree(tmp_path).days.rows.values())
    at = header.index("residual") + len("residual")
    assert row[:at].endswith(f" {shown}")


def test_step_of_the_label_within_both_bounds_is_told_and_no_fault(tmp_path: Path) -> None:
    first, second, _ = minutes(tmp_path, THREE)
    put(tmp_path, first)
    for key in ("sample0_utc_ns", "anchor_utc_ns", "segment_utc_ns"):
        second[key] = np.asarray(second[key]) + 400_000
    put(tmp_path, second)
    audit = verify_tree(tmp_path)
    assert [f.issue.code for f in audit.findings.kept] == ["reanchored"]
    assert audit.findings.sound


def test_same_minute_under_two_names(tmp_path: Path) -> None:
    arrays = arrays_of(one_cut())
    path = put(tmp_path, arrays)
    put(tmp_path, arrays, path.with_name(path.name.replace("_10000000_", "_10000001_")))
    assert codes(tmp_path) == ["duplicate_minute", "name"]


def test_parts_belong_to_a_minute(tmp_path: Path) -> None:
    arrays = arrays_of(one_cut())
    path = put(tmp_path, arrays)
    put(tmp_path, arrays, part_path(tmp_path, CHANNEL, T0, RATE, 1))
    assert codes(tmp_path) == []
    [channel] = verify_tree(tmp_path).channels
    assert channel.files == 2
    path.unlink()
    assert codes(tmp_path) == ["part_without_main"]
    assert {ARCHIVES, PARTS} == {p.name for p in tmp_path.iterdir()}


def test_sessions_and_epochs_are_told(tmp_path: Path) -> None:
    first, second, third = minutes(tmp_path, THREE)
    put(tmp_path, first)
    second["epoch_id"], second["epoch_reason"] = np.asarray(2), np.asarray("radiod_restart")
    second["segment_epoch_ids"] = np.array([2])
    put(tmp_path, second)
    third["session_id"] = np.asarray("another")
    put(tmp_path, third)
    audit = verify_tree(tmp_path)
    assert [f.issue.code for f in audit.findings.kept] == ["new_epoch", "new_session"]
    assert audit.findings.sound


def test_names() -> None:
    named = parse_name("20261122T041600Z_10000000_iq.npz")
    assert named is not None
    assert (named.minute_s, named.hz, named.part) == (T0 // SECOND, 10_000_000, 0)
    part = parse_name("20261122T041600Z_10000000_24000sps_2_iq.npz")
    assert part is not None
    assert (part.rate_hz, part.part) == (24_000, 2)
    for odd in ("20261322T041600Z_1_iq.npz", "x.npz", "20261122T041600Z_1_iq_10hz.npz", "20261122T041600Z_iq.npz"):
        assert parse_name(odd) is None


def test_a_fault_in_every_file_is_one_finding() -> None:
    found = Findings()
    for number in range(100):
        found.next_file()
        found.add("c", f"f{number}", Issue("gap_sums", str(number)))
        found.add("c", f"f{number}", Issue("gap_sums", "again"))
    found.next_file()
    found.next_file()
    found.add("c", "later", Issue("gap_sums", "x"))
    assert [(f.file, f.until, f.count) for f in found.kept] == [("f0", "f99", 100), ("later", "later", 1)]


def test_every_fault_says_what_it_means() -> None:
    assert all(code.means.endswith(".") for code in CODES.values())
    silent = {name for name, code in CODES.items() if not code.todo.endswith(".")}
    assert {CODES[name].severity for name in silent} == {"info"}


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotATree, match="is not a folder"):
        verify_tree(tmp_path / "none")
    assert codes(tmp_path) == ["no_minutes"]


def test_command(tmp_path: Path) -> None:
    put(tmp_path, arrays_of(one_cut()))
    result = CliRunner().invoke(cli, ["verify", str(tmp_path)], standalone_mode=False)
    assert result.return_value == 0
    assert result.output.splitlines()[-1].startswith("sound: 1 file of 1 channel; ")
    assert "WWV_10_MHz" in result.output
    arrays = replace_bound(arrays_of(one_cut()))
    put(tmp_path / "bad", arrays)
    result = CliRunner().invoke(cli, ["verify", "--json", str(tmp_path / "bad")], standalone_mode=False)
    assert result.return_value == 1
    said = json.loads(result.output)
    assert said["sound"] is False
    assert [f["code"] for f in said["findings"]] == ["no_bound"]
    assert said["findings"][0].keys() == {
        "severity", "code", "channel", "file", "until", "count", "what", "where", "means", "todo",
    }  # fmt: skip
    assert said["days"][0]["date"] == "2026-11-22"


def replace_bound(arrays: Arrays) -> Arrays:
    """The file without a stated bound."""
    return {**arrays, "anchor_uncertainty_ns": np.asarray(0)}


def test_names_from_files_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    arrays = arrays_of(one_cut())
    arrays["anchor_source"] = np.asarray("")
    arrays["channel_name"] = np.asarray("WWV\x1b[2J")
    put(tmp_path, arrays, minute_path(tmp_path, replace(CHANNEL), T0))
    result = CliRunner().invoke(cli, ["verify", str(tmp_path)], standalone_mode=False)
    assert "\x1b" not in result.output
