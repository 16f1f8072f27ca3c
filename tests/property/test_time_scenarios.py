"""What labels say of their own error, in forty scenarios with known truth.

The long form plays more than 20 000 minutes; `python -m tests.bench.bench_time` prints the same table.
"""

from __future__ import annotations

import os

import pytest

from time_judge import judge, table
from time_scenarios import scenarios
from time_world import Scenario, Timeline, play

LONG = os.environ.get("GRAPE_LONG") == "1"
MINUTES = 520 if LONG else 20


@pytest.mark.limit(3600 if LONG else 240)
def test_labels_are_within_what_they_state() -> None:
    verdicts = [judge(play(scenario, seed)) for seed, scenario in enumerate(scenarios(MINUTES), start=1)]
    text, sound = table(verdicts)
    print(text)
    assert len(verdicts) >= 30
    assert sound, text
    wrong = [v.name for v in verdicts if v.violations > v.files // 100]
    assert not wrong, text


@pytest.mark.parametrize("late_ms", [20, 80, 3000])
@pytest.mark.parametrize("until_s", [30, 32, 34, 35, 36])
def test_stream_that_is_late_until_shortly_before_its_first_file(late_ms: int, until_s: int) -> None:
    """That is cut 38.6 s after the first packet: what little came in time is against all that came before."""
    verdict = judge(play(Scenario("late at first", (Timeline(3, late_between=((0, until_s, late_ms),)),))))
    assert verdict.files >= 4 and verdict.violations == 0
    assert verdict.bounds_ms[-1] < 7
