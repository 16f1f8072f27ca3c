"""The anchor of last resort: what minute tones give, and that they never choose a minute."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minutes import context
from pipeline import npz
from pipeline.config import Channel, Recorder, Station
from pipeline.records import AnchorSource
from pipeline.simulator.signal import WwvSource
from pipeline.stream.anchor import MINUTE, SECOND, Anchor
from pipeline.stream.cutter import Cut
from pipeline.stream.envelope import Fit
from pipeline.stream.evidence import HostClock, Proposal, next_anchor
from pipeline.stream.journal import geometry
from pipeline.stream.pulses import path_delay_s
from pipeline.stream.toneanchor import Onset, ToneWatch
from pipeline.writer import Writer
from streams import T0, Recording

RATE = 4_000
BOUND = 16_100_000_000
DELAY, DOUBT = 7_000_000, 3_000_000


def wall(off_ns: int = 0, bound_ns: int = BOUND, source: AnchorSource = AnchorSource.WALL_CLOCK) -> Anchor:
    """A label that is `off_ns` ahead of UTC; the sample with timestamp 0 is of T0."""
    return Anchor(0, T0 + off_ns, RATE, source, bound_ns, T0)


def onset(minute: int, ppm: float = 0.0, moved_ns: int = 0, station: str = "WWV", epoch: int = 1) -> Onset:
    """The tone that was sent `minute` minutes after T0, on a sample clock that runs `ppm` fast."""
    at_ns = minute * MINUTE + DELAY + moved_ns
    samples = at_ns * RATE / SECOND * (1 + ppm * 1e-6)
    whole = math.floor(samples)
    return Onset(epoch, RATE, station, whole, round((samples - whole) * SECOND / RATE), 200_000, DELAY, DOUBT)


def watch(*onsets: Onset) -> ToneWatch:
    """A watch that heard these."""
    found = ToneWatch()
    for one in onsets:
        found.add(one)
    return found


def host(off_ns: int = 0, source: AnchorSource = AnchorSource.WALL_CLOCK, bound_ns: int = BOUND) -> Proposal:
    """What the host's clock proposes that is `off_ns` ahead, five minutes after T0."""
    at = 5 * 60 * RATE
    line = Fit(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 600.0)
    return Proposal(source, RATE, at, T0 + 5 * MINUTE + off_ns, line, bound_ns, bound_ns, T0)


def error_ns(anchor: Anchor | Proposal, minute: float, ppm: float) -> float:
    """Label less UTC at so many minutes after T0."""
    at = round(minute * 60 * RATE * (1 + ppm * 1e-6))
    return anchor.utc_at(at) - T0 - at * SECOND / RATE / (1 + ppm * 1e-6)


@given(
    off_ns=st.integers(-16 * SECOND, 16 * SECOND),
    ppm=st.floats(-80, 80),
    moved=st.lists(st.integers(-200_000, 200_000), min_size=3, max_size=3),
    path_ns=st.integers(-DOUBT, DOUBT),
    aged=st.integers(1, 20),
)
@example(off_ns=0, ppm=0.0, moved=[200_000, 0, -200_000], path_ns=-DOUBT, aged=20)
def test_label_is_within_its_bound_and_of_the_right_minute(
    off_ns: int, ppm: float, moved: list[int], path_ns: int, aged: int
) -> None:
    heard = watch(*(onset(1 + n, ppm, path_ns + extra) for n, extra in enumerate(moved)))
    begin = 3 + aged
    found = heard.propose(1, wall(off_ns), round(begin * 60 * RATE * (1 + ppm * 1e-6)))
    assert found is not None
    assert found.source is AnchorSource.WWV
    for part in (0.0, 0.5, 1.0):
        at = round((begin + part) * 60 * RATE * (1 + ppm * 1e-6))
        assert abs(error_ns(found, begin + part, ppm)) <= found.uncertainty_at(at)
        assert aged > 3 or found.uncertainty_at(at) < 10_000_000


def test_nothing_but_three_minutes_in_a_row_that_agree() -> None:
    at = 5 * 60 * RATE
    assert watch(onset(1), onset(2), onset(3)).propose(1, wall(), at) is not None
    refused = {
        "two": (onset(1), onset(2)),
        "one missing": (onset(1), onset(2), onset(4)),
        "one elsewhere": (onset(1), onset(2, moved_ns=9_000_000), onset(3)),
        "one a little elsewhere": (onset(1), onset(2, moved_ns=4_000_000), onset(3)),
        "the last one elsewhere": (onset(1), onset(2), onset(3, moved_ns=-30_000_000)),
        "not a clock": (onset(1, 300.0), onset(2, 300.0), onset(3, 300.0)),
        "two stations": (onset(1), onset(2, station="WWVH"), onset(3)),
        "another timeline": (onset(1), onset(2), onset(3, epoch=2)),
        "hardly timed": tuple(replace(onset(n), uncertainty_ns=20_000_000) for n in (1, 2, 3)),
        "not a time signal": tuple(onset(n, station="BBC") for n in (1, 2, 3)),
        "the same twice": (onset(1), onset(2), onset(2)),
    }
    assert [why for why, heard in refused.items() if watch(*heard).propose(1, wall(), at) is not None] == []
    assert watch(onset(1), onset(2), onset(3)).propose(2, wall(), at) is None
    assert watch(onset(1), onset(2), onset(3, epoch=2)).propose(2, wall(), at) is None
    assert watch(onset(1), onset(2), onset(2), onset(3)).propose(1, wall(), at) is not None
    # What one minute said wrongly is over three minutes later.
    late = watch(onset(1, moved_ns=20_000_000), onset(2), onset(3), onset(4))
    assert late.propose(1, wall(), at) is not None


def test_old_tones_say_nothing() -> None:
    heard = watch(onset(1), onset(2), onset(3))
    assert heard.propose(1, wall(), 55 * 60 * RATE) is not None
    assert heard.propose(1, wall(), 70 * 60 * RATE) is None
    assert heard.propose(1, wall(), 1 * 60 * RATE) is None


@pytest.mark.parametrize("off_s", [16.2, 20.0, 29.9, 30.1, 40.0, 43.8, -16.2, -30.0, -43.8])
def test_tone_outside_the_bound_is_no_anchor(off_s: float) -> None:
    """The host's clock is said to be right within 16.1 s: the tone nearest to its minute is another one's."""
    heard = watch(onset(1), onset(2), onset(3))
    assert heard.propose(1, wall(round(off_s * SECOND)), 5 * 60 * RATE) is None


@pytest.mark.parametrize(
    ("off_s", "bound_s", "sole"),
    [(0.0, 59.0, True), (0.0, 60.1, False), (16.0, 43.9, True), (16.0, 44.1, False), (-29.0, 30.9, True),
     (-29.0, 31.1, False), (0.0, 3600.0, False)],
)  # fmt: skip
def test_bound_that_leaves_two_minutes_open_gives_no_anchor(off_s: float, bound_s: float, sole: bool) -> None:
    heard = watch(onset(1), onset(2), onset(3))
    current = wall(round(off_s * SECOND), round(bound_s * SECOND))
    assert (heard.propose(1, current, 5 * 60 * RATE) is not None) is sole


def test_line_is_that_of_least_squares() -> None:
    moved = (300_000, -150_000, 90_000)
    found = watch(*(onset(n, 12.0, extra) for n, extra in zip((1, 2, 3), moved, strict=True))).propose(
        1, wall(), 5 * 60 * RATE
    )
    assert found is not None
    slope, level = np.polyfit((1.0, 2.0, 3.0), moved, 1)
    for minute in (1.0, 3.0, 8.0):
        late = level + slope * minute
        assert error_ns(found, minute, 12.0) == pytest.approx(-late, abs=500)


def test_only_the_last_resort() -> None:
    heard = watch(onset(1), onset(2), onset(3))
    for source in (AnchorSource.RADIOD, AnchorSource.NTP):
        proposed = host(40_000_000, source, 80_000_000)
        assert heard.instead_of(proposed, 1, wall()) is proposed
    proposed = host(7 * SECOND)
    assert heard.instead_of(proposed, 1, wall(7 * SECOND)).source is AnchorSource.WWV
    assert ToneWatch().instead_of(proposed, 1, wall(7 * SECOND)) is proposed


def test_station_with_the_smaller_doubt_is_taken() -> None:
    near = [replace(onset(n, station="WWVH"), doubt_ns=2_000_000) for n in (1, 2, 3)]
    found = watch(onset(1), onset(2), onset(3), *near).propose(1, wall(), 5 * 60 * RATE)
    assert found is not None
    assert found.source is AnchorSource.WWVH


def test_host_clock_that_went_astray_does_not_move_the_minute() -> None:
    heard, at = watch(onset(1), onset(2), onset(3)), 5 * 60 * RATE
    held = heard.instead_of(host(7 * SECOND), 1, wall(7 * SECOND)).anchor(at)
    heard.add(onset(4))
    later = heard.instead_of(host(3600 * SECOND), 1, held)
    assert later.source is AnchorSource.WWV
    assert abs(error_ns(later, 6.5, 0.0)) <= later.uncertainty_at(at)


def test_samples_that_were_lost_uncounted_are_seen_by_the_tones() -> None:
    """The labels were right by NTP, which is gone since; then a fifth of a second of samples is missing."""
    lost = 200_000_000
    heard = watch(*(onset(n, moved_ns=-lost) for n in (1, 2, 3)))
    held, at = wall(0, 60_000_000, AnchorSource.NTP), 5 * 60 * RATE
    assert heard.propose(1, held, at) is None
    found = heard.instead_of(host(3 * SECOND), 1, held)
    assert found.source is AnchorSource.WWV
    assert abs(error_ns(found, 5.5, 0.0) - lost) <= found.uncertainty_at(at)


def test_ntp_and_radiod_take_over_from_tones() -> None:
    at = 5 * 60 * RATE
    tone = wall(0, 8_000_000, AnchorSource.WWV)
    for source in (AnchorSource.NTP, AnchorSource.RADIOD):
        assert next_anchor(tone, host(1_000, source, 50_000_000), at).source is source
    assert next_anchor(tone, host(1_000, AnchorSource.CHU, 7_000_000), at).source is AnchorSource.WWV
    assert next_anchor(wall(), host(1_000, AnchorSource.CHU, 7_000_000), at).source is AnchorSource.CHU


def test_watch_goes_on_after_a_crash() -> None:
    heard = watch(onset(1), onset(2), onset(3), *(onset(n, station="WWVH") for n in (2, 3)))
    again = ToneWatch()
    again.load_json(json.loads(json.dumps(heard.to_json())))
    at = 5 * 60 * RATE
    assert again.propose(1, wall(), at) == heard.propose(1, wall(), at)
    again.add(onset(4, station="WWVH"))
    assert again.to_json()[-1] == [1, RATE, "WWVH", *again.to_json()[-1][3:]]


# -- the whole way: samples to labels --

FRAMES = 400
DEADLINE_S = 60.0


class Listener:
    """A recorder without status and without NTP, on a host whose clock is `off_ns` ahead; files as they are cut."""

    def __init__(self, folder: Path, off_ns: int, chu: bool, station: Station) -> None:
        frequency = 7.85e6 if chu else 10e6
        self.channel = Channel("X", frequency, 10_000_000, RATE, stations=("CHU",) if chu else ("WWV", "WWVH"))
        self.start_ns = T0 - 25 * SECOND
        self.source = WwvSource(chu, frequency, RATE, 20.0, self.start_ns, 5)
        self.off_ns = off_ns
        self.station = station
        self.to = Recording(rate_hz=RATE, shape=geometry(RATE, 6), host=HostClock())
        self.writer = Writer(self.channel, Recorder(data_dir=folder, min_free_gb=0.0), lambda: None)
        self.written = 0
        self.files: list[dict[str, Any]] = []
        self.sent = 0

    def play(self, seconds: int) -> None:
        """So much more is received, and what is due is cut and written."""
        true_rate = RATE * (1 + 20e-6)
        for _ in range(seconds * RATE // FRAMES):
            payload = self.source.samples(self.sent, FRAMES).astype(">i2").tobytes()
            arrived = self.start_ns + round((self.sent + FRAMES) / true_rate * 1e9) + 20_000_000 + self.off_ns
            self.to.packet(self.sent // FRAMES, 77 + self.sent, payload, arrived)
            self.sent += FRAMES
            if self.sent % RATE == 0:
                self.to.advance()
                self.write()

    def write(self) -> None:
        """What the worker has its writer do with a minute, and what it keeps of that."""
        for minute, _, _ in self.to.minutes[self.written :]:
            self.written += 1
            cut = Cut([minute], minute.utc_ns, "unknown", 0, minute.epoch_id)
            self.writer.start(cut, [replace(context(minute, self.channel), station=self.station)])
            written = self.writer.poll(DEADLINE_S)
            assert written is not None
            assert written.error is None
            self.files.append(npz.read(written.paths[0]))
            for found in written.onsets:
                self.to.cutter.tones.add(found)

    def error_ns(self, arrays: dict[str, Any]) -> float:
        """A file's label less UTC."""
        samples = (int(arrays["rtp_timestamp"]) - 77 + (1 << 31)) % (1 << 32) - (1 << 31)
        first = samples / (RATE * (1 + 20e-6))
        return float(int(arrays["sample0_utc_ns"]) - self.start_ns - round(first * 1e9))


# The simulated station is everywhere at once; so is one that is next door.
BOULDER = Station(latitude=40.678, longitude=-105.047)
OTTAWA = Station(latitude=45.295, longitude=-75.758)


@pytest.mark.parametrize(
    ("off_s", "chu", "station"),
    [(7.3, False, BOULDER), (-13.9, False, Station()), (11.6, True, OTTAWA), (-0.4, True, OTTAWA)],
)
def test_labels_come_right_without_radiod_and_ntp(tmp_path: Path, off_s: float, chu: bool, station: Station) -> None:
    listener = Listener(tmp_path, round(off_s * SECOND), chu, station)
    listener.play(5 * 60 + 10)
    listener.to.save()
    listener.to.crash()
    listener.play(2 * 60)
    found = listener.files
    sources = [str(arrays["anchor_source"]) for arrays in found]
    name = "chu" if chu else "wwv"
    assert sources[0] == "wall_clock"
    assert sources[-2:] == [name, name], sources
    assert all(source in ("wall_clock", name) for source in sources)
    for arrays in found:
        assert abs(listener.error_ns(arrays)) <= int(arrays["anchor_uncertainty_ns"])
    last = found[-1]
    doubt = path_delay_s("CHU" if chu else "WWV", station.latitude, station.longitude)[1] * 1e9
    assert int(last["anchor_uncertainty_ns"]) < doubt + 5_000_000
    allowed = float(last["tone_residual_uncertainty_ms"]) + int(last["anchor_uncertainty_ns"]) / 1e6
    assert abs(float(last["tone_residual_ms"])) <= allowed
    # While the host's clock labelled, the tone said by how much it was wrong.
    heard = [a for a in found[1:] if str(a["anchor_source"]) == "wall_clock" and a["tone_detected"]]
    assert heard
    for arrays in heard:
        off = float(arrays["tone_residual_ms"]) - listener.error_ns(arrays) / 1e6
        assert abs(off) <= float(arrays["tone_residual_uncertainty_ms"])
