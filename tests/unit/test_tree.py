"""Finding the files of a tree: channels, order, what is in the time asked for; the same with several processes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from minutes import CHANNEL, RATE, arrays_of, one_cut
from pipeline import npz
from pipeline.audit.findings import MOST_KEPT, Findings, Issue
from pipeline.audit.gaplist import unlisted
from pipeline.cli import cli
from pipeline.minutefile import part_path
from pipeline.stream.timeline import SECOND
from pipeline.tree import Window, channels, minutes
from pipeline.verify import Audit, verify_tree
from streams import T0
from trees import later, write_minute

DAY_S = 86_400
T0_S = T0 // SECOND
# So many minutes after T0 a new day begins.
MIDNIGHT = (DAY_S - T0_S % DAY_S) // 60


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty minutes over midnight of two channels, one file of which is bad on each side of it."""
    top = tmp_path_factory.mktemp("tree")
    arrays = arrays_of(one_cut())
    arrays["iq"] = arrays["iq"][:1] * np.ones(60 * RATE, np.complex64)
    other = replace(CHANNEL, name="WWV 5 MHz", frequency_hz=5e6)
    for number in range(MIDNIGHT - 20, MIDNIGHT + 20):
        moved = later(arrays, number)
        if number in (MIDNIGHT - 10, MIDNIGHT + 10):
            moved["packets_late"] = np.asarray(-1)
        write_minute(top, moved)
        write_minute(top, {**moved, "channel_name": "WWV 5 MHz", "frequency_hz": 5e6}, other)
    return top


def said(audit: Audit) -> list[tuple[str, str, int]]:
    """What was found."""
    return [(f.channel, f.issue.code, f.count) for f in audit.findings.kept]


def test_several_processes_find_what_one_finds(tree: Path) -> None:
    alone, together = verify_tree(tree), verify_tree(tree, jobs=2)
    assert alone.files == 80
    assert said(alone) == [(name, "packets", 1) for name in ("WWV_10_MHz", "WWV_10_MHz", "WWV_5_MHz", "WWV_5_MHz")]
    assert together.to_json() == alone.to_json()


def test_quick_looks_at_all_but_the_samples(tree: Path, tmp_path: Path) -> None:
    quick = verify_tree(tree, samples=False)
    assert said(quick) == said(verify_tree(tree))
    arrays = arrays_of(one_cut([n for n in range(600) if n != 100]))
    arrays["iq"][int(arrays["gap_sample_indices"][0])] = 1
    write_minute(tmp_path, arrays)
    assert said(verify_tree(tmp_path)) == [("WWV_10_MHz", "gap_not_zero", 1)]
    assert said(verify_tree(tmp_path, samples=False)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_days_are_apart_and_joined(jobs: int, tree: Path, tmp_path: Path) -> None:
    midnight = T0_S + 60 * MIDNIGHT
    after = verify_tree(tree, Window(midnight, midnight + DAY_S), jobs=jobs)
    assert (after.files, len(said(after))) == (40, 2)
    assert [day.date for day in after.days.rows.values()] == [str(np.datetime64(midnight, "s"))[:10]] * 2
    # The last minute before the window is looked at for what follows it.
    arrays = arrays_of(one_cut())
    write_minute(tmp_path, later(arrays, MIDNIGHT - 1))
    moved = later(arrays, MIDNIGHT)
    moved["segment_rtp_timestamps"] = moved["segment_rtp_timestamps"] + 3
    for name in ("rtp_timestamp", "anchor_rtp"):
        moved[name] = np.asarray(int(moved[name]) + 3)
    for name in ("sample0_utc_ns", "anchor_utc_ns", "segment_utc_ns"):
        moved[name] = np.asarray(moved[name]) + 3 * SECOND // RATE
    write_minute(tmp_path, moved)
    audit = verify_tree(tmp_path, Window(midnight), jobs=jobs)
    assert audit.files == 1
    assert {code for _, code, _ in said(audit)} >= {"hole"}


def test_command_takes_times(tree: Path) -> None:
    def files(*options: str) -> int:
        result = CliRunner().invoke(
            cli, ["verify", str(tree), "--json", "--jobs", "1", *options], standalone_mode=False
        )
        if result.exception:
            raise result.exception
        return int(json.loads(result.output)["files"])

    day = str(np.datetime64(T0_S + 60 * MIDNIGHT, "s"))[:10]
    assert files("--day", day) == 40
    assert files("--since", f"{day}T00:10") == 20
    assert files("--since", "99999d") == 80
    assert files("--quick") == 80
    for wrong in (["--day", "22.11."], ["--day", f"{day}T01:00"], ["--since", "soon"], ["--day", day, "--since", "1h"]):
        result = CliRunner().invoke(cli, ["verify", str(tree), *wrong])
        assert result.exit_code == 2, result.output


def test_parts_follow_their_minute_in_order(tmp_path: Path) -> None:
    arrays = arrays_of(one_cut())
    for minute in (0, 1):
        write_minute(tmp_path, later(arrays, minute))
        for number in (10, 2, 1):
            path = part_path(tmp_path, CHANNEL, T0 + 60 * minute * SECOND, RATE, number)
            npz.write(path, {"x": np.zeros(1)}, 0)
    [folders] = channels(tmp_path, lambda path, issue: None)
    found = [(f.named.minute_s - T0_S, f.named.part) for f in minutes(folders, Window(), lambda path, issue: None)]
    assert found == [(s, part) for s in (0, 60) for part in (0, 1, 2, 10)]


def test_archives_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    arrays = arrays_of(one_cut())
    write_minute(tmp_path / "disk", arrays)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "archives").symlink_to(tmp_path / "disk" / "archives")
    audit = verify_tree(tmp_path / "data")
    assert (audit.files, audit.findings.kept) == (1, [])
    both = verify_tree(tmp_path)
    assert both.files == 1, "the same folder by two ways is one"


def test_files_that_lie_directly_in_archives(tmp_path: Path) -> None:
    path = write_minute(tmp_path, arrays_of(one_cut()))
    path.parent.parent.joinpath("all.npz").write_bytes(b"x")
    assert [code for _, code, _ in said(verify_tree(tmp_path))] == ["stray"]


def test_other_files_of_the_ancestor_are_left_alone(tmp_path: Path) -> None:
    write_minute(tmp_path, arrays_of(one_cut()))
    beside = tmp_path / "analytics" / "WWV_10_MHz"
    beside.mkdir(parents=True)
    (beside / "x_iq_10hz.npz").write_bytes(b"x")
    assert said(verify_tree(tmp_path)) == []


def test_file_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_minute(tmp_path, arrays_of(one_cut()))
    real = npz.read_partly

    def late(where: Path, *rest: object) -> object:
        path.unlink(missing_ok=True)
        return real(where, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(npz, "read_partly", late)
    audit = verify_tree(tmp_path)
    assert said(audit) == [("WWV_10_MHz", "gone", 1)]
    assert audit.findings.sound


def test_many_faults_of_one_kind_leave_room_for_others() -> None:
    found = Findings()
    for number in range(3 * MOST_KEPT):
        found.next_file()
        found.next_file()
        found.add("c", f"f{number}", Issue("gap_sums", "x" * 100_000))
    found.add("c", "last", Issue("hole", "x"))
    assert found.files_with == {"gap_sums": 3 * MOST_KEPT, "hole": 1}
    assert [f.issue.code for f in found.kept[MOST_KEPT:]] == ["hole"]
    assert max(len(f.issue.what) for f in found.kept) < 1_000


@pytest.mark.parametrize(
    ("zeros", "length", "expected"),
    [((1000, 320), 0, 1), ((1000, 400), 0, 0), ((1000, 639), 0, 1), ((1000, 320), 500, 0), ((1000, 639), 500, 1)],
)
def test_zeros_that_a_lost_packet_would_leave(zeros: tuple[int, int], length: int, expected: int) -> None:
    """Packets of 320: the end of one and the begin of the next may be silent, a whole one is listed by the recorder."""
    zero = np.zeros(100_000, bool)
    zero[zeros[0] : zeros[0] + zeros[1]] = True
    zero[5_000 : 5_000 + 2 * length : 2] = True  # a channel that has zeros of its own
    assert len(unlisted(zero, 320)[0]) == expected


def test_progress_is_told(tree: Path) -> None:
    heard: list[tuple[int, int, int, str]] = []
    audit = verify_tree(tree, progress=lambda *row: heard.append(row))
    assert [row[0] for row in heard] == list(range(1, 81))
    assert heard[-1] == (80, 80, sum(p.stat().st_size for p in tree.rglob("*.npz")), "WWV_5_MHz")
    assert audit.file_bytes == heard[-1][2]
    assert os.fspath(tree) in json.dumps(audit.to_json())
