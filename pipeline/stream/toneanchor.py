"""The anchor of last resort: UTC from minute tones, where neither radiod nor NTP says what time it is.

A tone says when *a* minute began, to better than a millisecond, and never which. Which one it was is what the
anchor in force says: its bound must hold the tone and leave no other minute possible, or there is no proposal. So
a tone can narrow a bound but never leave it; where the host's clock is further off than it is said to be (16 s for
one that nobody disciplines), nothing here finds out.

What is believed is one station's tone in three consecutive minutes of one RTP timeline, each with second ticks that
agree with it (`tones.survey`), the three on a line that a sample clock can have.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.records import AnchorSource
from pipeline.stream.anchor import MINUTE, SECOND, Anchor
from pipeline.stream.envelope import Fit
from pipeline.stream.evidence import Proposal, renewed

STATIONS = {"WWV": AnchorSource.WWV, "WWVH": AnchorSource.WWVH, "CHU": AnchorSource.CHU}
CONSECUTIVE = 3
# A sample clock further off than this is none (PPM); within it three tones 60 s apart tell how far it is.
LARGEST_PPM = 100
# By how much the rate may change afterwards, ns per second: an oscillator that warms up or cools down.
WANDER_NS_S = 5_000
# What a tone's time may be wrong by to be used.
LARGEST_UNCERTAINTY_NS = 5_000_000
# Over a minute the ionosphere moves a tone by less.
PATH_CHANGE_NS = 1_000_000
# Tones older than this say nothing of now: samples may have been lost since that nobody counted.
OLDEST_S = 3600


@dataclass(frozen=True, slots=True)
class Onset:
    """A minute tone on an epoch's timeline: it began `late_ns` after the sample with extended RTP `timestamp`.

    True within `uncertainty_ns`; sent `delay_ns` before, give or take `doubt_ns`.
    """

    epoch_id: int
    rate_hz: int
    station: str
    timestamp: int
    late_ns: int
    uncertainty_ns: int
    delay_ns: int
    doubt_ns: int

    def since(self, timestamp: int) -> float:
        """How long after a sample the tone began, in nanoseconds of the nominal rate."""
        return (self.timestamp - timestamp) * SECOND / self.rate_hz + self.late_ns


class ToneWatch:
    """The latest onsets of each station on the newest timeline, and the line that they give."""

    def __init__(self) -> None:
        self._onsets: dict[str, deque[Onset]] = {}
        self._timeline = (0, 0)

    def add(self, onset: Onset) -> None:
        """A tone was heard; those of other timelines are forgotten."""
        if onset.station not in STATIONS or onset.uncertainty_ns > LARGEST_UNCERTAINTY_NS:
            return
        timeline = (onset.epoch_id, onset.rate_hz)
        if timeline < self._timeline:
            return
        if timeline != self._timeline:
            self._onsets.clear()
            self._timeline = timeline
        known = self._onsets.setdefault(onset.station, deque(maxlen=CONSECUTIVE))
        # Of a minute that was looked at twice, the later word; of one before it, none.
        if known and onset.since(known[-1].timestamp) < MINUTE // 2:
            if onset.since(known[-1].timestamp) < -MINUTE // 2:
                return
            known.pop()
        known.append(onset)

    def propose(self, epoch_id: int, current: Anchor, now: int) -> Proposal | None:
        """The line that the tones give where the newest sample is `now`, None where they do not give one.

        `current` is the anchor in force with a bound that holds at present.
        """
        if (epoch_id, current.rate_hz) != self._timeline:
            return None
        found = [one for o in self._onsets.values() if (one := _line(list(o), current, now)) is not None]
        return min(found, key=lambda one: one.uncertainty_at(now), default=None)

    def instead_of(self, proposed: Proposal, epoch_id: int, current: Anchor) -> Proposal:
        """What the tones propose where `proposed` is the host clock's word alone.

        `current`, the anchor in force, is asked first which minute it is: its bound was true when it was stated, and
        where the host's clock has gone since does not matter. Then what the host's clock makes of it now.
        """
        if proposed.source is not AnchorSource.WALL_CLOCK:
            return proposed
        now = proposed.origin
        for line in (current, renewed(current, proposed, now, now)):
            found = self.propose(epoch_id, line, now)
            if found is not None:
                return found
        return proposed

    def to_json(self) -> list[list[Any]]:
        """The onsets as plain values, oldest first."""
        rows = [one for onsets in self._onsets.values() for one in onsets]
        return [[getattr(one, name) for name in Onset.__slots__] for one in rows]

    def load_json(self, state: Iterable[list[Any]]) -> None:
        """Be as the watch that `to_json` described."""
        for row in state:
            self.add(Onset(*row))


def _line(onsets: list[Onset], current: Anchor, now: int) -> Proposal | None:
    """The straight line through three onsets."""
    if len(onsets) < CONSECUTIVE:
        return None
    oldest, middle, newest = onsets
    sure = max(one.uncertainty_ns for one in onsets)
    slack = 2 * sure + PATH_CHANGE_NS
    # How much longer than a minute of samples the minutes were.
    first = middle.since(oldest.timestamp) - oldest.late_ns - MINUTE
    second = newest.since(middle.timestamp) - middle.late_ns - MINUTE
    if max(abs(first), abs(second)) > MINUTE * LARGEST_PPM / 1e6 + slack or abs(second - first) > 2 * slack:
        return None
    minute = _minute_of(newest, current)
    if minute is None or not 0 <= now - newest.timestamp <= OLDEST_S * current.rate_hz:
        return None
    # Least squares through three places: slope and mean, the mean brought to the newest of them.
    level = newest.late_ns + (first - second) / 6
    line = Fit(
        level=0.0,
        slope=-(first + second) / 2 / 60,
        doubt=sure / math.sqrt(3) + abs(level - newest.late_ns),
        slope_doubt=sure / math.sqrt(2) / 60 + WANDER_NS_S,
        middle=-60.0,
        spread=0.0,
        span=120.0,
    )
    return Proposal(
        STATIONS[newest.station],
        current.rate_hz,
        newest.timestamp,
        minute + newest.delay_ns - round(level),
        line,
        newest.doubt_ns,
        PATH_CHANGE_NS,
        minute,
    )


def _minute_of(onset: Onset, current: Anchor) -> int | None:
    """The minute (UTC, ns) whose tone it is by the anchor in force, None where its bound leaves it open."""
    utc = current.utc_at(onset.timestamp) + onset.late_ns - onset.delay_ns
    minute = (utc + MINUTE // 2) // MINUTE * MINUTE
    bound = current.uncertainty_ns + onset.uncertainty_ns + onset.doubt_ns
    off = abs(utc - minute)
    return minute if off <= bound and MINUTE - off > bound else None
