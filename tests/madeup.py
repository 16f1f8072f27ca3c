"""Minute files of made-up signals: what a receiver hears, with gaps of any cause, for what shows or audits files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minutes import CHANNEL, arrays_of, cut_all
from pipeline.config import Channel
from pipeline.stream.timeline import SECOND
from streams import T0, Recording, Sent, play
from trees import later, write_minute

Iq = npt.NDArray[np.complex64]
Gap = tuple[int, int, str, int]
DAY_S = 86_400
# The first minute of the day of T0, in minutes from T0.
MIDNIGHT = -(T0 // SECOND % DAY_S) // 60


@cache
def _base(rate_hz: int) -> dict[str, Any]:
    """The file of a whole minute that was received without a loss, all keys as the recorder makes them."""
    recorded = Recording(rate_hz)
    frames = rate_hz // 50
    play(recorded, Sent(T0, rate_hz, frames), range(60 * rate_hz // frames))
    return arrays_of(cut_all(recorded)[0], channel=replace(CHANNEL, sample_rate_hz=rate_hz))


def minute(iq: Iq, rate_hz: int, gaps: Iterable[Gap] = (), number: int = 0, **keys: Any) -> dict[str, Any]:
    """A file of these samples, `number` minutes after T0; a gap is (index, samples, cause, packets lost)."""
    arrays = later(_base(rate_hz), number)
    rows = sorted(gaps)
    samples = iq.astype(np.complex64)
    for index, count, _, _ in rows:
        samples[index : index + count] = 0
    missing = sum(row[1] for row in rows)
    lost = sum(row[3] for row in rows)
    index, count, cause, packets = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 4
    )
    rtp = (int(arrays["rtp_timestamp"]) + index.astype(np.int64)) % 2**32
    changed = {
        "iq": samples,
        "gap_sample_indices": index.astype(np.uint32), "gap_samples_filled": count.astype(np.uint32),
        "gap_rtp_timestamps": rtp.astype(np.uint32), "gap_packets_lost": packets.astype(np.uint32),
        "gap_cause": cause.astype(np.str_), "gaps_filled": missing, "gaps_count": len(rows),
        "valid_samples": len(samples) - missing, "completeness_pct": 100.0 * (len(samples) - missing) / len(samples),
        "packets_lost": lost, "packets_received": round((len(samples) - missing) * 50 / rate_hz),
    }  # fmt: skip
    return {**arrays, **{name: np.asarray(value) for name, value in {**changed, **keys}.items()}}


def as_int16(arrays: dict[str, Any]) -> dict[str, Any]:
    """The same file as `storage = "int16"` keeps it."""
    pairs = np.round(arrays["iq"].view(np.float32).reshape(-1, 2) * 32_768).clip(-32_768, 32_767).astype(np.int16)
    return {**{n: v for n, v in arrays.items() if n != "iq"}, "iq_int16": pairs, "iq_scale": np.asarray(1 / 32_768)}


@dataclass(frozen=True)
class Sky:
    """A day of propagation on one frequency: when it is open, its Doppler shift and fading, noise by day and night."""

    channel: Channel = CHANNEL
    rate_hz: int = 250
    opens_h: float = 11.0
    closes_h: float = 23.5
    noise: float = 0.004
    level: float = 0.12
    seed: int = 1

    def minutes(self, numbers: Iterable[int]) -> Iterator[tuple[int, Iq]]:
        """(minute of the day, samples) for each of `numbers`."""
        for number in numbers:
            yield number, self._minute(number)

    def _minute(self, number: int) -> Iq:
        rng = np.random.default_rng([self.seed, number])
        count = 60 * self.rate_hz
        t = number * 60 + np.arange(count) / self.rate_hz
        hour = t / 3600
        noise = rng.standard_normal((count, 2), dtype=np.float32).view(np.complex64)[:, 0]
        open_ = np.clip(np.minimum(hour - self.opens_h, self.closes_h - hour) / 0.7, 0, 1)
        scale = self.channel.frequency_hz / 10e6
        # Layers sink after sunrise and rise in the evening; waves of some 20 and 7 minutes run through.
        shift = scale * (0.9 * np.exp(-((hour - self.opens_h - 0.4) ** 2) / 0.5)
                         - 0.7 * np.exp(-((hour - self.closes_h + 0.6) ** 2) / 0.6)
                         + 0.12 * np.sin(2 * np.pi * hour * 2.7) + 0.05 * np.sin(2 * np.pi * hour * 9.1))  # fmt: skip
        second = shift * 1.5 + 0.2 * scale * np.sin(2 * np.pi * hour * 1.3 + 1)
        fading = 0.75 + 0.25 * np.sin(2 * np.pi * t / 13.0 + self.seed) * np.sin(2 * np.pi * t / 47.0)
        signal = sum(part * np.exp(2j * np.pi * np.cumsum(line) / self.rate_hz + 1j * number * 0.7)
                     for part, line in ((fading, shift), (0.35 * (1.4 - fading), second)))  # fmt: skip
        static = self.noise * (1 + 1.5 * (np.abs(hour - 12) > 6))
        return (self.level * open_ * signal + static * noise).astype(np.complex64)


def day(tree: Path, sky: Sky, numbers: Iterable[int] = range(1440), absent: Iterable[tuple[int, int]] = ()) -> None:
    """Write minutes of the day of T0 below `tree`, as int16; `absent` are [first, end) without a file.

    Now and then packets are lost; each absence begins and ends within a minute, as a stop and a start do.
    """
    rng = np.random.default_rng(sky.seed)
    frames, count = sky.rate_hz // 50, 60 * sky.rate_hz
    stops = {first - 1 for first, _ in absent}
    starts = {end for _, end in absent}
    for number, iq in sky.minutes(n for n in numbers if not any(a <= n < b for a, b in absent)):
        gaps: list[Gap] = []
        if rng.random() < 0.05:
            gaps.append((frames * int(rng.integers(100, 2000)), frames * int(rng.integers(1, 400)), "network", 1))
        if number in stops:
            gaps = [(count // 3, count - count // 3, "stop", 0)]
        if number in starts:
            gaps = [(0, count // 2, "start", 0)]
        arrays = minute(iq, sky.rate_hz, gaps, MIDNIGHT + number, channel_name=sky.channel.name,
                        frequency_hz=sky.channel.frequency_hz)  # fmt: skip
        write_minute(tree, as_int16(arrays), sky.channel)
