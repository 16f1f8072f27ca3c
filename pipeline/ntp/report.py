"""What the monitor tells besides the record: counters, rows and log lines."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.ntp.reading import KernelState
from pipeline.ntp.rows import Row, RowState
from pipeline.ntp.verdict import EPOCH, FLAG_DISAGREE, LEAP_AFTER_S, LEAP_BEFORE_S, LEAP_DAYS
from pipeline.ntp.words import side
from pipeline.records import NtpQuality, NtpRecord, NtpState


@dataclass(slots=True)
class Counters:
    """Since the monitor's start. Rates are per cycle, but for rejection: per reply.

    A starved cycle, counted from the second on, begins without a fresh verdict: nothing
    valid, or holdover.
    """

    cycles: int = 0
    publications: int = 0
    late_publications: int = 0
    requests: int = 0
    samples: int = 0
    missed: int = 0
    refused: int = 0
    kisses: int = 0
    retry_rounds: int = 0
    relaxed_cycles: int = 0
    starved_cycles: int = 0
    query_ms_last: float = 0.0
    query_ms_mean: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)

    def answered(self, elapsed_s: float) -> None:
        """A server answered after `elapsed_s`; the mean forgets with 1/16."""
        self.query_ms_last = elapsed_s * 1e3
        first = self.samples + self.refused + self.kisses == 0
        self.query_ms_mean += (self.query_ms_last - self.query_ms_mean) * (1.0 if first else 1 / 16)

    def as_dict(self) -> dict[str, Any]:
        """The counters with the rates made of them."""
        cycles, replies = max(self.cycles, 1), max(self.samples + self.refused + self.kisses, 1)
        counts = {each.name: getattr(self, each.name) for each in fields(self)}
        return counts | {
            "refusals": dict(self.refusals),
            "retry_rate": self.retry_rounds / cycles,
            "fallback_rate": self.relaxed_cycles / cycles,
            "starvation_rate": self.starved_cycles / max(self.cycles - 1, 1),
            "rejection_rate": (self.refused + self.kisses) / replies,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """One publication. `local` has a line per local source, `why` what is missing for a fresh and valid verdict."""

    record: NtpRecord
    rows: tuple[Row, ...]
    counters: dict[str, Any]
    local: Mapping[str, str]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str
    warning: bool = False


def diagnostics(report: Report, room: int) -> bytes:
    """Counters, local sources and server rows as JSON of at most `room` bytes; rows are cut to fit."""
    rows = [row.as_dict() for row in report.rows]
    while True:
        document = {
            "why": report.why,
            "counters": report.counters,
            "local": dict(report.local),
            "servers": rows,
            "servers_left_out": len(report.rows) - len(rows),
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        if len(text) <= room or not rows:
            return text if len(text) <= room else b"{}"
        rows = rows[: len(rows) * 3 // 4]


def parse_diagnostics(text: bytes | None) -> dict[str, Any]:
    """What `diagnostics` made, as it stands in shared memory; {} when there is none or none that can be read."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def counters_line(text: bytes | None) -> str:
    """How the measuring itself goes since the monitor's start, for `status`; "" while nothing is known."""
    counters = parse_diagnostics(text).get("counters")
    return counters_text(counters) if isinstance(counters, dict) else ""


def counters_text(counters: Mapping[str, Any]) -> str:
    """The counters as an operator reads them; "" before the first request."""
    if not counters.get("requests"):
        return ""
    rates = {name: counters.get(f"{name}_rate", 0.0) * 100 for name in ("rejection", "fallback", "retry", "starvation")}
    told = ", ".join(f"{name} {rate:.1f} %" for name, rate in rates.items())
    missed = counters.get("missed", 0) / counters["requests"] * 100
    return f"ntp queries  {counters.get('query_ms_mean', 0.0):.1f} ms, unanswered {missed:.1f} %, {told}"


def title(record: NtpRecord, servers: int) -> str:
    """What `ps` shows: `ntp -0.412ms synced 7/10`."""
    offset = "?" if math.isnan(record.offset_ms) else f"{record.offset_ms:+.3f}ms"
    return f"ntp {offset} {NtpState(record.state).name.lower()} {record.truechimers}/{servers}"


def essence(record: NtpRecord) -> tuple[object, ...]:
    """What makes a publication news."""
    return (
        record.state, record.valid, record.synced, record.quality, record.flags, record.leap, record.step_count,
    )  # fmt: skip


def sentence(record: NtpRecord, servers: int, why: str = "") -> str:
    """The verdict as an operator reads it; `why` it is not a fresh and valid one."""
    state = NtpState(record.state).name.lower()
    if not record.valid:
        return f"{state}: offset unknown; {why or 'nothing measured yet'}"
    text = f"{state}: host clock {side(record.offset_ms)} +- {record.uncertainty_ms:.3f} ms"
    text += f" (jitter {record.jitter_ms:.3f} ms)"
    if record.truechimers:
        text += f", {record.truechimers} of {servers} servers agree"
    if record.quality == NtpQuality.RELAXED:
        text += " by the relaxed limits"
    text += f", source {record.source}"
    if record.leap in (1, 2):
        text += f", leap second announced ({'+' if record.leap == 1 else '-'}1 s)"
    if why:
        text += f"; {why}"
    elif record.flags & FLAG_DISAGREE:
        text += "; the local daemon contradicts the servers"
    return text


def kernel_line(kernel: KernelState, record: NtpRecord) -> str:
    """What the kernel believes, and whether that can be true."""
    if not kernel.synchronised:
        return "not synchronised"
    line = f"synchronised, maximum error {kernel.max_error_s * 1e3:.3f} ms"
    wrong_ms = abs(record.offset_ms) - record.uncertainty_ms if record.valid else 0.0
    if wrong_ms > kernel.max_error_s * 1e3:
        line += f", {WRONGLY}"
    return line


WRONGLY = "which the measured offset contradicts"


class Teller:
    """Lines for the log, made of what has changed between publications."""

    def __init__(self) -> None:
        self._states: dict[str, RowState] = {}
        self._told: tuple[object, ...] = ()
        self._kernel_wrong = False
        self._leap_told = 0

    def notes(self, report: Report, settled: bool, votes_count: bool) -> list[Note]:
        """What is new. A verdict is told when the round is over (`settled`), not with each answer.

        Without `votes_count` (in an outage) who votes how is no news.
        """
        notes = []
        if votes_count:
            notes += _votes(self._states, report)
            self._states = {row.name: row.state for row in report.rows}
        wrong = WRONGLY in report.local.get("kernel", "")
        if wrong and not self._kernel_wrong:
            notes.append(Note(f"kernel: {report.local['kernel']}", warning=True))
        self._kernel_wrong = wrong
        record = report.record
        notes += self._leap(record)
        told = essence(record.replace(leap=0) if record.valid else record.replace(leap=0, step_count=0))
        if settled and told != self._told and record.state != NtpState.STARTING:
            self._told = told
            bad = record.state in (NtpState.UNSYNCED, NtpState.HOLDOVER) or bool(record.flags & FLAG_DISAGREE)
            notes.append(Note(sentence(record, len(report.rows), report.why), warning=bad))
        return notes

    def leap_over(self) -> None:
        """That a warning has gone is no news then."""
        self._leap_told = 0

    def _leap(self, record: NtpRecord) -> list[Note]:
        if not record.valid or record.leap == self._leap_told:
            return []
        self._leap_told = record.leap
        if record.leap not in (1, 2):
            return [Note("the leap second is no longer announced")]
        utc = EPOCH + datetime.timedelta(microseconds=record.utc_ns // 1000)
        told = f"leap second announced ({'+' if record.leap == 1 else '-'}1 s) for the end of this UTC day; "
        if (utc.month, utc.day) not in LEAP_DAYS:
            return [Note(f"{told}not believed, as it is neither 30 June nor 31 December", warning=True)]
        return [Note(f"{told}nothing is believed from {LEAP_BEFORE_S:.0f} s before to {LEAP_AFTER_S:.0f} s after it")]


def _votes(before: Mapping[str, RowState], report: Report) -> list[Note]:
    """Servers that became falsetickers or came back among the others."""
    notes = []
    for row in report.rows:
        was_liar = before.get(row.name) is RowState.FALSETICKER
        if row.state is RowState.FALSETICKER and not was_liar:
            assert row.offset_ms is not None
            off_ms = report.record.offset_ms - row.offset_ms
            told = f"{row.name}: falseticker, its clock is {off_ms:+.3f} ms off"
            notes.append(Note(f"{told}; outvoted by {report.record.truechimers} servers", warning=True))
        elif was_liar and row.state not in (RowState.FALSETICKER, RowState.UNUSABLE):
            notes.append(Note(f"{row.name}: agrees with the others again"))
    return notes
