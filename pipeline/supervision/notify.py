"""Telling systemd how we are (sd_notify(3)); silent when not started by systemd."""

from __future__ import annotations

import contextlib
import os
import select
import socket

# So long may the service manager be busy before a socket is not handed to it.
PATIENCE_MS = 2000


class Notifier:
    """The service manager's datagram socket; `send` never blocks and never fails."""

    def __init__(self, address: str = "", watchdog_us: int = 0) -> None:
        self._socket: socket.socket | None = None
        self.watchdog_s = watchdog_us / 1e6
        if not address:
            return
        if address.startswith("@"):
            address = "\0" + address[1:]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(address)
        except OSError:
            self.close()

    @classmethod
    def from_environment(cls) -> Notifier:
        """As NOTIFY_SOCKET and WATCHDOG_USEC say; takes them out so that no child speaks for us."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        return cls(address, int(watchdog) if watchdog.isdigit() and mine else 0)

    def send(self, *assignments: str) -> None:
        """Send `KEY=value` lines in one datagram."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(assignments).encode())

    def send_socket(self, sock: socket.socket, *assignments: str) -> None:
        """Send lines with a descriptor, of which the receiver gets a copy; waits a little while its queue is full."""
        ours = self._socket
        if ours is None:
            return
        waiting = select.poll()
        waiting.register(ours, select.POLLOUT)
        with contextlib.suppress(OSError):
            waiting.poll(PATIENCE_MS)
            socket.send_fds(ours, ["\n".join(assignments).encode()], [sock.fileno()])

    def close(self) -> None:
        """Drop the socket (in children, and when there is nobody to talk to)."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
