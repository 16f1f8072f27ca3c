"""`inspect`: what it shows of our files, of signal-recorder's, and of files that cannot be read."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minutes import FRAMES, PACKETS, RATE, ancestor, arrays_of, cut_all, one_cut, play, recording, stream
from pipeline import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, PipelineError, npz
from pipeline.__main__ import run
from pipeline.inspection import ADDED, ANCESTOR_OPTIONAL, ANCESTOR_REQUIRED, NotAMinute, check, facts, level, lines
from pipeline.records import NtpRecord
from pipeline.stream.timeline import SECOND
from streams import T0

SAMPLES = 60 * RATE
Capture = pytest.CaptureFixture[str]


def without(*numbers: int) -> list[int]:
    """All packets of a minute but these."""
    return [n for n in range(PACKETS) if n not in numbers]


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """A file of ours."""
    npz.write(path, arrays, 2)
    return path


@pytest.fixture
def lossy(tmp_path: Path) -> Path:
    """A minute with two gaps of the network and an end that is missing."""
    return save(tmp_path / "lossy_iq.npz", arrays_of(one_cut(without(10, 11, 300, *range(590, PACKETS)))))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as signal-recorder wrote it."""
    np.savez_compressed(tmp_path / "old_iq.npz", **ancestor())
    return tmp_path / "old_iq.npz"


def show(capsys: Capture, *arguments: str | Path) -> str:
    """What a successful `inspect` prints."""
    assert run(["inspect", *map(str, arguments)]) == EXIT_OK
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


def strict(text: str) -> Any:
    """JSON without NaN or infinities."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def row(text: str, name: str) -> str:
    """The fact with this label, with the lines that continue it."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"  {name:<14}") or (found and line.startswith(" " * 16)):
            found.append(line[16:])
        elif found:
            break
    assert found, f"no {name} in\n{text}"
    return "\n".join(found)


# -- our files --


def test_every_fact_of_a_file_is_shown(capsys: Capture, lossy: Path) -> None:
    text = show(capsys, lossy)
    assert text.splitlines()[:2] == [str(lossy), "WWV 10 MHz, minute 2026-11-22T04:16:00Z"]
    expected = {
        "recorder": ("grape-pipeline 0", "format 1", "complex64", "written 2026-11-22T04:17:03.000Z"),
        "session": ("20261122T000000Z-abc",),
        "station": ("callsign AC0G, grid EM38, latitude 38.9",),
        "stream": ("10.000000 MHz", "SSRC 10000000", "1000 samples/s", "60000 samples"),
        "completeness": ("97.83 %", "58700 of 60000 samples", "3 gaps"),
        "packets": ("587 received, 600 expected; lost 3, late 0, duplicate 0, reordered 0, bad 0",),
        "iq[0]": ("2026-11-22T04:16:00.000000000Z", "RTP 4294966976", "+0.000 us (+0.00 samples) from the minute"),
        "anchor": ("radiod, RTP 4294966976 = 2026-11-22T04:16:00.000000000Z", "labels true within ", " s before the"),
        "time_snap": ("ntp, RTP 4294966976", "confidence 0.70"),
        "NTP": ("synced; host - UTC -0.250 ms +- 3.500 ms, jitter 0.125 ms", "4.0 s before", "servers:a, stratum 2",
                "leap 0"),
        "host clock": ("2026-11-22T04:16:59.000000000Z when RTP 58680", "label - host clock +0.000 ms", "+1.500 ppm"),
        "radiod": ("description radiod under test, gain 20, agc_enable false",),
        "timelines": ("1, the first is epoch 1 (start)",),
        "gaps": ("3, samples missing by cause: stop 1000, network 300",),
    }  # fmt: skip
    for name, parts in expected.items():
        assert [part for part in parts if part not in row(text, name)] == [], name
    assert "not stated" not in text


def test_residual_of_the_label_is_judged_by_the_bounds(capsys: Capture, tmp_path: Path) -> None:
    bounds = {"anchor_uncertainty_ns": 5_000_000, "tone_uncertainty_ms": 0.2, "tone_residual_uncertainty_ms": 2.5}
    heard = {"tone_detected": True, "tone_station": "WWV", "tone_onset_ms": 9.0, "tone_snr_db": 40.0}
    for number, (residual, word) in enumerate([(-7.4, "agrees with"), (7.6, "CONTRADICTS")]):
        arrays = arrays_of(one_cut(range(PACKETS)))
        found = {**bounds, **heard, "tone_residual_ms": residual}
        path = save(tmp_path / f"{number}_iq.npz", {**arrays, **{k: np.asarray(v) for k, v in found.items()}})
        said = f"{word} the label: label - UTC {residual:+.3f} ms +- 2.500 ms"
        assert said in row(show(capsys, path), "minute tone")


def test_gap_table(capsys: Capture, lossy: Path) -> None:
    table = show(capsys, lossy).splitlines()[-4:]
    assert table[0].split() == ["index", "at", "s", "samples", "ms", "RTP", "packets", "cause"]
    assert [line.split() for line in table[1:]] == [
        ["1000", "1.000000", "200", "200.000", "680", "2", "network"],
        ["30000", "30.000000", "100", "100.000", "29680", "1", "network"],
        ["59000", "59.000000", "1000", "1000.000", "58680", "0", "stop"],
    ]


def test_long_gap_list_is_shortened_unless_asked_for(capsys: Capture, tmp_path: Path) -> None:
    path = save(tmp_path / "x_iq.npz", arrays_of(one_cut(without(*range(1, PACKETS, 2)))))
    short, whole = show(capsys, path), show(capsys, path, "--all-gaps")
    assert "280 more; --all-gaps shows them" in short
    assert len(whole.splitlines()) - len(short.splitlines()) == 279
    assert (short.count(" 100.000 "), whole.count(" 100.000 ")) == (20, 300)
    assert "300, samples missing by cause: network 29900, stop 100" in row(short, "gaps")
    assert f"{(PACKETS - 1) * FRAMES:>10}" in short


@pytest.mark.parametrize("count", [20, 21])
def test_one_line_is_never_replaced_by_one_line(capsys: Capture, tmp_path: Path, count: int) -> None:
    path = save(tmp_path / "x_iq.npz", arrays_of(one_cut(without(*range(1, 2 * count, 2)))))
    assert "more;" not in show(capsys, path)


def test_level_counts_only_what_was_received() -> None:
    iq = np.zeros(SAMPLES, np.complex64)
    iq[:30_000] = 0.1j
    iq[5] = -1.0
    values = {"iq": iq, "valid_samples": 30_000, "gaps_filled": 30_000}
    found = level(values)
    assert found.rms_dbfs == pytest.approx(-20, abs=0.02)
    assert found.peak_dbfs == 0.0
    assert found.clipped == 1
    assert level({"iq": iq, "gaps_filled": 30_000}) == found
    silent = level({"iq": np.zeros(10, np.complex64), "gaps_filled": 10})
    assert np.isnan([silent.rms_dbfs, silent.peak_dbfs]).all()


@pytest.mark.parametrize(
    ("value", "told"), [(0, "nothing but zeros"), (np.nan, "not numbers"), (0.5, "-6.0 dBFS"), (1, "60000 samples at")]
)
def test_level_in_words(value: float, told: str) -> None:
    values = npz_values(ancestor(iq=np.full(SAMPLES, value, np.complex64), gaps_filled=0))
    assert told in row("\n".join(lines(values)), "level")


def test_relaxed_limits_are_told() -> None:
    values = npz_values(ancestor(iq=np.zeros(SAMPLES, np.complex64)))
    values |= {"ntp_state": "synced", "ntp_valid": True, "ntp_quality": "relaxed"}
    assert "synced, by the relaxed limits; host - UTC" in row("\n".join(lines(values)), "NTP")


def test_two_timelines_are_two_rows(capsys: Capture, tmp_path: Path) -> None:
    recorded = recording()
    play(recorded, stream(), range(300))
    after = stream(start_ns=T0 + 35 * SECOND, first_rtp=777, first_sequence=5000)
    play(recorded, after, range(250), origin=("127.0.0.1", 41_000))
    [cut] = cut_all(recorded)
    text = show(capsys, save(tmp_path / "x_iq.npz", arrays_of(cut)))
    assert "2, the first is epoch 1 (start)" in row(text, "timelines")
    assert ["2", "35000", "25000", "777", "2026-11-22T04:16:35.000000000Z"] in [s.split() for s in text.splitlines()]
    assert f"by cause: {cut.minutes[0].gaps[0].cause} 5000" in row(text, "gaps")


def test_unknown_is_said_and_not_shown_as_numbers(capsys: Capture, tmp_path: Path) -> None:
    arrays = arrays_of(one_cut(), ntp=NtpRecord(), ntp_view=NtpRecord().at(0, 30.0))
    path = save(tmp_path / "x_iq.npz", {**arrays, "iq_extra": np.zeros(7, np.complex64)})
    text = show(capsys, path)
    assert "starting, not to be relied on; host - UTC unknown +- unknown" in row(text, "NTP")
    assert "no source, stratum unknown" in row(text, "NTP")
    assert "7 samples after the last one" in row(text, "extra")
    assert "-999" not in text
    assert "nan" not in text


def test_int16_storage_is_shown_like_complex(capsys: Capture, tmp_path: Path) -> None:
    cut = one_cut(without(10))
    pairs = show(capsys, save(tmp_path / "a_iq.npz", arrays_of(cut, storage="int16")))
    plain = show(capsys, save(tmp_path / "b_iq.npz", arrays_of(cut)))
    assert pairs.splitlines()[1:] == plain.replace("complex64", "int16").splitlines()[1:]


def test_several_files_are_apart(capsys: Capture, lossy: Path, old: Path) -> None:
    text = show(capsys, lossy, old)
    first, second = text.split("\n\n")
    assert first.startswith(str(lossy))
    assert second.startswith(str(old))


# -- JSON --


def test_json_of_one_file_is_an_object(capsys: Capture, lossy: Path) -> None:
    found = strict(show(capsys, lossy, "--json"))
    with np.load(lossy) as plain:
        for name in plain.files:
            if name.startswith("iq"):
                assert name not in found
                continue
            value = plain[name].tolist()
            assert found[name] == (None if isinstance(value, float) and math.isnan(value) else value), name
    assert found["file"] == str(lossy)
    assert found["wwvh_differential_delay_ms"] is None
    assert found["gap_cause"] == ["network", "network", "stop"]
    assert found["segment_samples"] == [59_000]
    assert (found["samples"], found["extra_samples"], found["storage"]) == (SAMPLES, 0, "complex64")
    assert (found["label_residual_ns"], found["absent"]) == (0, [])
    assert -60 < found["rms_dbfs"] < found["peak_dbfs"] <= 0.01


def test_json_of_several_files_is_an_array(capsys: Capture, lossy: Path, old: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_iq.npz").write_bytes(b"")
    assert run(["inspect", "--json", str(lossy), str(tmp_path / "broken_iq.npz"), str(old)]) == EXIT_FAILURE
    told = capsys.readouterr()
    found = strict(told.out)
    assert [item.get("channel_name") for item in found] == ["WWV 10 MHz", None, "WWV 10 MHz"]
    assert "empty" in found[1]["error"]
    assert told.err.count("\n") == 1


def test_json_of_one_unreadable_file_is_an_object_too(capsys: Capture, tmp_path: Path) -> None:
    assert run(["inspect", "--json", str(tmp_path / "absent_iq.npz")]) == EXIT_FAILURE
    assert "No such file" in strict(capsys.readouterr().out)["error"]


# -- files of signal-recorder --


def npz_values(arrays: dict[str, Any]) -> dict[str, Any]:
    """What npz.read gives of such a file."""
    return {name: np.asarray(a).item() if np.ndim(a) == 0 else a for name, a in arrays.items()}


def test_ancestors_file_is_shown_with_what_it_lacks(capsys: Capture, old: Path) -> None:
    text = show(capsys, old)
    assert "2.0.0-core-timesnap, complex64" in row(text, "recorder")
    assert "599 received, 600 expected" in row(text, "packets")
    assert "lost" not in row(text, "packets")
    assert "RTP 4295928897; its UTC is not stated" in row(text, "iq[0]")
    assert "wwv_startup, RTP 100000" in row(text, "time_snap")
    assert "1000 Hz 12.5 dB" in row(text, "minute tone")
    assert "1200" not in row(text, "minute tone")
    assert "+1.500 ms, as the recorder knew it" in row(text, "NTP")
    assert "2026-11-22T04:16:00.250000Z at the file's begin" in row(text, "host clock")
    assert "99.83 %, 59900 of 60000 samples, 1 gap\n" in row(text, "completeness") + "\n"
    assert "RMS -6.0 dBFS" in row(text, "level")
    gap = [line.split() for line in text.splitlines() if line.endswith("  not stated")]
    assert gap == [["100", "0.100000", "100", "100.000", "5", "1", "not", "stated"]]
    missing = text.split("not stated in this file:")[1].split()
    assert missing == list(ADDED)
    assert max(map(len, text.splitlines()[1:])) <= 120


def test_ancestors_json_names_what_it_lacks(capsys: Capture, old: Path) -> None:
    found = strict(show(capsys, old, "--json"))
    assert found["absent"] == list(ADDED)
    assert (found["label_residual_ns"], found["completeness_pct"]) == (None, pytest.approx(99.8333, abs=1e-3))
    assert found["time_snap_source"] == "wwv_startup"


def test_file_without_the_optional_keys_is_shown() -> None:
    values = npz_values({name: value for name, value in ancestor().items() if name in ANCESTOR_REQUIRED})
    check(values)
    assert "time_snap_rtp" in "\n".join(lines(values)).split("not stated in this file:")[1].split()
    assert set(ANCESTOR_OPTIONAL) <= set(facts(values)["absent"])


def test_gap_indices_counted_from_the_sessions_start_are_pointed_out() -> None:
    def told(index: int) -> str:
        return "\n".join(lines(npz_values(ancestor(gap_sample_indices=np.array([index], np.uint32)))))

    assert "counted from its own start" in told(992_000)
    assert "counted from its own start" not in told(SAMPLES - 100)


def test_short_file_is_pointed_out() -> None:
    assert "60 s would be 60000 samples" in "\n".join(lines(npz_values(ancestor(samples=59_729))))


# -- files that cannot be read --


def broken(folder: Path, name: str) -> Path:
    """One of the ways in which a file is no minute."""
    path, arrays = folder / "x_iq.npz", ancestor()
    if name == "no npz":
        path.write_text("not a recording")
    elif name == "truncated":
        np.savez_compressed(path, **arrays)
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "object":
        np.savez_compressed(path, **{**arrays, "ntp_offset_ms": None})
    elif name == "keys":
        np.savez_compressed(path, **{n: a for n, a in arrays.items() if n not in ("iq", "gaps_count")})
    elif name == "kind":
        np.savez_compressed(path, **{**arrays, "sample_rate": "16000", "channel_name": np.array(["a"])})
    elif name == "lengths":
        np.savez_compressed(path, **{**arrays, "gap_packets_lost": np.zeros(3, np.uint32)})
    elif name == "rate":
        np.savez_compressed(path, **{**arrays, "sample_rate": 0})
    elif name == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no npz", "not an npz file"),
        ("truncated", "cut short"),
        ("object", "ntp_offset_ms cannot be read: it is an object array, which only pickle can read"),
        ("keys", "not a minute file: it has no iq, gaps_count"),
        ("kind", "sample_rate, channel_name of the wrong kind"),
        ("lengths", "differ in length"),
        ("rate", "sample_rate or unix_timestamp is impossible"),
        ("folder", "directory"),
        ("absent", "No such file"),
    ],
)
def test_unreadable_file_is_one_line_and_the_others_are_shown(
    capsys: Capture, tmp_path: Path, lossy: Path, name: str, reason: str
) -> None:
    path = broken(tmp_path, name)
    assert run(["inspect", str(path), str(lossy)]) == EXIT_FAILURE
    told = capsys.readouterr()
    assert told.err.startswith(f"grape-pipeline: {path}: ")
    assert reason in told.err
    assert told.err.count("\n") == 1
    assert "WWV 10 MHz, minute" in told.out


def odd_values() -> list[Any]:
    """What a key may hold in a file that somebody else made."""
    return [
        0, -1, 1 << 63, (1 << 64) - 1, -(1 << 63), float("nan"), float("inf"), -1e300, 1e300, True, "", "\x1b[31mred",
        "{", "[1]", np.zeros(0), np.array([1, 2, 3]), np.array(["a"]), np.zeros((2, 2)), np.array([1 << 63], np.uint64),
        np.array([-(1 << 63)]), np.zeros(0, np.complex64), np.array([np.nan], np.complex64), None, b"bytes",
    ]  # fmt: skip


def test_odd_values_never_end_in_a_traceback() -> None:
    chance = random.Random(5)
    sound = npz_values(arrays_of(one_cut(without(5))))
    shown = 0
    for _ in range(400):
        values = {**sound, **{name: chance.choice(odd_values()) for name in chance.sample(list(sound), 2)}}
        values = {**values, "iq": sound["iq"][:100]} if chance.random() < 0.9 else values
        try:
            check(values)
        except NotAMinute as error:
            assert "\n" not in str(error)
            continue
        shown += 1
        json.dumps(facts(values))
        assert all(line.isprintable() for line in lines(values))
    assert shown > 20


def test_terminal_does_not_obey_a_channels_name() -> None:
    text = lines(npz_values(ancestor(channel_name="\x1b[2Jgone\nmore")))
    assert text[0].startswith("?[2Jgone?more")


def test_errors_are_the_operators() -> None:
    assert issubclass(NotAMinute, PipelineError)


# -- as a command --


def test_no_file_is_a_usage_error(capsys: Capture) -> None:
    assert run(["inspect"]) == EXIT_USAGE
    assert "FILE" in capsys.readouterr().err


def test_reader_that_has_seen_enough_is_no_traceback(lossy: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "inspect", *[str(lossy)] * 30]
    read, write = os.pipe()
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as child:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        _, told = child.communicate(timeout=60)
    assert "Traceback" not in told
