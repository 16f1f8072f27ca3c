"""Packets that were taken together."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.stream.candidates import Arrival, Origin
from pipeline.stream.rtp import MARKER, VERSION_BITS

Header = tuple[int, int, int, int, int]


class Lot(NamedTuple):
    """Columns in order of arrival: RTP headers (`rtp.HEADER`), payload bytes, recorder's clock, senders.

    The header of a datagram too short for one means nothing; its length is below zero.
    """

    headers: list[Header]
    lengths: list[int]
    arrivals_ns: list[int]
    origins: list[Origin]

    def is_plain(self, row: int, ssrc: int) -> bool:
        """True for a packet of this stream with a payload and nothing that radiod never sends."""
        bits, _, _, _, found = self.headers[row]
        return bits == VERSION_BITS and found == ssrc and self.lengths[row] > 0

    def packet(self, row: int) -> Arrival:
        """A plain row as a packet."""
        _, kind, sequence, timestamp, _ = self.headers[row]
        return Arrival(kind >= MARKER, sequence, timestamp, self.lengths[row], self.origins[row], self.arrivals_ns[row])
