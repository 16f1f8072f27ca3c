"""The minute tone of WWV, WWVH and CHU: an independent check of a minute's label.

`listen` looks only within 1.5 s of the labelled minute, `survey` anywhere in it for a label that may be seconds
off; which minute a tone begins it cannot say (`toneanchor`). What is
sent is in `pulses`, whether it is there is decided in `tonesearch`, its time read in `tonetiming`. The tone
comes late by its way from the transmitter; nothing here is corrected for that except `tone_evidence`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.stream.audio import Bands, Complex, Stretch, bands, find_carrier
from pipeline.stream.pulses import Pulse, path_delay_s
from pipeline.stream.tonesearch import Find, find, find_anywhere, near_minute
from pipeline.stream.tonetiming import Ticks, Tone, time_ticks, time_tones

# What lies before the minute and belongs to the look at its beginning.
BEFORE_S = 2.6
HEAD_S = 6.0
LOWEST_RATE_HZ = 4_000
SHORTEST_S = 10.0
# What must be seen before a tone is 0.9 s, and after it 1.3 s with itself: so it is in one minute or in the next.
EARLIEST_S = -1.7
# How far a tone and its ticks may be apart to confirm each other.
AGREEMENT_S = 0.001
# A tone may be so far from the label's minute by its way and by the label's bound; a note that is further off, and
# sounds like one, must have ticks.
EXPECTED_S = 0.15
UNKNOWN_DB = -999.0


@dataclass(frozen=True, slots=True)
class Tones:
    """What was heard of the stations in a minute, the clearest first; `ticks` are the first one's."""

    heard: tuple[Tone, ...] = ()
    ticks: Ticks | None = None

    def power_dbfs(self, hz: int) -> float:
        """Mean power of the tone of this frequency, |iq| = 1 being 0 dB; -999 when it was not heard."""
        return next((tone.power_dbfs for tone in self.heard if tone.hz == hz), UNKNOWN_DB)

    @property
    def differential_s(self) -> float:
        """WWVH's delay less WWV's, NaN unless both were heard."""
        at = {tone.station: tone.onset_s for tone in self.heard}
        return at["WWVH"] - at["WWV"] if {"WWV", "WWVH"} <= at.keys() else math.nan

    def later(self, seconds: float) -> Tones:
        """The same with all onsets `seconds` later."""
        heard = tuple(replace(tone, onset_s=tone.onset_s + seconds) for tone in self.heard)
        return Tones(heard, self.ticks and replace(self.ticks, onset_s=self.ticks.onset_s + seconds))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a tone says of a label: `residual_ns` = label - UTC, true within `uncertainty_ns`."""

    station: str
    residual_ns: int
    uncertainty_ns: int


NOTHING = Tones()


def listen(iq: Stretch, rate_hz: int, wanted: Sequence[Pulse], before: Complex | None = None) -> Tones:
    """Look for the minute tones `wanted` at the beginning of a minute.

    `iq` (complex64) is the minute, zeros where nothing was received; `before` is what came directly before it,
    of which the last 2.6 s are used. Without it a tone that begins before iq[0] is timed by its end. A tone further
    than 0.15 s from the label's minute is believed with its second ticks only.
    """
    if not _can_be_heard(iq, rate_hz, wanted):
        return NOTHING
    upper, audio = _demodulation(wanted)
    lead, split = round(BEFORE_S * rate_hz), round(HEAD_S * rate_hz)
    head = _with_lead(iq[:split], before, lead)
    carrier_hz = find_carrier(iq, rate_hz)
    first = bands(head, rate_hz, carrier_hz, audio, upper)
    # Where a second begins in samples is exact; where a stretch does, only to a sample.
    lead_s, rest_s = lead / rate_hz, split / rate_hz
    finite = np.isfinite(first.carrier).all()
    places = [near for pulse in wanted if (near := near_minute(first, pulse, lead_s))] if finite else []
    if not places:
        return NOTHING
    rest = bands(iq[split:], rate_hz, carrier_hz, audio, upper)
    if not np.isfinite(rest.carrier).all():
        return NOTHING
    found = [one for place in places if (one := find(first, rest, place, rest_s)) is not None]
    best = _best(found)
    if not best:
        return NOTHING
    tones = [replace(tone, onset_s=tone.onset_s - lead_s) for tone in time_tones(head, first, best, upper)]
    ticks, station = _ticks(iq[split:], rest, found, tones[0], rest_s)
    expected = abs(tones[0].onset_s) <= EXPECTED_S
    if not (best[0].sure and expected) and not _confirmed(tones[0], ticks):
        return NOTHING
    near_s = 0.0 if expected else tones[0].onset_s
    others = [t for t, one in zip(tones, best, strict=True) if one.sure and abs(t.onset_s - near_s) <= EXPECTED_S]
    sure = [tones[0], *(tone for tone in others if tone is not tones[0])]
    return Tones((replace(sure[0], station=station), *sure[1:]), ticks)


def survey(iq: Stretch, rate_hz: int, wanted: Sequence[Pulse], before: Complex | None = None) -> Tones:
    """Look for a minute tone anywhere in a minute's samples, for a label that may be seconds off.

    As `listen`, but only what stands out from the whole minute, and whose second ticks are heard too, is believed.
    Onsets are from -1.7 to 58.3 s after iq[0]: one in any minute.
    """
    if not _can_be_heard(iq, rate_hz, wanted):
        return NOTHING
    upper, audio = _demodulation(wanted)
    lead = round(BEFORE_S * rate_hz)
    whole = _with_lead(iq, before, lead)
    of = bands(whole, rate_hz, find_carrier(iq, rate_hz), audio, upper)
    if not np.isfinite(of.carrier).all():
        return NOTHING
    lead_s = lead / rate_hz
    begin_s, end_s = lead_s + EARLIEST_S, lead_s + EARLIEST_S + 60.0
    found = [one for pulse in wanted if (one := find_anywhere(of, pulse, begin_s, end_s)) is not None]
    for best in _best(found):
        [timed] = time_tones(whole, of, [best], upper)
        tone = replace(timed, onset_s=timed.onset_s - lead_s)
        ticks, station = _ticks(whole, of, found, tone, -lead_s)
        if _confirmed(tone, ticks):
            return Tones((replace(tone, station=station),), ticks)
    return NOTHING


def _can_be_heard(iq: Stretch, rate_hz: int, wanted: Sequence[Pulse]) -> bool:
    return rate_hz >= LOWEST_RATE_HZ and len(iq) >= SHORTEST_S * rate_hz and bool(wanted)


def _demodulation(wanted: Sequence[Pulse]) -> tuple[bool, list[int]]:
    """Whether only the upper sideband is sent, and the tones' frequencies."""
    return all(pulse.upper_only for pulse in wanted), sorted({pulse.hz for pulse in wanted})


def _with_lead(iq: Stretch, before: Complex | None, lead: int) -> Complex:
    """`iq` after the last `lead` samples of `before`, zeros where that is shorter."""
    whole = np.zeros(lead + len(iq), np.complex64)
    whole[lead:] = iq
    if before is not None and len(before):
        whole[lead - min(lead, len(before)) : lead] = before[-lead:]
    return whole


def _ticks(iq: Stretch, of: Bands, found: list[Find], tone: Tone, first_s: float) -> tuple[Ticks | None, str]:
    """The second ticks and whose they are: on the hour several stations send the same tone."""
    rivals = [one for one in found if one.pulse.hz == tone.hz]
    heard = [(time_ticks(iq, of, one.pulse, tone, first_s, one.density), one.pulse.station) for one in rivals]
    return max(heard, key=lambda pair: pair[0].count if pair[0] else 0)


def _confirmed(tone: Tone, ticks: Ticks | None) -> bool:
    return ticks is not None and abs(tone.onset_s - ticks.onset_s) <= min(
        AGREEMENT_S, tone.uncertainty_s + ticks.uncertainty_s
    )


def _best(found: list[Find]) -> list[Find]:
    """The best fitting find of each frequency, best first."""
    ranked = sorted(found, key=lambda one: -one.fit)
    taken = [one.pulse.hz for one in ranked]
    return [one for number, one in enumerate(ranked) if one.pulse.hz not in taken[:number]]


def tone_evidence(
    tones: Tones, label_ns: int, latitude: float = math.nan, longitude: float = math.nan
) -> Evidence | None:
    """What the clearest tone says of the label of iq[0], None when there was no tone.

    `label_ns` is the label less the minute (a fraction of a sample in our files). The way from the transmitter is
    taken off by `path_delay_s` and its doubt added, which without the station's position is some 35 ms.
    """
    if not tones.heard:
        return None
    tone = tones.heard[0]
    delay, doubt = path_delay_s(tone.station, latitude, longitude)
    residual = label_ns + round((tone.onset_s - delay) * 1e9)
    return Evidence(tone.station, residual, round((tone.uncertainty_s + doubt) * 1e9))
