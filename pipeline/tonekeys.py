"""What a minute file says of the station's time signal in it: the keys `tone_*` and `tick_*`.

Onsets are by the file's own labels, later than the minute positive, and nothing is taken off for
the way from the transmitter: on a true label they are the signal's travelling time. `tone_residual_ms`
is what is left when that is taken off: label less UTC, the station's word against the label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Channel, Station
from pipeline.stream.audio import Complex
from pipeline.stream.minute import Minute
from pipeline.stream.pulses import locator_position, pulses
from pipeline.stream.timeline import SECOND
from pipeline.stream.tones import BEFORE_S, NOTHING, Tones, listen, tone_evidence


@dataclass(frozen=True, slots=True)
class Tail:
    """The last samples of a minute; `timestamp` (extended) is that of the sample after them."""

    epoch_id: int
    timestamp: int
    iq: Complex

    def before(self, minute: Minute) -> Complex | None:
        """The samples directly before a minute, None when these are others."""
        beyond = self.timestamp - minute.first_timestamp
        if self.epoch_id != minute.epoch_id or not 0 <= beyond < len(self.iq):
            return None
        return self.iq[: len(self.iq) - beyond]


def tail_of(minute: Minute, iq: Complex, extra: Complex) -> Tail | None:
    """What the next minute needs to hear a tone that begins before it; None when the minute is empty."""
    if not minute.segments:
        return None
    last = minute.segments[-1]
    whole = np.concatenate((iq[max(last.index, len(iq) - round(BEFORE_S * minute.rate_hz)) :], extra))
    return Tail(last.epoch_id, last.timestamp + len(iq) - last.index + len(extra), whole)


def hear(minute: Minute, channel: Channel, iq: Complex, tail: Tail | None) -> Tones:
    """Look for the tones of the channel's stations in a decoded minute."""
    wanted = pulses(channel.stations, channel.frequency_hz, minute.utc_ns % (3600 * SECOND) == 0)
    return listen(iq, minute.rate_hz, wanted, tail.before(minute) if tail else None)


def position_of(station: Station) -> tuple[float, float]:
    """Latitude and longitude (degrees) of the receiver, NaN where the configuration does not say."""
    if math.isfinite(station.latitude) and math.isfinite(station.longitude):
        return station.latitude, station.longitude
    return locator_position(station.grid)


def tone_keys(
    tones: Tones = NOTHING, label_ns: int = 0, position: tuple[float, float] = (math.nan, math.nan)
) -> dict[str, Any]:
    """The keys; `label_ns` is the label of iq[0] less the minute, `position` the receiver's (`position_of`)."""
    tone = tones.heard[0] if tones.heard else None
    evidence = tone_evidence(tones, label_ns, *position)
    ticks = tones.ticks

    def by_label(onset_s: float | None) -> float:
        return math.nan if onset_s is None else label_ns / 1e6 + 1e3 * onset_s

    return {
        "tone_power_1000_hz_db": tones.power_dbfs(1000),
        "tone_power_1200_hz_db": tones.power_dbfs(1200),
        "wwvh_differential_delay_ms": 1e3 * tones.differential_s,
        "tone_detected": tone is not None,
        "tone_station": tone.station if tone else "",
        "tone_onset_ms": by_label(tone.onset_s if tone else None),
        "tone_uncertainty_ms": 1e3 * tone.uncertainty_s if tone else math.nan,
        "tone_snr_db": tone.snr_db if tone else math.nan,
        "tone_residual_ms": evidence.residual_ns / 1e6 if evidence else math.nan,
        "tone_residual_uncertainty_ms": evidence.uncertainty_ns / 1e6 if evidence else math.nan,
        "tick_onset_ms": by_label(ticks.onset_s if ticks else None),
        "tick_uncertainty_ms": 1e3 * ticks.uncertainty_s if ticks else math.nan,
        "tick_count": ticks.count if ticks else 0,
    }
