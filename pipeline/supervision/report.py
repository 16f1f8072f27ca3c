"""Records in, words out: what `ps` and `status` say. Pure; what is wrong is decided in `causes`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pipeline.ntp.report import counters_line
from pipeline.records import UNKNOWN_NS, AnchorSource, ChannelRecord, ChildRecord, ChildState
from pipeline.supervision.causes import Row, Snapshot, age_s, channel_cause, duration_text, minute_text
from pipeline.supervision.troubles import health, pause_text


def up_text(up: int, total: int) -> str:
    """`9/9 up`."""
    return f"{up}/{total} up"


def supervisor_title(instance: str, up: int, total: int, stopping: bool) -> str:
    """The supervisor's line in `ps`, after the program's name."""
    return f"supervisor {instance} {'stopping' if stopping else up_text(up, total)}"


def fill_pct(r: ChannelRecord, now_ns: int, utc_s: float) -> float:
    """How much of the minute that runs at `utc_s` was received, percent; NaN if that is unknown.

    A worker that hears nothing does not know that a new minute has begun.
    """
    silent_s = age_s(r.last_packet_monotonic_ns, now_ns)
    return 0.0 if silent_s is not None and silent_s > utc_s % 60 else r.minute_fill_pct


def folded(causes: Sequence[str]) -> list[str]:
    """What differs only in its channel and its figures as one: `A and 8 more: silent for 8 s`, with A's figures."""
    groups: dict[str, list[str]] = {}
    for cause in causes:
        groups.setdefault(re.sub(r"[\d.]+", "#", cause.partition(": ")[2] or cause), []).append(cause)
    told = []
    for first, *more in groups.values():
        name, colon, text = first.partition(": ")
        told.append(f"{name} and {len(more)} more{colon}{text}" if more else first)
    return told


def ntp_line(s: Snapshot) -> str:
    """The clock in one line."""
    return "  ".join(ntp_words(s))


def ntp_words(s: Snapshot) -> list[str]:
    """The clock in words, what matters most first."""
    view = s.ntp.at(s.now_ns, s.config.ntp.stale_after_s)
    words = ["ntp"]
    if view["offset_ms"] is not None:
        words.append(f"{view['offset_ms']:+.3f} ms")
        if view["uncertainty_ms"] is not None:
            words.append(f"± {view['uncertainty_ms']:.3f} ms")
    words.append(view["state"])
    if view["quality"]:
        words.append(f"({view['quality']})")
    answered = s.ntp.truechimers + s.ntp.falsetickers
    if answered:
        words.append(f"{s.ntp.truechimers}/{answered} agree")
    if view["source"]:
        words.append(f"from {view['source']}")
    if s.ntp.step_count:
        words.append(f"clock set {s.ntp.step_count}x since the start")
    if view["age_s"] is not None:
        words.append(f"measured {duration_text(view['age_s'])} ago")
    return words


def process_words(s: Snapshot) -> list[str]:
    """The processes that are not channels, whether they live, and how alerts go."""
    told = [f"{child.name} {_process_words(child, s)}" for child in s.children[: -len(s.rows) or None]]
    report = s.alerts_report
    if s.alerts.name:
        told[-1] += f", {report.sent} sent, {report.waiting} waiting, {report.open} open"
    return told


def _process_words(child: ChildRecord, s: Snapshot) -> str:
    lives = child.pid and (child is not s.supervisor or s.supervisor_exists)
    words = f"pid {child.pid}" if lives else "not running"
    return words + (f" restarted {child.restarts}x" if child.restarts else "")


def channel_line(row: Row, s: Snapshot, width: int) -> str:
    """One channel in one line of less than 80 characters."""
    level, _ = channel_cause(row, s)
    r = row.record
    minute = minute_text(r.last_minute_utc_s)
    words = [f"{row.child.name:{width}}", f"{level.name:4}"]
    words.append(f"{minute[11:16]}Z" if minute else "--:--Z")
    words.append("   -  %" if math.isnan(r.completeness_pct) else f"{r.completeness_pct:5.1f} %")
    words.append(f"lost {r.packets_lost}")
    if row.child.restarts:
        words.append(f"restarted {row.child.restarts}x")
    if r.anchor_source != AnchorSource.NONE:
        source = AnchorSource(r.anchor_source).name.lower()
        known = r.anchor_uncertainty_ns != UNKNOWN_NS
        words.append(f"time {source}" + (f" ± {r.anchor_uncertainty_ns / 1e6:.2f} ms" if known else ""))
    return "  ".join(words)


def lines(s: Snapshot) -> list[str]:
    """What `status` prints: the instance, the clock, the channels, the causes."""
    verdict = health(s)
    up = sum(row.child.state == ChildState.RUNNING for row in s.rows) if s.supervisor_exists else 0
    since = age_s(s.supervisor.started_monotonic_ns, s.now_ns)
    head = f"{s.instance}: {verdict.level.name}, {up_text(up, len(s.rows))}"
    if since is not None and s.supervisor_exists:
        head += f", running for {duration_text(since)} (pid {s.supervisor.pid})"
    if pause := pause_text(s):
        head += f"; the supervisor {pause}"
    width = max((len(row.child.name) for row in s.rows), default=0)
    queries = counters_line(s.ntp_diagnostics)
    out = [head, ntp_line(s), *([queries] if queries else []), "  ".join(["processes", *process_words(s)])]
    out += [channel_line(row, s, width) for row in s.rows]
    if verdict.causes:
        out += ["", *verdict.causes]
    return out
