"""Groups that fell silent are joined again.

A switch forgets a membership when nobody on the network asks for it (no IGMP querier), and
the kernel drops one with its interface (a USB adapter that was pulled). Both look the same
from here, silence, and joining again mends both: it makes the kernel tell the switch, and
finds the interface that now has the name. Nothing is done to a group of which any channel
hears anything, because leaving it would cost that channel packets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline import PipelineError
from pipeline.records import ChannelRecord
from pipeline.supervision.parts import Sockets
from pipeline.supervision.restarts import SECOND_NS

log = logging.getLogger(__name__)

# Longer than radiod's restarts and any hiccup, short enough that a minute is not lost.
SILENT_NS = 8 * SECOND_NS
LONGEST_NS = 60 * SECOND_NS
# A worker that is not heard of says nothing about the network.
STALE_NS = 3 * SECOND_NS

Rejoin = Callable[[list[Sockets]], None]


@dataclass(slots=True)
class _Group:
    attempts: int = 0
    next_ns: int = 0
    told: str = ""


class Membership:
    """Decides per group, from the workers' records, when it is to be joined again."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def poll(self, now_ns: int, channels: Iterable[tuple[str, ChannelRecord, Sockets]], rejoin: Rejoin) -> None:
        """`channels`: group address, newest record and sockets of each; call about once a second."""
        members: dict[str, list[tuple[ChannelRecord, Sockets]]] = {}
        for address, record, sockets in channels:
            members.setdefault(address, []).append((record, sockets))
        self._groups = {address: self._groups.get(address, _Group()) for address in members}
        for address, those in members.items():
            group = self._groups[address]
            if any(self._hears(record, now_ns) for record, _ in those):
                group.attempts, group.next_ns = 0, 0
            elif now_ns >= group.next_ns:
                group.attempts += 1
                group.next_ns = now_ns + min(SILENT_NS << (group.attempts - 1), LONGEST_NS)
                self._join(address, group, [sockets for _, sockets in those], rejoin)

    def _hears(self, record: ChannelRecord, now_ns: int) -> bool:
        if now_ns - record.heartbeat_monotonic_ns > STALE_NS:
            return True
        heard = max(record.last_packet_monotonic_ns, record.last_status_monotonic_ns, record.started_monotonic_ns)
        return now_ns - heard < SILENT_NS

    def _join(self, address: str, group: _Group, those: list[Sockets], rejoin: Rejoin) -> None:
        try:
            rejoin(those)
            told = ""
        except (PipelineError, OSError) as error:
            told = str(error)
        if told and told != group.told:
            log.error("%s: silent, and cannot be joined again: %s", address, told)
        elif not told and group.attempts == 1:
            log.warning("%s: silent for %d s, joined again", address, SILENT_NS // SECOND_NS)
        group.told = told
