"""Whether the labels of played scenarios keep what their files state, and the table that says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.records import AnchorSource
from time_world import Run

SHARE_WITHIN = 0.999
MEDIAN_BOUND_MS = 5.0


@dataclass(frozen=True)
class Verdict:
    """Figures of one scenario: files, those off by more than their bound, those a minute off; errors and bounds."""

    name: str
    files: int
    violations: int
    whole_minutes: int
    first_samples: np.ndarray[tuple[int], np.dtype[np.float64]]
    by_radiod: np.ndarray[tuple[int], np.dtype[np.bool_]]
    bounds_ms: np.ndarray[tuple[int], np.dtype[np.float64]]
    worst_ms: float
    moves: int


def judge(run: Run) -> Verdict:
    """The figures of one run."""
    labels = run.labels
    return Verdict(
        run.scenario.name,
        len(labels),
        sum(abs(label.error_ns) > label.bound_ns for label in labels),
        sum(label.whole_minute_wrong for label in labels),
        np.array([abs(label.first_error_ns) * label.rate_hz / 1e9 for label in labels]),
        np.array([label.source is AnchorSource.RADIOD for label in labels], bool),
        np.array([label.bound_ns / 1e6 for label in labels]),
        max(abs(label.error_ns) for label in labels) / 1e6,
        run.moves,
    )


def table(verdicts: list[Verdict]) -> tuple[str, bool]:
    """The table, and whether all requirements are kept."""
    lines = [f"{'scenario':46} {'files':>6} {'viol':>5} {'first':>8} {'worst ms':>10} {'bound ms':>9} {'moves':>6}"]
    for v in verdicts:
        first = float(np.median(v.first_samples))
        lines.append(
            f"{v.name:46} {v.files:6} {v.violations:5} {first:8.2f} {v.worst_ms:10.3f}"
            f" {float(np.median(v.bounds_ms)):9.2f} {v.moves:6}"
        )
    files, violations = sum(v.files for v in verdicts), sum(v.violations for v in verdicts)
    wrong = sum(v.whole_minutes for v in verdicts)
    measured = [v for v in verdicts if v.by_radiod.any()]
    first = float(np.median(np.concatenate([v.first_samples[v.by_radiod] for v in measured]))) if measured else 0.0
    bound = float(np.median(np.concatenate([v.bounds_ms[v.by_radiod] for v in measured]))) if measured else 0.0
    within = 1 - violations / max(1, files)
    lines += [
        "",
        f"{files} files, {100 * within:.3f} % within their bound, {wrong} off by a minute; with status pairs: "
        f"median error of iq[0] {first:.2f} samples, median bound {bound:.2f} ms",
    ]
    sound = within >= SHARE_WITHIN and wrong == 0 and first <= 1.0 and bound <= MEDIAN_BOUND_MS
    return "\n".join(lines), sound
