"""signal-recorder's minute writer, its arithmetic reproduced with its faults, for trees that an audit must see through.

What it does, as measured: the first packet's minute, by the anchor, becomes the label, and its RTP timestamp is
computed from that and not wrapped; the samples are appended from that packet on; what is beyond 60 s is dropped;
indices of gaps count from the start of the program; files go straight to their names, over what is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streams import T0

T0_S = T0 // 10**9
WRAP = 1 << 32
RATE = 4_000
PACKET = 80  # 20 ms, as its 320 at 16 kHz


@dataclass
class AncestorWriter:
    """One channel of one run of the program; `snap` pairs an RTP timestamp with a UTC."""

    folder: Path
    snap: tuple[int, float]
    rate: int = RATE
    frequency_hz: float = 10e6
    ntp_offset_ms: float | None = 1.5
    latency_s: float = 0.3
    files: list[Path] = field(default_factory=list)
    _samples: list[npt.NDArray[np.complex64]] = field(default_factory=list)
    _held: int = 0
    _total: int = 0
    _gaps: list[tuple[int, int, int, int]] = field(default_factory=list)
    _packets: int = 0
    _minute: float | None = None
    _minute_rtp: int = 0

    def utc(self, rtp: int) -> float:
        """By the anchor, with a signed 32-bit difference: right within 2^31 samples only."""
        away = (rtp - self.snap[0]) & (WRAP - 1)
        away = away - WRAP if away >= WRAP // 2 else away
        return self.snap[1] + away / self.rate

    def packet(self, rtp: int, samples: npt.NDArray[np.complex64], now_s: float, lost: int = 0, zeros: int = 0) -> None:
        """Samples in the order of the resequencer; `zeros` of them are what it put in for `lost` packets before."""
        if self._minute is None:
            self._minute = math.floor(self.utc(rtp) / 60) * 60.0
            self._minute_rtp = int(self.snap[0] + (self._minute - self.snap[1]) * self.rate)
        if zeros:
            self._gaps.append((rtp & (WRAP - 1), self._total, zeros, lost))
            samples = np.concatenate((np.zeros(zeros, np.complex64), samples))
        self._packets += 1
        self._samples.append(samples)
        self._held += len(samples)
        self._total += len(samples)
        if self._held >= 60 * self.rate:
            self._write(now_s)

    def _write(self, now_s: float) -> None:
        assert self._minute is not None
        stamp = str(np.datetime64(round(self._minute), "s")).replace("-", "").replace(":", "")
        path = self.folder / f"{stamp}Z_{int(self.frequency_hz)}_iq.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        gaps = list(zip(*self._gaps, strict=True)) or [(), (), (), ()]
        values: dict[str, Any] = {
            "iq": np.concatenate(self._samples)[: 60 * self.rate],
            "rtp_timestamp": self._minute_rtp,
            "rtp_ssrc": 10_000_000,
            "sample_rate": self.rate,
            "time_snap_rtp": self.snap[0],
            "time_snap_utc": self.snap[1],
            "time_snap_source": "wwv_startup",
            "time_snap_confidence": 0.8,
            "time_snap_station": "WWV",
            "tone_power_1000_hz_db": 12.5,
            "tone_power_1200_hz_db": -999.0,
            "wwvh_differential_delay_ms": 0.0,
            "frequency_hz": self.frequency_hz,
            "channel_name": self.folder.name.replace("_", " "),
            "unix_timestamp": self._minute,
            "ntp_wall_clock_time": now_s - 60.0,
            "ntp_offset_ms": self.ntp_offset_ms,
            "gaps_filled": sum(gaps[2]),
            "gaps_count": len(self._gaps),
            "packets_received": self._packets,
            "packets_expected": 60 * self.rate // PACKET,
            "recorder_version": "2.0.0-core-timesnap",
            "created_timestamp": now_s,
            "gap_rtp_timestamps": np.array(gaps[0], np.uint32),
            "gap_sample_indices": np.array(gaps[1], np.uint32),
            "gap_samples_filled": np.array(gaps[2], np.uint32),
            "gap_packets_lost": np.array(gaps[3], np.uint32),
        }
        np.savez(path, **values)  # over what is there
        self.files.append(path)
        self._samples, self._gaps = [], []
        self._held = self._packets = 0
        self._minute = None

    def record(
        self, first_rtp: int, start_s: float, seconds: float, lost: set[int] = frozenset(), packet: int = PACKET,
        sound: npt.NDArray[np.complex64] | None = None,
    ) -> None:  # fmt: skip
        """A stream whose first sample, timestamp `first_rtp`, is of `start_s` UTC; `lost` are packet numbers.

        Without `sound` every sample is 0.5.
        """
        gone = 0
        for number in range(round(seconds * self.rate) // packet):
            if number in lost:
                gone += 1
                continue
            at = number * packet
            samples = np.full(packet, 0.5, np.complex64) if sound is None else sound[at : at + packet]
            rtp = (first_rtp + at - gone * packet) % WRAP
            now_s = start_s + (at + packet) / self.rate + self.latency_s
            self.packet(rtp, samples, now_s, gone, gone * packet)
            gone = 0
