"""Sockets that a service manager keeps: whose they are, and what becomes of those that fit nothing any more."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.config import Channel, Radiod
from pipeline.supervision.fdstore import SocketStore, identity
from pipeline.supervision.notify import Notifier

CHANNEL = Channel(name="WWV 5 MHz", frequency_hz=5e6, ssrc=5_000_000, data_address="239.1.2.3:5004")
RADIOD = Radiod(interface="lo")


@dataclass
class Pair:
    data: socket.socket
    status: tuple[socket.socket, ...]

    def close(self) -> None:
        for each in (self.data, *self.status):
            each.close()


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def opener(_channel: Channel, _radiod: Radiod, kept: dict[str, socket.socket]) -> Pair:
    return Pair(kept.get("data") or udp(), (kept.get("status0") or udp(),))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    found = Notifier(manager.getsockname())
    yield found
    found.close()


def heard(manager: socket.socket) -> list[tuple[list[str], int]]:
    """(lines, descriptors) of every datagram so far."""
    found = []
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(manager, 4096, 8)
        except BlockingIOError:
            return found
        for fd in fds:
            os.close(fd)
        found.append((data.decode().splitlines(), len(fds)))


def test_each_socket_is_handed_over_by_name(manager: socket.socket, notifier: Notifier) -> None:
    store = SocketStore(notifier)
    sockets, waited = store.open(CHANNEL, RADIOD, opener)
    assert not waited
    names = store.keep(CHANNEL, RADIOD, sockets)
    prefix = identity(CHANNEL, RADIOD)
    assert prefix.startswith("WWV_5_MHz/") and names == (f"{prefix}data", f"{prefix}status0")
    assert heard(manager) == [(["FDSTORE=1", f"FDNAME={name}", "FDPOLL=0"], 1) for name in names]
    store.forget(names)
    assert heard(manager) == [(["FDSTOREREMOVE=1", f"FDNAME={name}"], 0) for name in names]
    sockets.close()


def test_what_was_kept_is_used_again(notifier: Notifier) -> None:
    data = udp()
    store = SocketStore(notifier, {identity(CHANNEL, RADIOD) + "data": data})
    sockets, waited = store.open(CHANNEL, RADIOD, opener)
    assert sockets.data is data and waited
    store.close_rest()
    assert data.fileno() >= 0
    sockets.close()


@pytest.mark.parametrize(
    ("channel", "radiod"),
    [
        (replace(CHANNEL, ssrc=7), RADIOD),
        (replace(CHANNEL, data_address="239.1.2.4:5004"), RADIOD),
        (replace(CHANNEL, name="WWV 5"), RADIOD),
        (CHANNEL, replace(RADIOD, interface="eth0")),
        (CHANNEL, replace(RADIOD, source_address="192.168.1.1")),
        (CHANNEL, replace(RADIOD, status_address="239.1.2.9:5006")),
    ],
)
def test_socket_of_another_set_up_is_given_up(
    manager: socket.socket, notifier: Notifier, channel: Channel, radiod: Radiod
) -> None:
    old, name = udp(), identity(CHANNEL, RADIOD) + "data"
    store = SocketStore(notifier, {name: old})
    sockets, waited = store.open(channel, radiod, opener)
    assert sockets.data is not old and not waited
    store.close_rest()
    assert old.fileno() == -1
    assert heard(manager) == [(["FDSTOREREMOVE=1", f"FDNAME={name}"], 0)]
    sockets.close()


def test_failure_to_open_keeps_what_is_kept(notifier: Notifier) -> None:
    """The next attempt may be luckier."""
    data = udp()
    store = SocketStore(notifier, {identity(CHANNEL, RADIOD) + "data": data})

    def fails(_channel: Channel, _radiod: Radiod, _kept: dict[str, socket.socket]) -> Pair:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        store.open(CHANNEL, RADIOD, fails)
    sockets, waited = store.open(CHANNEL, RADIOD, opener)
    assert sockets.data is data and waited
    sockets.close()


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_descriptors_for_another_process_are_not_ours(notifier: Notifier, pid: str) -> None:
    environment = {"LISTEN_FDS": "2", "LISTEN_PID": pid, "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    before = sorted(Path("/proc/self/fd").iterdir())
    SocketStore.from_environment(notifier, environment).close_rest()
    assert environment == {"HOME": "/"} and sorted(Path("/proc/self/fd").iterdir()) == before
