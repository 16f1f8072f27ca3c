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
    steady,
    tone_of,
    with_numbers,
)

Values = Mapping[str, Any]
Floats = npt.NDArray[np.floating[Any]]

MOST_COLUMNS = 2880
# Below so many minutes a file is several columns.
SHORT_MINUTES = 240
SHORT_LENGTH, SHORT_COLUMNS = 256, 6
LONG_LENGTH = 512
REACH_HZ = 3.0
# What has a value for each column.
KEPT = ("power", "spectra", "level", "valid_s", "line_hz", "_covered_s")


@dataclass(slots=True)
class Days:
    """A channel from `first_s` to `end_s` (UTC, whole minutes)."""

    channel: str
    frequency_hz: float
    first_s: int
    end_s: int
    # Neighbouring lines of a spectrum that are kept as one, the strongest of them; `line_hz` is found before that.
    lines_as_one: int = 4
    offset_hz: float = 0.0
    files: int = 0
    bound_ms: float = 0.0
    lost_s: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    tones: list[tuple[float, float]] = field(default_factory=list)
    power: npt.NDArray[np.float32] = field(init=False)
    spectra: npt.NDArray[np.int32] = field(init=False)
    level: npt.NDArray[np.float64] = field(init=False)
    valid_s: npt.NDArray[np.float64] = field(init=False)
    line_hz: npt.NDArray[np.float64] = field(init=False)
    _found: bool = False
    _axis: Floats | None = None
    _covered_s: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        count = self.columns
        self.power = np.zeros((0, count), np.float32)
        self.spectra = np.zeros(count, np.int32)
        self.level, self.valid_s, self._covered_s = np.zeros(count), np.zeros(count), np.zeros(count)
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

    @property
    def steady_hz(self) -> Floats:
        """The carrier's frequency in each column, from the channel's; NaN where there is none that lasts."""
        return steady(self.line_hz)

    def picture(self) -> Spectra:
        """The Doppler spectra over time, frequencies from the channel's centre."""
        axis = self._axis if self._axis is not None else np.zeros(0)
        mean = np.divide(self.power, self.spectra, out=np.zeros_like(self.power), where=self.spectra > 0)
        return Spectra(self.times_s, axis, decibels(mean))

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """All that was added so far, as arrays for `recall`."""
        arrays = {name: getattr(self, name) for name in KEPT}
        arrays["_axis"] = self._axis if self._axis is not None else np.zeros(0)
        numbers = [self.first_s, self.end_s, self.lines_as_one, self.offset_hz, self.files, self.bound_ms, self._found]
        lost = {f"lost {cause}": seconds for cause, seconds in self.lost_s.items()}
        return {**arrays, **lost, "tones": np.array(self.tones).reshape(-1, 2), "numbers": np.array(numbers, float)}

    def recall(self, kept: Values) -> bool:
        """Go on from what `kept` gave, if it was of the same time; False, and nothing changed, if it was not.

        Raises KeyError or ValueError, and changes nothing, when it is not what `kept` gives.
        """
        first_s, end_s, lines_as_one, offset_hz, files, bound_ms, found = _numeric(kept, "numbers", (7,)).tolist()
        if (first_s, end_s, lines_as_one) != (self.first_s, self.end_s, self.lines_as_one):
            return False
        axis = _numeric(kept, "_axis", (-1,))
        arrays = {name: _numeric(kept, name, (self.columns,)) for name in KEPT if name != "power"}
        arrays["power"] = _numeric(kept, "power", (len(axis), self.columns))
        lost = {name: _numeric(kept, name, (self.columns,)) for name in kept if name.startswith("lost ")}
        tones = _numeric(kept, "tones", (-1, 2)).tolist()
        count = int(files)
        for name, array in arrays.items():
            setattr(self, name, array.astype(getattr(self, name).dtype))
        self._axis = axis if len(axis) else None
        self.lost_s = {name.removeprefix("lost "): seconds for name, seconds in lost.items()}
        self.tones = [(at, onset) for at, onset in tones]
        self.offset_hz, self.files, self.bound_ms, self._found = offset_hz, count, bound_ms, bool(found)
        return True

    def add(self, values: Values, minute_s: int) -> None:
        """Add one file; the first one says where the carrier is."""
        values = with_numbers(values)
        rate, iq = values["sample_rate"], values["iq"]
        if not self._found:
            self._look_for_carrier(values)
        self.files += 1
        self.bound_ms = max(self.bound_ms, values.get("anchor_uncertainty_ns", 0) / 1e6)
        for span in gap_spans(values):
            self._lose(span.cause, minute_s - self.first_s + span.begin_s, span.length_s)
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
            self._covered_s[first + number] += len(part) / rate

    def _look_for_carrier(self, values: Values) -> None:
        """Until there is one the channel's own frequency is looked at; noise is the same at any."""
        offset = carrier_offset(values)
        if offset is not None:
            self._found = True
            if self._axis is not None:
                self._axis = self._axis + offset - self.offset_hz
            self.offset_hz = offset

    def _lose(self, cause: str, begin_s: float, length_s: float) -> None:
        lost = self.lost_s.setdefault(cause, np.zeros(self.columns))
        first, last = int(begin_s // self.column_s), int((begin_s + length_s - 1e-9) // self.column_s)
        for column in range(max(0, first), min(last + 1, self.columns)):
            end = min(begin_s + length_s, (column + 1) * self.column_s)
            lost[column] += max(0.0, end - max(begin_s, column * self.column_s))

    def missing_s(self) -> dict[str, npt.NDArray[np.float64]]:
        """Seconds that were not received in each column by cause; "no file" where there is none."""
        absent = np.maximum(0.0, self.column_s - self._covered_s)
        return {**self.lost_s, **({"no file": absent} if absent.sum() >= 1.0 else {})}

    def _sound(self, iq: npt.NDArray[np.complex64], rate: int, first: int, parts: int, short: bool) -> None:
        length = SHORT_LENGTH if short else LONG_LENGTH
        found = doppler(carrier(iq, rate, self.offset_hz), length, 60 * CARRIER_RATE_HZ // parts, self.offset_hz)
        inside = np.flatnonzero(np.abs(found.frequencies_hz - self.offset_hz) <= REACH_HZ)
        near = inside[: len(inside) // self.lines_as_one * self.lines_as_one]
        lines = ridge(Spectra(found.times_s, found.frequencies_hz[near], found.power_db[near]))
        power = np.nan_to_num(10 ** (found.power_db[near] / 10))
        rows = power.reshape(-1, self.lines_as_one, parts).max(axis=1)
        if self._axis is None:
            self._axis = found.frequencies_hz[near].reshape(-1, self.lines_as_one).mean(axis=1)
            self.power = np.zeros((len(rows), self.columns), np.float32)
        for number in range(parts):
            if not rows[:, number].any():
                continue
            column = first + number
            self.power[:, column] += rows[:, number]
            self.spectra[column] += 1
            if not np.isnan(lines[number]):
                self.line_hz[column] = lines[number]


def _numeric(kept: Values, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An array of numbers of this shape, in which -1 is any length; KeyError, or ValueError if it is not."""
    found = np.asarray(kept[name])
    fits = found.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, found.shape, strict=True))
    if found.dtype.kind not in "iuf" or not fits:
        raise ValueError(f"{name}: {found.dtype} of shape {found.shape}, not numbers of {shape}")
    return found
