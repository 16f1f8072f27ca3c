"""Holds a tree of minute files against what a simulator or a capture really sent.

Independent of the recorder's own placing: it goes from the truth (packets as sent) to the
files by their `segment_*` keys alone, and back from every file to the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lateness import Lateness
from pipeline import npz
from pipeline.simulator.truth import Timeline, Truth, expected_iq

WRAP = 1 << 32


@dataclass(slots=True)
class Verdict:
    """What a comparison found; `faults` is empty when the files are the truth."""

    files: int = 0
    samples: int = 0
    missing: int = 0
    worst_label_ns: int = 0
    worst_excess_ns: int = -(1 << 62)
    faults: list[str] = field(default_factory=list)


def load_tree(data_dir: Path, ssrc: int) -> Iterator[dict[str, Any]]:
    """All files of one SSRC below `data_dir`, parts included, in order of time; one at a time in memory."""
    found = []
    for path in data_dir.rglob("*.npz"):
        owner, *place = _place(path, path.stat().st_mtime_ns)
        if owner == ssrc:
            found.append((*place, path))
    for *_, path in sorted(found):
        yield {**npz.read(path), "path": path}


@cache
def _place(path: Path, _mtime_ns: int) -> tuple[int, int, int]:
    """SSRC, UTC of the first sample and rate of a file; a hundred channels ask for each other's."""
    with np.load(path) as archive:
        return int(archive["rtp_ssrc"]), int(archive["sample0_utc_ns"]), int(archive["sample_rate"])


def segments(values: dict[str, Any]) -> list[tuple[int, int, int, int, int]]:
    """(index, samples, wire timestamp, epoch, utc) of each segment."""
    names = ("sample_indices", "samples", "rtp_timestamps", "epoch_ids", "utc_ns")
    return list(zip(*(values[f"segment_{name}"].tolist() for name in names), strict=True))


def listed(values: dict[str, Any]) -> np.ndarray[Any, Any]:
    """True where the file's gap list says that nothing was received."""
    mask = np.zeros(60 * values["sample_rate"], bool)
    for index, count in zip(values["gap_sample_indices"].tolist(), values["gap_samples_filled"].tolist(), strict=True):
        if mask[index : index + count].any():
            raise AssertionError(f"{values['path'].name}: gaps overlap at {index}")
        mask[index : index + count] = True
    return mask


def _of_causes(values: dict[str, Any], causes: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """True where a listed gap has one of these causes."""
    mask = np.zeros(60 * values["sample_rate"], bool)
    rows = zip(values["gap_sample_indices"], values["gap_samples_filled"], values["gap_cause"], strict=True)
    for index, count, cause in rows:
        mask[int(index) : int(index) + int(count)] |= cause in causes
    return mask


def _excused(values: dict[str, Any], causes: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """(wire timestamp, samples, UTC) of each gap with one of these causes."""
    names = ("rtp_timestamps", "sample_indices", "samples_filled", "cause")
    for rtp, index, count, cause in zip(*(values[f"gap_{name}"].tolist() for name in names), strict=True):
        if cause in causes:
            yield rtp, count, values["sample0_utc_ns"] + index * 1_000_000_000 // values["sample_rate"]


def check_file(values: dict[str, Any]) -> list[str]:
    """What a file says of itself must agree with itself."""
    faults = []
    name, iq, rate = values["path"].name, values["iq"], values["sample_rate"]
    mask = listed(values)
    if len(iq) != 60 * rate:
        faults.append(f"{name}: {len(iq)} samples at {rate} Hz")
    if iq[mask].any():
        faults.append(f"{name}: samples inside a listed gap are not zero")
    if values["valid_samples"] != int((~mask).sum()):
        faults.append(f"{name}: valid_samples {values['valid_samples']} is not {int((~mask).sum())}")
    if values["gaps_filled"] != int(mask.sum()) or values["gaps_count"] != len(values["gap_cause"]):
        faults.append(f"{name}: gaps_filled or gaps_count does not match the list")
    line = values["anchor_utc_ns"] + (values["rtp_timestamp"] - values["anchor_rtp"]) * 1_000_000_000 // rate
    if abs(line - values["sample0_utc_ns"]) > 1:
        faults.append(f"{name}: anchor_* and sample0_utc_ns are not one line")
    if abs(values["sample0_utc_ns"] / 1e9 - values["unix_timestamp"]) > 0.51 / rate:
        faults.append(f"{name}: iq[0] is not at the minute")
    return faults


def check_simulated(
    data_dir: Path,
    truth: Truth,
    ssrc: int,
    joined: int = 0,
    excused: tuple[str, ...] = (),
    slow: list[str] | None = None,
) -> Verdict:
    """Every frame that the simulator's timelines say was sent, at its place, or listed; labels within their bound.

    The first `joined` frames of the first timeline may be absent: nobody listened yet. So may
    frames that a file lists with one of the `excused` causes. Labels that are beyond their bound by no more than the
    simulator itself was late go to `slow`, where it is given.
    """
    verdict = Verdict()
    timelines = truth.of(ssrc)
    absent = {t.number: [(s.rtp, s.frames) for s in truth.stretches(t.number)] for t in timelines}
    covered: dict[int, list[tuple[int, int]]] = {t.number: [] for t in timelines}
    late = {t.number: Lateness.of(truth, t) for t in timelines}
    for values in load_tree(data_dir, ssrc):
        verdict.files += 1
        verdict.faults += check_file(values)
        gap = listed(values)
        for index, count, rtp, _, utc in segments(values):
            timeline = _owner(timelines, rtp, utc, values["sample_rate"])
            if timeline is None:
                verdict.faults.append(f"{values['path'].name}: segment at {rtp} is of no timeline")
                continue
            frame = timeline.frame(rtp)
            if not covered[timeline.number]:
                late[timeline.number] = late[timeline.number].since(timeline.utc_ns(frame))
            covered[timeline.number].append((frame, frame + count))
            _check_labels(verdict, values, utc - timeline.utc_ns(frame), late[timeline.number], slow)
            early = joined if timeline is timelines[0] else 0
            pardon = _of_causes(values, excused)
            _check_samples(verdict, values, timeline, gap, index, count, rtp, absent[timeline.number], early, pardon)
        for rtp, count, utc in _excused(values, excused):
            # A gap at the end of a file lies in no segment.
            timeline = _owner(timelines, rtp, utc, values["sample_rate"])
            if timeline is not None:
                frame = timeline.frame(rtp)
                # A gap before the stream's first frame has a timestamp before the first.
                frame -= WRAP * (frame >= WRAP // 2)
                covered[timeline.number].append((frame, frame + count))
        extra = values["iq_extra"]
        if len(extra):
            index, count, rtp, _, utc = segments(values)[-1]
            timeline = _owner(timelines, rtp, utc, values["sample_rate"])
            if timeline is not None:
                start = timeline.frame(rtp) + 60 * values["sample_rate"] - index
                covered[timeline.number].append((start, start + len(extra)))
    for timeline in timelines:
        first = joined if timeline is timelines[0] else 0
        verdict.faults += _check_covered(truth, timeline, covered[timeline.number], first)
    return verdict


def _owner(timelines: tuple[Timeline, ...], rtp: int, utc: int, rate: int) -> Timeline | None:
    """The timeline whose line passes nearest to a segment's first sample."""
    near = [t for t in timelines if t.rate_hz == rate]
    return min(near, key=lambda t: abs(t.utc_ns(t.frame(rtp)) - utc), default=None)


def _check_labels(
    verdict: Verdict, values: dict[str, Any], late_ns: int, lateness: Lateness, slow: list[str] | None
) -> None:
    """`late_ns` is label - truth."""
    error, bound = abs(late_ns), values["anchor_uncertainty_ns"]
    verdict.worst_label_ns = max(verdict.worst_label_ns, error)
    verdict.worst_excess_ns = max(verdict.worst_excess_ns, error - bound)
    if error <= bound:
        return
    # By the truth: what was sent later than the last sample came when the minute was over.
    end_ns = values["sample0_utc_ns"] + 60_000_000_000 - late_ns
    text = f"{values['path'].name}: label is {late_ns / 1e6:+.3f} ms off, bound {bound / 1e6:.3f} ms"
    if slow is not None and lateness.excuses(late_ns - bound, end_ns):
        slow.append(text)
    else:
        shared = lateness.shared_ns(end_ns) / 1e6
        verdict.faults.append(f"{text}; the simulator's least late pair was {shared:.3f} ms late")


def _check_samples(
    verdict: Verdict,
    values: dict[str, Any],
    timeline: Timeline,
    gap: np.ndarray[Any, Any],
    index: int,
    count: int,
    rtp: int,
    absent: list[tuple[int, int]],
    joined: int,
    pardon: np.ndarray[Any, Any],
) -> None:
    expected = (expected_iq(timeline, rtp, count).astype(np.float32) / np.float32(32768)).view(np.complex64).reshape(-1)
    first = timeline.frame(rtp)
    unsent = np.zeros(count, bool)
    for start, frames in absent:
        a = timeline.frame(start) - first
        unsent[max(0, a) : max(0, a + frames)] = True
    # A packet that was overtaken may be the first to be heard; those between it and the join were sent to nobody.
    early = max(0, joined - first)
    unsent[:early] |= gap[index : index + count][:early]
    unsent |= pardon[index : index + count]
    got, missing = values["iq"][index : index + count], gap[index : index + count]
    verdict.samples += count
    verdict.missing += int(missing.sum())
    name = values["path"].name
    wrong = np.flatnonzero((got != expected) & ~missing)
    if len(wrong):
        verdict.faults.append(f"{name}: {len(wrong)} samples are not what was sent, the first at {index + wrong[0]}")
    for rows, what in (
        (missing & ~unsent, "were sent and are listed"),
        (unsent & ~missing, "were neither sent nor listed"),
    ):
        if rows.any():
            verdict.faults.append(f"{name}: {int(rows.sum())} samples {what}, from {int(np.argmax(rows)) + index}")


def _check_covered(truth: Truth, timeline: Timeline, ranges: list[tuple[int, int]], joined: int) -> list[str]:
    """The files' segments cover the timeline without a hole up to what the simulator last said, or its end."""
    reach = min([joined, *(begin for begin, _ in ranges)])
    sent = truth.rtp_next(timeline.number)
    # A file's extra samples may lie beyond it: the minute of a stream that ended is cut when its time is over.
    last = max((end for _, end in ranges), default=reach) if sent is None else timeline.frame(sent)
    for begin, end in [*sorted(ranges), (last, last)]:
        hole = min(begin, last)
        if hole > reach and not _kept_back(truth, timeline, reach, hole):
            return [f"timeline {timeline.number}: frames {reach} to {hole} are in no file"]
        reach = max(reach, end)
    return []


def _kept_back(truth: Truth, timeline: Timeline, begin: int, end: int) -> bool:
    """True when none of the frames [begin, end) was sent."""
    sent = np.ones(end - begin, bool)
    for stretch in truth.stretches(timeline.number):
        a = timeline.frame(stretch.rtp) - begin
        sent[max(0, a) : max(0, a + stretch.frames)] = False
    return not sent.any()
