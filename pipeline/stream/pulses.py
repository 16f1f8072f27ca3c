"""What WWV, WWVH and CHU send at the minute and at the seconds, and which of them a channel hears.

NIST SP 432 (WWV, WWVH: 0.8 s at the minute, 1500 Hz on the hour; ticks of 5 ms), NRC (CHU: 0.5 s, 1 s on the hour;
0.3 s at each second but 29, 31 to 39 and 50 to 59; upper sideband only).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pulse:
    """A station's minute tone: audio of `hz` for `length_s`, nothing of it for `before_s` and `after_s` around it.

    Its second ticks are of `tick_hz` and last at least `tick_s`.
    """

    station: str
    hz: int
    length_s: float
    before_s: float
    after_s: float
    tick_hz: int
    tick_s: float
    latitude: float
    longitude: float

    @property
    def upper_only(self) -> bool:
        """True where the lower sideband is not sent."""
        return self.station == "CHU"

    @property
    def least_heard(self) -> float:
        """The share of it that must have been received; of CHU's more, lest a second's 0.3 s be half of its 0.5 s."""
        return 0.9 if self.station == "CHU" else 0.5

    def ticks(self, second: int) -> bool:
        """Whether a tick of the full kind begins at a second of a minute, 1 to 59."""
        if self.station == "CHU":
            return not (second == 29 or 31 <= second <= 39 or second >= 50)
        return second not in (29, 59)

    @property
    def quiet_s(self) -> tuple[tuple[float, float], ...]:
        """Spans of a minute in which nothing like the minute tone is sent."""
        # CHU's other seconds are full of the same tone; in these it ticks for 10 ms.
        return ((31.2, 39.9), (50.2, 59.9)) if self.station == "CHU" else ((0.0, math.inf),)


WWV = Pulse("WWV", 1000, 0.8, 0.9, 0.5, 1000, 0.005, 40.678, -105.047)
WWVH = Pulse("WWVH", 1200, 0.8, 0.9, 0.5, 1200, 0.005, 21.988, -159.763)
CHU = Pulse("CHU", 1000, 0.5, 0.9, 0.45, 1000, 0.3, 45.295, -75.758)
STATIONS = {"WWV": WWV, "WWVH": WWVH, "CHU": CHU}
# Carriers, kHz: where a configuration does not say who is heard.
CARRIERS = {2500: (WWV, WWVH), 5000: (WWV, WWVH), 10000: (WWV, WWVH), 15000: (WWV, WWVH),
            20000: (WWV,), 25000: (WWV,), 3330: (CHU,), 7850: (CHU,), 14670: (CHU,)}  # fmt: skip
HOUR_HZ = 1500
EARTH_KM, LIGHT_KM_S = 6371.0, 299_792.458


def pulses(stations: Iterable[str], frequency_hz: float, on_the_hour: bool) -> tuple[Pulse, ...]:
    """What to look for in a minute; nothing when the channel carries none of the three stations.

    `stations` are names, others than the three are passed over; with none the frequency decides.
    """
    names = list(stations)
    found = [STATIONS[name] for name in names if name in STATIONS]
    if not names:
        found = list(CARRIERS.get(round(frequency_hz / 1e3), ()))
    if not on_the_hour:
        return tuple(found)
    hourly = [replace(p, length_s=1.0) if p is CHU else replace(p, hz=HOUR_HZ) for p in found]
    # Programmes that imitate a station do not all know of the hour.
    return (*hourly, *(p for p in found if p is not CHU))


def locator_position(locator: str) -> tuple[float, float]:
    """Latitude and longitude (degrees) of the middle of a Maidenhead square of 2, 4 or 6 characters; NaN if it is none.

    IARU Region 1 VHF Managers Handbook, 6.1.
    """
    text = locator.strip().upper()
    if not re.fullmatch(r"[A-R]{2}(\d{2}([A-X]{2})?)?", text):
        return math.nan, math.nan
    east, north = -180.0, -90.0
    width, height = 360.0, 180.0
    for begin, parts, first in ((0, 18, "A"), (2, 10, "0"), (4, 24, "A"))[: len(text) // 2]:
        width, height = width / parts, height / parts
        east += (ord(text[begin]) - ord(first)) * width
        north += (ord(text[begin + 1]) - ord(first)) * height
    return north + height / 2, east + width / 2


def path_delay_s(station: str, latitude: float, longitude: float) -> tuple[float, float]:
    """How long a station's signal travels to a place, s, and by how much that may be wrong.

    From the ground distance; the ionosphere's detour is up to 15 %, or 3 ms near the transmitter. For a
    place that is not known (NaN) anything up to half the globe.
    """
    pulse = STATIONS[station]
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        half = math.pi * EARTH_KM * 1.15 / LIGHT_KM_S / 2
        return half, half
    a, b = math.radians(pulse.latitude), math.radians(latitude)
    turn = math.radians(longitude - pulse.longitude)
    cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(turn)
    ground = EARTH_KM * math.acos(min(1.0, max(-1.0, cosine))) / LIGHT_KM_S
    detour = 0.075 * ground + 0.001_5
    return ground + detour, detour
