"""All that is wrong with an instance, in words: its processes, clock, radiod, channels, disk. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pipeline.capacity import mb_per_day
from pipeline.ntp.report import parse_diagnostics
from pipeline.ntp.verdict import FLAG_DISAGREE
from pipeline.records import UNKNOWN_NS, ChannelState, ChildState
from pipeline.supervision.causes import FINE, Cause, Level, Snapshot, age_s, channel_cause, duration_text, process_cause

# The supervisor writes its record every second.
SUPERVISOR_STALE_S = 10.0
# An overload further back is history.
OVERLOAD_S = 60.0
CLOCK_WARN_MS = 1000.0
# What the supervisor could not run for is told so long.
PAUSE_NEWS_S = 3600.0
# Room has to grow by a quarter before the disk no longer counts as low.
DISK_HYSTERESIS = 1.25
# Where old days are removed the disk stays as full as it is, so only its last half day is news.
RETENTION_DAYS = 0.5
# Files that say what a channel's minute takes; before, and without compression's help, it is estimated.
FEWEST_FILES = 3
ALERTS_STALE_S = 30.0
# A trouble that is younger needs no age.
SINCE_S = 10.0
_SAYS_WHEN = re.compile(r"\bfor \d|\bago\b|\bwithin\b")


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict on an instance, with a line per cause, the worst first."""

    level: Level
    causes: tuple[str, ...]


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


def radiod_cause(s: Snapshot) -> Cause:
    """What radiod's statuses say of its receiver and its clock, which all channels share."""
    ages = [row.record.overload_age_s for row in s.rows if not math.isnan(row.record.overload_age_s)]
    if ages and min(ages) < OVERLOAD_S:
        return Level.WARN, f"the receiver's A/D converter was overloaded {min(ages):.0f} s ago"
    offsets = [row.record.radiod_offset_ms for row in s.rows if not math.isnan(row.record.radiod_offset_ms)]
    # A status may be late for many reasons, early for none.
    offset_ms = max(offsets, default=0.0)
    if abs(offset_ms) > CLOCK_WARN_MS:
        side = "ahead of" if offset_ms > 0 else "behind"
        return Level.WARN, f"its clock is {abs(offset_ms) / 1e3:.3f} s {side} this host's"
    return FINE


def alerts_cause(s: Snapshot) -> Cause:
    """Would anybody be told?"""
    if not s.alerts.name:
        return FINE
    level, text = process_cause(s.alerts, s.now_ns)
    if level is not Level.OK:
        return Level.WARN, text  # it records nothing
    report = s.alerts_report
    age = age_s(report.heartbeat_monotonic_ns, s.now_ns)
    if age is not None and age > ALERTS_STALE_S:
        return Level.WARN, f"no sign of life for {duration_text(age)}"
    if report.reason:
        return Level.WARN, f"not sent ({report.reason}), {report.waiting} waiting"
    return FINE


def gb_per_day(s: Snapshot) -> float:
    """What the instance writes in a day, GB: by its own files' mean size, before there are some by estimate."""
    sizes = {
        row.child.name: row.record.bytes_written / row.record.minutes_written * 1440 / 1e6
        for row in s.rows
        if row.record.minutes_written >= FEWEST_FILES and row.record.bytes_written
    }
    channels = s.config.enabled_channels
    return sum(sizes.get(c.id) or mb_per_day(c, s.config.recorder.storage) for c in channels) / 1e3


def disk_text(s: Snapshot, free_gb: float, was_low: bool = False) -> str:
    """What is to be said of the disk with so much room; "" when that is enough."""
    config, rate = s.config, gb_per_day(s)
    if not rate:
        return ""
    days = max(0.0, free_gb - config.recorder.min_free_gb) / rate
    wanted = config.alerts.disk_days
    if config.recorder.retention_days:
        wanted = min(wanted, RETENTION_DAYS)
    if days >= wanted * (DISK_HYSTERESIS if was_low else 1.0):
        return ""
    lasts = duration_text(days * 86_400)
    return f"{free_gb:.1f} GB free on {config.recorder.data_dir}, room for {lasts} at {rate:.1f} GB a day"


def disk_cause(s: Snapshot) -> Cause:
    """How long is there room, as of the newest file?"""
    known = [row.record for row in s.rows if row.record.disk_free_bytes != UNKNOWN_NS]
    # What the newest file said is out of date when no more can be written.
    if not known or any(row.record.state == ChannelState.BLOCKED for row in s.rows):
        return FINE
    newest = max(known, key=lambda r: r.last_write_monotonic_ns)
    text = disk_text(s, newest.disk_free_bytes / 1e9)
    return (Level.WARN, text) if text else FINE


def pause_text(s: Snapshot) -> str:
    """When the supervisor last could not run, if that is news."""
    age = age_s(s.supervisor.paused_monotonic_ns, s.now_ns)
    if age is None or age > PAUSE_NEWS_S:
        return ""
    return f"could not run for {s.supervisor.paused_s:.1f} s, {duration_text(age)} ago"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One cause that is not OK: `who` is "" for the supervisor; `since_ns` where the supervisor has noted it."""

    level: Level
    who: str
    text: str
    since_ns: int = UNKNOWN_NS

    def told(self, now_ns: int) -> str:
        """One line; how long it lasts is added where the text does not say it."""
        line = f"{self.who}: {self.text}" if self.who else self.text
        age = age_s(self.since_ns, now_ns)
        if age is None or age < SINCE_S or _SAYS_WHEN.search(self.text):
            return line
        return f"{line} (for {duration_text(age)})"


def troubles(s: Snapshot) -> list[Trouble]:
    """All that is not OK, in the order of the signal's way."""
    level, text = supervisor_cause(s)
    found = [Trouble(level, "", text)]
    # Without a supervisor the children's records are of the past.
    if level is not Level.CRIT:
        found.append(Trouble(*_named(ntp_cause(s), "ntp"), s.monitor.trouble_monotonic_ns))
        found.append(Trouble(*_named(radiod_cause(s), "radiod")))
        for row in s.rows:
            name = row.child.name
            found.append(Trouble(*_named(channel_cause(row, s), name), row.child.trouble_monotonic_ns))
        found.append(Trouble(*_named(disk_cause(s), "disk")))
        found.append(Trouble(*_named(alerts_cause(s), "alerts"), s.alerts.trouble_monotonic_ns))
    return [each for each in found if each.level is not Level.OK]


def _named(cause: Cause, who: str) -> tuple[Level, str, str]:
    return cause[0], who, cause[1]


def health(s: Snapshot) -> Health:
    """The worst of all causes, and every cause that is not OK as `name: cause`."""
    found = [(each.level, each.told(s.now_ns)) for each in troubles(s)]
    bad = sorted(found, key=lambda each: -each[0])
    return Health(max((each[0] for each in bad), default=Level.OK), tuple(each[1] for each in bad))
