"""Packets that were taken together, as columns, and where in them runs lie that can be placed as a whole.

A run is what a quiet network delivers: packets of one sender, each of which goes on where the one before ends.
Looking at fifty of them costs hardly more than at one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.stream.candidates import Origin, origin
from pipeline.stream.rtp import SEQUENCE_MODULUS, TIMESTAMP_MODULUS
from pipeline.stream.source import UNIT

Column = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Lot:
    """Packets in order of arrival; wire values, payload bytes, recorder's clock, address << 16 | port.

    `plain` packets have this stream's SSRC, a payload and no options; of the others only arrival and sender count.
    `width` is how many bytes a frame takes as far as is known.
    """

    def __init__(
        self,
        sequence: Column,
        timestamp: Column,
        length: Column,
        arrival_ns: Column,
        sender: Column,
        marker: Flags,
        plain: Flags,
        width: int,
    ) -> None:
        self.sequence = sequence
        self.timestamp = timestamp
        self.length = length
        self.arrival_ns = arrival_ns
        self.sender = sender
        self.marker = marker
        self.plain = plain
        self._width = width

    def __len__(self) -> int:
        return len(self.sequence)

    @cached_property
    def _ends(self) -> Column:
        """Rows before which a run ends, and the number of rows."""
        usable = self.plain & (self.length % UNIT == 0)
        follows = (
            usable[1:]
            & usable[:-1]
            & (self.sender[1:] == self.sender[:-1])
            & ((self.sequence[1:] - self.sequence[:-1]) % SEQUENCE_MODULUS == 1)
            & ((self.timestamp[1:] - self.timestamp[:-1]) % TIMESTAMP_MODULUS == self.length[:-1] // self._width)
        )
        return np.append(np.flatnonzero(~follows) + 1, len(self))

    def run_end(self, begin: int, size: int) -> int:
        """The row after the last one of the run that row `begin` is in; `begin` itself when it is in none.

        No more than `size` bytes count as one run, or one packet.
        """
        if not self.plain[begin] or self.length[begin] % UNIT:
            return begin
        end = int(self._ends[np.searchsorted(self._ends, begin, "right")])
        return max(begin + 1, int(np.searchsorted(self._bytes[: end + 1], self._bytes[begin] + size, "right") - 1))

    @cached_property
    def _bytes(self) -> Column:
        """Payload bytes before each row, and in all."""
        return np.concatenate(([0], np.cumsum(self.length)))

    def first(self, row: int) -> tuple[int, int, Origin]:
        """Sequence number, timestamp and sender of a row."""
        sender = int(self.sender[row])
        return int(self.sequence[row]), int(self.timestamp[row]), origin(sender >> 16, sender & 0xFFFF)
