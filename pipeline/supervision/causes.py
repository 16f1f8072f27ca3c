"""What is wrong with an instance, in words, and how bad it is.

Pure: a `Snapshot` holds everything, the time included. One rule decides what an operator
is told about a channel (`channel_cause`): the first thing that is wrong, worst first.
CRIT: data of a minute is not being taken or not being kept. WARN: it is, but something
has to be known about it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum

from pipeline.config import Config
from pipeline.ntp.report import parse_diagnostics
from pipeline.ntp.verdict import FLAG_DISAGREE
from pipeline.records import (
    UNKNOWN_NS,
    AnchorSource,
    ChannelRecord,
    ChannelState,
    ChildRecord,
    ChildState,
    NtpRecord,
)

SECOND_NS = 1_000_000_000
# The supervisor writes its record every second, workers theirs a few times a second.
SUPERVISOR_STALE_S = 10.0
WORKER_STALE_S = 10.0
SILENT_WARN_S = 5.0
SILENT_CRIT_S = 60.0
# Of the newest file; one packet of 20 ms is 0.03 %.
COMPLETE_PCT = 99.99
# Of a file younger than this: older ones are no news.
RECENT_FILE_S = 180.0


class Level(IntEnum):
    """How bad it is; also the exit code of `status`."""

    OK = 0
    WARN = 1
    CRIT = 2


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc says about one process; cpu_pct is the mean since it started."""

    cpu_pct: float
    rss_mb: float
    open_fds: int | None
    cpu_s: float = math.nan  # since it started; two looks give the present load


@dataclass(frozen=True, slots=True)
class Row:
    """One channel: its place on the board, as supervisor and worker see it."""

    index: int
    child: ChildRecord
    record: ChannelRecord


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole instance at one moment."""

    instance: str
    now_ns: int  # CLOCK_MONOTONIC
    supervisor_exists: bool
    supervisor: ChildRecord
    monitor: ChildRecord
    ntp: NtpRecord
    rows: tuple[Row, ...]
    processes: dict[int, Process] = field(default_factory=dict)
    config: Config = Config()
    filesystem: str | None = None
    ntp_diagnostics: bytes | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict on an instance, with a line per cause, the worst first."""

    level: Level
    causes: tuple[str, ...]


Cause = tuple[Level, str]
FINE: Cause = (Level.OK, "")


def age_s(then_ns: int, now_ns: int) -> float | None:
    """Seconds since a CLOCK_MONOTONIC time; None if that is unknown."""
    return None if then_ns == UNKNOWN_NS else (now_ns - then_ns) / SECOND_NS


def duration_text(seconds: float) -> str:
    """`42 s`, `7 min`, `2 h 05 min`, `3 d 04 h`."""
    s = int(seconds)
    if s < 120:
        return f"{s} s"
    if s < 7200:
        return f"{s // 60} min"
    if s < 2 * 86400:
        return f"{s // 3600} h {s // 60 % 60:02d} min"
    return f"{s // 86400} d {s // 3600 % 24:02d} h"


def minute_text(utc_s: int) -> str | None:
    """The minute that begins at `utc_s` as ISO 8601; None when there is none yet."""
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if utc_s else None


# Causes


def supervisor_cause(s: Snapshot) -> Cause:
    """Is anybody looking after the children?"""
    age = age_s(s.supervisor.heartbeat_monotonic_ns, s.now_ns)
    if not s.supervisor_exists:
        return Level.CRIT, f"supervisor (pid {s.supervisor.pid}) is dead; start the instance again"
    if age is None or age > SUPERVISOR_STALE_S:
        told = "never gave a sign of life" if age is None else f"gave no sign of life for {duration_text(age)}"
        return Level.CRIT, f"supervisor (pid {s.supervisor.pid}) {told}"
    if s.supervisor.state == ChildState.STOPPING:
        return Level.WARN, "the instance is stopping"
    return FINE


def process_cause(child: ChildRecord, now_ns: int) -> Cause:
    """Is there a process that does the work?"""
    reason = child.reason
    match ChildState(child.state):
        case ChildState.FATAL:
            return Level.CRIT, f"given up: {reason}"
        case ChildState.BACKOFF:
            return Level.CRIT, f"not running: {reason or 'restarting'}"
        case ChildState.STOPPED:
            return Level.CRIT, f"not running: {reason or 'stopped'}"
        case ChildState.STOPPING:
            return (Level.CRIT, f"hangs: {reason}") if "sign of life" in reason else (Level.WARN, "stopping")
        case ChildState.STARTING:
            return Level.WARN, f"starting again ({reason})" if reason else "starting"
        case ChildState.RUNNING if reason:
            started = age_s(child.started_monotonic_ns, now_ns) or 0.0
            return Level.WARN, f"restarted {duration_text(started)} ago: {reason}"
    return FINE


def ntp_cause(s: Snapshot) -> Cause:
    """Is the host clock's error known, and small?"""
    level, text = process_cause(s.monitor, s.now_ns)
    if level is not Level.OK:
        return Level.WARN, text  # recording goes on without it
    view = s.ntp.at(s.now_ns, s.config.ntp.stale_after_s)
    published = age_s(s.ntp.published_monotonic_ns, s.now_ns)
    if published is None:
        return Level.WARN, "no verdict yet"
    if published > s.config.ntp.stale_after_s:
        return Level.WARN, f"nothing published for {duration_text(published)}"
    why = str(parse_diagnostics(s.ntp_diagnostics).get("why") or "")
    if view["state"] == "holdover":
        return Level.WARN, f"holdover: {why or 'nothing answers'}"
    if view["synced"]:
        return FINE
    if view["state"] == "starting":
        return Level.WARN, "no verdict yet"
    if not view["valid"]:
        return Level.WARN, f"not synchronised: {why or 'no trustworthy server'}"
    if s.ntp.flags & FLAG_DISAGREE:
        return Level.WARN, why or "the local daemon contradicts the servers"
    if abs(view["offset_ms"]) <= s.config.ntp.synced_within_ms:
        return Level.WARN, f"host clock is known to within {view['uncertainty_ms']:.1f} ms only"
    return Level.WARN, f"host clock is {view['offset_ms']:+.1f} ms off"


def channel_cause(row: Row, s: Snapshot) -> Cause:
    """The first thing that is wrong with one channel, worst first."""
    if not s.supervisor_exists:  # what the records say is of the past
        return Level.CRIT, "not running: the supervisor is dead"
    process = process_cause(row.child, s.now_ns)
    if row.child.state != ChildState.RUNNING:
        return process
    r = row.record
    heartbeat = age_s(r.heartbeat_monotonic_ns, s.now_ns)
    if heartbeat is None or heartbeat > WORKER_STALE_S:
        return Level.CRIT, f"worker gave no sign of life for {duration_text(heartbeat or 0)}"
    if r.state == ChannelState.BLOCKED:
        return Level.CRIT, f"{_minutes(r.backlog)} cannot be written: {r.reason or 'see log'}"
    # A restart is told while it is news; what a file lacks can be told for three minutes.
    causes = (silence_cause(row, s.now_ns), process, _doubts(r, s))
    return next((cause for cause in causes if cause[0] is not Level.OK), FINE)


def _minutes(count: int) -> str:
    return f"{count} minute" + ("" if count == 1 else "s")


def silence_cause(row: Row, now_ns: int) -> Cause:
    """Do packets arrive?"""
    age = age_s(row.record.last_packet_monotonic_ns, now_ns)
    if age is None:
        waited = age_s(row.child.started_monotonic_ns, now_ns) or 0.0
        if waited > SILENT_CRIT_S:
            return Level.CRIT, f"no packet in {duration_text(waited)} since the start"
        return Level.WARN, "waiting for the first packet"
    if age > SILENT_CRIT_S:
        return Level.CRIT, f"no packets for {duration_text(age)}"
    if age > SILENT_WARN_S:
        return Level.WARN, f"silent for {duration_text(age)}"
    return FINE


def _doubts(r: ChannelRecord, s: Snapshot) -> Cause:
    """It records: what has to be known about that?"""
    if r.state == ChannelState.UNANCHORED:
        return Level.WARN, "packets arrive, waiting for the clock"
    if r.backlog > 1:
        return Level.WARN, f"{_minutes(r.backlog)} wait to be written"
    written = age_s(r.last_write_monotonic_ns, s.now_ns)
    # The first file of a run begins where the run began and is no loss.
    recent = r.minutes_written > 1 and written is not None and written < RECENT_FILE_S
    if recent and r.completeness_pct < COMPLETE_PCT:
        return Level.WARN, f"{(minute_text(r.last_minute_utc_s) or '')[11:16]}Z is {r.completeness_pct:.2f} % complete"
    if r.minutes_dropped:
        return Level.WARN, f"{_minutes(r.minutes_dropped)} had to be given up since the start"
    if s.config.radiod.status_address and r.anchor_source in (AnchorSource.NTP, AnchorSource.WALL_CLOCK):
        source = AnchorSource(r.anchor_source).name.lower()
        return Level.WARN, f"time comes from the host ({source}), not from radiod's status"
    if r.anchor_uncertainty_ns / 1e6 > s.config.ntp.synced_within_ms:
        return Level.WARN, f"labels may be wrong by up to {r.anchor_uncertainty_ns / 1e9:.1f} s"
    return FINE


def health(s: Snapshot) -> Health:
    """The worst of all causes, and every cause that is not OK as `name: cause`."""
    found: list[tuple[Level, str]] = []
    level, text = supervisor_cause(s)
    found.append((level, text))
    # Without a supervisor the children's records are of the past.
    if level is not Level.CRIT:
        level, text = ntp_cause(s)
        found.append((level, f"ntp: {text}"))
        for row in s.rows:
            level, text = channel_cause(row, s)
            found.append((level, f"{row.child.name}: {text}"))
    bad = sorted((c for c in found if c[0] is not Level.OK), key=lambda c: -c[0])
    return Health(max((c[0] for c in bad), default=Level.OK), tuple(c[1] for c in bad))
