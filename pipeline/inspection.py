"""What a minute file says of itself, as facts (for JSON) and as lines (for people).

Pure: a file's loaded keys in, text out. Files of ours and of signal-recorder, whose 27
keys are the first part of ours, go the same way; what a file does not say is left out of
the lines and named at their end. `check` comes first: behind it every key that is used
has the kind that it should have.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from pipeline import PipelineError

Values = Mapping[str, Any]

UNKNOWN = -999
SECOND = 1_000_000_000
# Gaps shown when not all are asked for: the first ones and the last ones.
SHOWN_FIRST, SHOWN_LAST = 15, 5
SAMPLE_KEYS = ("iq", "iq_int16", "iq_extra")
FULL_SCALE = 32767 / 32768

# Keys that every reader of signal-recorder's files needs, and those that it can do without.
ANCESTOR_REQUIRED = {
    "iq": "samples", "rtp_timestamp": "int", "rtp_ssrc": "int", "sample_rate": "int", "frequency_hz": "float",
    "channel_name": "str", "unix_timestamp": "float", "gaps_filled": "int", "gaps_count": "int",
    "packets_received": "int", "packets_expected": "int", "recorder_version": "str", "created_timestamp": "float",
    "gap_rtp_timestamps": "ints", "gap_sample_indices": "ints", "gap_samples_filled": "ints",
    "gap_packets_lost": "ints",
}  # fmt: skip
ANCESTOR_OPTIONAL = {
    "time_snap_rtp": "int", "time_snap_utc": "float", "time_snap_source": "str", "time_snap_confidence": "float",
    "time_snap_station": "str", "tone_power_1000_hz_db": "float", "tone_power_1200_hz_db": "float",
    "wwvh_differential_delay_ms": "float", "ntp_wall_clock_time": "float", "ntp_offset_ms": "float",
}  # fmt: skip
ADDED = {
    "format_version": "str", "session_id": "str", "station_json": "str",
    "sample0_utc_ns": "int", "anchor_rtp": "int", "anchor_utc_ns": "int", "anchor_source": "str",
    "anchor_uncertainty_ns": "int", "anchor_age_s": "float", "epoch_id": "int", "epoch_reason": "str",
    "segment_sample_indices": "ints", "segment_samples": "ints", "segment_rtp_timestamps": "ints",
    "segment_epoch_ids": "ints", "segment_utc_ns": "ints", "gap_cause": "strs",
    "valid_samples": "int", "completeness_pct": "float", "packets_lost": "int", "packets_late": "int",
    "packets_duplicate": "int", "packets_reordered": "int", "packets_bad": "int",
    "ntp_valid": "bool", "ntp_synced": "bool", "ntp_uncertainty_ms": "float", "ntp_jitter_ms": "float",
    "ntp_age_s": "float", "ntp_source": "str", "ntp_state": "str", "ntp_stratum": "int", "ntp_leap": "int",
    "ntp_quality": "str",
    "host_utc_ns": "int", "host_monotonic_ns": "int", "host_rtp": "int", "host_clock_set_by_ns": "int",
    "rtp_rate_ppm": "float", "rtp_rate_sigma_ppm": "float", "rtp_vs_host_ns": "int", "chain_delay_ns": "int",
    "radiod_status_json": "str", "iq_extra": "samples",
    "tone_detected": "bool", "tone_station": "str", "tone_onset_ms": "float", "tone_uncertainty_ms": "float",
    "tone_snr_db": "float", "tone_residual_ms": "float", "tone_residual_uncertainty_ms": "float",
    "tick_onset_ms": "float", "tick_uncertainty_ms": "float", "tick_count": "int",
}  # fmt: skip
GAP_KEYS = ("gap_sample_indices", "gap_samples_filled", "gap_rtp_timestamps", "gap_packets_lost")
SEGMENT_KEYS = ("segment_sample_indices", "segment_samples", "segment_rtp_timestamps", "segment_epoch_ids",
                "segment_utc_ns")  # fmt: skip


class NotAMinute(PipelineError):
    """An NPZ file that is not a minute of a channel; the text names the keys that are missing or odd."""


def _is_kind(value: object, kind: str) -> bool:
    if isinstance(value, np.ndarray):
        dtypes = {"ints": "iu", "strs": "U", "samples": "c"}
        # An empty list has whatever type its writer's library gave it.
        return value.ndim == 1 and (value.dtype.kind in dtypes.get(kind, "") or (not value.size and kind == "ints"))
    if kind == "float":
        return isinstance(value, int | float)
    return isinstance(value, {"int": int, "str": str, "bool": bool}.get(kind, ()))


def check(values: Values) -> None:
    """Raise NotAMinute unless these are the keys of a minute file, each of its kind."""
    missing = [name for name in ANCESTOR_REQUIRED if name not in values]
    if missing:
        raise NotAMinute(f"not a minute file: it has no {', '.join(missing)}")
    kinds = {**ANCESTOR_REQUIRED, **ANCESTOR_OPTIONAL, **ADDED}
    odd = [name for name, kind in kinds.items() if name in values and not _is_kind(values[name], kind)]
    if odd:
        raise NotAMinute(f"not a minute file: {', '.join(odd)} of the wrong kind")
    if values["sample_rate"] <= 0 or not 0 <= values["unix_timestamp"] < 2**33:
        raise NotAMinute("not a minute file: sample_rate or unix_timestamp is impossible")
    for group in (GAP_KEYS + ("gap_cause",), SEGMENT_KEYS):
        if len({len(values[name]) for name in group if name in values}) > 1:
            raise NotAMinute(f"not a minute file: {', '.join(group)} differ in length")


@dataclass(frozen=True, slots=True)
class Level:
    """Power of what was received, dB relative to |iq| = 1, NaN for silence; samples at full scale."""

    rms_dbfs: float
    peak_dbfs: float
    clipped: int


def level(values: Values) -> Level:
    """Measure the samples; what is listed as missing does not lower the mean."""
    parts = np.ascontiguousarray(values["iq"], np.complex64).view(np.float32).reshape(-1, 2)
    power = np.square(parts).sum(axis=1)
    received = _valid(values)
    total = float(power.sum(dtype=np.float64))
    clipped = int(np.count_nonzero((np.abs(parts) >= FULL_SCALE).any(axis=1)))
    return Level(_db(total / received if received > 0 else 0.0), _db(float(power.max(initial=0.0))), clipped)


def _db(power: float) -> float:
    return 10 * math.log10(power) if power > 0 and math.isfinite(power) else math.nan


def _valid(values: Values) -> int:
    counted: int = values.get("valid_samples", len(values["iq"]) - values["gaps_filled"])
    return counted


def _label_ns(values: Values) -> int | None:
    """UTC of iq[0] less the minute that the file is named for, ns; None where the file does not say."""
    if "sample0_utc_ns" not in values:
        return None
    residual: int = values["sample0_utc_ns"] - round(values["unix_timestamp"]) * SECOND
    return residual


def absent(values: Values) -> list[str]:
    """Names of the facts that newer files state and this one does not."""
    return [name for name in (*ANCESTOR_OPTIONAL, *ADDED) if name not in values]


def facts(values: Values) -> dict[str, Any]:
    """All keys but the samples as plain values, lists for arrays, and what can be derived from them."""
    found = level(values)
    plain = {name: _plain(value) for name, value in values.items() if name not in SAMPLE_KEYS}
    return {
        **plain,
        "samples": len(values["iq"]),
        "extra_samples": len(values.get("iq_extra", ())),
        "storage": "int16" if "iq_int16" in values else "complex64",
        "completeness_pct": 100.0 * _valid(values) / max(1, len(values["iq"])),
        "label_residual_ns": _label_ns(values),
        "rms_dbfs": found.rms_dbfs,
        "peak_dbfs": found.peak_dbfs,
        "clipped_samples": found.clipped,
        "absent": absent(values),
    }


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


# -- for people --


def lines(values: Values, all_gaps: bool = False) -> list[str]:
    """The file in words, one fact a line, then its gaps."""
    rows = [*_recording(values), *_timing(values), *_clocks(values), *_rest(values)]
    text = [f"{values['channel_name']}, minute {_moment(values['unix_timestamp'], 's')}"]
    text += [f"  {name:<14}{fact}" for name, fact in rows]
    text += _segments(values) + _gaps(values, all_gaps)
    if missing := absent(values):
        text += ["  not stated in this file:", *_wrapped(missing)]
    # Names come from wherever the file comes from; a terminal must not obey them.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in text]


def _wrapped(words: list[str]) -> Iterable[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) > 110:
            yield line
            line = "   "
        line += f" {word}"
    yield line


def _utc(ns: int, unit: str = "ns") -> str:
    if abs(ns) >= 1 << 63:
        return "unknown"
    return f"{np.datetime64(ns, 'ns').astype(f'datetime64[{unit}]')!s}Z"


def _moment(unix_s: object, unit: str) -> str:
    return _utc(round(unix_s * 1e6) * 1000, unit) if _known(unix_s) else "unknown"


def _known(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value) and value != UNKNOWN


def _ms(value: object, sign: str = "") -> str:
    return f"{value:{sign}.3f} ms" if isinstance(value, int | float) and math.isfinite(value) else "unknown"


def _recording(v: Values) -> Iterable[tuple[str, str]]:
    count, rate = len(v["iq"]), v["sample_rate"]
    storage = "int16" if "iq_int16" in v else "complex64"
    form = f"format {v['format_version']}, " if "format_version" in v else ""
    written = _moment(v["created_timestamp"], "ms")
    yield "recorder", f"{v['recorder_version']}, {form}{storage}, written {written}"
    if "session_id" in v:
        yield "session", v["session_id"]
    if station := _json(v, "station_json"):
        yield "station", station
    yield "stream", f"{v['frequency_hz'] / 1e6:.6f} MHz, SSRC {v['rtp_ssrc']}, {rate} samples/s, {count} samples"
    if count != 60 * rate:
        yield "", f"60 s would be {60 * rate} samples"
    if extra := len(v.get("iq_extra", ())):
        yield "extra", f"{extra} samples after the last one, up to the next file's first"
    valid = _valid(v)
    percent, gaps = 100.0 * valid / max(1, count), v["gaps_count"]
    yield "completeness", f"{percent:.2f} %, {valid} of {count} samples, {gaps} gap{'s' * (gaps != 1)}"
    names = ("lost", "late", "duplicate", "reordered", "bad")
    more = ", ".join(f"{name} {v[f'packets_{name}']}" for name in names if f"packets_{name}" in v)
    yield "packets", f"{v['packets_received']} received, {v['packets_expected']} expected" + (more and f"; {more}")
    found = level(v)
    if math.isnan(found.rms_dbfs):
        yield "level", "unknown: samples that are not numbers" if np.any(v["iq"]) else "nothing but zeros"
    else:
        clipped = f", {found.clipped} samples at full scale" if found.clipped else ""
        yield "level", f"RMS {found.rms_dbfs:.1f} dBFS, peak {found.peak_dbfs:.1f} dBFS{clipped}"


def _timing(v: Values) -> Iterable[tuple[str, str]]:
    residual = _label_ns(v)
    if residual is None:
        yield "iq[0]", f"RTP {v['rtp_timestamp']}; its UTC is not stated"
    else:
        yield "iq[0]", f"{_utc(v['sample0_utc_ns'])}, RTP {v['rtp_timestamp']}"
        part = residual * v["sample_rate"] / SECOND
        yield "", f"{residual / 1e3:+.3f} us ({part:+.2f} samples) from the minute"
    if "anchor_source" in v and "anchor_rtp" in v and "anchor_utc_ns" in v:
        yield "anchor", f"{v['anchor_source']}, RTP {v['anchor_rtp']} = {_utc(v['anchor_utc_ns'])}"
        bound, age = v.get("anchor_uncertainty_ns"), v.get("anchor_age_s")
        stated = f"labels true within {bound / 1e6:.3f} ms" if _known(bound) else "no bound stated"
        yield "", stated + (f"; newest evidence {age:.1f} s before the minute's end" if _known(age) else "")
    if "time_snap_source" in v and "time_snap_utc" in v and "time_snap_rtp" in v:
        sure, moment = v.get("time_snap_confidence", math.nan), _moment(v["time_snap_utc"], "us")
        yield "time_snap", f"{v['time_snap_source']}, RTP {v['time_snap_rtp']} = {moment}, confidence {sure:.2f}"
    tones = [(f"{hz} Hz", v.get(f"tone_power_{hz}_hz_db")) for hz in (1000, 1200)]
    heard = [f"{name} {power:.1f} dB" for name, power in tones if _known(power)]
    if heard:
        delay = v.get("wwvh_differential_delay_ms")
        yield "minute tone", ", ".join(heard) + (f", WWVH - WWV {_ms(delay, '+')}" if _known(delay) else "")
    yield from _tone(v, "" if heard else "minute tone")


def _tone(v: Values, name: str) -> Iterable[tuple[str, str]]:
    """When the minute tone and the ticks began and what that says of the label, in files that state it."""
    if "tone_detected" not in v:
        return
    if not v["tone_detected"]:
        yield "minute tone", "none heard"
        return
    onset, bound, snr = v.get("tone_onset_ms"), _ms(v.get("tone_uncertainty_ms")), v.get("tone_snr_db", math.nan)
    yield name, f"{v.get('tone_station') or 'station unknown'} began at {_ms(onset, '+')} +- {bound}, SNR {snr:.1f} dB"
    if v.get("tick_count"):
        tick = f"{_ms(v.get('tick_onset_ms'), '+')} +- {_ms(v.get('tick_uncertainty_ms'))}"
        yield "", f"{v['tick_count']} second ticks say {tick}"
    residual, bound_ms = v.get("tone_residual_ms", math.nan), v.get("tone_residual_uncertainty_ms", math.nan)
    if _known(residual):
        allowed = bound_ms + v.get("anchor_uncertainty_ns", 0) / 1e6
        word = "agrees with" if abs(residual) <= allowed else "CONTRADICTS"
        yield "", f"{word} the label: label - UTC {_ms(residual, '+')} +- {_ms(bound_ms)}, the way from there taken off"


def _clocks(v: Values) -> Iterable[tuple[str, str]]:
    if "ntp_state" in v:
        bound, jitter = _ms(v.get("ntp_uncertainty_ms")), _ms(v.get("ntp_jitter_ms"))
        trust = "" if v.get("ntp_valid") else ", not to be relied on"
        trust += ", by the relaxed limits" if v.get("ntp_quality") == "relaxed" else ""
        offset = f"host - UTC {_ms(v.get('ntp_offset_ms'), '+')} +- {bound}, jitter {jitter}"
        yield "NTP", f"{v['ntp_state']}{trust}; {offset}"
        age, stratum, leap = v.get("ntp_age_s"), v.get("ntp_stratum"), v.get("ntp_leap")
        when = f"measured {age:.1f} s before the minute's end, " if _known(age) else ""
        source = v.get("ntp_source") or "no source"
        yield "", f"{when}{source}, stratum {stratum if _known(stratum) else 'unknown'}, leap {leap}"
    elif "ntp_offset_ms" in v:
        yield "NTP", f"host - UTC {_ms(v['ntp_offset_ms'], '+')}, as the recorder knew it"
    if _known(v.get("host_utc_ns")) and _known(v.get("host_rtp")):
        rate = v.get("rtp_rate_ppm")
        yield "host clock", f"{_utc(v['host_utc_ns'])} when RTP {v['host_rtp']} was next"
        against = v.get("rtp_vs_host_ns")
        sigma = v.get("rtp_rate_sigma_ppm")
        doubt = f" +- {sigma:.3f}" if _known(sigma) else ""
        drift = f"sample clock {rate:+.3f}{doubt} ppm" if _known(rate) else "sample clock not measured yet"
        yield "", (f"label - host clock {against / 1e6:+.3f} ms, " if _known(against) else "") + drift
        if v.get("host_clock_set_by_ns"):
            yield "", f"set by {v['host_clock_set_by_ns'] / 1e9:+.6f} s since the recording began"
    elif _known(v.get("ntp_wall_clock_time")):
        yield "host clock", f"{_moment(v['ntp_wall_clock_time'], 'us')} at the file's begin"


def _rest(v: Values) -> Iterable[tuple[str, str]]:
    if status := _json(v, "radiod_status_json"):
        first, *more = _wrapped(status.split(" "))
        yield "radiod", first.strip()
        yield from (("", line.strip()) for line in more)


def _json(v: Values, key: str) -> str:
    """The members of a JSON object as `name value` in one line; the text as it is when it is none."""
    text: str = v.get(key, "")
    try:
        members = json.loads(text)
    except ValueError:
        return text
    if not isinstance(members, dict):
        return text
    return ", ".join(f"{name} {_text(value)}" for name, value in members.items() if value not in ("", None))


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return value if isinstance(value, str) else json.dumps(value)


def _segments(v: Values) -> list[str]:
    if any(name not in v for name in SEGMENT_KEYS):
        return []
    why = f" ({v['epoch_reason']})" if v.get("epoch_reason") else ""
    text = [f"  {'timelines':<14}{len(v['segment_samples'])}, the first is epoch {v.get('epoch_id')}{why}"]
    text += [f"  {'epoch':>8}{'index':>10}{'samples':>10}{'RTP':>12}  UTC of the first sample"]
    for index, count, rtp, epoch, utc in zip(*(v[name].tolist() for name in SEGMENT_KEYS), strict=True):
        text.append(f"  {epoch:>8}{index:>10}{count:>10}{rtp:>12}  {_utc(utc)}")
    return text


def _gaps(v: Values, all_gaps: bool) -> list[str]:
    rate, count = v["sample_rate"], len(v["iq"])
    causes = v["gap_cause"].tolist() if "gap_cause" in v else ["not stated"] * len(v["gap_samples_filled"])
    rows = list(zip(*(v[name].tolist() for name in GAP_KEYS), causes, strict=True))
    if not rows:
        return [f"  {'gaps':<14}none"]
    total: Counter[str] = Counter()
    for _, filled, _, _, cause in rows:
        total[cause] += filled
    told = ", ".join(f"{cause} {filled}" for cause, filled in total.most_common())
    text = [f"  {'gaps':<14}{len(rows)}, samples missing by cause: {told}"]
    text += [f"  {'index':>8}{'at s':>12}{'samples':>10}{'ms':>12}{'RTP':>12}{'packets':>9}  cause"]
    shown = [
        f"  {index:>8}{index / rate:>12.6f}{filled:>10}{1e3 * filled / rate:>12.3f}{rtp:>12}{lost:>9}  {cause}"
        for index, filled, rtp, lost, cause in rows
    ]
    hidden = len(shown) - SHOWN_FIRST - SHOWN_LAST
    if hidden > 1 and not all_gaps:
        shown[SHOWN_FIRST:-SHOWN_LAST] = [f"  {'...':>8}  {hidden} more; --all-gaps shows them"]
    if any(index + filled > count for index, filled, *_ in rows):
        shown.append(f"  Indices beyond {count} do not lie in this file: its recorder counted from its own start.")
    return text + shown
