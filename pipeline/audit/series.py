"""The files of one channel in order of time: does each begin where the one before ended.

Fed one file's facts at a time and keeping only the last few, so a tree of any size passes through.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.audit.findings import Issue
from pipeline.audit.gaplist import CAUSES
from pipeline.stream.rtp import signed32
from pipeline.stream.timeline import SECOND

Values = Mapping[str, Any]

# Timelines of which a file may still come: a minute's parts, and the one that goes on.
TIMELINES = 4
# Rounding to whole nanoseconds is no step.
STEP_NS = 1_000
# A channel that is there every second minute for a year has more, and nobody reads them.
MOST_ABSENCES = 10_000
LONGEST_NAME = 100
MOST_DOUBT_MS = 20.0
NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Facts:
    """What one file says that matters to others.

    `end_rtp` and `end_ns` are timestamp and label of the sample after its last one, extra ones included. Files
    that state no session and no epoch have "" and 0.
    """

    file: str
    minute_s: int
    part: int
    rate_hz: int
    samples: int
    valid: int
    missing: Mapping[str, int]
    created_s: float
    rtp: int
    sample0_ns: int = 0
    bound_ns: int = 0
    session: str = ""
    epoch: int = 0
    epoch_reason: str = ""
    last_epoch: int = 0
    end_rtp: int = 0
    end_ns: int = 0
    tone_ms: float = math.nan
    residual_ms: float = math.nan


def facts_of(values: Values, file: str, minute_s: int, part: int) -> Facts:
    """The facts of a file whose keys were checked."""
    missing: Counter[str] = Counter()
    causes = values["gap_cause"].tolist() if "gap_cause" in values else [NOT_STATED] * len(values["gap_samples_filled"])
    for cause, filled in zip(causes, values["gap_samples_filled"].tolist(), strict=True):
        missing[cause if cause in CAUSES or cause == NOT_STATED else "other"] += int(filled)
    count = len(values["iq"])
    known: dict[str, Any] = {}
    if "format_version" in values:
        known = _timelines(values) | {
            "sample0_ns": values["sample0_utc_ns"],
            "bound_ns": values["anchor_uncertainty_ns"],
            "session": values["session_id"][:LONGEST_NAME],
            "epoch": values["epoch_id"],
            "epoch_reason": values["epoch_reason"][:LONGEST_NAME],
            "tone_ms": values["tone_onset_ms"] if values.get("tone_detected") else math.nan,
            "residual_ms": _residual(values),
        }
    return Facts(
        file, minute_s, part, values["sample_rate"], count, max(0, count - sum(missing.values())), missing,
        values["created_timestamp"], values["rtp_timestamp"], **known,
    )  # fmt: skip


def _residual(values: Values) -> float:
    """Label less UTC by the tone, ms; NaN where nobody says how far the transmitter is."""
    doubt = values.get("tone_residual_uncertainty_ms", math.nan)
    return float(values.get("tone_residual_ms", math.nan)) if doubt < MOST_DOUBT_MS else math.nan


def _timelines(values: Values) -> dict[str, int]:
    """The file's last timeline, and where the file leaves it."""
    index, rtp, utc, epoch = 0, values["rtp_timestamp"], values["sample0_utc_ns"], values["epoch_id"]
    if len(values["segment_sample_indices"]):
        keys = ("segment_sample_indices", "segment_rtp_timestamps", "segment_utc_ns", "segment_epoch_ids")
        index, rtp, utc, epoch = (int(values[key][-1]) for key in keys)
    left = len(values["iq"]) - index + len(values["iq_extra"])
    return {
        "last_epoch": epoch,
        "end_rtp": (rtp + left) % (1 << 32),
        "end_ns": utc + left * SECOND // values["sample_rate"],
    }


@dataclass(frozen=True, slots=True)
class Absence:
    """Minutes [first_s, end_s) of which there is no file; `why` is a name of CODES."""

    first_s: int
    end_s: int
    why: str

    @property
    def minutes(self) -> int:
        """How many."""
        return (self.end_s - self.first_s) // 60


@dataclass(slots=True)
class Series:
    """Follows one channel; `feed` files of archives and parts by minute, a minute's main file first."""

    absent: list[Absence] = field(default_factory=list)
    _main: Facts | None = None
    _ends: dict[tuple[str, int], Facts] = field(default_factory=dict)

    def feed(self, facts: Facts) -> Iterator[Issue]:
        """What is wrong between this file and those before it."""
        before = self._main
        if facts.part:
            if before is None or before.minute_s != facts.minute_s:
                yield Issue("part_without_main", "there is no file of its minute in archives/")
        elif before is not None:
            yield from self._follows(before, facts)
        yield from self._continues(facts)
        if not facts.part:
            self._main = facts
        self._ends[facts.session, facts.last_epoch] = facts
        for key in list(self._ends)[:-TIMELINES]:
            del self._ends[key]

    def _follows(self, before: Facts, facts: Facts) -> Iterator[Issue]:
        if facts.minute_s == before.minute_s:
            yield Issue("duplicate_minute", f"the same minute as {before.file}")
            return
        running = bool(facts.session) and (facts.session, facts.epoch) in self._ends
        if facts.minute_s > before.minute_s + 60:
            absence = Absence(before.minute_s + 60, facts.minute_s, "missing_minutes" if running else "not_recorded")
            if len(self.absent) < MOST_ABSENCES:
                self.absent.append(absence)
            yield Issue(absence.why, f"no file for {_minutes(absence.minutes)}: {_span(absence)}")
        if facts.session != before.session:
            yield Issue("new_session", f"session {facts.session} after {before.session}")
        elif facts.epoch not in (before.epoch, before.last_epoch):
            yield Issue("new_epoch", f"epoch {facts.epoch} ({facts.epoch_reason}) after {before.last_epoch}")
        if facts.last_epoch != facts.epoch:
            yield Issue("new_epoch", f"epoch {facts.last_epoch} begins within the minute")

    def _continues(self, facts: Facts) -> Iterator[Issue]:
        before = self._ends.pop((facts.session, facts.epoch), None)
        if before is None or not facts.session or before.minute_s == facts.minute_s:
            return
        if before.rate_hz != facts.rate_hz:
            yield Issue("rate_change", f"{before.rate_hz} to {facts.rate_hz} samples/s after {before.file}")
            return
        between = (facts.minute_s - before.minute_s - 60) * facts.rate_hz
        beyond = signed32(facts.rtp - before.end_rtp - between)
        # The same instant by the line of the file before and by this file's own.
        line = before.end_ns + (between + beyond) * SECOND // facts.rate_hz
        step, allowed = facts.sample0_ns - line, before.bound_ns + facts.bound_ns
        if abs(step) > allowed:
            yield Issue("label_step", f"the label steps by {step / 1e6:+.3f} ms after {before.file}, the bounds "
                                      f"of both allow {allowed / 1e6:.3f} ms")  # fmt: skip
        elif abs(step) > STEP_NS:
            yield Issue("reanchored", f"by {step / 1e6:+.3f} ms after {before.file}, bounds {allowed / 1e6:.3f} ms")
        if between:
            # Labels may have moved while nothing was written; what then lies beyond cannot be told from that.
            moved = allowed * facts.rate_hz // SECOND + 2
            beyond = beyond if abs(beyond) > moved else 0
        # A step back of the boundary by a new anchor repeats as many samples as it moved by, rounded.
        repeated = -beyond - round(step * facts.rate_hz / SECOND) if abs(step) > STEP_NS else -beyond
        if beyond > 0:
            yield Issue("hole", f"{beyond} samples of the stream after {before.file} are missing without being listed")
        elif beyond < 0 and repeated > 1:
            yield Issue("overlap", f"its first {repeated} samples are the last ones of {before.file}")


def _minutes(count: int) -> str:
    return f"{count} minute{'s' * (count != 1)}"


def _span(absence: Absence) -> str:
    first, last = (np.datetime64(s, "s") for s in (absence.first_s, absence.end_s - 60))
    return f"{str(first)[:16]}Z" if absence.minutes == 1 else f"{str(first)[:16]}Z to {str(last)[:16]}Z"
