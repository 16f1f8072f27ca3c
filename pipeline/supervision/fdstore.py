"""Sockets that outlive the supervisor: kept by systemd, given back to the next start (sd_notify(3), FDSTORE=1).

The service manager holds a copy of each socket while the service is down, so the kernel goes
on queueing datagrams. A socket's name there says whose it is and how it was set up; what
fits nothing in the configuration any more is given up. Without a service manager nothing is
kept and nothing found.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path

from pipeline.config import Channel, Radiod
from pipeline.supervision.notify import Notifier
from pipeline.supervision.parts import Sockets

log = logging.getLogger(__name__)

FIRST_FD = 3  # sd_listen_fds(3), SD_LISTEN_FDS_START

Open = Callable[[Channel, Radiod, dict[str, socket.socket]], Sockets]


class SocketStore:
    """What the service manager keeps for this instance; the names are `<channel>/<set-up>/<role>`."""

    def __init__(self, notifier: Notifier, found: dict[str, socket.socket] | None = None) -> None:
        self._notifier = notifier
        self._found = found or {}

    @classmethod
    def from_environment(cls, notifier: Notifier, environment: MutableMapping[str, str] = os.environ) -> SocketStore:
        """As LISTEN_FDS and LISTEN_FDNAMES say; takes them out of the environment so that no child believes them."""
        count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
        names = environment.pop("LISTEN_FDNAMES", "").split(":")
        environment.pop("LISTEN_PIDFDID", None)
        found: dict[str, socket.socket] = {}
        if pid == str(os.getpid()) and count.isdigit():
            fds = range(FIRST_FD, FIRST_FD + int(count))
            for fd, name in zip(fds, names + [""] * max(0, int(count) - len(names)), strict=False):
                _take(fd, name, found)
        return cls(notifier, found)

    def open(self, channel: Channel, radiod: Radiod, open_sockets: Open) -> tuple[Sockets, bool]:
        """The channel's sockets, and whether datagrams waited on them while nobody was there.

        Raises what `open_sockets` raises.
        """
        prefix = identity(channel, radiod)
        kept = {name.removeprefix(prefix): sock for name, sock in self._found.items() if name.startswith(prefix)}
        sockets = open_sockets(channel, radiod, kept)
        for role, sock in _roles(sockets).items():
            if kept.get(role) is sock:
                del self._found[prefix + role]
        return sockets, sockets.data is kept.get("data")

    def keep(self, channel: Channel, radiod: Radiod, sockets: Sockets) -> tuple[str, ...]:
        """Hand the sockets to the service manager; the names that `forget` takes. What it has it knows."""
        named = {identity(channel, radiod) + role: sock for role, sock in _roles(sockets).items()}
        for name, sock in named.items():
            self._notifier.send_socket(sock, "FDSTORE=1", f"FDNAME={name}", "FDPOLL=0")
        return tuple(named)

    def forget(self, names: Iterable[str]) -> None:
        """These sockets will not be wanted again."""
        for name in names:
            self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def close_rest(self) -> None:
        """Give up what no channel has claimed."""
        for name, sock in self._found.items():
            log.info("socket %s of an earlier run fits no channel any more", name)
            sock.close()
        self.forget(self._found)
        self._found.clear()


def identity(channel: Channel, radiod: Radiod) -> str:
    """The beginning of the names of a channel's sockets: other groups, filters or interfaces, another name."""
    setup = (channel.ssrc, channel.data_address, radiod.status_address, radiod.interface, radiod.source_address)
    return f"{channel.id}/{hashlib.sha256(repr(setup).encode()).hexdigest()[:12]}/"


def _roles(sockets: Sockets) -> dict[str, socket.socket]:
    return {"data": sockets.data, **{f"status{i}": sock for i, sock in enumerate(sockets.status)}}


def _take(fd: int, name: str, found: dict[str, socket.socket]) -> None:
    """An inherited descriptor as a socket of ours; one that is something else is closed."""
    try:
        os.set_inheritable(fd, False)
        if Path(f"/proc/self/fd/{fd}").readlink().name.startswith("socket:") and name and name not in found:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            found[name] = sock
            return
        os.close(fd)
    except OSError as error:
        log.warning("descriptor %d from the service manager cannot be used: %s", fd, error.strerror)
