"""How one channel is doing, as its worker says it: to the board and in the process title."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ka9q.types import StatusType

from pipeline.briefstatus import BriefStatus
from pipeline.config import Channel
from pipeline.minutefile import stamp
from pipeline.records import FLAG_AGC, UNKNOWN_NS, AnchorSource, ChannelRecord, ChannelState
from pipeline.stream.cutter import Cutter
from pipeline.stream.intake import Intake
from pipeline.stream.journal import Kind
from pipeline.stream.rtp import ENCODING_NUMBERS, bytes_per_frame, mean_power
from pipeline.stream.timeline import MINUTE, SECOND, HostClock
from pipeline.writer import Written

SILENT_AFTER_S = 2.0
LEVEL_FRAMES = 2000
LEVEL_RECORDS = 32
DATA = int(Kind.DATA)  # an IntEnum takes numpy ten times as long
# A minute is written in about 0.1 s.
SLOW_WRITE_S = 30.0
RADIOD_LOOK_NS = 10 * SECOND
OVERLOAD_FIELDS = (StatusType.AD_OVER, StatusType.SAMPLES_SINCE_OVER, StatusType.INPUT_SAMPRATE)
RADIOD_FIELDS = frozenset((StatusType.AGC_ENABLE, *OVERLOAD_FIELDS))


@dataclass(slots=True)
class RadiodWords:
    """What radiod's statuses say of its receiver; looked up now and then."""

    offset_ms: float = math.nan
    overload_age_s: float = math.nan
    flags: int = 0
    next_ns: int = 0

    def look(self, intake: Intake, heard_ns: int, now_ns: int, shift_ns: int) -> None:
        """Take the newest status, heard at `heard_ns` of CLOCK_MONOTONIC; one from long ago says nothing."""
        if now_ns < self.next_ns:
            return
        status, self.next_ns = intake.announcements.latest, now_ns + RADIOD_LOOK_NS
        if heard_ns == UNKNOWN_NS or now_ns - heard_ns > RADIOD_LOOK_NS or not isinstance(status, BriefStatus):
            self.offset_ms, self.overload_age_s, self.flags = math.nan, math.nan, 0
            self.next_ns = 0
            return
        said = status.integers(RADIOD_FIELDS)
        self.flags = FLAG_AGC if said.get(StatusType.AGC_ENABLE) else 0
        self.overload_age_s = overload_age_s(said)
        self.offset_ms = _radiod_offset_ms(intake, shift_ns)


def _radiod_offset_ms(intake: Intake, shift_ns: int) -> float:
    """radiod's clock - this host's by the newest status pair, less the time that it was on its way."""
    rows = intake.epoch.evidence.pairs.rows if intake.epoch is not None else []
    if not rows:
        return math.nan
    _, utc_ns, arrival_ns = rows[-1]
    # Where this host's clock was set, the pair's words may be of the same clock or of another host's: what is
    # wrong either way is wrong.
    return min((utc_ns - arrival_ns, utc_ns - arrival_ns - shift_ns), key=abs) / 1e6


def overload_age_s(said: Mapping[int, int]) -> float:
    """Since the A/D converter was last overloaded, by a status's fields; NaN = never."""
    count, since, rate = (said.get(kind) for kind in OVERLOAD_FIELDS)
    return since / rate if count and rate and since is not None else math.nan


@dataclass(slots=True)
class Progress:
    """What a worker has done; the parts that count over all of a channel's workers come from its predecessor."""

    started_ns: int
    written: int = 0
    dropped: int = 0
    last_minute_s: int = 0
    last_write_ns: int = UNKNOWN_NS
    last_packet_ns: int = UNKNOWN_NS
    last_status_ns: int = UNKNOWN_NS
    completeness_pct: float = math.nan
    write_ms: float = math.nan
    failure: OSError | None = None
    writing_s: float = 0.0
    socket_dropped: int = 0
    gaps: int = 0
    bytes: int = 0
    free_bytes: int = UNKNOWN_NS
    radiod: RadiodWords = field(default_factory=RadiodWords)
    pid: int = field(default_factory=os.getpid)

    @classmethod
    def after(cls, before: ChannelRecord, now_ns: int) -> Progress:
        """The progress of a worker that goes on after the one that wrote `before`."""
        return cls(
            now_ns,
            before.minutes_written,
            before.minutes_dropped,
            before.last_minute_utc_s,
            before.last_write_monotonic_ns,
            before.last_packet_monotonic_ns,
            completeness_pct=before.completeness_pct,
            socket_dropped=before.socket_dropped,
            gaps=before.gap_events,
            bytes=before.bytes_written,
            free_bytes=before.disk_free_bytes,
        )

    def record(self) -> ChannelRecord:
        """What of the channel's record is the worker's own doing, and what `after` takes up; the rest is unknown."""
        return ChannelRecord(
            started_monotonic_ns=self.started_ns,
            last_packet_monotonic_ns=self.last_packet_ns,
            last_status_monotonic_ns=self.last_status_ns,
            last_minute_utc_s=self.last_minute_s,
            last_write_monotonic_ns=self.last_write_ns,
            minutes_written=self.written,
            minutes_dropped=self.dropped,
            socket_dropped=self.socket_dropped,
            gap_events=self.gaps,
            bytes_written=self.bytes,
            disk_free_bytes=self.free_bytes,
            write_ms=self.write_ms,
            completeness_pct=self.completeness_pct,
            radiod_offset_ms=self.radiod.offset_ms,
            overload_age_s=self.radiod.overload_age_s,
            radiod_flags=self.radiod.flags,
            pid=self.pid,
        )

    def add_files(self, written: Written) -> None:
        """Count what is now on disk."""
        self.gaps += sum(len(minute.gaps) for minute in written.cut.minutes)
        self.bytes += written.bytes
        self.free_bytes = written.free_bytes

    def silent_ns(self, now_ns: int) -> int:
        """Time since the last packet was taken; 0 when there never was one."""
        return 0 if self.last_packet_ns == UNKNOWN_NS else max(0, now_ns - self.last_packet_ns)

    def title(self, channel_id: str, lost: int) -> str:
        """`WWV_10_MHz 14:03Z lost=0`."""
        when = "--:--"
        if self.last_minute_s:
            text = stamp(self.last_minute_s * SECOND)
            when = f"{text[9:11]}:{text[11:13]}"
        return f"{channel_id} {when}Z lost={lost}"


def describe(
    channel: Channel,
    intake: Intake,
    cutter: Cutter,
    progress: Progress,
    buffer_bytes: int,
    now_ns: int,
    host: HostClock,
    stopped: bool,
) -> ChannelRecord:
    """The channel's record at `now_ns` of CLOCK_MONOTONIC."""
    source, epoch = intake.source, intake.epoch
    anchor = cutter.anchor(epoch, host) if epoch is not None else None
    now_utc = cutter.now_utc(progress.silent_ns(now_ns), host)
    progress.radiod.look(intake, progress.last_status_ns, now_ns, host.shift_ns)
    state, reason = (ChannelState.STOPPED, "") if stopped else _state(channel, intake, progress, now_ns)
    return progress.record().replace(
        heartbeat_monotonic_ns=now_ns,
        packets_received=intake.received,
        packets_lost=source.lost,
        packets_late=intake.late,
        packets_duplicate=source.duplicates,
        packets_reordered=intake.reordered,
        packets_bad=source.bad,
        anchor_uncertainty_ns=anchor.uncertainty_ns if anchor else UNKNOWN_NS,
        frequency_hz=float(channel.frequency_hz),
        level_dbfs=_level_dbfs(intake, channel.encoding),
        minute_fill_pct=_fill_pct(intake, now_utc),
        oldest_wait_s=_oldest_wait_s(cutter, now_utc),
        ssrc=channel.ssrc,
        sample_rate_hz=epoch.rate_hz if epoch else channel.sample_rate_hz,
        epoch_id=epoch.id if epoch else 0,
        socket_buffer_bytes=buffer_bytes,
        backlog=_backlog(cutter, now_utc),
        state=state,
        anchor_source=anchor.source if anchor else AnchorSource.NONE,
        owned=int(isinstance(intake.announcements.latest, BriefStatus) and intake.announcements.latest.is_ours),
        encoding=ENCODING_NUMBERS.get(_encoding(intake, channel.encoding), 0),
        name=channel.name,
        reason=reason,
    )


def _state(channel: Channel, intake: Intake, progress: Progress, now_ns: int) -> tuple[ChannelState, str]:
    failure = progress.failure
    if failure is not None:
        what = "disk full" if failure.errno == errno.ENOSPC else failure.strerror or str(failure)
        return ChannelState.BLOCKED, f"minutes wait in memory: {what}"
    if progress.writing_s > SLOW_WRITE_S:
        return ChannelState.BLOCKED, f"minutes wait in memory: disk has not answered for {progress.writing_s:.0f} s"
    where = f"{channel.data_address} ssrc {channel.ssrc}"
    if intake.epoch is None:
        what = "only unusable datagrams" if intake.source.bad else "no packet yet"
        return ChannelState.STARTING, f"{what} from {where}"
    made = _encoding(intake, channel.encoding)
    if made not in ENCODING_NUMBERS:
        return ChannelState.SILENT, f"radiod sends {made}, which cannot be recorded: set preset and encoding in radiod"
    silent_s = progress.silent_ns(now_ns) / SECOND
    if silent_s > SILENT_AFTER_S:
        return ChannelState.SILENT, f"no packets for {silent_s:.0f} s from {where}"
    return ChannelState.RECORDING, ""


def _backlog(cutter: Cutter, now_utc: int | None) -> int:
    """Minutes that are over and not on disk."""
    cut = cutter.outstanding
    if cut is None or now_utc is None:
        return 0
    return max(1, (now_utc - cut.utc_ns) // MINUTE)


def _oldest_wait_s(cutter: Cutter, now_utc: int | None) -> float:
    cut = cutter.outstanding
    return math.nan if cut is None or now_utc is None else max(0, now_utc - cut.utc_ns - MINUTE) / SECOND


def _fill_pct(intake: Intake, now_utc: int | None) -> float:
    """Percent of the running minute that was received so far."""
    epoch, source = intake.epoch, intake.source
    if epoch is None or now_utc is None:
        return math.nan
    into = (now_utc % MINUTE) * epoch.rate_hz // SECOND
    begin = max(source.end - into, epoch.first_timestamp)
    missing = sum(max(0, min(h.end, source.end) - max(h.start, begin)) for h in source.holes if h.counted)
    return 100.0 * max(0, source.end - begin - missing) / (60 * epoch.rate_hz)


def _encoding(intake: Intake, default: str) -> str:
    epoch = intake.epoch
    return epoch.formats[-1][1] if epoch is not None and epoch.formats else default


def _level_dbfs(intake: Intake, default: str) -> float:
    """Mean power of the newest packet, dB relative to full scale; NaN when there is none to judge by."""
    journal, encoding = intake.journal, _encoding(intake, default)
    if encoding not in ENCODING_NUMBERS:
        return math.nan
    # Statuses are taken after the packets of a wake-up, and come last.
    last = journal.records(max(journal.first, journal.count - LEVEL_RECORDS))
    newest = next((row for row in reversed(last) if row["kind"] == DATA), None)
    if newest is None:
        return math.nan
    length = int(newest["length"])
    frames = min(length // bytes_per_frame(encoding), LEVEL_FRAMES)
    if not frames:
        return math.nan
    power = mean_power(journal.payload(int(newest["position"]), length), encoding, frames)
    return 10 * math.log10(power) if power > 0 and math.isfinite(power) else math.nan
