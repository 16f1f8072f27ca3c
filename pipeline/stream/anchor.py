"""A label's arithmetic: the straight line from RTP timestamps to UTC at the nominal rate, in integers."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

from pipeline.records import AnchorSource

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def rounded(numerator: int, denominator: int) -> int:
    """The quotient to the nearest integer, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)


@dataclass(frozen=True, slots=True)
class Anchor:
    """UTC of an extended RTP timestamp, and the straight line through it.

    `uncertainty_ns` bounds the label's error; `doubt_ns` is the part of it that more evidence of the same kind
    would change. `evidence_ns` is when the newest evidence came, ns of the recorder's clock.
    """

    timestamp: int
    utc_ns: int
    rate_hz: int
    source: AnchorSource
    uncertainty_ns: int
    evidence_ns: int
    doubt_ns: int = 0

    def utc_at(self, timestamp: int) -> int:
        """UTC (ns since 1970) of a sample, to the nearest nanosecond."""
        return self.utc_ns + rounded((timestamp - self.timestamp) * SECOND, self.rate_hz)

    def timestamp_at(self, utc_ns: int) -> int:
        """The extended timestamp of the sample nearest to a UTC instant."""
        return self.timestamp + rounded((utc_ns - self.utc_ns) * self.rate_hz, SECOND)

    def minute_of(self, timestamp: int) -> int:
        """UTC of the minute (ns since 1970) whose file a sample belongs to."""
        minute = self.utc_at(timestamp) // MINUTE * MINUTE
        # Half a sample before the boundary is nearer to it than to the sample before.
        return minute + MINUTE if timestamp >= self.timestamp_at(minute + MINUTE) else minute

    def to_json(self) -> list[int]:
        """The anchor as plain values."""
        return [int(value) for value in astuple(self)]

    @classmethod
    def from_json(cls, state: list[int]) -> Anchor:
        """The anchor that `to_json` described."""
        at, utc, rate, source, *rest = state
        return cls(at, utc, rate, AnchorSource(source), *rest)

    def moved(self, samples: int) -> Anchor:
        """The same anchor with the timeline `samples` later."""
        later = rounded(samples * SECOND, self.rate_hz)
        return replace(self, utc_ns=self.utc_ns + later, uncertainty_ns=self.uncertainty_ns + abs(later))
