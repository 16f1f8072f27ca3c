"""Faults that an audit can find: their names, how bad they are and what they mean for whoever uses the files."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any


class Severity(enum.StrEnum):
    """ERROR: samples or labels are not what the file says. WARNING: look at it. INFO: nothing is wrong."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


_E, _W, _I = Severity.ERROR, Severity.WARNING, Severity.INFO

CODES: dict[str, tuple[Severity, str]] = {
    # any file
    "unreadable": (_E, "Its samples are lost unless there is a copy."),
    "object_array": (_E, "Plain numpy.load refuses this key; a reader that loads all keys loses the whole file."),
    "keys": (_E, "Readers that need these keys fail on this file."),
    "length": (_E, "Readers take sample i for second i / rate of 60 s."),
    "name": (_E, "Readers go by the name; it contradicts what the file says."),
    "stray": (_W, "Readers of an archive take every .npz below it for a minute."),
    "temporary": (_I, "A write that was cut short; the recorder deletes it when it starts next."),
    "no_minutes": (_W, "There is nothing to check here."),
    "duplicate_minute": (_E, "Two files claim the same minute of the same channel."),
    "rtp_not_wrapped": (_E, "RTP timestamps have 32 bits; arithmetic modulo 2^32 with this one goes wrong."),
    "label_line": (_E, "The file contradicts itself: its anchor gives another time for its first sample."),
    "mid_minute": (_E, "iq[0] is not at the minute that the file is named for."),
    "gap_range": (_E, "The gap list cannot be applied to the samples."),
    "gap_overlap": (_E, "Samples are counted as missing twice."),
    "gap_not_zero": (_E, "Either the samples or the list of what is missing are wrong."),
    "gap_sums": (_E, "Completeness computed from this file is wrong."),
    "gap_rtp": (_E, "The gap list names other samples than those that are missing."),
    "unlisted_zeros": (_E, "Samples that were not received look like a silent channel."),
    "not_finite": (_W, "Samples that are not numbers spoil every average and spectrum."),
    # ours
    "no_bound": (_E, "Nothing says how far the labels may be wrong."),
    "segments": (_E, "The rows of segment_* do not describe the samples of the file."),
    "host_clock": (_W, "The label and a synchronised host clock disagree by more than both state."),
    "tone": (_W, "The minute tone contradicts the label by more than its bound: the label or the bound is wrong."),
    "hole": (_E, "Samples of a running stream are in no file."),
    "overlap": (_E, "The same samples are in two files."),
    "label_step": (_E, "Between these two files at least one label is wrong by more than its bound."),
    "rate_change": (_E, "The sample rate changed within an epoch; arithmetic on its RTP timestamps is wrong."),
    "missing_minutes": (_W, "The stream ran on: nothing was received for so long, or files are gone."),
    "part_without_main": (_W, "A second part of a minute whose first part is not in the archive."),
    "not_recorded": (_I, "Between two runs of the recorder or two RTP timelines."),
    "new_session": (_I, "The recorder was started anew; its epochs count from 1 again."),
    "new_epoch": (_I, "A new RTP timeline; no arithmetic may cross this."),
    "reanchored": (_I, "The label was improved by a step that both files' bounds allow."),
    # signal-recorder's
    "mid_minute_start": (_E, "The samples are not those of the file's minute, from here on to the session's end."),
    "mid_minute_likely": (_W, "As mid_minute_start, or its writer lagged by as much; no gap and no tone tells which."),
    "boundary_shift": (_E, "Samples were dropped at minute boundaries; everything after them is labelled too late."),
    "gap_index_cumulative": (_E, "Indices count from the start of the recorder, not of the file's samples."),
    "gap_cut": (_E, "Zeros of a gap were cut off at the minute's end; all that follows is shifted by as much."),
    "anchor_old": (_E, "Beyond 2^31 samples the recorder's signed difference of timestamps changes sign."),
    "label_jump": (_E, "Labels jumped back by 2^32 samples: the data are days younger than the name."),
    "overwritten": (_E, "The minute of this name was recorded before and is lost."),
    "label_future": (_E, "The file was finished before its minute was over: the anchor paired the wrong instants."),
    "minutes_early": (_E, "A label was given twice: a finished minute was overwritten, later labels are early."),
    "phantom_samples": (_E, "Zeros were inserted that the stream's timestamps know nothing of."),
    "known_limits": (_I, "signal-recorder: the sign of ntp_offset_ms is not to be relied on, tone_* are the anchor's, "
                         "gaps have no cause."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault of one file: a name of CODES, what was found, and where in the file."""

    code: str
    what: str
    where: str = ""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code][0]


@dataclass(frozen=True, slots=True)
class Finding:
    """An issue of `count` files of a channel, `file` the first and `until` the last; the text is the first one's."""

    issue: Issue
    channel: str
    file: str
    until: str
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """As documented for `verify --json`."""
        severity, meaning = CODES[self.issue.code]
        return {
            "severity": severity.value,
            "code": self.issue.code,
            "channel": self.channel,
            "file": self.file,
            "until": self.until,
            "count": self.count,
            "what": self.issue.what,
            "where": self.issue.where,
            "means": meaning,
        }


# Beyond this a fault in every file of years would fill the memory; the counts go on.
MOST_KEPT = 10_000


@dataclass(slots=True)
class Findings:
    """Collects findings; the same fault in one file after another is one finding."""

    kept: list[Finding] = field(default_factory=list)
    counts: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))
    _open: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _files: int = 0

    def next_file(self) -> None:
        """What is added from now on is of another file."""
        self._files += 1

    def add(self, channel: str, file: str, issue: Issue) -> None:
        """Add one issue."""
        self.counts[issue.severity] += 1
        place, seen = self._open.get((channel, issue.code), (-1, -1))
        if place >= 0 and self._files - seen <= 1:
            before = self.kept[place]
            self.kept[place] = replace(before, until=file, count=before.count + (self._files != seen))
        elif len(self.kept) < MOST_KEPT:
            self.kept.append(Finding(issue, channel, file, file))
            place = len(self.kept) - 1
        else:
            return
        self._open[channel, issue.code] = (place, self._files)

    @property
    def sound(self) -> bool:
        """True when nothing is wrong; information alone is not a fault."""
        return not (self.counts[Severity.ERROR] or self.counts[Severity.WARNING])

    def by_severity(self) -> Iterator[Finding]:
        """Worst first, otherwise as they came."""
        for severity in Severity:
            yield from (finding for finding in self.kept if finding.issue.severity is severity)
