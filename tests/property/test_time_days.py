"""Four hundred days of one channel: labels at every wrap of the RTP timestamp, and no name twice.

A minute of every half day is received, the rest is mute, so that all wraps are seen in seconds. The ancestors'
labels jumped back after 2^31 samples, 37.28 h at 16 kHz, and wrote over files from twice that on.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Channel
from pipeline.minutefile import minute_path
from pipeline.stream.timeline import SECOND, HostClock
from streams import ORIGIN, T0, FakeStatus, Recording

RATE = 16_000
DAYS = 400
PPM = 0.4
APART_S = 44_747  # a bit more than a sixth of a wrap, so that every phase of it comes
BURST_S = 64
START_RTP = (1 << 32) - 320
CHANNEL = Channel("WWV 10 MHz", 10e6, 10_000_000)


def true_ns(frame: int) -> int:
    """When a frame was sampled."""
    return T0 + frame * SECOND // RATE - round(frame * PPM * 1e3 / RATE)


def test_labels_and_names_of_four_hundred_days() -> None:
    to = Recording(RATE, host=HostClock(0, 1_000_000))
    seconds = [
        at for begin in range(0, DAYS * 86_400, APART_S) for at in range(begin, min(begin + BURST_S, DAYS * 86_400))
    ]
    wraps, minutes = set(), []
    for number, second in enumerate(seconds):
        frame = second * RATE
        sent = true_ns(frame + RATE) + 1_000_000 + second * 7919 % 9_000 * 1_000
        to.packet_of(number, START_RTP + frame, 4 * RATE, sent, ORIGIN[1], marker=second % APART_S == 0)
        to.said(FakeStatus(sent, (START_RTP + frame + RATE) & 0xFFFFFFFF, RATE, "S16BE"), sent + 50_000, 0)
        wraps.add((START_RTP + frame) >> 32)
        if second % APART_S == BURST_S - 1:
            minutes += to.cut_labels(silent_ns=90 * SECOND)
    minutes += to.cut_labels(flush=True)
    assert len(wraps) >= DAYS * 86_400 * RATE >> 32
    assert to.intake.next_epoch == 2, "all of it is one timeline"
    names = [minute_path(Path("/data"), CHANNEL, minute.utc_ns) for minute in minutes]
    assert len(names) == len(set(names)) >= 2 * DAYS * 86_400 // APART_S
    for minute in minutes:
        segment = minute.segments[0]
        frame = (segment.timestamp - START_RTP) % (1 << 32)
        # Which wrap it was, the label itself must say.
        frame += round((segment.utc_ns - true_ns(frame)) * RATE / SECOND / (1 << 32)) << 32
        assert abs(segment.utc_ns - true_ns(frame)) <= minute.anchor.uncertainty_ns < 60_000_000
