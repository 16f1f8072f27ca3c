"""One minute file of ours: does it keep what it promises, by what it says of itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.audit import gaplist
from pipeline.audit.findings import Issue
from pipeline.stream.journal import MAX_DATAGRAM
from pipeline.stream.rtp import signed32
from pipeline.stream.timeline import SECOND

Values = Mapping[str, Any]

NAME = re.compile(r"(?P<stamp>\d{8}T\d{6}Z)_(?P<hz>\d+)(?:_(?P<rate>\d+)sps_(?P<number>\d+))?_iq\.npz")
RTP_KEYS = ("rtp_timestamp", "time_snap_rtp", "anchor_rtp", "segment_rtp_timestamps", "gap_rtp_timestamps")
WRAP = 1 << 32
# Packets wait in radiod, the network and our socket; the host clock is read when the last one is in hand.
ON_THE_WAY_NS = 1_000_000_000
HALF_A_MINUTE_NS = 30_000_000_000
# Of a datagram in the narrowest encoding.
MOST_FRAMES = MAX_DATAGRAM // 4
SOURCES = frozenset(("radiod", "ntp", "wall_clock", "wwv", "wwvh", "chu"))
# Half the globe and the ionosphere's detour; nothing can be earlier than sent.
FARTHEST_MS = 77.0
# Oscillators without any reference are within 30 ppm; the bound that files state allows 50.
FARTHEST_PPM = 100.0


@dataclass(frozen=True, slots=True)
class Named:
    """What a file's name says; `part` is 0 for the minute's file itself."""

    minute_s: int
    hz: int
    rate_hz: int | None
    part: int


def parse_name(name: str) -> Named | None:
    """None for a name that no minute file has."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    stamp = found["stamp"]
    text = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}"
    try:
        moment = int(np.datetime64(text, "s").astype(np.int64))
    except ValueError:
        return None
    rate = int(found["rate"]) if found["rate"] else None
    return Named(moment, int(found["hz"]), rate, int(found["number"] or 0))


def basics(values: Values, named: Named, folder: str) -> Iterator[Issue]:
    """Name, label and length: what any reader goes by."""
    count, rate = len(values["iq"]), values["sample_rate"]
    if count != 60 * rate:
        yield Issue("length", f"{count} samples at {rate} Hz, 60 s would be {60 * rate}")
    minute = values["unix_timestamp"]
    if named.minute_s % 60 or minute != named.minute_s:
        yield Issue(
            "name", f"the name says {named.minute_s}, unix_timestamp {minute:.6f}, a minute is a multiple of 60"
        )
    if named.hz != int(values["frequency_hz"]):
        yield Issue("name", f"the name says {named.hz} Hz, the file {values['frequency_hz']:.0f} Hz")
    if named.rate_hz is not None and named.rate_hz != rate:
        yield Issue("name", f"the name says {named.rate_hz} samples/s, the file {rate}")
    if folder != values["channel_name"].replace(" ", "_"):
        yield Issue("name", f"in the folder {folder}, but of channel {values['channel_name']}")
    for name in RTP_KEYS:
        stamps = np.atleast_1d(values.get(name, 0))
        if ((stamps < 0) | (stamps >= WRAP)).any():
            worst = stamps[(stamps < 0) | (stamps >= WRAP)][0]
            yield Issue("rtp_not_wrapped", f"{name} is {worst}, beyond 0 .. 2^32 - 1", name)


def numbers(values: Values) -> Iterator[Issue]:
    """Samples that are not numbers."""
    parts = np.ascontiguousarray(values["iq"], np.complex64).view(np.float32)
    # The sum of squares is not finite if any of them is not; looking at each costs three times as much.
    if not math.isfinite(float(np.dot(parts, parts))):
        odd = int(np.count_nonzero(~np.isfinite(parts).reshape(-1, 2).all(axis=1)))
        if odd:
            yield Issue("not_finite", f"{odd} samples are not finite")


def ours(values: Values, samples: bool = True) -> Iterator[Issue]:
    """Everything that a file of ours can be held to on its own; without `samples` only its keys are looked at."""
    mask, found = gaplist.listed(values)
    yield from found
    yield from gaplist.sums(values, mask)
    if samples:
        yield from gaplist.against_samples(values, mask)
    yield from gaplist.timestamps(values)
    yield from gaplist.causes(values)
    yield from _packets(values)
    yield from _label(values)
    yield from _segments(values, mask)
    yield from _host_clock(values)
    yield from _sample_clock(values)
    yield from _tone(values)


def _packets(v: Values) -> Iterator[Issue]:
    names = ("received", "expected", "lost", "late", "duplicate", "reordered", "bad")
    below = [f"packets_{name}" for name in names if v[f"packets_{name}"] < 0]
    if below:
        yield Issue("packets", f"{', '.join(below)} below zero")
    # A packet counts for the minute in which it begins, and may reach into the next with all of a datagram.
    if not v["packets_received"] and v["valid_samples"] > MOST_FRAMES:
        yield Issue("packets", f"{v['valid_samples']} samples are valid, but no packet was received")


def _label(v: Values) -> Iterator[Issue]:
    rate, first = v["sample_rate"], v["sample0_utc_ns"]
    away = signed32(v["rtp_timestamp"] - v["anchor_rtp"])
    line = v["anchor_utc_ns"] + away * SECOND // rate
    if abs(line - first) > 1:
        yield Issue("label_line", f"iq[0] is at {first} ns by sample0_utc_ns, {line - first:+d} ns by anchor_*")
    residual = first - round(v["unix_timestamp"]) * SECOND
    if 2 * abs(residual) * rate > SECOND + 2 * rate:
        samples = residual * rate / SECOND
        yield Issue("mid_minute", f"iq[0] is {residual} ns ({samples:+.2f} samples) from the minute by its own anchor")
    bound, source = v["anchor_uncertainty_ns"], v["anchor_source"]
    if bound <= 0:
        yield Issue("no_bound", f"anchor_uncertainty_ns is {bound}", "anchor_uncertainty_ns")
    elif bound >= HALF_A_MINUTE_NS:
        yield Issue("wide_bound", f"anchor_uncertainty_ns is {bound / SECOND:.1f} s", "anchor_uncertainty_ns")
    if source not in SOURCES:
        yield Issue("no_bound", f"anchor_source is {source!r}, which is no source of time" if source else
                    "anchor_source is empty", "anchor_source")  # fmt: skip


def _segments(v: Values, gaps: np.ndarray[Any, np.dtype[np.bool_]]) -> Iterator[Issue]:
    count, rate = len(v["iq"]), v["sample_rate"]
    begins, lengths = v["segment_sample_indices"].astype(np.int64), v["segment_samples"].astype(np.int64)
    ends = begins + lengths
    if not len(begins) or (begins < 0).any() or (ends > count).any() or (begins[1:] < ends[:-1]).any():
        yield Issue("segments", f"{len(begins)} segments do not lie one after the other in {count} samples")
        return
    uncovered = ~gaps
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        uncovered[begin:end] = False
    if uncovered.any():
        what = f"{np.count_nonzero(uncovered)} samples are of no segment and not listed as missing"
        yield Issue("segments", what, f"first at index {np.argmax(uncovered)}")
    yield from _one_anchor(v, begins)
    for number, (begin, utc) in enumerate(zip(begins.tolist(), v["segment_utc_ns"].tolist(), strict=True)):
        off = utc - v["sample0_utc_ns"] - begin * SECOND // rate
        if abs(off) > SECOND // rate + 2:
            yield Issue("segments", f"segment {number} is {off} ns from where its index says", f"index {begin}")
    if v["rtp_timestamp"] != (int(v["segment_rtp_timestamps"][0]) - int(begins[0])) % WRAP:
        yield Issue("segments", "rtp_timestamp is not on the line of the first segment", "rtp_timestamp")


def _one_anchor(v: Values, begins: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Issue]:
    """One timeline has one row and one line in a file."""
    epochs = v["segment_epoch_ids"].tolist()
    if len(set(epochs)) < len(epochs):
        twice = next(epoch for epoch in epochs if epochs.count(epoch) > 1)
        yield Issue("anchor_within", f"epoch {twice} has {epochs.count(twice)} rows")
    if epochs[0] != v["epoch_id"]:
        yield Issue("segments", f"epoch_id is {v['epoch_id']}, the first row's {epochs[0]}", "epoch_id")
        return
    away = signed32(int(v["segment_rtp_timestamps"][0]) - v["anchor_rtp"])
    off = int(v["segment_utc_ns"][0]) - v["anchor_utc_ns"] - away * SECOND // v["sample_rate"]
    if abs(off) > 2:
        yield Issue("anchor_within", f"the first row is {off} ns from the anchor's line", f"index {begins[0]}")


def _host_clock(v: Values) -> Iterator[Issue]:
    known = ("ntp_offset_ms", "ntp_uncertainty_ms")
    if not (v["ntp_valid"] and v["ntp_synced"]) or v["host_rtp"] < 0 or not all(math.isfinite(v[k]) for k in known):
        return
    # Later than the sample by its way here, never earlier.
    late = -v["rtp_vs_host_ns"] - round(v["ntp_offset_ms"] * 1e6)
    allowed = v["anchor_uncertainty_ns"] + round(1e6 * v["ntp_uncertainty_ms"])
    if late < -allowed or late > allowed + ON_THE_WAY_NS:
        what = f"the last packet came {late / 1e6:.3f} ms after its label by the corrected host clock"
        yield Issue(
            "host_clock", f"{what}; the bounds allow {-allowed / 1e6:.3f} to {(allowed + ON_THE_WAY_NS) / 1e6:.3f}"
        )


def _sample_clock(v: Values) -> Iterator[Issue]:
    rate, sigma = v["rtp_rate_ppm"], v.get("rtp_rate_sigma_ppm", math.nan)
    if math.isfinite(rate) and math.isfinite(sigma) and abs(rate) - 3 * sigma > FARTHEST_PPM:
        yield Issue("sample_clock", f"by the host's clock samples come {rate:+.1f} ppm off their rate, "
                                    f"give or take {sigma:.1f}")  # fmt: skip


def _tone(v: Values) -> Iterator[Issue]:
    if not v.get("tone_detected"):
        return
    bound, station = v["anchor_uncertainty_ns"] / 1e6, v["tone_station"]
    residual, uncertain = v.get("tone_residual_ms", math.nan), v.get("tone_residual_uncertainty_ms", math.nan)
    if math.isfinite(residual) and math.isfinite(uncertain):
        if abs(residual) > bound + uncertain:
            what = (
                f"by the {station} minute tone the label is {residual:+.3f} ms from UTC, give or take {uncertain:.3f}"
            )
            yield Issue("tone", f"{what}; its bound is {bound:.3f} ms")
        return
    allowed = bound + v["tone_uncertainty_ms"]
    if not -allowed <= v["tone_onset_ms"] <= allowed + FARTHEST_MS:
        what = f"the {station} minute tone began {v['tone_onset_ms']:+.3f} ms after the minute"
        yield Issue("tone", f"{what}; a true label has 0 to {FARTHEST_MS:g} ms, give or take {allowed:.3f}")
