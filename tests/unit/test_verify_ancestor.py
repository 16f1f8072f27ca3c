"""Trees with signal-recorder's faults, written by its own arithmetic: each fault is named, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from airwaves import station_minute
from ancestor_writer import PACKET, RATE, T0_S, WRAP, AncestorWriter
from pipeline.verify import Audit, verify_tree

MINUTE = 60 * RATE
FIRST = 1_000_000
PACKETS = MINUTE // PACKET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the ancestor writes the channel WWV 10 MHz."""
    return tmp_path / "archives" / "WWV_10_MHz"


def found(tree: Path) -> dict[str, int]:
    """Names of what is wrong, with how many files each has."""
    audit = verify_tree(tree)
    return codes(audit)


def codes(audit: Audit) -> dict[str, int]:
    """Errors and warnings by name."""
    wrong = [f for f in audit.findings.kept if f.issue.severity.value != "info"]
    return {f.issue.code: sum(g.count for g in wrong if g.issue.code == f.issue.code) for f in wrong}


def text(tree: Path, code: str) -> str:
    """What was said of the first finding of that name."""
    return next(f.issue.what for f in verify_tree(tree).findings.kept if f.issue.code == code)


def test_files_without_a_fault_are_sound(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 0.0)).record(FIRST, T0_S, 240)
    audit = verify_tree(folder.parents[1])
    assert audit.findings.sound
    assert audit.files == 4
    assert [f.issue.code for f in audit.findings.kept] == ["known_limits"]


def test_start_in_mid_minute_is_seen_from_the_times_of_writing(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 37.0)).record(FIRST, T0_S + 37, 300)
    assert found(folder) == {"mid_minute_start": 3}
    assert "37.3 s after its minute's end" in text(folder, "mid_minute_start")


def test_times_of_writing_that_a_slow_writer_could_explain(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 12.0)).record(FIRST, T0_S + 12, 240)
    assert found(folder) == {"mid_minute_likely": 2}


def test_slow_writer_is_no_fault_where_the_tone_is_right(folder: Path) -> None:
    sound, _ = station_minute(np.random.default_rng(6), 55.0, onset_s=0.004)
    writer = AncestorWriter(folder, (FIRST, T0_S + 0.0), latency_s=12.0)
    writer.record(FIRST, T0_S, 240, sound=np.tile(sound, 4))
    assert found(folder) == {}


def test_start_in_mid_minute_is_exact_where_a_gap_tells(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 37.0)).record(FIRST, T0_S + 37, 60, lost={700, 701})
    assert found(folder) == {"mid_minute_start": 1}
    assert "+37.0000 s (+148000 samples)" in text(folder, "mid_minute_start")


def test_start_in_mid_minute_is_heard_from_the_minute_tone(folder: Path) -> None:
    rng = np.random.default_rng(5)
    sound = np.concatenate([station_minute(rng, 55.0)[0] for _ in range(2)])
    first = round(37.5 * RATE)
    AncestorWriter(folder, (FIRST, T0_S + 37.5)).record(FIRST, T0_S + 37.5, 60, sound=sound[first:])
    assert found(folder) == {"mid_minute_start": 1}
    assert "the minute tone is 22.500 s after iq[0]" in text(folder, "mid_minute_start")


def test_gap_indices_that_count_from_the_start(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 0.0)).record(FIRST, T0_S, 120, lost={PACKETS + 500})
    assert found(folder) == {"gap_index_cumulative": 1, "gap_range": 1} or found(folder) == {"gap_index_cumulative": 1}
    assert "gap 0: index 280000" in str(verify_tree(folder).to_json())


def test_loss_over_the_minutes_end_shifts_what_follows(folder: Path) -> None:
    lost = set(range(PACKETS - 250, PACKETS + 251))
    AncestorWriter(folder, (FIRST, T0_S + 0.0)).record(FIRST, T0_S, 240, lost=lost | {PACKETS + 900})
    assert found(folder) == {"gap_cut": 1, "boundary_shift": 2, "gap_index_cumulative": 1}
    assert "20080 were cut off at the end" in text(folder, "gap_cut")
    # 20080 of zeros and a packet of 80 samples that came after them.
    assert "+5.0400 s (+20160 samples) from the label: 20080 were cut off" in text(folder, "boundary_shift")


def test_packets_that_do_not_fill_a_minute(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 0.0)).record(FIRST, T0_S, 181, packet=90)
    assert found(folder) == {"boundary_shift": 3}
    assert "2667 packets of 90 samples and 0 zeros are 30 more" in text(folder, "boundary_shift")


def test_timestamps_that_were_not_wrapped(folder: Path) -> None:
    first = WRAP - MINUTE
    AncestorWriter(folder, (first, T0_S + 0.0)).record(first, T0_S, 240)
    assert found(folder) == {"rtp_not_wrapped": 3}


def test_offset_that_is_an_object(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 0.0), ntp_offset_ms=None).record(FIRST, T0_S, 120)
    assert found(folder) == {"object_array": 2}
    [day] = verify_tree(folder).days.rows.values()
    assert day.files == 2, "the rest of the file is read"


def test_files_that_a_kill_left(folder: Path) -> None:
    writer = AncestorWriter(folder, (FIRST, T0_S + 0.0))
    writer.record(FIRST, T0_S, 180)
    writer.files[0].write_bytes(b"")
    whole = writer.files[1].read_bytes()
    writer.files[1].write_bytes(whole[: len(whole) // 2])
    assert found(folder) == {"empty_file": 1, "unreadable": 1}
    assert "cut short" in text(folder, "unreadable")


def test_anchor_of_the_wrong_instant_labels_the_future(folder: Path) -> None:
    AncestorWriter(folder, (FIRST, T0_S + 120.0)).record(FIRST, T0_S, 180)
    assert found(folder) == {"label_future": 3}


def test_label_given_twice(folder: Path) -> None:
    writer = AncestorWriter(folder, (FIRST, T0_S + 0.0))
    writer.record(FIRST, T0_S, 240)
    # A better anchor moves the label by -1 ms: the next minute begins just before its boundary.
    writer.snap = (FIRST, T0_S - 0.001)
    writer.record(FIRST + 4 * MINUTE, T0_S + 240, 300)
    assert len(writer.files) == 9
    assert len(set(writer.files)) == 8
    seen = found(folder)
    assert "minutes_early" in seen
    assert "1 min early" in text(folder, "minutes_early")


def test_anchor_older_than_the_signed_difference_allows(folder: Path) -> None:
    """From 2^31 samples on labels jump back by 2^32 samples and files of that time are replaced."""
    wrap_s = WRAP // RATE
    writer = AncestorWriter(folder, (FIRST, T0_S + 0.0))
    old = AncestorWriter(folder, (7, T0_S + 0.0))
    # A run days before filled the minutes around those that the labels jump back to.
    jump_s = (WRAP // 2 // RATE // 60 - 2) * 60
    back_s = jump_s - wrap_s
    old.snap = (7, T0_S + back_s - 300.0)
    old.record(7, T0_S + back_s // 60 * 60 - 120, 480)
    writer.record((FIRST + jump_s * RATE) % WRAP, T0_S + jump_s, 300)
    seen = found(folder)
    assert {"label_jump", "overwritten"} <= seen.keys()
    assert f"2^32 samples are {wrap_s / 3600:.2f} h" in text(folder, "label_jump")


def test_zeros_put_in_between_packets_that_were_all_there(folder: Path) -> None:
    """Packets of 1.5 times the size that it assumes: after each it makes up a gap."""
    writer, packet = AncestorWriter(folder, (FIRST, T0_S + 0.0)), PACKET * 3 // 2
    samples = np.full(packet, 0.5, np.complex64)
    for number in range(MINUTE // 160):
        assumed = FIRST + max(0, number - 1) * packet + (PACKET if number else 0)
        writer.packet(assumed, samples, T0_S + 60.3, 1 if number else 0, packet - PACKET if number else 0)
    writer.packet(FIRST, samples, T0_S + 60.3)
    assert "phantom_samples" in found(folder)
