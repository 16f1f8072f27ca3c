"""What is too old goes, oldest first; nothing else ever does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minutes import CHANNEL, context, one_cut
from pipeline import writer as writer_module
from pipeline.config import Recorder
from pipeline.minutefile import ARCHIVES, PARTS, minute_path, part_path, stamp
from pipeline.retention import DAY_S, day_of, expired, sweep
from pipeline.stream.timeline import SECOND
from pipeline.writer import Writer
from streams import T0

TODAY = T0 // SECOND // DAY_S
MIDNIGHT = TODAY * DAY_S


def name(days_ago: float) -> str:
    return minute_path(Path(), CHANNEL, round((MIDNIGHT - days_ago * DAY_S) // 60 * 60) * SECOND).name


def test_names_are_ours_or_nobodys() -> None:
    at = T0 + 3 * 3600 * SECOND
    assert day_of(minute_path(Path(), CHANNEL, at).name) == at // SECOND // DAY_S
    assert day_of(part_path(Path(), CHANNEL, at, 16_000, 3).name) == at // SECOND // DAY_S
    for foreign in (
        "notes.txt", "20260101T000000Z_1000000_iq.npz.bak", ".20260101T000000Z_1000000_iq.npz.7.tmp", "a_iq.npz",
        "20260101T000000Z_1000000_IQ.npz", "x20260101T000000Z_1000000_iq.npz", "20260101T000000Z_1000000.npz",
        "20261301T000000Z_1000000_iq.npz", "20260230T000000Z_1000000_iq.npz", "20260101T250000Z_1000000_iq.npz",
        "20260101T000000Z_1000000_iq.npz\n", "٢٠٢٦0101T000000Z_1000000_iq.npz",
    ):  # fmt: skip
        assert day_of(foreign) is None, foreign


def test_the_limit_is_whole_days_before_today() -> None:
    names = [name(-0.5), name(0.001), name(1.001), name(2.0), name(2.001), name(3.5), "notes.txt"]
    random.Random(1).shuffle(names)
    assert expired(names, TODAY, 2) == [name(3.5), name(2.001)]


def test_never_the_newest_nor_todays_even_for_a_mad_clock() -> None:
    names = [name(days) for days in (5, 4, 3)]
    assert expired(names, TODAY + 10_000, 1) == [name(5), name(4)]
    assert expired([name(-0.2), name(-0.1)], TODAY, 0) == []
    assert expired([name(1.5)], TODAY, 0) == []


def test_clock_that_is_behind_removes_nothing() -> None:
    assert expired([name(days) for days in range(9)], 0, 1) == []


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Ten days of four files, a part, and things that are none of ours."""
    for place in (ARCHIVES, PARTS):
        (tmp_path / place / CHANNEL.id).mkdir(parents=True)
    for quarter in range(40):
        (tmp_path / ARCHIVES / CHANNEL.id / name(quarter / 4 + 0.1)).touch()
    (tmp_path / PARTS / CHANNEL.id / part_path(Path(), CHANNEL, (MIDNIGHT - 9 * DAY_S) * SECOND, 8, 1).name).touch()
    (tmp_path / PARTS / CHANNEL.id / part_path(Path(), CHANNEL, (MIDNIGHT - 8 * DAY_S) * SECOND, 8, 1).name).touch()
    (tmp_path / ARCHIVES / CHANNEL.id / "notes.txt").touch()
    (tmp_path / ARCHIVES / CHANNEL.id / name(300)).mkdir()
    (tmp_path / ARCHIVES / CHANNEL.id / name(200)).symlink_to(tmp_path / ARCHIVES / CHANNEL.id / "notes.txt")
    (tmp_path / ARCHIVES / "OTHER").mkdir()
    (tmp_path / ARCHIVES / "OTHER" / name(100)).touch()
    yield tmp_path


def files(tree: Path) -> set[str]:
    return {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file() or p.is_symlink()}


def test_pass_is_bounded_and_takes_the_oldest(tree: Path) -> None:
    folders = [tree / ARCHIVES / CHANNEL.id, tree / PARTS / CHANNEL.id]
    before = files(tree)
    removed, more = sweep(folders, float(MIDNIGHT), 3, limit=5)
    assert [path.name for path in removed] == [name(quarter / 4 + 0.1) for quarter in (39, 38, 37, 36, 35)]
    assert more
    while more:
        also, more = sweep(folders, float(MIDNIGHT), 3, limit=5)
        removed += also
    gone = before - files(tree)
    assert gone == {str(p.relative_to(tree)) for p in removed}
    assert len(gone) == 29, "28 of 40 minutes, and of two parts the one that is not the newest"
    assert {"archives/OTHER/" + name(100), f"archives/{CHANNEL.id}/notes.txt"} <= files(tree)
    assert sweep(folders, float(MIDNIGHT), 3) == ([], False)


def test_folder_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert sweep([tmp_path / "none"], float(MIDNIGHT), 1) == ([], False)


def write(tree: Path, keep_days: int, clock: bool = True, **facts: Any) -> None:
    """A minute of T0 is written."""
    cut = one_cut()
    recorder = Recorder(data_dir=tree, min_free_gb=0.0, retention_days=keep_days)
    made = context(cut.minutes[0], **facts)
    view = {**made.ntp_view, "valid": clock}
    writer = Writer(CHANNEL, recorder, lambda: None, ["OTHER"])
    writer.start(cut, [replace(made, ntp_view=view, created_s=facts.get("created_s", T0 / SECOND + 61))])
    written = writer.poll(20.0)
    assert written is not None and written.error is None


def test_writing_a_minute_makes_room_first(tree: Path) -> None:
    before = files(tree)
    write(tree, 3)
    assert len(before - files(tree)) == 29
    assert "archives/OTHER/" + name(100) in files(tree), "its newest"
    assert f"archives/{CHANNEL.id}/{stamp(T0)}_{int(CHANNEL.frequency_hz)}_iq.npz" in files(tree)


@pytest.mark.parametrize(
    ("keep_days", "facts"), [(0, {}), (3, {"clock": False}), (3, {"created_s": 1e9})], ids=["for ever", "no", "behind"]
)
def test_nothing_goes_for_ever_or_on_the_word_of_a_doubtful_clock(
    tree: Path, keep_days: int, facts: dict[str, Any]
) -> None:
    before = files(tree)
    write(tree, keep_days, **facts)
    assert before <= files(tree)


def test_host_clock_that_runs_ahead_of_the_samples_is_not_asked(tree: Path) -> None:
    before = files(tree)
    write(tree, 3, created_s=T0 / SECOND + 4 * 365 * DAY_S)
    assert len(before - files(tree)) == 29


def test_disk_that_refuses_to_remove_is_written_to_all_the_same(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writer_module, "sweep", refuse)
    write(tree, 3)
    assert "cannot tidy up" in caplog.text
