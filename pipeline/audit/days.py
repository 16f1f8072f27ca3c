"""What was recorded on a day of a channel, and why the rest was not."""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audit.series import Facts

DAY_S = 86_400
DAY_MINUTES = 1440


def _median(values: array[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


@dataclass(slots=True)
class Day:
    """One channel's UTC day; times in seconds."""

    channel: str
    first_s: int
    files: int = 0
    parts: int = 0
    valid_s: float = 0.0
    missing_s: dict[str, float] = field(default_factory=dict)
    worst_bound_ns: int = 0
    tones_ms: array[float] = field(default_factory=lambda: array("f"))
    residuals_ms: array[float] = field(default_factory=lambda: array("f"))

    def add(self, facts: Facts) -> None:
        """Count a file in; a minute's second part adds what it has, not what it lacks."""
        self.valid_s += facts.valid / facts.rate_hz
        self.worst_bound_ns = max(self.worst_bound_ns, facts.bound_ns)
        if facts.part:
            self.parts += 1
            return
        self.files += 1
        for cause, samples in facts.missing.items():
            self.missing_s[cause] = self.missing_s.get(cause, 0.0) + samples / facts.rate_hz
        if math.isfinite(facts.tone_ms):
            self.tones_ms.append(facts.tone_ms)
        if math.isfinite(facts.residual_ms):
            self.residuals_ms.append(facts.residual_ms)

    @property
    def date(self) -> str:
        """YYYY-MM-DD."""
        return str(np.datetime64(self.first_s, "s"))[:10]

    @property
    def recorded_pct(self) -> float:
        """Of the minutes that have a file, how much was received."""
        return 100.0 * min(1.0, self.valid_s / (60 * self.files)) if self.files else 0.0

    @property
    def day_pct(self) -> float:
        """Of the whole day."""
        return 100.0 * min(1.0, self.valid_s / DAY_S)

    def causes(self) -> list[tuple[str, float]]:
        """Seconds missing within its files, the commonest cause first."""
        return sorted(self.missing_s.items(), key=lambda item: -item[1])

    def to_json(self) -> dict[str, Any]:
        """As documented for `verify --json`."""
        return {
            "channel": self.channel,
            "date": self.date,
            "files": self.files,
            "parts": self.parts,
            "recorded_pct": round(self.recorded_pct, 4),
            "day_pct": round(self.day_pct, 4),
            "missing_s": {cause: round(seconds, 6) for cause, seconds in self.causes()},
            "worst_uncertainty_ms": self.worst_bound_ns / 1e6 if self.worst_bound_ns else None,
            "tones": len(self.tones_ms),
            "tone_median_ms": _median(self.tones_ms),
            "tone_residual_median_ms": _median(self.residuals_ms),
        }


@dataclass(slots=True)
class Days:
    """All days of all channels, in the order in which they came."""

    rows: dict[tuple[str, int], Day] = field(default_factory=dict)

    def add(self, channel: str, facts: Facts) -> None:
        """Count a file in."""
        first = facts.minute_s // DAY_S * DAY_S
        self.rows.setdefault((channel, first), Day(channel, first)).add(facts)


def table(days: Iterable[Day]) -> list[str]:
    """The days as lines of text, a header first; `residual` is label less UTC by the minute tones."""
    rows = list(days)
    wide = max([len("channel"), *(len(day.channel) for day in rows)])
    lines = [f"{'channel':<{wide}}  {'day':<10}{'files':>7}{'parts':>6}{'received':>11}{'of day':>9}"
             f"{'bound':>11}{'tones':>7}{'residual':>11}  missing in these files"]  # fmt: skip
    for day in rows:
        bound = f"{day.worst_bound_ns / 1e6:.3f} ms" if day.worst_bound_ns else "-"
        residual = _median(day.residuals_ms)
        tone = "-" if residual is None else f"{residual:+.2f} ms"
        causes = ", ".join(f"{cause} {seconds:.3f} s" for cause, seconds in day.causes()) or "nothing"
        received, of_day = _percent(day.recorded_pct), _percent(day.day_pct)
        lines.append(f"{day.channel:<{wide}}  {day.date:<10}{day.files:>7}{day.parts:>6}{received:>11}{of_day:>9}"
                     f"{bound:>11}{len(day.tones_ms):>7}{tone:>11}  {causes}")  # fmt: skip
    return lines


def _percent(percent: float) -> str:
    """Two digits, but 100 only for all of it."""
    return f"{percent if percent == 100.0 else min(99.99, percent):.2f} %"
