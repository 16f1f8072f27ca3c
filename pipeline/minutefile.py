"""What a minute file says: every key, its kind and where its value comes from.

The first 27 keys are signal-recorder's; its analytics loader must read our files. So
`time_snap_*` is re-expressed per file (the pair is this file's own first sample, never
older than its minute) and uses that loader's words; `anchor_*` says what it really was.
Unknown is NaN, "" or -999; never an object array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import DISTRIBUTION, __version__
from pipeline.config import Channel, Station
from pipeline.npz import Array
from pipeline.records import NtpRecord
from pipeline.stream.minute import Minute, Segment
from pipeline.stream.rtp import S16_SCALE, is_s16, wrap32
from pipeline.stream.samples import Pairs, Samples
from pipeline.stream.timeline import SECOND
from pipeline.tonekeys import Tail, hear, position_of, tone_keys

FORMAT_VERSION = "1"
UNKNOWN = -999
ARCHIVES = "archives"
# A second part of a minute (another sample rate, or a minute that was written already) must
# stay out of `archives/`, where readers take every .npz for a channel's minute.
PARTS = "parts"


@dataclass(frozen=True, slots=True)
class HostEvidence:
    """One reading of the host's clocks against the stream: all for the same packet.

    `timestamp` is extended, of the sample after the packet; `rate_ppm` is the sample
    clock against the host's, positive = more samples than nominal, and `rate_sigma_ppm` its standard
    deviation; NaN = not yet known. `set_by_ns` is what the host's clock was set by since the recording began.
    """

    utc_ns: int = UNKNOWN
    monotonic_ns: int = UNKNOWN
    timestamp: int | None = None
    rate_ppm: float = math.nan
    rate_sigma_ppm: float = math.nan
    set_by_ns: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a file says beyond its samples."""

    station: Station
    channel: Channel
    session_id: str
    ntp: NtpRecord
    ntp_view: Mapping[str, Any]
    host: HostEvidence
    status_detail: Mapping[str, Any]
    storage: str
    created_s: float
    chain_delay_ns: int = 0


def stamp(utc_ns: int) -> str:
    """`YYYYMMDDTHHMMSSZ` of a UTC instant."""
    moment = str(np.datetime64(utc_ns // SECOND, "s"))
    return moment.replace("-", "").replace(":", "") + "Z"


def minute_path(data_dir: Path, channel: Channel, utc_ns: int) -> Path:
    """Where a channel's minute belongs."""
    return data_dir / ARCHIVES / channel.id / f"{stamp(utc_ns)}_{int(channel.frequency_hz)}_iq.npz"


def part_path(data_dir: Path, channel: Channel, utc_ns: int, rate_hz: int, number: int) -> Path:
    """Where a second part of a minute goes: its sample rate and a number are in the name."""
    name = f"{stamp(utc_ns)}_{int(channel.frequency_hz)}_{rate_hz}sps_{number}_iq.npz"
    return data_dir / PARTS / channel.id / name


def build(minute: Minute, context: Context, tail: Tail | None = None) -> dict[str, Array]:
    """All arrays of the file of one minute; `tail` is of the channel's minute before it, if there is one.

    Samples are decoded when they are read, and must be in the journal as long.
    """
    arrays: dict[str, Any] = {}
    iq = Samples(minute.runs, minute.samples)
    arrays.update(_samples(minute, context.storage, iq))
    arrays.update(_legacy(minute, context))
    tones = hear(minute, context.channel, iq, tail)
    label_ns = minute.anchor.utc_at(minute.first_timestamp) - minute.utc_ns
    arrays.update(tone_keys(tones, label_ns, position_of(context.station)))
    arrays.update(_timing(minute))
    arrays.update(_gaps(minute))
    arrays.update(_counts(minute))
    arrays.update(_clocks(minute, context))
    # JSON has no NaN: coordinates that were not stated are left out.
    station = {k: v for k, v in asdict(context.station).items() if not isinstance(v, float) or math.isfinite(v)}
    arrays["format_version"] = FORMAT_VERSION
    arrays["session_id"] = context.session_id
    arrays["station_json"] = json.dumps(station)
    arrays["radiod_status_json"] = json.dumps(dict(context.status_detail))
    return {name: _array(value) for name, value in arrays.items()}


def _array(value: Any) -> Array:
    """Integers are 64 bits wide also where the machine's own are not (32-bit Raspberry Pi OS)."""
    if isinstance(value, Samples):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    return np.asarray(value, np.int64 if whole else None)


def _samples(minute: Minute, storage: str, iq: Samples) -> dict[str, Any]:
    extra = np.asarray(Samples(minute.extra, minute.extra_samples))
    if storage == "int16" and all(is_s16(run.encoding) for run in minute.runs):
        return {"iq_int16": Pairs(minute.runs, minute.samples), "iq_scale": S16_SCALE, "iq_extra": extra}
    return {"iq": iq, "iq_extra": extra}


def _legacy(minute: Minute, context: Context) -> dict[str, Any]:
    sample0 = minute.anchor.utc_at(minute.first_timestamp)
    disciplined = bool(context.ntp_view["synced"])
    offset = context.ntp_view["offset_ms"]
    wall = math.nan
    if context.host.timestamp is not None:
        segment = _segment_of(minute, context.host.timestamp)
        index = segment.index + context.host.timestamp - segment.timestamp
        wall = context.host.utc_ns / 1e9 - index / minute.rate_hz
    return {
        "rtp_timestamp": wrap32(minute.first_timestamp),
        "rtp_ssrc": context.channel.ssrc,
        "sample_rate": minute.rate_hz,
        "time_snap_rtp": wrap32(minute.first_timestamp),
        "time_snap_utc": sample0 / 1e9,
        "time_snap_source": "ntp" if disciplined else "wall_clock",
        "time_snap_confidence": 0.7 if disciplined else 0.3,
        "time_snap_station": "NTP" if disciplined else "WALL_CLOCK",
        "frequency_hz": float(context.channel.frequency_hz),
        "channel_name": context.channel.name,
        "unix_timestamp": minute.utc_ns / 1e9,
        "ntp_wall_clock_time": wall,
        "ntp_offset_ms": math.nan if offset is None else float(offset),
        "gaps_filled": minute.gap_samples,
        "gaps_count": len(minute.gaps),
        "recorder_version": f"{DISTRIBUTION} {__version__}",
        "created_timestamp": context.created_s,
    }


def _timing(minute: Minute) -> dict[str, Any]:
    anchor = minute.anchor
    # The same straight line, at the first whole second since the anchor that lies in this file,
    # so that a reader's plain difference of timestamps never meets a wrap.
    ahead = -(-(minute.first_timestamp - anchor.timestamp) // minute.rate_hz) * minute.rate_hz
    at = anchor.timestamp + ahead
    if wrap32(at) < wrap32(minute.first_timestamp):
        at -= minute.rate_hz
    segments = minute.segments
    return {
        "sample0_utc_ns": anchor.utc_at(minute.first_timestamp),
        "anchor_rtp": wrap32(at),
        "anchor_utc_ns": anchor.utc_at(at),
        "anchor_source": anchor.source.name.lower(),
        "anchor_uncertainty_ns": anchor.uncertainty_ns,
        "anchor_age_s": max(0.0, (minute.utc_ns + 60 * SECOND - anchor.evidence_ns) / 1e9),
        "epoch_id": minute.epoch_id,
        "epoch_reason": minute.epoch_reason,
        "segment_sample_indices": np.array([s.index for s in segments], np.int64),
        "segment_samples": np.array([s.samples for s in segments], np.int64),
        "segment_rtp_timestamps": np.array([wrap32(s.timestamp) for s in segments], np.int64),
        "segment_epoch_ids": np.array([s.epoch_id for s in segments], np.int64),
        "segment_utc_ns": np.array([s.utc_ns for s in segments], np.int64),
    }


def _gaps(minute: Minute) -> dict[str, Any]:
    gaps = minute.gaps
    return {
        "gap_rtp_timestamps": np.array([wrap32(g.timestamp) for g in gaps], np.uint32),
        "gap_sample_indices": np.array([g.index for g in gaps], np.uint32),
        "gap_samples_filled": np.array([g.samples for g in gaps], np.uint32),
        "gap_packets_lost": np.array([g.packets_lost for g in gaps], np.uint32),
        "gap_cause": np.array([g.cause for g in gaps], np.str_),
    }


def _counts(minute: Minute) -> dict[str, Any]:
    valid = minute.samples - minute.gap_samples
    per_packet = minute.samples_per_packet
    return {
        "packets_received": minute.packets_received,
        "packets_expected": -(-minute.samples // per_packet) if per_packet else 0,
        "packets_lost": minute.packets_lost,
        "packets_late": minute.packets_late,
        "packets_duplicate": minute.packets_duplicate,
        "packets_reordered": minute.packets_reordered,
        "packets_bad": minute.packets_bad,
        "valid_samples": valid,
        "completeness_pct": 100.0 * valid / minute.samples,
    }


def _segment_of(minute: Minute, timestamp: int) -> Segment:
    """The timeline in the file that an extended timestamp is of, the last one in doubt."""
    slack = minute.samples_per_packet  # the newest packet may reach beyond the minute's end
    for segment in reversed(minute.segments):
        if 0 <= timestamp - segment.timestamp <= segment.samples + slack:
            return segment
    return minute.segments[-1]


def _label_ns(minute: Minute, timestamp: int) -> int:
    """UTC by the file's labels of an extended timestamp; never across two timelines."""
    segment = _segment_of(minute, timestamp)
    return segment.utc_ns + round((timestamp - segment.timestamp) * SECOND / minute.rate_hz)


def _clocks(minute: Minute, context: Context) -> dict[str, Any]:
    view, host = context.ntp_view, context.host

    def number(key: str) -> float:
        value = view[key]
        return math.nan if value is None else float(value)

    known = host.timestamp is not None
    residual = _label_ns(minute, host.timestamp) - host.utc_ns if host.timestamp is not None else UNKNOWN
    return {
        "ntp_valid": bool(view["valid"]),
        "ntp_synced": bool(view["synced"]),
        "ntp_uncertainty_ms": number("uncertainty_ms"),
        "ntp_jitter_ms": number("jitter_ms"),
        "ntp_age_s": number("age_s"),
        "ntp_source": view["source"] or "",
        "ntp_state": view["state"],
        "ntp_quality": view["quality"] or "",
        "ntp_stratum": context.ntp.stratum or UNKNOWN,
        "ntp_leap": context.ntp.leap,
        "host_utc_ns": host.utc_ns,
        "host_monotonic_ns": host.monotonic_ns,
        "host_rtp": wrap32(host.timestamp) if host.timestamp is not None else UNKNOWN,
        "chain_delay_ns": context.chain_delay_ns,
        "host_clock_set_by_ns": host.set_by_ns,
        "rtp_rate_ppm": host.rate_ppm,
        "rtp_rate_sigma_ppm": host.rate_sigma_ppm,
        "rtp_vs_host_ns": residual if known else UNKNOWN,
    }
