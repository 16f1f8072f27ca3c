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
# A worker looks twice a second; a buffer lasts longer than that.
AWAY_NS = 1_500_000_000


def brimful(sock: socket.socket) -> bool:
    """True when another datagram might not have found room on the socket's queue."""
    try:
        info = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):  # a kernel before 4.12
        return False
    allocated, limit = info[0], info[1]
    return bool(allocated + DATAGRAM > limit)


class Overflow:
    """Counts one channel's packets that were lost at its socket."""

    def __init__(self) -> None:
        self._looked_ns = 0
        self._lost_before: int | None = None
        self._drained = False

    def before(self, sock: socket.socket, lost: int, now_ns: int) -> None:
        """Call before the socket is drained; `lost` counts the stream's missing sequence numbers."""
        away, self._looked_ns = now_ns - self._looked_ns, now_ns
        if self._lost_before is None and away > AWAY_NS and brimful(sock):
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
