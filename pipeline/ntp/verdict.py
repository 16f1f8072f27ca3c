"""From what servers and daemons say to the record that everybody reads.

Here the sign turns: theta = UTC - host inside, `offset_ms` = host - UTC in the record.

`valid` means that the offset can be trusted within its uncertainty; `synced`, that it is
valid and |offset| + uncertainty stay within `synced_within_ms`. A host that is known to be
three seconds off is valid and not synced. Unknown is NaN, never zero.

A healthy local daemon is the source and the servers its witness. Silence is bridged by
carrying the last good result on, with an uncertainty that grows; contradiction is not: as
soon as servers disagree without a majority nothing is valid, because any of them may be
the one that was right before.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from pipeline.config import Ntp
from pipeline.ntp.peer import Drift
from pipeline.ntp.reading import Reading
from pipeline.ntp.wire import Instant
from pipeline.ntp.words import side
from pipeline.records import UNKNOWN_NS, NtpQuality, NtpRecord, NtpState

FLAG_DISAGREE = 1
FLAG_KERNEL_SYNCED = 2
STEP_NS = 1_000_000
LEAP_DAYS = ((6, 30), (12, 31))
LEAP_BEFORE_S = 5.0
LEAP_AFTER_S = 150.0
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Basis:
    """A trustworthy result, tied to CLOCK_MONOTONIC_RAW so that it can be carried on.

    It held at `raw_ns`; `measured_raw_ns` is when something was last heard.
    """

    utc_minus_raw_ns: int
    raw_ns: int
    measured_raw_ns: int
    bound_s: float
    jitter_s: float
    source: str
    stratum: int
    leap: int
    quality: NtpQuality = NtpQuality.NONE

    def theta_s(self, now: Instant, drift: Drift) -> float:
        """UTC - host at `now`, through all steps and slews of the host's clock."""
        return (self.utc_minus_raw_ns - now.base) / 1e9 + drift.frequency * self._since_s(now)

    def bound_at_s(self, now: Instant, drift: Drift) -> float:
        """The bound, grown by what the oscillator may have done since."""
        return self.bound_s + drift.tolerance * self._since_s(now)

    def age_s(self, now: Instant) -> float:
        """Since something was last heard."""
        return (now.raw - self.measured_raw_ns) / 1e9

    def _since_s(self, now: Instant) -> float:
        return max(now.raw - self.raw_ns, 0) / 1e9


@dataclass(frozen=True, slots=True)
class View:
    """All that a verdict is made of.

    `servers` is there when a majority of recently heard servers agrees, `daemon` when a
    local daemon is healthy; while they agree the daemon is published, or with
    `servers_first` the servers. `contradiction` when servers disagree without a majority.
    `kernel_leap` is what the kernel is going to do at midnight, `lack` says why there is
    no majority.
    """

    servers: Basis | None = None
    daemon: Basis | None = None
    contradiction: bool = False
    servers_first: bool = False
    starting: bool = False
    kernel_synchronised: bool = False
    kernel_leap: int = 0
    lack: str = ""
    drift: Drift = Drift()
    step_count: int = 0
    truechimers: int = 0
    falsetickers: int = 0


def basis_of_reading(reading: Reading) -> Basis:
    """A local daemon's reading; it counts as measured when the daemon answered."""
    return Basis(
        utc_minus_raw_ns=round(reading.theta_s * 1e9) + reading.at.base,
        raw_ns=reading.at.raw,
        measured_raw_ns=reading.at.raw,
        bound_s=reading.bound_s,
        jitter_s=reading.jitter_s,
        source=f"{reading.source}:{reading.reference}",
        stratum=reading.stratum,
        leap=reading.leap,
    )


def basis_of_record(record: NtpRecord, now: Instant) -> Basis | None:
    """The predecessor's last record, if it can be carried on: valid, undisputed, and no step since.

    The record does not hold the raw clock, but realtime - monotonic at its publication;
    where that has changed the host was stepped or suspended meanwhile.
    """
    if not record.valid or record.flags & FLAG_DISAGREE:
        return None
    if record.monotonic_ns == UNKNOWN_NS or not math.isfinite(record.offset_ms) or _disturbed(record, now):
        return None
    published_raw = now.raw - (now.monotonic - record.published_monotonic_ns)
    return Basis(
        utc_minus_raw_ns=now.base - round(record.offset_ms * 1e6),
        raw_ns=published_raw,
        measured_raw_ns=now.raw - (now.monotonic - record.monotonic_ns),
        bound_s=record.uncertainty_ms / 1e3,
        jitter_s=record.jitter_ms / 1e3,
        source=record.source,
        stratum=record.stratum,
        leap=record.leap,
        quality=NtpQuality(record.quality),
    )


def _disturbed(record: NtpRecord, now: Instant) -> bool:
    """Was the host's clock set, or the host suspended, since the record was published?"""
    return abs((record.utc_ns - record.monotonic_ns) - (now.realtime - now.monotonic)) > STEP_NS


def steps_so_far(record: NtpRecord, now: Instant) -> int:
    """The steps that the predecessor counted, and one more if the clock was set while nobody looked."""
    return record.step_count + (record.monotonic_ns != UNKNOWN_NS and _disturbed(record, now))


def carry_on(record: NtpRecord, now: Instant, holdover_s: float) -> tuple[int, int] | None:
    """What readers of a silent monitor's record still know at `now`: host - UTC and its bound, ns.

    The same that the monitor's successor is going to say, until it says it; None when the
    record cannot be carried on, or no longer.
    """
    basis = basis_of_record(record, now)
    if basis is None or basis.age_s(now) > holdover_s:
        return None
    return round(-basis.theta_s(now, Drift()) * 1e9), round(basis.bound_at_s(now, Drift()) * 1e9)


class Judge:
    """Makes records; remembers the last good result and an announced leap second.

    `leap_passed` turns true once when a leap second is over: every sample taken before it
    is off by a second and must be forgotten. `why` says what keeps the last record from
    being fresh and valid.
    """

    def __init__(self, config: Ntp, carried: Basis | None = None) -> None:
        self._tolerance_s = config.synced_within_ms / 1e3
        self._holdover_s = config.holdover_s
        self._last = carried
        self._measured_raw_ns = carried.measured_raw_ns if carried else None
        self._leap_utc: datetime.datetime | None = None
        self.leap_passed = False
        self.in_leap = False
        self.why = ""

    def forget(self) -> None:
        """The raw clock lost its meaning; how long ago something was measured is unknown."""
        self._last = self._measured_raw_ns = None

    def judge(self, now: Instant, view: View) -> NtpRecord:
        """The record of this moment."""
        # When it has just passed, what `view` is made of was measured before it.
        self.in_leap = self._in_leap_second(now, view) or self.leap_passed
        if self.in_leap:
            self.why = f"nothing is believed until {LEAP_AFTER_S:.0f} s after the leap second"
            return self._nothing(now, view, NtpState.UNSYNCED)
        fresh, disagree = _choose(now, view, self._tolerance_s)
        if fresh is not None:
            self._last = fresh
            self._measured_raw_ns = fresh.measured_raw_ns
            self._note_leap(now, fresh, view)
            record = self._record(now, view, fresh, NtpState.SYNCED, disagree)
            self.why = "" if record.synced else self._fault(now, view, disagree)
            return record
        self.why = view.lack
        if view.contradiction:
            self._last = None
        if self._last is not None and self._holds(now, self._last, view.drift):
            self.why += f"; the last good result is carried on, for {self._holdover_s:g} s at most"
            return self._record(now, view, self._last, NtpState.HOLDOVER, False)
        self._last = None
        if self._measured_raw_ns is not None:
            age_s = (now.raw - self._measured_raw_ns) / 1e9
            self.why += f"; the last good result is {age_s:.0f} s old and no longer believed"
        return self._nothing(now, view, NtpState.STARTING if view.starting else NtpState.UNSYNCED)

    def _fault(self, now: Instant, view: View, disagree: bool) -> str:
        """What keeps a fresh and valid result from being synchronised."""
        if disagree and view.daemon is not None:
            told = side(-view.daemon.theta_s(now, view.drift) * 1e3)
            return f"{view.daemon.source} says {told}, which the servers contradict"
        return f"offset and uncertainty together exceed {self._tolerance_s * 1e3:g} ms"

    def _holds(self, now: Instant, last: Basis, drift: Drift) -> bool:
        return last.age_s(now) <= self._holdover_s and last.bound_at_s(now, drift) <= self._tolerance_s

    def _record(self, now: Instant, view: View, basis: Basis, state: NtpState, disagree: bool) -> NtpRecord:
        theta_s, bound_s = basis.theta_s(now, view.drift), basis.bound_at_s(now, view.drift)
        synced = not disagree and abs(theta_s) + bound_s <= self._tolerance_s
        if state is NtpState.SYNCED and not synced:
            state = NtpState.UNSYNCED
        ago_ns = now.raw - basis.measured_raw_ns
        return NtpRecord(
            published_monotonic_ns=now.monotonic,
            monotonic_ns=now.monotonic - ago_ns,
            utc_ns=now.realtime - ago_ns,
            offset_ms=-theta_s * 1e3,
            uncertainty_ms=bound_s * 1e3,
            jitter_ms=basis.jitter_s * 1e3,
            step_count=view.step_count,
            truechimers=view.truechimers,
            falsetickers=view.falsetickers,
            valid=1,
            synced=int(synced),
            state=state,
            quality=basis.quality,
            leap=basis.leap,
            stratum=basis.stratum,
            flags=_flags(view, disagree),
            source=basis.source,
        )

    def _nothing(self, now: Instant, view: View, state: NtpState) -> NtpRecord:
        ago_ns = None if self._measured_raw_ns is None else now.raw - self._measured_raw_ns
        return NtpRecord(
            published_monotonic_ns=now.monotonic,
            monotonic_ns=UNKNOWN_NS if ago_ns is None else now.monotonic - ago_ns,
            utc_ns=UNKNOWN_NS if ago_ns is None else now.realtime - ago_ns,
            step_count=view.step_count,
            truechimers=view.truechimers,
            falsetickers=view.falsetickers,
            state=state,
            flags=_flags(view, False),
        )

    def _note_leap(self, now: Instant, basis: Basis, view: View) -> None:
        """Warnings are believed on the last day of June and December only (as in chrony), until taken back."""
        utc = _utc(now, basis.theta_s(now, view.drift))
        sources = [basis.leap, view.kernel_leap, view.servers.leap if view.servers else 0]
        announced = any(leap in (1, 2) for leap in sources) and (utc.month, utc.day) in LEAP_DAYS
        midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
        self._leap_utc = midnight + datetime.timedelta(days=1) if announced else None

    def _in_leap_second(self, now: Instant, view: View) -> bool:
        """Around the leap second hosts, servers and daemons disagree by up to a second, each in its own way."""
        if self._leap_utc is None:
            return False
        theta_s = self._last.theta_s(now, view.drift) if self._last else 0.0
        bound_s = self._last.bound_at_s(now, view.drift) if self._last else 0.0
        until_s = (self._leap_utc - _utc(now, theta_s)).total_seconds()
        if until_s > bound_s + LEAP_BEFORE_S:
            return False
        if until_s > -LEAP_AFTER_S:
            return True
        self._leap_utc = self._last = None
        self.leap_passed = True
        return False


def _choose(now: Instant, view: View, tolerance_s: float) -> tuple[Basis | None, bool]:
    """What to publish of what is fresh, and whether daemon and servers contradict each other."""
    if view.daemon is None or view.servers is None:
        return view.daemon or view.servers, False
    daemon_s, servers_s = (basis.bound_at_s(now, view.drift) for basis in (view.daemon, view.servers))
    gap_s = abs(view.daemon.theta_s(now, view.drift) - view.servers.theta_s(now, view.drift))
    if gap_s > daemon_s + servers_s:
        return view.servers, True
    # A chronyd that has just begun agrees with everybody to within seconds.
    vague = daemon_s > max(servers_s, tolerance_s)
    return view.servers if vague or view.servers_first else view.daemon, False


def _flags(view: View, disagree: bool) -> int:
    return FLAG_DISAGREE * disagree | FLAG_KERNEL_SYNCED * view.kernel_synchronised


def _utc(now: Instant, theta_s: float) -> datetime.datetime:
    return EPOCH + datetime.timedelta(microseconds=now.realtime // 1000, seconds=theta_s)
