"""Streams whose true time is known: sample clocks, host clocks, radiods and NTP that err, and what labels come of it.

No sample is decoded: packets of half a second and status pairs with synthetic stamps go through the same pure code
as a worker's, and the labels of the minutes that come out are held against the times that went in. All
times are ns; true time is UTC (before a leap second, and after it UTC as it goes on to be counted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.records import AnchorSource
from pipeline.stream.evidence import HostClock
from pipeline.stream.journal import FLAG_UNTIMED, geometry
from pipeline.stream.minute import Minute
from pipeline.stream.timeline import MINUTE, SECOND
from streams import ORIGIN, T0, FakeStatus, Recording

MS = 1_000_000
PACKETS_PER_S = 2
Times = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Lateness:
    """How much later than its last sample a packet and its status leave radiod.

    `measured` is what pairs of a real radiod on a busy machine show: evenly 0 to 9 ms, one in fifty up to
    hundreds (captures of `restart`, `one` and `late-first-status`; tests/unit/test_time_world.py compares).
    """

    spread_ms: float = 9.0
    floor_ms: float = 0.0
    stalls: float = 0.02
    stall_ms: float = 30.0

    def draw(self, rng: np.random.Generator, count: int) -> Times:
        """Lateness of `count` packets, ns."""
        late = self.floor_ms + rng.uniform(0, self.spread_ms, count)
        stalled = rng.random(count) < self.stalls
        late[stalled] += rng.exponential(self.stall_ms, int(stalled.sum()))
        return np.round(late * MS).astype(np.int64)


@dataclass(frozen=True)
class Host:
    """The recording host's clock and what NTP knows of it.

    `steps` are (after s, by ms): the clock is set. `ntp_ms` is NTP's bound, of which its error is a third at most;
    `ntp_out` are stretches (from s, to s) in which it knows nothing.
    """

    offset_ms: float = 0.0
    ppm: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()
    ntp_ms: float | None = 1.0
    ntp_out: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Timeline:
    """One epoch: its sample clock and how its radiod sends.

    `drift_ppm_per_h` is added to `ppm` hour by hour; `lost` are (after s, samples) that the A/D dropped unseen;
    `mutes` (from s, to s) during which nothing is sent; `catch_up` every so many statuses one tells a timestamp
    3 s old. `remote_ms` and `remote_steps` are of radiod's own clock when it runs on another host.
    """

    minutes: float
    rate_hz: int = 16_000
    ppm: float = 0.0
    drift_ppm_per_h: float = 0.0
    lost: tuple[tuple[float, int], ...] = ()
    mutes: tuple[tuple[float, float], ...] = ()
    statuses: tuple[tuple[float, float], ...] = ((0.0, 1e12),)
    late: Lateness = Lateness()
    late_between: tuple[tuple[float, float, float], ...] = ()
    torn: float = 0.0
    catch_up: float = 0.0
    first_rtp: int = (1 << 32) - 320
    pause_s: float = 7.0
    port: int = ORIGIN[1]
    remote_ms: float | None = None
    remote_steps: tuple[tuple[float, float], ...] = ()
    network: Lateness = Lateness(0.05, 0.01, 0.01, 1.0)


@dataclass(frozen=True)
class Scenario:
    """What happens, told in one line, and for how long."""

    name: str
    timelines: tuple[Timeline, ...]
    host: Host = Host()
    begin_s: float = 23.4
    loss: float = 0.0
    chain_delay_ns: int = 0
    leap_after_s: float | None = None


@dataclass
class Label:
    """One file's label: error at both ends of each of its timelines, its bound, and the source."""

    error_ns: int
    first_error_ns: int
    bound_ns: int
    source: AnchorSource
    rate_hz: int
    whole_minute_wrong: bool


@dataclass
class Run:
    """A scenario that was played: its labels, and how often the anchor moved."""

    scenario: Scenario
    labels: list[Label] = field(default_factory=list)
    moves: int = 0


class _Epoch:
    """The packets of one timeline: extended timestamps, frames, true times of their first and last samples."""

    def __init__(self, timeline: Timeline, begin_ns: int, rng: np.random.Generator) -> None:
        count = round(timeline.minutes * 60 * PACKETS_PER_S)
        self.frames = timeline.rate_hz // PACKETS_PER_S
        hours = np.arange(count) / PACKETS_PER_S / 3600
        ppm = timeline.ppm + timeline.drift_ppm_per_h * hours
        lengths = np.round(SECOND / PACKETS_PER_S / (1 + ppm * 1e-6)).astype(np.int64)
        seconds = np.arange(count) / PACKETS_PER_S
        for after, samples in timeline.lost:
            lengths[int(after * PACKETS_PER_S)] += samples * SECOND // timeline.rate_hz
        self.ends = begin_ns + np.cumsum(lengths)
        self.begins = np.concatenate(([begin_ns], self.ends[:-1]))
        self.timestamps = timeline.first_rtp + np.arange(count, dtype=np.int64) * self.frames
        late = timeline.late.draw(rng, count)
        for begin, end, by_ms in timeline.late_between:
            late[(seconds >= begin) & (seconds < end)] += round(by_ms * MS)
        self.sent = np.maximum.accumulate(self.ends + late)
        self.sends = np.ones(count, bool)
        for begin, end in timeline.mutes:
            self.sends[(seconds >= begin) & (seconds < end)] = False
        self.tells = self.sends & np.any([(seconds >= a) & (seconds < b) for a, b in timeline.statuses], axis=0)
        self.torn = rng.random(count) < timeline.torn
        self.catches_up = rng.random(count) < timeline.catch_up

    def true_ns(self, timestamp: int) -> int:
        """When a sample was taken."""
        n = min(len(self.timestamps) - 1, max(0, int(np.searchsorted(self.timestamps, timestamp, "right")) - 1))
        length = int(self.ends[n] - self.begins[n])
        return int(self.begins[n]) + (timestamp - int(self.timestamps[n])) * length // self.frames


class _Clock:
    """A clock that errs: `at` true time it shows this."""

    def __init__(self, begin_ns: int, offset_ms: float, ppm: float, steps: Sequence[tuple[float, float]]) -> None:
        self._begin, self._offset, self._ppm = begin_ns, round(offset_ms * MS), ppm
        self._steps = [(begin_ns + round(after * SECOND), round(by * MS)) for after, by in steps]

    def set_by(self, true_ns: int) -> int:
        return sum(by for at, by in self._steps if at <= true_ns)

    def unset(self, true_ns: int) -> int:
        """What it would show had it never been set."""
        return true_ns + self._offset + round((true_ns - self._begin) * self._ppm * 1e-6)

    def at(self, true_ns: int) -> int:
        return self.unset(true_ns) + self.set_by(true_ns)


class _Play:
    """One scenario through one recorder."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.scenario = scenario
        self.begin = T0 + round(scenario.begin_s * SECOND)
        host = scenario.host
        steps = host.steps
        if scenario.leap_after_s is not None:
            steps = (*steps, (scenario.leap_after_s, -1000.0))
        self.host = _Clock(self.begin, host.offset_ms, host.ppm, steps)
        rate = max(t.rate_hz for t in scenario.timelines)
        self.to = Recording(scenario.timelines[0].rate_hz, shape=geometry(rate, 4))
        # Not silence, which would be looked at again.
        self.to.journal.heap[:] = b"\x01" * len(self.to.journal.heap)
        settings = replace(self.to.intake.settings, chain_delay_ns=scenario.chain_delay_ns)
        self.to.intake.settings = settings
        self.epochs: list[_Epoch] = []
        self.minutes: list[Minute] = []
        self._ntp_error = self.rng.uniform(-1 / 3, 1 / 3, 1 + round(sum(t.minutes for t in scenario.timelines) * 6.5))
        self._shift = 0

    def utc(self, true_ns: int) -> int:
        """UTC as it is counted: after a leap second one second less went by."""
        leap = self.scenario.leap_after_s
        return true_ns - (SECOND if leap is not None and true_ns >= self.begin + round(leap * SECOND) else 0)

    def leaps(self, true_ns: int) -> set[int]:
        """What UTC is counted less than true time, a millisecond before and after."""
        return {at - self.utc(at) for at in (true_ns - MS, true_ns + MS)}

    def known(self, true_ns: int) -> HostClock:
        """What NTP knows of the recorder's clock."""
        host, after = self.scenario.host, (true_ns - self.begin) / SECOND
        shift = self.host.set_by(true_ns)
        if host.ntp_ms is None or any(a <= after < b for a, b in host.ntp_out):
            return HostClock(shift_ns=shift)
        error = round(self._ntp_error[min(len(self._ntp_error) - 1, int(after / 10))] * host.ntp_ms * MS)
        return HostClock(self.host.unset(true_ns) - self.utc(true_ns) + error, round(host.ntp_ms * MS), shift)

    def run(self) -> None:
        at = self.begin
        for timeline in self.scenario.timelines:
            at += round(timeline.pause_s * SECOND) if self.epochs else 0
            epoch = _Epoch(timeline, at, self.rng)
            self.epochs.append(epoch)
            for n in range(len(epoch.ends)):
                if epoch.sends[n]:
                    self._packet(timeline, epoch, n)
            at = int(epoch.ends[-1])
        self._cut(int(self.epochs[-1].sent[-1]) + SECOND, flush=True)

    def _packet(self, timeline: Timeline, epoch: _Epoch, n: int) -> None:
        to, sent = self.to, int(epoch.sent[n])
        shift = self.host.set_by(sent)
        to.intake.untimed = 0 if shift == self._shift else FLAG_UNTIMED
        self._shift = shift
        delay = int(timeline.network.draw(self.rng, 1)[0])
        if self.rng.random() >= self.scenario.loss:
            to.packet_of(n, int(epoch.timestamps[n]), 4 * epoch.frames, self.host.unset(sent + delay), timeline.port)
        if epoch.tells[n]:
            self._status(timeline, epoch, n, sent, delay)
        if n % (5 * PACKETS_PER_S) == 0:
            self._cut(sent + delay)

    def _status(self, timeline: Timeline, epoch: _Epoch, n: int, sent: int, delay: int) -> None:
        snap = int(epoch.timestamps[n]) + epoch.frames
        if epoch.torn[n]:
            snap += 3 * timeline.rate_hz // 10
        elif epoch.catches_up[n]:
            snap -= 3 * timeline.rate_hz
        shift = self.host.set_by(sent)
        gps, said = self.host.at(sent), shift
        if timeline.remote_ms is not None:
            remote = _Clock(self.begin, timeline.remote_ms, 0.0, timeline.remote_steps)
            gps, said = remote.at(sent), 0
        status = FakeStatus(gps, snap & 0xFFFFFFFF, timeline.rate_hz, "S16BE")
        self.to.said(status, self.host.unset(sent + delay + 50_000), said)

    def _cut(self, now: int, flush: bool = False) -> None:
        self.to.host = self.known(now)
        self.minutes += self.to.cut_labels(flush)


def _labels(play: _Play) -> Iterator[Label]:
    numbers = sorted({s.epoch_id for m in play.minutes for s in m.segments})
    epochs = dict(zip(numbers, play.epochs, strict=True))
    for minute in play.minutes:
        errors = []
        for segment in minute.segments:
            epoch = epochs[segment.epoch_id]
            shift = (segment.timestamp - int(epoch.timestamps[0]) + (1 << 31)) // (1 << 32) * (1 << 32)
            for index in (0, segment.samples):
                true = epoch.true_ns(segment.timestamp - shift + index) - play.scenario.chain_delay_ns
                label = segment.utc_ns + index * SECOND // minute.rate_hz
                # A sample at a leap second may be on either side of it.
                errors.append(min((label - true + true_off for true_off in play.leaps(true)), key=abs))
        true_minute = play.utc(epochs[minute.segments[0].epoch_id].true_ns(minute.segments[0].timestamp - shift))
        apart = abs(true_minute - minute.utc_ns - minute.segments[0].index * SECOND // minute.rate_hz)
        yield Label(
            max(errors, key=abs), errors[0], minute.anchor.uncertainty_ns, minute.anchor.source, minute.rate_hz,
            apart > MINUTE // 2,
        )  # fmt: skip


def play(scenario: Scenario, seed: int = 1) -> Run:
    """Play a scenario and judge every label of it."""
    playing = _Play(scenario, seed)
    playing.run()
    anchors = [(m.epoch_id, m.anchor.timestamp, m.anchor.utc_ns) for m in playing.minutes]
    moves = sum(a[0] == b[0] and a != b for a, b in zip(anchors, anchors[1:], strict=False))
    return Run(scenario, list(_labels(playing)), moves)
