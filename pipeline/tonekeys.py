"""What a minute file says of the station's time signal in it: the keys `tone_*` and `tick_*`.

Onsets are by the file's own labels, later than the minute positive, and nothing is taken off for
the way from the transmitter: on a true label they are the signal's travelling time. `tone_residual_ms`
is what is left when that is taken off: label less UTC, the station's word against the label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Channel, Station
from pipeline.stream.audio import Complex, Stretch
from pipeline.stream.minute import Minute
from pipeline.stream.pulses import locator_position, path_delay_s, pulses
from pipeline.stream.timeline import MINUTE, SECOND
from pipeline.stream.toneanchor import Onset
from pipeline.stream.tones import AGREEMENT_S, BEFORE_S, EARLIEST_S, NOTHING, Tones, listen, survey, tone_evidence
from pipeline.stream.tonesearch import SEARCH_S

HOUR = 60 * MINUTE


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


def tail_of(minute: Minute, iq: Stretch, extra: Complex) -> Tail | None:
    """What the next minute needs to hear a tone that begins before it; None when the minute is empty."""
    if not minute.segments:
        return None
    last = minute.segments[-1]
    whole = np.concatenate((iq[max(last.index, len(iq) - round(BEFORE_S * minute.rate_hz)) :], extra))
    return Tail(last.epoch_id, last.timestamp + len(iq) - last.index + len(extra), whole)


def hear(minute: Minute, channel: Channel, iq: Stretch, tail: Tail | None) -> Tones:
    """Look for the tones of the channel's stations in a minute; onsets are within 30 s of iq[0].

    Where the label may be further off than tones are usually looked for, anywhere in it.
    """
    before = tail.before(minute) if tail else None
    hour = minute.utc_ns % HOUR == 0
    if minute.anchor.uncertainty_ns <= SEARCH_S * SECOND:
        return listen(iq, minute.rate_hz, pulses(channel.stations, channel.frequency_hz, hour), before)
    wanted = dict.fromkeys(pulses(channel.stations, channel.frequency_hz, False))
    if hour or (minute.utc_ns + MINUTE) % HOUR == 0:
        wanted |= dict.fromkeys(pulses(channel.stations, channel.frequency_hz, True))
    found = survey(iq, minute.rate_hz, tuple(wanted), before)
    # The next minute's tone, as this one's that was before the file.
    return found.later(-60.0) if found.heard and found.heard[0].onset_s > 30.0 else found


def onset_of(minute: Minute, keys: Mapping[str, Any], station: Station) -> Onset | None:
    """What the keys of a minute's file say of its timeline; None without a tone, or without ticks that agree."""
    if not (keys["tone_detected"] and keys["tick_count"]) or len(minute.segments) != 1:
        return None
    onset_ms, tick_ms = float(keys["tone_onset_ms"]), float(keys["tick_onset_ms"])
    if abs(onset_ms - tick_ms) > 1e3 * AGREEMENT_S:
        return None
    name = str(keys["tone_station"])
    delay, doubt = path_delay_s(name, *position_of(station))
    after_s = (onset_ms - (minute.anchor.utc_at(minute.first_timestamp) - minute.utc_ns) / 1e6) / 1e3
    after_s += 60.0 if after_s < EARLIEST_S else 0.0
    at = round(after_s * minute.rate_hz)
    return Onset(
        minute.epoch_id,
        minute.rate_hz,
        name,
        minute.first_timestamp + at,
        round((after_s - at / minute.rate_hz) * SECOND),
        round(float(keys["tone_uncertainty_ms"]) * 1e6),
        round(delay * SECOND),
        round(doubt * SECOND),
    )


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
