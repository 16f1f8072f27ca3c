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

# radiod sends what one FFT block makes, 20 ms as a rule; nothing that is recorded has less in a packet.
LEAST_PACKET = 8
# Of the samples; with more, zeros are what the channel itself has now and then.
FEW_ZEROS = 0.001
CAUSES = frozenset(("network", "late", "mute", "zero_block", "start", "stop", "restart", "epoch", "unknown"))
# Nothing was lost on the way, so no packet can be missing by its number.
LOSSLESS = frozenset(("mute", "zero_block", "start", "stop"))


def runs(of: Flags, least: int) -> tuple[Ints, Ints]:
    """Begins and lengths of the runs of True of at least `least`."""
    edges = np.flatnonzero(np.diff(of, prepend=False, append=False))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    long = lengths >= max(1, least)
    return begins[long], lengths[long]


def packet_samples(values: Values) -> int:
    """Samples of a packet, by what the file says of itself; 20 ms where it says nothing that can be."""
    expected = values["packets_expected"]
    stated = round(len(values["iq"]) / expected) if expected > 0 else 0
    return stated if stated >= LEAST_PACKET else max(LEAST_PACKET, int(values["sample_rate"]) // 50)


def listed(values: Values) -> tuple[Flags, list[Issue]]:
    """True where the list says that nothing was received; and what is wrong with the list itself."""
    count = len(values["iq"])
    mask, issues = np.zeros(count, bool), []
    begins = values["gap_sample_indices"].astype(np.int64)
    ends = begins + values["gap_samples_filled"].astype(np.int64)
    outside = np.flatnonzero((begins < 0) | (ends > count) | (ends < begins))
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
    begins, lengths = unlisted(zero & ~mask, packet_samples(values))
    if len(begins):
        what = f"{lengths.sum()} zeros in {len(begins)} runs of a packet or more are not listed"
        yield Issue("unlisted_zeros", what, f"first at index {begins[0]}, {lengths[0]} samples")


def unlisted(zero: Flags, packet: int) -> tuple[Ints, Ints]:
    """Runs of zeros outside the list that packets which were not received would leave.

    A channel that is nearly silent has zeros of its own, and packets that begin or end with some are received; so
    there only a run that must hold a whole packet counts, elsewhere also one of whole packets.
    """
    begins, lengths = runs(zero, packet)
    whole = lengths >= 2 * packet - 1
    if np.count_nonzero(zero) - int(lengths.sum()) <= FEW_ZEROS * len(zero):
        whole |= lengths % packet == 0
    return begins[whole], lengths[whole]


def causes(values: Values) -> Iterator[Issue]:
    """Causes that are none, or that contradict their own row."""
    odd = [cause for cause in values["gap_cause"].tolist() if cause not in CAUSES]
    if odd:
        yield Issue("gap_cause", f"{len(odd)} gaps have a cause that does not exist, such as {odd[0][:40]!r}")
    lost = values["gap_packets_lost"].tolist()
    wrong = [cause for cause, packets in zip(values["gap_cause"].tolist(), lost, strict=True)
             if packets and cause in LOSSLESS]  # fmt: skip
    if wrong:
        yield Issue("gap_cause", f"{len(wrong)} gaps with packets lost on the way say {wrong[0]!r}, where none can be")


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
