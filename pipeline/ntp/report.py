"""What the monitor tells besides the record: counters, rows and log lines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.ntp.rows import Row, RowState
from pipeline.ntp.verdict import FLAG_DISAGREE
from pipeline.records import NtpQuality, NtpRecord, NtpState


@dataclass(slots=True)
class Counters:
    """Since the monitor's start. Rates are per cycle, but for rejection: per reply.

    A starved cycle begins without a fresh verdict: nothing valid, or holdover.
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
        return asdict(self) | {
            "refusals": dict(self.refusals),
            "retry_rate": self.retry_rounds / cycles,
            "fallback_rate": self.relaxed_cycles / cycles,
            "starvation_rate": self.starved_cycles / cycles,
            "rejection_rate": (self.refused + self.kisses) / replies,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """One publication. `local` has a line per local source."""

    record: NtpRecord
    rows: tuple[Row, ...]
    counters: dict[str, Any]
    local: Mapping[str, str]


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
            "counters": report.counters,
            "local": dict(report.local),
            "servers": rows,
            "servers_left_out": len(report.rows) - len(rows),
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        if len(text) <= room or not rows:
            return text if len(text) <= room else b"{}"
        rows = rows[: len(rows) * 3 // 4]


def title(record: NtpRecord, servers: int) -> str:
    """What `ps` shows: `ntp -0.412ms synced 7/10`."""
    offset = "?" if math.isnan(record.offset_ms) else f"{record.offset_ms:+.3f}ms"
    return f"ntp {offset} {NtpState(record.state).name.lower()} {record.truechimers}/{servers}"


def sentence(record: NtpRecord, servers: int) -> str:
    """The verdict as an operator reads it."""
    state = NtpState(record.state).name.lower()
    if not record.valid:
        return f"{state}: offset unknown, {record.truechimers} of {servers} servers agree"
    quality = f", {NtpQuality(record.quality).name.lower()} limits" if record.quality else ""
    text = (
        f"{state}: host - UTC {record.offset_ms:+.3f} ms +- {record.uncertainty_ms:.3f} ms"
        f" (jitter {record.jitter_ms:.3f} ms), {record.truechimers} of {servers} servers agree{quality},"
        f" source {record.source}"
    )
    if record.flags & FLAG_DISAGREE:
        text += "; the local daemon contradicts the servers"
    if record.leap in (1, 2):
        text += f"; leap second announced ({'+' if record.leap == 1 else '-'}1 s)"
    return text


def changes(before: Mapping[str, RowState], rows: Sequence[Row]) -> list[Note]:
    """Lines for servers that became falsetickers or came back among the others."""
    notes = []
    for row in rows:
        was_liar = before.get(row.name) is RowState.FALSETICKER
        if row.state is RowState.FALSETICKER and not was_liar:
            assert row.offset_ms is not None
            notes.append(Note(f"{row.name}: falseticker, host - server {row.offset_ms:+.3f} ms", warning=True))
        elif was_liar and row.state not in (RowState.FALSETICKER, RowState.UNUSABLE):
            notes.append(Note(f"{row.name}: agrees with the others again"))
    return notes
