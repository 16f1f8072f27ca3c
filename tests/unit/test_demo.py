"""What `demo` tells must be true: a changed sample, label or verdict is seen, and so is a pipeline that fails."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import wait_for
from minutes import CHANNEL, RATE, context
from pipeline import EXIT_FAILURE, EXIT_OK, npz
from pipeline import demo as module
from pipeline.cli.demo import demo, table
from pipeline.config import parse_config
from pipeline.demo import (
    Checked,
    DemoError,
    Progress,
    check,
    check_config,
    config_text,
    files_of,
    open_board,
    running_pipeline,
    wrong_samples,
)
from pipeline.minutefile import build, minute_path, part_path
from pipeline.records import AnchorSource, NtpRecord
from pipeline.simulator.spec import WWV_CHU
from pipeline.simulator.station import Ready
from pipeline.simulator.truth import Timeline, Truth, expected_iq
from pipeline.stream.minute import Gap, Minute, Run, Segment
from pipeline.stream.timeline import SECOND, Anchor
from streams import SSRC, T0

SAMPLES = 60 * RATE
FIRST = 4_294_960_000  # so the timestamps wrap within the file
BOUND_NS = 2_000_000
LINE = Timeline(
    number=1, ssrc=SSRC, name=CHANNEL.name, frequency_hz=10e6, rate_hz=RATE, ppm=0.0, encoding="S16BE", channels=2,
    programme="counter", seed=7, counter_key=99, start_rtp=FIRST - 5000, start_utc_ns=T0 - 5 * SECOND, first_seq=0,
    source_port=40_000, generation=0, reason="start",
)  # fmt: skip
EARLIER = replace(LINE, number=0, start_utc_ns=T0 - 3600 * SECOND, start_rtp=12_345, counter_key=5)
TRUTH = Truth({}, (EARLIER, LINE, replace(LINE, ssrc=SSRC + 1, counter_key=1)), ())


def minute(label_error_ns: int = 0, gaps: tuple[Gap, ...] = ()) -> Minute:
    """What a recorder would cut out of LINE, its labels off by so much."""
    sent = expected_iq(LINE, FIRST, SAMPLES).astype(">i2").tobytes()
    anchor = Anchor(FIRST, T0 + label_error_ns, RATE, AnchorSource.RADIOD, BOUND_NS, T0)
    found = Minute(T0, RATE, SAMPLES, anchor, FIRST, 1, "start", samples_per_packet=100, packets_received=600)
    found.segments.append(Segment(1, 0, SAMPLES, FIRST, anchor.utc_ns))
    found.runs.append(Run(0, SAMPLES, memoryview(sent), "S16BE"))
    found.gaps.extend(gaps)
    return found


def save(folder: Path, cut: Minute, change: Callable[[dict[str, Any]], None] = lambda _: None, **facts: Any) -> Path:
    """The file of a minute, after `change` had its way with the arrays."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in build(cut, context(cut, **facts)).items()}
    change(arrays)
    path = minute_path(folder, CHANNEL, T0)
    npz.write(path, arrays, 2)
    return path


# -- holding a file against the truth --


@pytest.mark.parametrize("storage", ["complex64", "int16"])
def test_true_file_is_sound(tmp_path: Path, storage: str) -> None:
    row = check(save(tmp_path, minute(), storage=storage), TRUTH)
    assert row.sound
    assert (row.channel, row.wrong_samples, row.label_error_ns, row.completeness_pct) == (CHANNEL.name, 0, 0, 100.0)
    assert (row.uncertainty_ns, row.ntp_state, row.ntp_offset_ms, row.gaps) == (BOUND_NS, "synced", -0.25, 0)


@pytest.mark.parametrize("index", [0, 7_296, SAMPLES - 1])
def test_one_changed_sample_is_seen(tmp_path: Path, index: int) -> None:
    def flip(arrays: dict[str, Any]) -> None:
        arrays["iq"][index] += np.complex64(1 / 32768)

    row = check(save(tmp_path, minute(), flip), TRUTH)
    assert row.wrong_samples == 1
    assert not row.sound


def test_swapped_i_and_q_and_a_shift_are_seen(tmp_path: Path) -> None:
    def swap(arrays: dict[str, Any]) -> None:
        arrays["iq"] = (1j * arrays["iq"].conj()).astype(np.complex64)

    def shift(arrays: dict[str, Any]) -> None:
        arrays["iq"] = np.roll(arrays["iq"], 1)

    for number, change in enumerate((swap, shift)):
        row = check(save(tmp_path / str(number), minute(), change), TRUTH)
        assert row.wrong_samples > 0.9 * SAMPLES
        assert not row.sound


@pytest.mark.parametrize("error_ns", [-BOUND_NS - 1, BOUND_NS + 1, 60 * SECOND])
def test_label_beyond_its_bound_is_seen(tmp_path: Path, error_ns: int) -> None:
    row = check(save(tmp_path, minute(error_ns)), TRUTH)
    assert row.label_error_ns == abs(error_ns)
    assert row.wrong_samples == 0
    assert not row.sound


@pytest.mark.parametrize("error_ns", [-BOUND_NS, BOUND_NS])
def test_label_within_its_bound_is_sound(tmp_path: Path, error_ns: int) -> None:
    assert check(save(tmp_path, minute(error_ns)), TRUTH).sound


def test_gap_is_not_sound(tmp_path: Path) -> None:
    row = check(save(tmp_path, minute(gaps=(Gap(100, 200, FIRST + 100, 2, "network"),))), TRUTH)
    assert (row.gaps, row.lost) == (1, 2)
    assert row.completeness_pct == pytest.approx(100 - 100 * 200 / SAMPLES)
    assert not row.sound


def test_unsynced_clock_is_not_sound(tmp_path: Path) -> None:
    assert not check(save(tmp_path, minute(), ntp_view=NtpRecord().at(0, 30.0)), TRUTH).sound


def test_channel_that_was_never_sent_is_wrong_throughout(tmp_path: Path) -> None:
    row = check(save(tmp_path, minute()), Truth({}, (), ()))
    assert row.wrong_samples == SAMPLES
    assert not row.sound


def test_nearest_timeline_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path, minute())
    assert not check(path, Truth({}, (EARLIER,), ())).sound
    assert check(path, Truth({}, (LINE, EARLIER), ())).sound


def test_wrong_samples_counts_them() -> None:
    iq = npz.int16_to_iq(expected_iq(LINE, FIRST, 1000), 1 / 32768)
    assert wrong_samples(iq, LINE, FIRST) == 0
    iq[[3, 500]] = 0
    assert wrong_samples(iq, LINE, FIRST) == 2
    assert wrong_samples(iq, LINE, FIRST + 1) > 900


# -- what is told --


def row(**facts: Any) -> Checked:
    """A sound file's row."""
    sound = Checked(
        path=Path("x_iq.npz"), channel="WWV 10 MHz", completeness_pct=100.0, gaps=0, lost=0, label_error_ns=200_000,
        uncertainty_ns=3_000_000, wrong_samples=0, ntp_state="synced", ntp_offset_ms=0.125,
    )  # fmt: skip
    return replace(sound, **facts)


def test_table_shows_the_worst_of_each_channel() -> None:
    rows = [
        row(),
        row(completeness_pct=98.5, gaps=2, lost=3, label_error_ns=4_500_000, wrong_samples=7),
        row(gaps=1, lost=1, uncertainty_ns=9_000_000, ntp_state="holdover", ntp_offset_ms=-2.0),
        row(channel="CHU 3.33 MHz"),
    ]
    header, wwv, chu = table(rows).splitlines()
    assert wwv.split() == [
        "WWV", "10", "MHz", "3", "98.50%", "3", "4", "7", "4.500", "ms", "9.000", "ms", "synced,", "holdover",
        "-2.000", "ms",
    ]  # fmt: skip
    assert chu.split()[3:] == ["1", "100.00%", "0", "0", "0", "0.200", "ms", "3.000", "ms", "synced", "+0.125", "ms"]
    columns = ("files", "complete", "gaps", "lost", "wrong", "label error", "stated bound")
    assert [name for name in columns if name not in header] == []
    assert max(map(len, (header, chu))) <= 100


@pytest.mark.parametrize(
    ("rows", "status", "told"),
    [
        ([row()], EXIT_OK, "1 of 1 files are complete"),
        ([row(), row(wrong_samples=1)], EXIT_FAILURE, "1 of 2 files are complete"),
        ([], EXIT_FAILURE, "0 of 0 files are complete"),
    ],
)
def test_exit_status_says_whether_all_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Checked], status: int, told: str
) -> None:
    def record(minutes: int, folder: Path, report: Callable[[Progress], None]) -> tuple[list[Checked], Path]:
        assert (minutes, folder) == (3, tmp_path)
        report(Progress(1.0, 0, 27, 12.5, "starting"))
        return rows, folder / "demo"

    monkeypatch.setattr(module, "record", record)
    done = CliRunner().invoke(demo, ["--minutes", "3", "--data-dir", str(tmp_path)])
    assert done.exit_code == status
    assert told in done.stdout
    assert str(tmp_path / "archives") in done.stdout
    assert "0 of 27 files, running minute  12 % received, NTP starting" in done.stderr


# -- what is run --

READY = Ready(1, T0, 40_000, (("127.0.0.1", 1123), ("127.0.0.2", 1124)))


def test_configuration_is_sound_and_local(tmp_path: Path) -> None:
    folder = tmp_path / 'odd "name" \\ with äö'
    text = config_text(folder, "demo-1", "239.86.1.2", READY)
    config = parse_config(text, tmp_path / "config.toml")
    assert config.recorder.data_dir == folder
    assert [(c.name, c.frequency_hz) for c in config.channels] == [(c.name, c.frequency_hz) for c in WWV_CHU]
    assert (config.radiod.interface, config.radiod.data_address) == ("lo", "239.86.1.2:5004")
    assert [str(server) for server in config.ntp.servers] == ["127.0.0.1:1123", "127.0.0.2:1124"]
    assert config.ntp.sources == ("servers",)
    assert not config.radiod.create_channels
    assert tomllib.loads(text)["recorder"]["partial_minutes"] is False


def test_unsound_configuration_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[recorder]\ninstance = 3\n")
    with pytest.raises(DemoError, match="recorder.instance"):
        check_config(tmp_path / "config.toml")


def test_only_minutes_are_counted(tmp_path: Path) -> None:
    path = minute_path(tmp_path, CHANNEL, T0)
    for each in (path, part_path(tmp_path, CHANNEL, T0, RATE, 1), path.with_name(f".{path.name}.1.tmp")):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.touch()
    assert files_of(tmp_path) == [path]
    assert files_of(tmp_path / "empty") == []


def test_pipeline_that_does_not_start_says_why(tmp_path: Path, instance: str) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit('no such interface')"], stderr=file)
    child.wait(30)
    with pytest.raises(DemoError, match="did not start: no such interface"):
        open_board(instance, child, log)


def test_pipeline_is_stopped_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, log = tmp_path / "program", tmp_path / "log"
    program.write_text("#!/bin/sh\ntrap 'echo flushed; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with running_pipeline(tmp_path / "config.toml", log) as child:
        wait_for(log.read_bytes, 30, "the program")
    assert child.returncode == 0
    assert log.read_text() == "up\nflushed\n"


def test_pipeline_is_stopped_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[recorder\n")
    with running_pipeline(tmp_path / "config.toml", tmp_path / "log") as child:
        assert child.wait(30) == 78
    assert b"not TOML" in (tmp_path / "log").read_bytes()
    with pytest.raises(ZeroDivisionError), running_pipeline(tmp_path / "config.toml", tmp_path / "log") as child:
        raise ZeroDivisionError
    assert child.poll() is not None
