"""Layouts and units of everything that is shared between processes.

A record is a named tuple with one `pipeline.layout.Layout`, the only description of its
bytes; the structs of etc/grape_pipeline_shm.h are checked against it. Named tuples, since
a reader makes one per read and a frozen dataclass takes five times as long.

Rules. Little-endian, no padding but what a table names. Unknown is NaN for floats, ""
for text, `UNKNOWN_NS` for times and ages; never zero. Offsets are host - UTC: positive
means the host clock is ahead. `monotonic_ns` is CLOCK_MONOTONIC, which alone is used
for ages; `utc_ns` is CLOCK_REALTIME and only for people and labels.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, ClassVar, NamedTuple

from pipeline.layout import Field, Layout, Record

UNKNOWN_NS = -(1 << 63)


class NtpState(IntEnum):
    """Why the NTP record says what it says."""

    STARTING = 0  # no verdict yet
    SYNCED = 1  # a majority agrees and the host is within tolerance of it
    HOLDOVER = 2  # no fresh majority; the last one is carried on with growing uncertainty
    UNSYNCED = 3  # nothing trustworthy, or the host is out of tolerance


class NtpQuality(IntEnum):
    """Which thresholds the servers behind the verdict had to meet."""

    NONE = 0
    STRICT = 1
    RELAXED = 2


class _NtpFields(NamedTuple):
    published_monotonic_ns: int = UNKNOWN_NS
    monotonic_ns: int = UNKNOWN_NS
    utc_ns: int = UNKNOWN_NS
    offset_ms: float = math.nan
    uncertainty_ms: float = math.nan
    jitter_ms: float = math.nan
    step_count: int = 0
    truechimers: int = 0
    falsetickers: int = 0
    valid: int = 0
    synced: int = 0
    state: int = NtpState.STARTING
    quality: int = NtpQuality.NONE
    leap: int = 3
    stratum: int = 0
    flags: int = 0
    source: str = ""


class NtpRecord(_NtpFields, Record):
    """The NTP monitor's verdict, one for all channels; written every 10 s and at each change."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout] = Layout(
        "ntp",
        Field("published_monotonic_ns", "q", "CLOCK_MONOTONIC of this publication, ns; the monitor's heartbeat"),
        Field("monotonic_ns", "q", "CLOCK_MONOTONIC of the measurement behind offset_ms, ns"),
        Field("utc_ns", "q", "CLOCK_REALTIME of the same instant, ns since 1970"),
        Field("offset_ms", "d", "host - UTC, ms, positive = host ahead; NaN unknown"),
        Field("uncertainty_ms", "d", "bound on the error of offset_ms, ms; NaN unknown"),
        Field("jitter_ms", "d", "expected error of offset_ms, ms; NaN unknown"),
        Field("step_count", "I", "host clock steps seen since the instance started"),
        Field("truechimers", "H", "servers that agree"),
        Field("falsetickers", "H", "servers that answered and disagree"),
        Field("valid", "B", "1 = offset_ms can be trusted within uncertainty_ms"),
        Field("synced", "B", "1 = valid and |offset| + uncertainty within synced_within_ms"),
        Field("state", "B", "0 starting 1 synced 2 holdover 3 unsynced"),
        Field("quality", "B", "0 none 1 strict 2 relaxed"),
        Field("leap", "B", "RFC 5905 leap indicator; 3 = unknown"),
        Field("stratum", "B", "of the source; 0 = unknown"),
        Field("flags", "H", "bit 0 local daemon and servers disagree, bit 1 kernel says synchronised"),
        Field("source", "40s", "what the offset comes from, UTF-8, NUL padded"),
    )

    def stale(self, monotonic_ns: int, stale_after_s: float) -> bool:
        """True when the record was not published for `stale_after_s`, or never."""
        published = self.published_monotonic_ns
        return published == UNKNOWN_NS or monotonic_ns - published > stale_after_s * 1e9

    def at(self, monotonic_ns: int, stale_after_s: float) -> dict[str, Any]:
        """The record's public keys as a reader sees them at `monotonic_ns`.

        A record that was not published for `stale_after_s` belongs to a dead or hung
        monitor: it is shown as neither valid nor synced, with its age.
        """
        stale = self.stale(monotonic_ns, stale_after_s)
        known = self.monotonic_ns != UNKNOWN_NS
        state = NtpState(self.state)
        if stale and state is not NtpState.STARTING:
            state = NtpState.UNSYNCED
        return {
            "valid": bool(self.valid) and not stale,
            "synced": bool(self.synced) and not stale,
            "state": state.name.lower(),
            "quality": NtpQuality(self.quality).name.lower() if self.quality else None,
            "offset_ms": none_if_nan(self.offset_ms),
            "uncertainty_ms": none_if_nan(self.uncertainty_ms),
            "jitter_ms": none_if_nan(self.jitter_ms),
            "source": self.source or None,
            "stratum": self.stratum or None,
            "leap": None if self.leap == 3 else self.leap,
            "truechimers": self.truechimers,
            "falsetickers": self.falsetickers,
            "utc_ns": self.utc_ns if known else None,
            "monotonic_ns": self.monotonic_ns if known else None,
            "age_s": (monotonic_ns - self.monotonic_ns) / 1e9 if known else None,
            "step_count": self.step_count,
        }


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN: unknown becomes null."""
    return None if math.isnan(value) else value


class ChannelState(IntEnum):
    """What a channel is doing, as its worker sees it; a reason text goes with each."""

    STARTING = 0  # worker is up, no packet yet
    RECORDING = 1  # packets arrive and are labelled
    SILENT = 2  # packets came before, none do now
    UNANCHORED = 3  # packets arrive, nothing says what time it is
    BLOCKED = 4  # minutes wait because they cannot be written
    STOPPED = 5  # worker flushed and left


class AnchorSource(IntEnum):
    """Where the mapping from RTP timestamps to UTC comes from; names as in the files."""

    NONE = 0
    RADIOD = 1
    NTP = 2
    WALL_CLOCK = 3
    WWV = 4
    WWVH = 5
    CHU = 6


# Of ChannelRecord.radiod_flags.
FLAG_AGC = 1


class _ChannelFields(NamedTuple):
    heartbeat_monotonic_ns: int = UNKNOWN_NS
    started_monotonic_ns: int = UNKNOWN_NS
    last_packet_monotonic_ns: int = UNKNOWN_NS
    last_status_monotonic_ns: int = UNKNOWN_NS
    last_minute_utc_s: int = 0
    last_write_monotonic_ns: int = UNKNOWN_NS
    minutes_written: int = 0
    minutes_dropped: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    packets_late: int = 0
    packets_duplicate: int = 0
    packets_reordered: int = 0
    packets_bad: int = 0
    socket_dropped: int = 0
    gap_events: int = 0
    bytes_written: int = 0
    disk_free_bytes: int = UNKNOWN_NS
    anchor_uncertainty_ns: int = UNKNOWN_NS
    frequency_hz: float = math.nan
    write_ms: float = math.nan
    level_dbfs: float = math.nan
    completeness_pct: float = math.nan
    minute_fill_pct: float = math.nan
    radiod_offset_ms: float = math.nan
    overload_age_s: float = math.nan
    oldest_wait_s: float = math.nan
    pid: int = 0
    ssrc: int = 0
    sample_rate_hz: int = 0
    epoch_id: int = 0
    socket_buffer_bytes: int = 0
    backlog: int = 0
    radiod_flags: int = 0
    state: int = ChannelState.STARTING
    anchor_source: int = AnchorSource.NONE
    encoding: int = 0
    owned: int = 0
    name: str = ""
    reason: str = ""


class ChannelRecord(_ChannelFields, Record):
    """One channel as its worker sees it; written at every wake-up, each two seconds or more often."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout] = Layout(
        "channel",
        Field("heartbeat_monotonic_ns", "q", "CLOCK_MONOTONIC of this publication, ns"),
        Field("started_monotonic_ns", "q", "CLOCK_MONOTONIC of the worker's start, ns"),
        Field("last_packet_monotonic_ns", "q", "CLOCK_MONOTONIC when a packet was last taken, ns"),
        Field("last_status_monotonic_ns", "q", "CLOCK_MONOTONIC when a status of this SSRC was last taken, ns"),
        Field("last_minute_utc_s", "q", "UTC second at which the newest file begins; 0 = none yet"),
        Field("last_write_monotonic_ns", "q", "CLOCK_MONOTONIC when the newest file was on disk, ns"),
        Field("minutes_written", "Q", "files, since the instance started"),
        Field("minutes_dropped", "Q", "minutes that had to be given up, since the instance started"),
        Field("packets_received", "Q", "since the instance started"),
        Field("packets_lost", "Q", "sequence numbers that never came"),
        Field("packets_late", "Q", "came after their minute was cut"),
        Field("packets_duplicate", "Q", "came again and changed nothing"),
        Field("packets_reordered", "Q", "came after a later one, in time"),
        Field("packets_bad", "Q", "malformed, foreign or off every timeline"),
        Field("socket_dropped", "Q", "of packets_lost, those for which the receive buffer had no room"),
        Field("gap_events", "Q", "gaps listed in the files, since the instance started"),
        Field("bytes_written", "Q", "size of the files, since the instance started, bytes"),
        Field("disk_free_bytes", "q", "room on the disk of the files when the newest was written, bytes"),
        Field("anchor_uncertainty_ns", "q", "bound on the label error, ns"),
        Field("frequency_hz", "d", "carrier, Hz"),
        Field("write_ms", "d", "duration of the newest write, ms"),
        Field("level_dbfs", "d", "mean power of the newest packet, dB relative to full scale"),
        Field("completeness_pct", "d", "of the newest file, percent"),
        Field("minute_fill_pct", "d", "of the running minute, percent received so far"),
        Field(
            "radiod_offset_ms",
            "d",
            "radiod host's clock - this host's clock by a status pair of the last 10 s, ms, at least",
        ),
        Field(
            "overload_age_s", "d", "since radiod's A/D converter was last overloaded, by a status of the last 10 s, s"
        ),
        Field("oldest_wait_s", "d", "how long the oldest minute that is not on disk has been over, s; NaN = none"),
        Field("pid", "I", "of the worker"),
        Field("ssrc", "I", "RTP synchronisation source"),
        Field("sample_rate_hz", "I", "in force"),
        Field("epoch_id", "I", "RTP timelines counted"),
        Field("socket_buffer_bytes", "I", "receive buffer the kernel granted, bytes"),
        Field("backlog", "I", "minutes that are over and not on disk"),
        Field("radiod_flags", "I", "bit 0 radiod's AGC is on"),
        Field("state", "B", "0 starting 1 recording 2 silent 3 unanchored 4 blocked 5 stopped"),
        Field("anchor_source", "B", "0 none 1 radiod 2 ntp 3 wall_clock 4 wwv 5 wwvh 6 chu"),
        Field("encoding", "B", "radiod's number: 1 S16LE 2 S16BE 4 F32LE 6 F16LE 8 F32BE 9 F16BE"),
        Field("owned", "B", "1 = radiod's newest status says that this program created the channel"),
        Field("name", "64s", "channel name, UTF-8, NUL padded"),
        Field("reason", "120s", "one line why state is what it is"),
    )


class ChildState(IntEnum):
    """Supervision states, Supervisor's names (supervisord, states.py)."""

    STOPPED = 0
    STARTING = 1
    RUNNING = 2
    BACKOFF = 3
    STOPPING = 4
    FATAL = 5


class _ChildFields(NamedTuple):
    started_monotonic_ns: int = UNKNOWN_NS
    changed_monotonic_ns: int = UNKNOWN_NS
    heartbeat_monotonic_ns: int = UNKNOWN_NS
    restarts: int = 0
    pid: int = 0
    last_status: int = 0
    state: int = ChildState.STOPPED
    name: str = ""
    reason: str = ""
    trouble_monotonic_ns: int = UNKNOWN_NS
    paused_monotonic_ns: int = UNKNOWN_NS
    paused_s: float = math.nan
    window_s: float = math.nan
    cpu_pct_1m: float = math.nan
    packets_received_1m: int = 0
    packets_lost_1m: int = 0
    packets_reordered_1m: int = 0
    packets_bad_1m: int = 0
    socket_dropped_1m: int = 0
    bytes_written_1m: int = 0


class ChildRecord(_ChildFields, Record):
    """One process as the supervisor sees it."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout] = Layout(
        "child",
        Field("started_monotonic_ns", "q", "CLOCK_MONOTONIC of the fork, ns"),
        Field("changed_monotonic_ns", "q", "CLOCK_MONOTONIC of the last change of state, ns"),
        Field("heartbeat_monotonic_ns", "q", "CLOCK_MONOTONIC of this record, ns"),
        Field("restarts", "I", "times it was started again"),
        Field("pid", "I", "0 = not running"),
        Field("last_status", "i", "last wait status as os.waitstatus_to_exitcode gives it"),
        Field("state", "I", "0 stopped 1 starting 2 running 3 backoff 4 stopping 5 fatal"),
        Field("name", "64s", "supervisor, ntp, alerts or the channel's id"),
        Field("reason", "120s", "one line why state is what it is"),
        Field("trouble_monotonic_ns", "q", "CLOCK_MONOTONIC since when something is wrong with it, ns"),
        Field("paused_monotonic_ns", "q", "CLOCK_MONOTONIC when the supervisor last could not run for seconds, ns"),
        Field("paused_s", "d", "for how long that was, s"),
        Field(
            "window_s",
            "d",
            "what fields in _1m are about: so many seconds before this record, at most 60; NaN = none yet",
        ),
        Field("cpu_pct_1m", "d", "CPU time, percent of a core"),
        Field("packets_received_1m", "Q", "as in the channel's record, within the window"),
        Field("packets_lost_1m", "Q", "the same"),
        Field("packets_reordered_1m", "Q", "the same"),
        Field("packets_bad_1m", "Q", "the same"),
        Field("socket_dropped_1m", "Q", "the same"),
        Field("bytes_written_1m", "Q", "the same"),
    )


class _AlertsFields(NamedTuple):
    heartbeat_monotonic_ns: int = UNKNOWN_NS
    sent: int = 0
    given_up: int = 0
    open: int = 0
    waiting: int = 0
    reason: str = ""


class AlertsRecord(_AlertsFields, Record):
    """What the process that sends alerts says of itself, about once a second."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout] = Layout(
        "alerts",
        Field("heartbeat_monotonic_ns", "q", "CLOCK_MONOTONIC of this record, ns"),
        Field("sent", "Q", "messages that somebody took, since the process started"),
        Field("given_up", "Q", "messages that nobody took, after all tries"),
        Field("open", "I", "incidents that were told and are not over"),
        Field("waiting", "I", "messages that are still to go out"),
        Field("reason", "120s", "why the newest try failed; empty when it did not"),
    )


for _record in (NtpRecord, ChannelRecord, ChildRecord, AlertsRecord):
    assert list(_record._fields) == [f.name for f in _record.LAYOUT.fields], _record
