"""Many minutes of a channel as columns of a picture: Doppler spectra, level, completeness.

Columns are minutes, or several minutes where there are too many; one file at a time is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.plotting.data import (
    CARRIER_RATE_HZ,
    Spectra,
    carrier,
    carrier_offset,
    decibels,
    doppler,
    gap_spans,
    ridge,
    tone_of,
)

Values = Mapping[str, Any]
Floats = npt.NDArray[np.floating[Any]]

MOST_COLUMNS = 2880
# Below so many minutes a file is several columns.
SHORT_MINUTES = 240
SHORT_LENGTH, SHORT_COLUMNS = 256, 6
LONG_LENGTH = 512
REACH_HZ = 3.0


@dataclass(slots=True)
class Days:
    """A channel from `first_s` to `end_s` (UTC, whole minutes)."""

    channel: str
    frequency_hz: float
    first_s: int
    end_s: int
    # Neighbouring lines of a spectrum that are kept as one, the strongest of them; for small pictures.
    lines_as_one: int = 1
    offset_hz: float = 0.0
    files: int = 0
    bound_ms: float = 0.0
    missing_s: dict[str, float] = field(default_factory=dict)
    tones: list[tuple[float, float]] = field(default_factory=list)
    power: npt.NDArray[np.float32] = field(init=False)
    spectra: npt.NDArray[np.int32] = field(init=False)
    level: npt.NDArray[np.float64] = field(init=False)
    valid_s: npt.NDArray[np.float64] = field(init=False)
    line_hz: npt.NDArray[np.float64] = field(init=False)
    _axis: Floats | None = None

    def __post_init__(self) -> None:
        count = self.columns
        self.power = np.zeros((0, count), np.float32)
        self.spectra = np.zeros(count, np.int32)
        self.level, self.valid_s = np.zeros(count), np.zeros(count)
        self.line_hz = np.full(count, np.nan)

    @property
    def minutes(self) -> int:
        """From the first to the last, with or without a file."""
        return max(1, (self.end_s - self.first_s) // 60)

    @property
    def column_s(self) -> float:
        """Seconds that a column stands for."""
        if self.minutes <= SHORT_MINUTES:
            return 60 / SHORT_COLUMNS
        return 60.0 * -(-self.minutes // MOST_COLUMNS)

    @property
    def columns(self) -> int:
        """How many columns there are."""
        return int(-(-60 * self.minutes // self.column_s))

    @property
    def times_s(self) -> Floats:
        """UTC of the columns' middles."""
        return self.first_s + (np.arange(self.columns) + 0.5) * self.column_s

    @property
    def recorded_pct(self) -> Floats:
        """How much of each column's time was received."""
        return np.minimum(100.0, 100.0 * self.valid_s / self.column_s)

    @property
    def level_db(self) -> Floats:
        """Mean power of what was received, dB of full scale."""
        return decibels(np.divide(self.level, self.valid_s, out=np.zeros(self.columns), where=self.valid_s > 0))

    def picture(self) -> Spectra:
        """The Doppler spectra over time, frequencies from the channel's centre."""
        axis = self._axis if self._axis is not None else np.zeros(0)
        mean = np.divide(self.power, self.spectra, out=np.zeros_like(self.power), where=self.spectra > 0)
        return Spectra(self.times_s, axis, decibels(mean))

    def add(self, values: Values, minute_s: int) -> None:
        """Add one file; the first one says where the carrier is."""
        rate, iq = values["sample_rate"], values["iq"]
        if not self.files:
            self.offset_hz = carrier_offset(values)
        self.files += 1
        self.bound_ms = max(self.bound_ms, values.get("anchor_uncertainty_ns", 0) / 1e6)
        for span in gap_spans(values):
            self.missing_s[span.cause] = self.missing_s.get(span.cause, 0.0) + span.length_s
        tone = tone_of(values)
        if tone["tone_detected"]:
            self.tones.append((minute_s, float(tone["tone_onset_ms"])))
        short = self.minutes <= SHORT_MINUTES
        parts = SHORT_COLUMNS if short else 1
        first = int((minute_s - self.first_s) // self.column_s)
        self._sound(iq, rate, first, parts, short)
        received = np.ones(len(iq), bool)
        for begin, filled in zip(values["gap_sample_indices"], values["gap_samples_filled"], strict=True):
            received[int(begin) : int(begin) + int(filled)] = False
        size = np.square(np.abs(iq))
        for number, (part, there) in enumerate(
            zip(np.array_split(size, parts), np.array_split(received, parts), strict=True)
        ):
            self.level[first + number] += float(part.sum(dtype=np.float64)) / rate
            self.valid_s[first + number] += np.count_nonzero(there) / rate

    def _sound(self, iq: npt.NDArray[np.complex64], rate: int, first: int, parts: int, short: bool) -> None:
        length = SHORT_LENGTH if short else LONG_LENGTH
        found = doppler(carrier(iq, rate, self.offset_hz), length, 60 * CARRIER_RATE_HZ // parts, self.offset_hz)
        inside = np.flatnonzero(np.abs(found.frequencies_hz - self.offset_hz) <= REACH_HZ)
        near = inside[: len(inside) // self.lines_as_one * self.lines_as_one].reshape(-1, self.lines_as_one)
        if self._axis is None:
            self._axis = found.frequencies_hz[near].mean(axis=1)
            self.power = np.zeros((len(near), self.columns), np.float32)
        lines = ridge(found)
        for number in range(parts):
            heard = found.power_db[near, number].max(axis=1)
            if np.isnan(heard).all():
                continue
            column = first + number
            self.power[:, column] += np.nan_to_num(10 ** (heard / 10))
            self.spectra[column] += 1
            if not np.isnan(lines[number]):
                self.line_hz[column] = lines[number]
