"""Whatever happens to the streams, the tree that the recorder writes is sound; its recorder has no other judge."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.verify import Audit, verify_tree
from stream_strategies import faults, parts
from stream_world import LOOK, RATE, Faults, Part, World
from streams import T0, FakeStatus
from trees import TreeRecording

# One packet reaches with 201 samples into a minute in which none begins.
REACHES_OVER = (
    Part(18, (500,), 4_294_966_976, pause_s=2, encodings=("S16BE", "F32LE", "S16BE")),
    Part(116, (1000, 3), 536_870_592, port=40_001, pause_s=38, statuses=False),
)

LONG = os.environ.get("GRAPE_LONG") == "1"
EXAMPLES = 1_000 if LONG else 20
pytestmark = pytest.mark.limit(3_600 if LONG else 120)


@dataclass
class Drifting(TreeRecording):
    """A recorder whose radiod's samples are too slow: by its clock and by the host's each comes later than the last."""

    ppm: float = 0.0

    def _later(self, time_ns: int) -> int:
        return time_ns + round((time_ns - T0) * self.ppm / 1e6)

    def packet(self, sequence: int, timestamp: int, payload: bytes, arrival_ns: int, *rest: Any, **more: Any) -> None:
        """A packet, so much later."""
        super().packet(sequence, timestamp, payload, self._later(arrival_ns), *rest, **more)

    def status(self, status: FakeStatus | bytes, arrival_ns: int) -> bool:
        """The status, as that radiod sends it."""
        if isinstance(status, FakeStatus) and status.gps_time_utc_ns is not None:
            status = replace(status, gps_time_utc_ns=self._later(status.gps_time_utc_ns))
        return super().status(status, self._later(arrival_ns))


def faults_of(audit: Audit) -> list[object]:
    """What is wrong, information apart."""
    return [f for f in audit.findings.kept if f.issue.severity != "info"]


@settings(max_examples=EXAMPLES)
@given(parts(), faults, st.integers(0, 60_000))
@example(REACHES_OVER, Faults(), 7_856)
def test_trees_of_ours_are_sound(timelines: tuple[Part, ...], network: Faults, start_ms: int) -> None:
    world = World(timelines, network, T0 + start_ms * 1_000_000)
    if all(p.lost for p in world.packets):
        return
    with tempfile.TemporaryDirectory() as folder:
        recording = TreeRecording(RATE, tree=Path(folder))
        world.play(recording, [(n, LOOK) for n in range(0, 1_000, 7)])
        audit = verify_tree(Path(folder))
        assert audit.files == len(recording.files)
        assert faults_of(audit) == []
        # Where the recorder does not know a cause either, nobody does.
        assert sum(day.missing_s.get("other", 0.0) for day in audit.days.rows.values()) == 0.0


@pytest.mark.parametrize("seed", range(300 if LONG else 5))
def test_sample_clocks_that_are_off_reanchor_and_are_sound(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    network = Faults(seed, chance.choice([0, 0.02, 0.3]), 0.0, chance.choice([0, 0.1, 1]), chance.choice([0, 0.1]))
    ppm = (50, -50, 20, -20, chance.uniform(-50, 50))[seed % 5]
    start_ns = T0 + chance.randrange(60_000_000_000)
    world = World((Part(seconds=420, first_rtp=chance.randrange(1 << 32)),), network, start_ns)
    recording = Drifting(RATE, tree=tmp_path, ppm=ppm)
    world.play(recording)
    audit = verify_tree(tmp_path)
    assert faults_of(audit) == []
    assert abs(ppm) != 50 or "reanchored" in {f.issue.code for f in audit.findings.kept}
