"""The judge of what was recorded: it finds holes, and a simulator's own lateness alone excuses a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import truthcheck
from lateness import Lateness, overdue_ms
from pipeline.simulator.truth import Timeline, Truth
from pipeline.stream.evidence import PAIR_FLOOR_NS
from streams import T0

MS = 1_000_000
MINUTE = 60_000 * MS
LINE = Timeline(
    number=3, ssrc=7, name="X", frequency_hz=1e6, rate_hz=16_000, ppm=0.0, encoding="S16BE", channels=2,
    programme="counter", seed=1, counter_key=0, start_rtp=0, start_utc_ns=T0, first_seq=0, source_port=1, generation=0,
    reason="start",
)  # fmt: skip


def truth(late_ms: dict[float, float]) -> Truth:
    """Second of the timeline to how late its pair was."""
    events: list[dict[str, Any]] = [
        {"kind": "progress", "timeline": 3, "ssrc": 7, "rtp_next": round(16_000 * s), "pair_late_ns": round(ms * MS),
         "overdue_ns": round(ms * MS) // 2}
        for s, ms in late_ms.items()
    ]  # fmt: skip
    return Truth({}, (LINE,), tuple(events))


def test_the_least_late_pair_of_ten_minutes_counts() -> None:
    lateness = Lateness.of(truth({0: 1, 10: 9, 650: 8, 700: 0}), LINE)
    assert lateness.shared_ns(T0 + MINUTE) == MS
    assert lateness.shared_ns(T0 + 605_000 * MS) == 9 * MS
    assert lateness.shared_ns(T0 + 660_000 * MS) == 8 * MS
    assert lateness.shared_ns(T0 - 1) == 0
    assert lateness.since(T0 + 5_000 * MS).shared_ns(T0 + MINUTE) == 9 * MS
    assert Lateness.of(truth({0: 5}), replace(LINE, number=4)).shared_ns(T0 + MINUTE) == 0


@pytest.mark.parametrize(
    ("late_ms", "pairs", "excused"),
    [
        (6.0, {1: 5.0, 2: 9.0}, True),
        (8.0, {1: 5.0, 2: 9.0}, False),  # later than any lateness of all pairs explains
        (6.0, {1: 5.0, 2: 2.0}, False),  # one pair was in time
        (9_000.0, {1: 9_500.0, 50: 9_000.0, 52: 1.0}, True),  # that one is after the last sample
        (9_000.0, {1: 9_500.0, 50: 1.0, 52: 1.0}, False),
        (-6.0, {1: 5.0, 2: 9.0}, False),  # pairs are never early
        (6.0, {}, False),
    ],
)
def test_a_label_is_excused_by_the_lateness_of_every_pair_alone(
    late_ms: float, pairs: dict[float, float], excused: bool
) -> None:
    lateness = Lateness.of(truth(pairs), LINE)
    # Beyond it by 2 ms; pairs 5 ms late are 2.8 ms later than a recorder allows for.
    assert PAIR_FLOOR_NS == 2_200_000
    bound = 4 * MS
    verdict = truthcheck.Verdict()
    slow: list[str] = []
    values = {"anchor_uncertainty_ns": bound, "sample0_utc_ns": T0, "path": Path("x.npz")}
    truthcheck._check_labels(verdict, values, round(late_ms * MS), lateness, slow)
    assert (len(slow), len(verdict.faults)) == ((1, 0) if excused else (0, 1))
    strict = truthcheck.Verdict()
    truthcheck._check_labels(strict, values, round(late_ms * MS), lateness, None)
    assert len(strict.faults) == 1


def test_overdue_packets_are_told_of_in_order() -> None:
    assert overdue_ms(truth({1: 6, 2: 1})) == [0.5, 3.0]


@pytest.mark.parametrize(
    ("ranges", "hole"),
    [
        ([(0, 600), (600, 1000)], ""),
        ([(0, 600), (700, 1000)], "frames 600 to 700"),
        ([(0, 600)], "frames 600 to 1000"),
        ([(0, 1000), (1300, 1400)], ""),  # samples that nobody sent
        ([(0, 900), (1300, 1400)], "frames 900 to 1000"),
        ([], "frames 0 to 1000"),
    ],
)
def test_what_was_sent_is_covered_up_to_its_end(ranges: list[tuple[int, int]], hole: str) -> None:
    sent = Truth({}, (LINE,), ({"kind": "removed", "timeline": 3, "ssrc": 7, "rtp_next": 1000},))
    found = truthcheck._check_covered(sent, LINE, ranges, 0)
    assert [hole in text for text in found] == ([True] if hole else [])
