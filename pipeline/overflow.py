"""Whether packets were lost for want of a receive buffer, channel by channel.

The kernel's own count (SO_RXQ_OVFL, /proc/net/udp) includes what the SSRC filter refuses, so
it says nothing here. What can be said for certain: when a worker comes back after a while
and finds the buffer full to the brim, the sequence numbers that are missing behind what
is queued were lost because of that.
"""

from __future__ import annotations

import socket
import struct

# Linux include/uapi/asm-generic/socket.h; sock_diag.h: SK_MEMINFO_RMEM_ALLOC, SK_MEMINFO_RCVBUF
SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
# What the kernel may charge for one more datagram (jumbo frames and drivers' buffers).
DATAGRAM = 16384
# A worker looks so often that a buffer is half full when it comes twice as late as it means to (pipeline.rhythm).
LATE = 1.25


def queued(sock: socket.socket) -> tuple[int, int] | None:
    """Bytes that the socket's queue takes of the kernel's memory, and how many it may; None before Linux 4.12."""
    try:
        info = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return None
    return int(info[0]), int(info[1])


def brimful(queue: tuple[int, int] | None) -> bool:
    """True when another datagram might not have found room on a socket's queue."""
    return queue is not None and queue[0] + DATAGRAM > queue[1]


class Overflow:
    """Counts one channel's packets that were lost at its socket."""

    def __init__(self) -> None:
        self._looked_ns = 0
        self._lost_before: int | None = None
        self._drained = False

    def before(self, queue: tuple[int, int] | None, lost: int, now_ns: int, pause_s: float) -> None:
        """Call before the socket is drained, `pause_s` having been meant; `lost` counts missing sequence numbers."""
        away, self._looked_ns = now_ns - self._looked_ns, now_ns
        if self._lost_before is None and away > LATE * pause_s * 1e9 and brimful(queue):
            self._lost_before, self._drained = lost, False

    def after(self, empty: bool, lost: int) -> int:
        """Call after it; `empty` when nothing was left. Returns how many packets were found to be lost by now."""
        if self._lost_before is None or not empty:
            return 0
        # The packet that shows the gap comes after the queue was emptied once.
        if not self._drained:
            self._drained = True
            return 0
        found, self._lost_before = lost - self._lost_before, None
        return found
