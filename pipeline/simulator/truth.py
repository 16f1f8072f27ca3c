"""What was really sent: a JSON-lines file that a checker can hold recordings against.

One object a line, written with a single write(2), so the file is complete up to the last event even
after SIGKILL; a reader ignores a last line without its newline. Every line has `kind`:

simulator   the run: seed, groups, programme, start_utc_ns, start_monotonic_ns
timeline    a stretch in which timestamp and UTC are tied: the fields of `Timeline`
packet      fate (dropped, duplicate, late, reordered), ssrc, timeline, seq, rtp, frames, utc_ns
mute        ssrc, timeline, rtp, frames: made but not sent, sequence numbers run on without a hole
zero        ssrc, timeline, rtp, frames: sent as zeros
encoding    ssrc, timeline, rtp, encoding: from this timestamp on
progress    ssrc, timeline, rtp_next, seq_next, frames, utc_ns: all before rtp_next has left or has a line;
            overdue_ns: so long after the planned instant packets left, at most, since the line before;
            pair_late_ns: so much later than its RTP_TIMESNAP was sampled is the GPS_TIME of the status just sent
late_status ssrc, rtp, late_ms: this status pair is late by so much
removed     ssrc, timeline, rtp_next, seq_next, overdue_ns, reason: nothing follows on this timeline
restart     utc_ns, silent_s
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.simulator.signal import CounterSource, Iq, Source, WwvSource
from pipeline.simulator.spec import TIMESTAMPS, SimulatorError


def frames_ns(frames: int, rate_hz: int, ppm: float) -> int:
    """How long `frames` frames take in ns, rounded down, on a sample clock wrong by `ppm` (to 1e-3 ppm)."""
    return frames * 10**18 // (rate_hz * (10**9 + round(ppm * 1000)))


@dataclass(frozen=True, slots=True)
class Timeline:
    """A stretch of one channel in which timestamps and UTC are tied by one straight line.

    Frame n (0, 1, ...) has timestamp (start_rtp + n) mod 2^32 and was sampled at
    start_utc_ns + n * 1e9 / (rate_hz * (1 + ppm * 1e-6)), true UTC. Mono channels carry I alone.
    """

    number: int
    ssrc: int
    name: str
    frequency_hz: float
    rate_hz: int
    ppm: float
    encoding: str
    channels: int
    programme: str
    seed: int
    counter_key: int
    start_rtp: int
    start_utc_ns: int
    first_seq: int
    source_port: int
    generation: int  # how often radiod was restarted before
    reason: str  # start, restart, created, rate_change, frontend_stall

    def utc_ns(self, frame: int) -> int:
        """True UTC of frame number `frame`, to the nanosecond."""
        return self.start_utc_ns + frames_ns(frame, self.rate_hz, self.ppm)

    def frame(self, rtp: int) -> int:
        """Frame number of timestamp `rtp`, in the 2^32 frames after the start."""
        return (rtp - self.start_rtp) % TIMESTAMPS

    def source(self) -> Source:
        """The programme as it was synthesised for this timeline."""
        if self.programme == "counter":
            return CounterSource(self.start_rtp, self.counter_key)
        chu = self.name.upper().startswith("CHU") or round(self.frequency_hz) in (3_330_000, 7_850_000, 14_670_000)
        return WwvSource(chu, self.frequency_hz, self.rate_hz, self.ppm, self.start_utc_ns, self.seed)


def expected_iq(timeline: Timeline, rtp: int, frames: int) -> Iq:
    """int16 IQ of `frames` frames from timestamp `rtp` on, shape (frames, 2), as sent had nothing gone wrong.

    Bit-exact for S16; F32 carries these values / 32768 exactly, F16 rounded.
    """
    return timeline.source().samples(timeline.frame(rtp), frames)


class TruthFile:
    """The writer; `note` is the only door. Without a path it writes nothing."""

    def __init__(self, path: Path | None) -> None:
        self._fd = -1
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise SimulatorError(f"truth file {path}: {error.strerror}") from error

    def note(self, kind: str, **facts: Any) -> None:
        """Append one line; it is in the file when this returns."""
        if self._fd >= 0:
            os.write(self._fd, (json.dumps({"kind": kind, **facts}) + "\n").encode())

    def timeline(self, timeline: Timeline) -> None:
        """Append a timeline line."""
        if self._fd >= 0:
            self.note("timeline", **asdict(timeline))

    def close(self) -> None:
        """Close the file; noting afterwards does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a truth file. Raises SimulatorError if one is not a JSON object with `kind`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SimulatorError(f"truth file {path}: {error.strerror}") from error
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            record["kind"]
        except (ValueError, TypeError, KeyError) as error:
            raise SimulatorError(f"truth file {path}: line {number} is no JSON object with a kind") from error
        yield record


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of frames of one timeline that a receiver cannot have as the programme says."""

    ssrc: int
    timeline: int
    rtp: int
    frames: int
    cause: str  # dropped, mute, zero


@dataclass(frozen=True, slots=True)
class Truth:
    """A truth file, read: what was sent and what was kept back."""

    header: dict[str, Any]
    timelines: tuple[Timeline, ...]
    events: tuple[dict[str, Any], ...]  # every other line, in order

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read `path`, also while or after it is written. Raises SimulatorError."""
        header: dict[str, Any] = {}
        timelines: list[Timeline] = []
        events: list[dict[str, Any]] = []
        names = {field.name for field in fields(Timeline)}
        for record in read_lines(path):
            if record["kind"] == "simulator":
                header = record
            elif record["kind"] == "timeline":
                timelines.append(Timeline(**{key: value for key, value in record.items() if key in names}))
            else:
                events.append(record)
        return cls(header, tuple(timelines), tuple(events))

    def of(self, ssrc: int) -> tuple[Timeline, ...]:
        """The timelines of one channel, in order."""
        return tuple(timeline for timeline in self.timelines if timeline.ssrc == ssrc)

    def rtp_next(self, timeline: int) -> int | None:
        """The timestamp up to which everything of this timeline has left or has a line; None if unknown."""
        ends = [
            event["rtp_next"]
            for event in self.events
            if event["kind"] in ("progress", "removed") and event["timeline"] == timeline
        ]
        return ends[-1] if ends else None

    def stretches(self, timeline: int) -> tuple[Stretch, ...]:
        """Frames that were not sent, or sent as zeros, in the order of events."""
        return tuple(
            Stretch(event["ssrc"], timeline, event["rtp"], event["frames"], event.get("fate", event["kind"]))
            for event in self.events
            if event.get("timeline") == timeline
            and (event["kind"] in ("mute", "zero") or event.get("fate") == "dropped")
        )
