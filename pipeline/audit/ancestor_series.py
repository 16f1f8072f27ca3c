"""signal-recorder's files in order of time: when each was written, against what its name says.

Its writer is done 0.3 s after the last sample as a rule, so that a steady distance from the minute's end is the error
of the label. Fed one file's facts at a time; only the last few are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.audit.ancestor import ROUNDING, WRAP, AncestorFacts
from pipeline.audit.findings import Issue

# A file is written when its last sample is in hand; the ancestor's stalls reached 30 s, but not file after file.
SETTLED_FILES = 3
STEADY_S = 3.0
LATE_S = 5.0
LONGEST_STALL_S = 35.0
# Label errors up to here are for the residual of the tone near iq[0] to tell.
TONE_AWAY_S = 2.0
# How near the distance must be to 2^32 samples to be that.
WRAP_NEAR_S = 600.0
# The ancestor looks for tones for two minutes before it writes.
FIRST_FILES_S = 300.0


@dataclass(slots=True)
class AncestorSeries:
    """Follows one channel's files in order of their names."""

    _created: deque[float] = field(default_factory=lambda: deque(maxlen=SETTLED_FILES))
    _usual: float = 0.0
    _shift: int = 0
    _cut: int = 0
    _snap: tuple[int | None, float | None] | None = None
    _minute_s: int | None = None
    _jumped: bool = False
    _told: bool = False

    def feed(self, facts: AncestorFacts) -> Iterator[Issue]:
        """What this file shows together with those before it."""
        if not self._told:
            self._told = True
            yield Issue("known_limits", "written by signal-recorder")
        minute_s, rate, shift, place = facts.minute_s, facts.rate_hz, facts.shift, facts.tone_s
        fresh = facts.snap != self._snap
        if fresh and minute_s != (self._minute_s or 0) + 60:
            self._shift, self._cut, self._usual = 0, 0, 0.0
            self._created.clear()
        if shift is not None and abs(shift) > ROUNDING:
            yield self._shifted(shift, rate)
        late_s = facts.created_s - facts.unix_s - 60.0
        jumped = self._jumped
        right = place == 0.0 or (shift is not None and abs(shift) <= ROUNDING)
        yield from self._written(late_s, rate, right)
        if minute_s - 60 == self._minute_s and self._jumped != jumped:
            # A session's first files may follow such that jumped back before its begin.
            age = facts.unix_s - (facts.snap[1] or facts.unix_s)
            if self._jumped or abs(age) > FIRST_FILES_S:
                what = "it and the file before were written days apart: newer data took the place of older here"
                yield Issue("overwritten", what)
        if place is not None and place > TONE_AWAY_S:
            what = f"the minute tone is {place:.3f} s after iq[0]: the data begin {60 - place:.3f} s after a minute"
            yield Issue("mid_minute_start", what)
        self._snap, self._minute_s = facts.snap, minute_s
        self._cut += facts.cut

    def _shifted(self, shift: int, rate: int) -> Issue:
        """A gap says where the samples are: later than the label from the start, or since some loss."""
        seconds = shift / rate
        what = f"by the gaps' RTP timestamps iq[0] is {seconds:+.4f} s ({shift:+d} samples) from the label"
        before, self._shift = self._shift, shift
        if self._cut and abs(shift - self._cut) < rate // 2:
            return Issue("boundary_shift", f"{what}: {self._cut} were cut off in files before")
        if before and before != shift:
            return Issue("boundary_shift", f"{what}, {before:+d} in an earlier file")
        packet = abs(seconds) < 0.5
        return Issue("boundary_shift" if packet else "mid_minute_start", what)

    def _written(self, late_s: float, rate: int, right: bool) -> Iterator[Issue]:
        """When the file was written against the end of its minute, s; `right` = its label is known to be true."""
        wrap_s = WRAP / rate
        turns = round(late_s / wrap_s)
        jumped = turns != 0 and abs(late_s - turns * wrap_s) < WRAP_NEAR_S
        if jumped:
            yield Issue(
                "label_jump", f"written {late_s / 3600:.2f} h after its minute, 2^32 samples are {wrap_s / 3600:.2f} h"
            )
        if jumped != self._jumped:
            self._created.clear()
        self._jumped = jumped
        if jumped:
            return
        self._created.append(late_s)
        if late_s < -1.0:
            yield Issue("label_future", f"written {-late_s:.1f} s before its minute ended")
            return
        if len(self._created) < SETTLED_FILES or max(self._created) - min(self._created) > STEADY_S:
            return
        level = min(self._created)
        if level < LATE_S or right:
            self._usual = level
            return
        if self._cut and abs(level - self._usual - self._cut / rate) < STEADY_S:
            yield Issue("boundary_shift", f"file after file is written {level:.1f} s after its minute's end: "
                                          f"{self._cut} samples were cut off in files before")  # fmt: skip
            return
        minutes = round((level - self._usual) / 60.0)
        if minutes >= 1 and abs(level - self._usual - 60.0 * minutes) < STEADY_S:
            yield Issue("minutes_early", f"file after file is written {level:.1f} s after its minute's end: "
                                         f"the labels are {minutes} min early")  # fmt: skip
        else:
            code = "mid_minute_start" if level > LONGEST_STALL_S else "mid_minute_likely"
            yield Issue(code, f"file after file is written {level:.1f} s after its minute's end: "
                              f"the data begin about {level:.1f} s after the label")  # fmt: skip
