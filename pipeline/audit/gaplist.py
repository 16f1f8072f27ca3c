"""A file's gap list against its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audit.findings import Issue
from pipeline.stream.rtp import signed32

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Values = Mapping[str, Any]


def runs(of: Flags, least: int) -> tuple[Ints, Ints]:
    """Begins and lengths of the runs of True of at least `least`."""
    edges = np.flatnonzero(np.diff(of, prepend=False, append=False))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    long = lengths >= max(1, least)
    return begins[long], lengths[long]


def packet_samples(values: Values) -> int:
    """Samples of a packet, by what the file says of itself; 20 ms where it says nothing."""
    expected = values["packets_expected"]
    return round(len(values["iq"]) / expected) if expected > 0 else int(values["sample_rate"]) // 50


def listed(values: Values) -> tuple[Flags, list[Issue]]:
    """True where the list says that nothing was received; and what is wrong with the list itself."""
    count = len(values["iq"])
    mask, issues = np.zeros(count, bool), []
    begins = values["gap_sample_indices"].astype(np.int64)
    ends = begins + values["gap_samples_filled"].astype(np.int64)
    outside = np.flatnonzero((begins < 0) | (ends > count))
    if len(outside):
        first = int(outside[0])
        what = f"{len(outside)} of {len(begins)} gaps reach beyond the file's {count} samples"
        issues.append(Issue("gap_range", what, f"gap {first}: index {begins[first]}"))
    twice = 0
    for begin, end in zip(begins.clip(0, count).tolist(), ends.clip(0, count).tolist(), strict=True):
        twice += int(np.count_nonzero(mask[begin:end]))
        mask[begin:end] = True
    if twice:
        issues.append(Issue("gap_overlap", f"{twice} samples are in more than one gap"))
    return mask, issues


def sums(values: Values, mask: Flags) -> Iterator[Issue]:
    """Totals that do not agree with the list."""
    filled = int(values["gap_samples_filled"].sum())
    stated = {"gaps_filled": filled, "gaps_count": len(values["gap_samples_filled"])}
    if "valid_samples" in values:
        stated["valid_samples"] = len(mask) - int(np.count_nonzero(mask))
    if "packets_lost" in values:
        stated["packets_lost"] = int(values["gap_packets_lost"].sum())
    for name, right in stated.items():
        if values[name] != right:
            yield Issue("gap_sums", f"{name} is {values[name]}, by the gap list {right}", name)
    percent = 100.0 * (len(mask) - filled) / max(1, len(mask))
    if "completeness_pct" in values and abs(values["completeness_pct"] - percent) > 0.001:
        yield Issue("gap_sums", f"completeness_pct is {values['completeness_pct']:.3f}, by the gap list {percent:.3f}",
                    "completeness_pct")  # fmt: skip


def against_samples(values: Values, mask: Flags) -> Iterator[Issue]:
    """Samples in gaps, and zeros that are in none."""
    zero = values["iq"] == 0
    inside = mask & ~zero
    if inside.any():
        what = f"{np.count_nonzero(inside)} samples in listed gaps are not zero"
        yield Issue("gap_not_zero", what, f"first at index {np.argmax(inside)}")
    begins, lengths = runs(zero & ~mask, packet_samples(values))
    if len(begins):
        what = f"{lengths.sum()} zeros in {len(begins)} runs of a packet or more are not listed"
        yield Issue("unlisted_zeros", what, f"first at index {begins[0]}, {lengths[0]} samples")


def line_of(values: Values) -> tuple[Ints, Ints]:
    """Begin and RTP timestamp of every segment; one from iq[0] on where the file has no segments."""
    if len(values.get("segment_sample_indices", ())):
        return values["segment_sample_indices"].astype(np.int64), values["segment_rtp_timestamps"].astype(np.int64)
    return np.zeros(1, np.int64), np.array([values["rtp_timestamp"]], np.int64)


def timestamps(values: Values) -> Iterator[Issue]:
    """Gaps whose RTP timestamp is not the one of the sample that they begin with."""
    begins, firsts = line_of(values)
    wrong = []
    pairs = zip(values["gap_sample_indices"].tolist(), values["gap_rtp_timestamps"].tolist(), strict=True)
    for number, (index, rtp) in enumerate(pairs):
        row = max(0, int(np.searchsorted(begins, index, "right")) - 1)
        off = signed32(int(rtp) - int(firsts[row]) - (index - int(begins[row])))
        if off:
            wrong.append((number, index, off))
    if wrong:
        number, index, off = wrong[0]
        what = f"{len(wrong)} gaps are {off:+d} samples from where their RTP timestamps say"
        yield Issue("gap_rtp", what, f"gap {number}: index {index}")
