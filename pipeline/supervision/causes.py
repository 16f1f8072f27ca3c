"""What is wrong with a channel, in words, and how bad it is; the values that this is read from.

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

from pipeline.config import Channel, Config
from pipeline.records import (
    FLAG_AGC,
    UNKNOWN_NS,
    AlertsRecord,
    AnchorSource,
    ChannelRecord,
    ChannelState,
    ChildRecord,
    ChildState,
    NtpRecord,
)
from pipeline.stream.rtp import ENCODING_NUMBERS

SECOND_NS = 1_000_000_000
# Workers write their records every two seconds, or more often.
WORKER_STALE_S = 10.0
SILENT_WARN_S = 5.0
SILENT_CRIT_S = 60.0
# Of the newest file; one packet of 20 ms is 0.03 %.
COMPLETE_PCT = 99.99
# Of a file younger than this: older ones are no news.
RECENT_FILE_S = 180.0
# What is neither this stream nor RTP, of all that came within a minute.
STRANGE_SHARE = 0.05
# Of what was sent, lost on the way, before a file says so.
LOST_SHARE = 0.01


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
    """One channel: its place on the board, as supervisor and worker see it, and as it is meant to be."""

    index: int
    child: ChildRecord
    record: ChannelRecord
    channel: Channel | None = None  # as it is configured, where that is known


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
    alerts: ChildRecord = ChildRecord()  # without a name where none are configured
    alerts_report: AlertsRecord = AlertsRecord()

    @property
    def children(self) -> tuple[ChildRecord, ...]:
        """All processes of the instance."""
        own = (self.supervisor, self.monitor, *([self.alerts] if self.alerts.name else []))
        return (*own, *(row.child for row in self.rows))


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


Cause = tuple[Level, str]
FINE: Cause = (Level.OK, "")


# Causes


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
    causes = (silence_cause(row, s.now_ns), process, _doubts(row, s))
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


def _doubts(row: Row, s: Snapshot) -> Cause:
    """It records: what has to be known about that?"""
    r = row.record
    if r.state == ChannelState.UNANCHORED:
        return Level.WARN, "packets arrive, waiting for the clock"
    if r.backlog > 1:
        return Level.WARN, f"{_minutes(r.backlog)} wait to be written"
    text = _lacking(row, s.now_ns) or _otherwise(row) or _labels(r, s.config)
    return (Level.WARN, text) if text else FINE


def _lacking(row: Row, now_ns: int) -> str:
    """What was lost; "" for nothing of late."""
    r, child = row.record, row.child
    if child.socket_dropped_1m:
        size = f"receive buffer of {r.socket_buffer_bytes >> 10} KiB"
        return f"the {size} was full: {child.socket_dropped_1m} packets lost within a minute"
    if child.packets_bad_1m > STRANGE_SHARE * max(100, child.packets_received_1m):
        return f"{child.packets_bad_1m} datagrams within a minute are another sender's, or not RTP"
    written = age_s(r.last_write_monotonic_ns, now_ns)
    # The first file of a run begins where the run began and is no loss.
    recent = r.minutes_written > 1 and written is not None and written < RECENT_FILE_S
    if recent and r.completeness_pct < COMPLETE_PCT:
        return f"{(minute_text(r.last_minute_utc_s) or '')[11:16]}Z is {r.completeness_pct:.2f} % complete"
    if child.packets_lost_1m > LOST_SHARE * (child.packets_lost_1m + child.packets_received_1m):
        # Before the first whole minute is on disk, and when a network gets worse.
        return f"{child.packets_lost_1m} packets did not come within a minute, {child.packets_received_1m} did"
    if r.minutes_dropped:
        return f"{_minutes(r.minutes_dropped)} had to be given up since the start"
    return ""


def _labels(r: ChannelRecord, config: Config) -> str:
    """Why the time may be less well known than it could be."""
    if config.radiod.status_address and r.anchor_source in (AnchorSource.NTP, AnchorSource.WALL_CLOCK):
        source = AnchorSource(r.anchor_source).name.lower()
        return f"time comes from the host ({source}), not from radiod's status"
    if r.anchor_uncertainty_ns / 1e6 > config.ntp.synced_within_ms:
        return f"labels may be wrong by up to {r.anchor_uncertainty_ns / 1e9:.1f} s"
    return ""


def _otherwise(row: Row) -> str:
    """How radiod makes the stream, where that is not as configured or wanted; "" where it is."""
    channel, r = row.channel, row.record
    if channel is None or r.state != ChannelState.RECORDING:
        return ""
    if r.sample_rate_hz not in (0, channel.sample_rate_hz):
        return f"radiod sends {r.sample_rate_hz} Hz, not {channel.sample_rate_hz}; it is recorded as sent"
    if r.encoding not in (0, ENCODING_NUMBERS.get(channel.encoding)):
        made = next((name for name, number in ENCODING_NUMBERS.items() if number == r.encoding), str(r.encoding))
        return f"radiod sends {made}, not {channel.encoding}; it is recorded as sent"
    return "radiod's AGC is on and takes the fading out of the record" if r.radiod_flags & FLAG_AGC else ""
