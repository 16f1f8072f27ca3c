"""What `top` shows: every word within the terminal, and every verdict also without colour."""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.__main__ import run
from pipeline.records import ChannelState
from pipeline.shm import Board
from pipeline.supervision.causes import Process, Snapshot
from pipeline.terminal import Key, parse_keys
from pipeline.top import View, absent, frame
from snapshots import NOW, S, row, snapshot

UTC_S = 1_764_000_030.0  # half a minute
SCREENS = [(80, 24), (120, 40), (60, 10), (200, 60)]


def text(s: Snapshot, width: int = 80, height: int = 24, **more: object) -> str:
    """A frame as a terminal without colour shows it."""
    view = View(width, height, UTC_S, **more)  # type: ignore[arg-type]
    return "\n".join(line.plain for line in frame(s, view))


@pytest.mark.parametrize(("width", "height"), SCREENS)
@pytest.mark.parametrize("count", [0, 1, 9, 40])
def test_a_frame_fits_its_terminal(width: int, height: int, count: int) -> None:
    ill = [row(i, state=ChannelState.BLOCKED, reason="disk full " * 9, packets_lost=10**12) for i in range(count)]
    for interactive in (True, False):
        lines = frame(snapshot(*ill), View(width, height, UTC_S, count, interactive, "said " * 50))
        assert len(lines) <= height
        assert max(len(line.plain) for line in lines) <= width


def test_everything_asked_for_is_there_at_80_columns() -> None:
    told = text(snapshot(*(row(i, packets_lost=12) for i in range(9))))
    assert "-0.412 ms  ± 1.200 ms  synced" in told and "7/10 agree" in told
    line = next(each for each in told.splitlines() if "WWV_8_MHz" in each)
    assert line.split() == [
        "WWV_8_MHz",
        "OK",
        "-21.3",
        "###...",
        "12",
        "radiod",
        "0.31",
        "15:59",
        "20s",
        "45",
        "1.5",
        "38M",
        "2",
    ]
    assert "nothing is wrong" in told


@pytest.mark.parametrize(
    ("fill", "bar"), [(50.0, "###..."), (20.0, "#--..."), (0.0, "---..."), (100.0, "######"), (math.nan, "??????")]
)
def test_the_bar_tells_lost_from_to_come(fill: float, bar: str) -> None:
    assert f" {bar} " in text(snapshot(row(1, minute_fill_pct=fill)))


def test_what_is_wrong_is_said_in_words() -> None:
    silent = row(1, last_packet_monotonic_ns=NOW - 90 * S)
    told = text(snapshot(row(0), silent))
    assert "WWV_1_MHz     CRIT" in told
    assert "WWV_1_MHz: no packets for 90 s" in told
    assert "nothing is wrong" not in told


def test_labels_that_may_be_far_off_are_told() -> None:
    told = text(snapshot(row(1, anchor_uncertainty_ns=16 * S)))
    assert "WWV_1_MHz: labels may be wrong by up to 16.0 s" in told


def test_a_dead_supervisor_is_the_first_thing_to_be_read() -> None:
    told = text(replace(snapshot(row(0)), supervisor_exists=False))
    assert told.startswith("grape-pipeline default  CRIT  0/1 up")
    assert "supervisor (pid 10) is dead" in told


def test_more_causes_than_room_are_counted_on() -> None:
    rows = [row(i, state=ChannelState.BLOCKED, reason=f"disk {'x' * i}") for i in range(15)]
    told = text(snapshot(*rows), height=24)
    assert told.splitlines()[-1] == "... and more: grape-pipeline status"


def test_causes_that_differ_in_figures_alone_are_one_where_room_is_short() -> None:
    rows = [row(i, completeness_pct=99.0 + i / 100) for i in range(8)]
    rows.append(row(8, last_packet_monotonic_ns=NOW - 9 * S))
    tall = text(snapshot(*rows), height=40).splitlines()
    assert sum("% complete" in line for line in tall) == 8
    short = text(snapshot(*rows), height=17).splitlines()
    assert short[-2:] == ["WWV_0_MHz and 7 more: 15:59Z is 99.00 % complete", "WWV_8_MHz: silent for 9 s"]


def test_the_selected_channel_is_always_in_view() -> None:
    for selected in (0, 20, 39):
        told = text(snapshot(*(row(i) for i in range(40))), interactive=True, selected=selected)
        assert f"\n>WWV_{selected}_MHz" in told
        assert told.splitlines()[-1].startswith("q quit")


def test_load_is_that_between_two_looks() -> None:
    before = snapshot(row(0), now_ns=NOW - 10 * S, cpu_s=5.0)
    now = snapshot(row(0), cpu_s=7.0)
    assert " 20.0  38M" in text(now, before=before)
    assert " 1.5  38M" in text(now)


def test_wide_terminals_show_more() -> None:
    wide = text(snapshot(row(1, packets_late=77, completeness_pct=99.999)), 120, 40)
    assert "late" in wide and " 77 " in wide
    assert " 99.99 " in wide, "never rounded up to complete"


def test_no_instance_is_a_picture_too() -> None:
    lines = absent("default", "no shared memory", View(40, 24, UTC_S, interactive=True))
    assert lines[0].plain == "grape-pipeline default  not running"
    assert len(lines) == 24


def test_keys_in_one_read() -> None:
    assert parse_keys(b"j\x1b[Bx\x1b[Ak\x1bOBr\x1b[Cq") == [
        Key.DOWN, Key.DOWN, Key.UP, Key.UP, Key.DOWN, Key.RESTART, Key.QUIT,
    ]  # fmt: skip
    assert parse_keys(b"\xff\x1b") == []


def test_without_an_instance_once_exits_3(instance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'[recorder]\ninstance = "{instance}"\n')
    assert run(["top", "--once", "-c", str(path)]) == 3
    assert f"grape-pipeline {instance}  not running" in capsys.readouterr().out


def test_a_look_maps_the_board_for_reading_only(instance: str) -> None:
    made = Board.create(instance, os.getpid(), 0, 0)
    try:
        seen = Board.open(instance)
        with pytest.raises(TypeError):
            seen.segment.buf[0] = 1
        assert isinstance(seen.segment.map, mmap.mmap)
    finally:
        made.segment.unlink()


def test_a_silent_channel_has_nothing_of_a_new_minute() -> None:
    silent = row(1, last_packet_monotonic_ns=NOW - 40 * S, minute_fill_pct=66.0)
    for second, bar in ((50, "####-."), (30, "---...")):
        made = View(80, 24, 1_763_999_940 + second)
        assert bar in "\n".join(line.plain for line in frame(snapshot(silent), made))


def test_the_alerts_process_is_in_the_picture_and_nothing_of_it_is_cut_at_80_columns() -> None:
    alerts = snapshot().monitor.replace(name="alerts", pid=29_141, restarts=12)
    s = replace(snapshot(row(1)), alerts=alerts)
    s = replace(s, supervisor=s.supervisor.replace(pid=28_349), monitor=s.monitor.replace(pid=28_369, restarts=3))
    s = replace(s, processes={pid: Process(1.5, 38.2, None) for pid in (28_349, 28_369, 29_141)})
    assert "files" not in text(s, 80).splitlines()[2] and "alerts 29141 1.5% 38M rs 12" in text(s, 80)
    assert "alerts pid 29141 1.5% 38M restarted 12x  files /" in text(s, 160)
    assert "alerts gone" in text(replace(s, processes={}), 120)
