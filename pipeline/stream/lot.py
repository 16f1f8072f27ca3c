"""Packets that were taken together."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.stream.candidates import Arrival, Origin, origin
from pipeline.stream.rtp import MARKER, VERSION_BITS

Header = tuple[int, int, int, int, int]


class Lot(NamedTuple):
    """Columns in order of arrival: RTP headers (`rtp.HEADER`), payload bytes, senders, recorder's clock.

    A sender is the first eight bytes of its `struct sockaddr_in` (ip(7)) as one integer. The header of a datagram
    too short for one means nothing; its length is below zero.
    """

    headers: list[Header]
    lengths: list[int]
    senders: list[int]
    arrivals_ns: npt.NDArray[np.int64]

    def is_plain(self, row: int, ssrc: int) -> bool:
        """True for a packet of this stream with a payload and nothing that radiod never sends."""
        bits, _, _, _, found = self.headers[row]
        return bits == VERSION_BITS and found == ssrc and self.lengths[row] > 0

    def origin(self, row: int) -> Origin:
        """Who sent it."""
        return _origin(self.senders[row])

    def packet(self, row: int) -> Arrival:
        """A plain row as a packet."""
        _, kind, sequence, timestamp, _ = self.headers[row]
        return Arrival(
            kind >= MARKER, sequence, timestamp, self.lengths[row], self.origin(row), int(self.arrivals_ns[row])
        )


@lru_cache(64)
def _origin(sender: int) -> Origin:
    raw = sender.to_bytes(8, sys.byteorder)
    return origin(int.from_bytes(raw[4:]), int.from_bytes(raw[2:4]))
