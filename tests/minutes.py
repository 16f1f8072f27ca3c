"""Minutes ready to be written, cut from synthetic streams without any socket, and files as others wrote them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Channel, Station
from pipeline.minutefile import Context, HostEvidence, build
from pipeline.records import NtpQuality, NtpRecord, NtpState
from pipeline.stream.cutter import Cut
from pipeline.stream.journal import geometry
from pipeline.stream.minute import Minute
from pipeline.stream.timeline import SECOND
from streams import SSRC, T0, Recording, Sent

# Small files: what is tested here does not depend on the rate.
RATE, FRAMES, PACKETS = 1_000, 100, 600
CHANNEL = Channel("WWV 10 MHz", 10_000_000.0, SSRC, RATE)
NTP = NtpRecord(
    published_monotonic_ns=5 * SECOND,
    monotonic_ns=2 * SECOND,
    utc_ns=T0,
    offset_ms=-0.25,
    uncertainty_ms=3.5,
    jitter_ms=0.125,
    truechimers=5,
    valid=1,
    synced=1,
    state=NtpState.SYNCED,
    quality=NtpQuality.STRICT,
    leap=0,
    stratum=2,
    source="servers:a",
)


def stream(**facts: Any) -> Sent:
    """A stream of small packets whose first sample is at a minute boundary."""
    return replace(Sent(T0, RATE, FRAMES), **facts)


def recording(rate_hz: int = RATE, **facts: Any) -> Recording:
    """A recorder with room for all that a test sends, so that no sample is overwritten before it is looked at."""
    return Recording(rate_hz=rate_hz, shape=geometry(rate_hz, 12), **facts)


def play(to: Recording, sent: Sent, numbers: Iterable[int], **how: Any) -> None:
    """Packets in the order given, with a status pair before each tenth."""
    for count, number in enumerate(numbers):
        if count % 10 == 0:
            sent.pair(to, number)
        sent.send(to, number, **how)


def cut_all(recorded: Recording, tail: str = "stop") -> list[Cut]:
    """Everything that was received, cut as at an orderly stop."""
    recorded.intake.flush_held()
    recorded.intake.scan()
    cuts = []
    while (due := recorded.cutter.due(0, recorded.host, flush=True)) is not None:
        cuts.append(recorded.cutter.cut(due, recorded.host, tail))
        recorded.cutter.done(cuts[-1])
    return cuts


def one_cut(numbers: Iterable[int] = range(PACKETS), **facts: Any) -> Cut:
    """The one minute of a stream of these packets."""
    recorded = recording()
    play(recorded, stream(**facts), numbers)
    [cut] = cut_all(recorded)
    return cut


def context(minute: Minute, channel: Channel = CHANNEL, ntp: NtpRecord = NTP, **facts: Any) -> Context:
    """What a worker knows beside the minute; `facts` replace fields."""
    host = HostEvidence(minute.last_arrival_ns, 77 * SECOND, minute.last_timestamp, 1.5)
    known = Context(
        Station(callsign="AC0G", grid="EM38", latitude=38.9),
        channel,
        "20261122T000000Z-abc",
        ntp,
        ntp.at(6 * SECOND, 30.0),
        host if minute.last_arrival_ns else HostEvidence(),
        {"description": "radiod under test", "gain": 20.0, "agc_enable": False},
        "complex64",
        (T0 + 63 * SECOND) / 1e9,
    )
    return replace(known, **facts)


def arrays_of(cut: Cut, number: int = 0, **facts: Any) -> dict[str, Any]:
    """The arrays of one minute's file."""
    built = build(cut.minutes[number], context(cut.minutes[number], **facts))
    return {name: np.asarray(value) for name, value in built.items()}


def ancestor(samples: int = 60_000, rate_hz: int = 1_000, **changes: Any) -> dict[str, Any]:
    """A file as signal-recorder's writer makes it: 27 keys, Python scalars through np.savez."""
    iq = np.full(samples, 0.5 + 0j, np.complex64)
    iq[100:200] = 0
    values = {
        "iq": iq,
        "rtp_timestamp": 4_295_928_897,
        "rtp_ssrc": 10_000_000,
        "sample_rate": rate_hz,
        "time_snap_rtp": 100_000,
        "time_snap_utc": T0 / 1e9 - 60.0,
        "time_snap_source": "wwv_startup",
        "time_snap_confidence": 0.8,
        "time_snap_station": "WWV",
        "tone_power_1000_hz_db": 12.5,
        "tone_power_1200_hz_db": -999.0,
        "wwvh_differential_delay_ms": 0.0,
        "frequency_hz": 10e6,
        "channel_name": "WWV 10 MHz",
        "unix_timestamp": T0 / 1e9,
        "ntp_wall_clock_time": T0 / 1e9 + 0.25,
        "ntp_offset_ms": 1.5,
        "gaps_filled": 100,
        "gaps_count": 1,
        "packets_received": 599,
        "packets_expected": 600,
        "recorder_version": "2.0.0-core-timesnap",
        "created_timestamp": T0 / 1e9 + 61.0,
        "gap_rtp_timestamps": np.array([5], np.uint32),
        "gap_sample_indices": np.array([100], np.uint32),
        "gap_samples_filled": np.array([100], np.uint32),
        "gap_packets_lost": np.array([1], np.uint32),
    }
    return {**values, **changes}
