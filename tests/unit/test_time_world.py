"""The made-up radiod's status pairs are as late as a real one's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import radiod
from pipeline.pcap import PcapReader
from time_world import Lateness


def lateness_ms(capture: Path, ssrc: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How much later than the earliest each status pair of a capture is; one timeline at 16 kHz."""
    found = []
    for datagram in PcapReader(capture):
        status = radiod.decode_status(datagram.payload) if datagram.dst[1] == 5006 else None
        if status and status.ssrc == ssrc and status.gps_time_utc_ns and status.rtp_timesnap is not None:
            signed = (status.rtp_timesnap + (1 << 31)) % (1 << 32) - (1 << 31)
            found.append(status.gps_time_utc_ns - signed * 1_000_000_000 // 16_000)
    return (np.array(found) - min(found)) / 1e6


@pytest.mark.parametrize("name", ["one-s16-150s.pcap", "nine-s16-20s.pcap", "late-first-status-s16-20s.pcap"])
def test_made_up_pairs_are_like_a_real_radiods(captures: Path, name: str) -> None:
    real = lateness_ms(captures / name, 10_000)
    made = Lateness().draw(np.random.default_rng(1), 10_000) / 1e6
    for share, within_ms in ((0.25, 1.3), (0.5, 1.2), (0.9, 1.5)):
        assert abs(np.quantile(real, share) - np.quantile(made, share)) <= within_ms
    assert np.sort(real)[9] - real.min() < 2.5
