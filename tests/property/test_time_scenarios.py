"""What labels say of their own error, in forty scenarios with known truth.

The long form plays more than 20 000 minutes; `python -m tests.bench.bench_time` prints the same table.
"""

from __future__ import annotations

import os

import pytest

from time_judge import judge, table
from time_scenarios import scenarios
from time_world import play

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
