"""What the supervisor looks after beside its children: radiod's channels, the groups, and whether the machine slept."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from pipeline.config import Radiod
from pipeline.records import ChannelRecord
from pipeline.supervision.crew import Seat
from pipeline.supervision.membership import Membership
from pipeline.supervision.parts import Parts
from pipeline.supervision.radiod_guard import RadiodGuard
from pipeline.supervision.restarts import SECOND_NS

log = logging.getLogger(__name__)


def asleep_ns() -> int:
    """How long the machine was suspended since it was started; CLOCK_MONOTONIC stands still then."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


class Surroundings:
    """Polled about once a second."""

    def __init__(self, parts: Parts) -> None:
        self._radiod = RadiodGuard(parts.radiod_control)
        self._membership = Membership()
        self._rejoin = parts.rejoin
        self._asleep_ns = asleep_ns()

    def poll(self, now_ns: int, radiod: Radiod, channels: Sequence[tuple[Seat, ChannelRecord]]) -> float:
        """Ask radiod for what is missing, join again what is silent; `channels` with their newest records.

        Returns how long the machine has slept since the last call, s; 0 for less than a second.
        """
        self._radiod.poll(radiod, now_ns, [(seat.channel, record) for seat, record in channels])
        joined = [(seat.channel.data_address, record, seat.sockets) for seat, record in channels if seat.sockets]
        self._membership.poll(now_ns, joined, lambda sockets: self._rejoin(sockets, radiod.interface))
        asleep = asleep_ns()
        slept_s, self._asleep_ns = (asleep - self._asleep_ns) / SECOND_NS, asleep
        if slept_s < 1.0:
            return 0.0
        log.warning("the machine slept for %.1f s", slept_s)
        return slept_s
