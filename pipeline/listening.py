"""Listens to radiod for a moment: who sends what to which group.

Unfiltered, unlike a channel's own sockets, so that streams which should not be there are
heard too. Nothing is sent but, on request, a poll that changes no channel.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from pipeline.addresses import RTP_PORT, STATUS_PORT
from pipeline.config import Radiod
from pipeline.radiod import ChannelStatus, decode_status, poll_command
from pipeline.sockets import SocketError, open_listener, resolve_group, sender
from pipeline.stream.rtp import RtpError, parse

MAX_DATAGRAM = 65536
Endpoint = tuple[str, int]


class Kind(Enum):
    """What is sent to a group and port."""

    SAMPLES = auto()
    STATUS = auto()  # of the channels whose samples go to the same group
    CONTROL = auto()  # answers to commands, about any channel


@dataclass(slots=True)
class Stream:
    """One SSRC on one data group: its packets, by sender, and its newest status."""

    packets: int = 0
    senders: set[Endpoint] = field(default_factory=set)
    status: ChannelStatus | None = None
    status_utc_ns: int = 0  # the host's clock when it came


@dataclass(slots=True)
class Heard:
    """All that was heard, by (group, SSRC); `faults` are groups that could not be listened to."""

    seconds: float
    streams: dict[tuple[str, int], Stream] = field(default_factory=dict)
    foreign: int = 0  # datagrams that are neither RTP nor status
    faults: list[str] = field(default_factory=list)

    def stream(self, group: str, ssrc: int) -> Stream:
        """The stream, made if it is new."""
        return self.streams.setdefault((group, ssrc), Stream())


def listen(radiod: Radiod, data_addresses: Iterable[str], seconds: float, poll: bool = False) -> Heard:
    """Hear radiod's data and status groups for `seconds`; with `poll` its control group is asked once."""
    heard = Heard(seconds)
    with contextlib.ExitStack() as opened:
        sockets = {}
        for group, port, kind in _endpoints(radiod, data_addresses, heard):
            try:
                sock = opened.enter_context(open_listener(radiod.interface, group, port))
            except SocketError as error:
                heard.faults.append(str(error))
                continue
            sockets[sock] = (group, kind)
        if poll and radiod.status_address:
            _poll(radiod, heard)
        end = time.monotonic() + seconds
        while sockets and (left := end - time.monotonic()) > 0:
            for sock in select.select(list(sockets), [], [], left)[0]:
                _take(sock, *sockets[sock], heard)
    return heard


def _endpoints(radiod: Radiod, data_addresses: Iterable[str], heard: Heard) -> list[tuple[str, int, Kind]]:
    """(group, port, what is sent there) of everything to be heard, each once."""
    found = []
    for address in data_addresses:
        with _noting(heard):
            group, port = resolve_group(address, RTP_PORT)
            # As for a channel's own sockets: beside 5004 it is 5006, elsewhere two above.
            status_port = STATUS_PORT if port == RTP_PORT else port + 2
            found += [(group, port, Kind.SAMPLES), (group, status_port, Kind.STATUS)]
    if radiod.status_address:
        with _noting(heard):
            found.append((*resolve_group(radiod.status_address, STATUS_PORT), Kind.CONTROL))
    # The control group may be one of the data groups as well.
    return [(*place, kind) for place, kind in {(g, p): k for g, p, k in reversed(found)}.items()]


@contextlib.contextmanager
def _noting(heard: Heard) -> Iterator[None]:
    """A group that cannot be had is a fault to be told, not the end."""
    try:
        yield
    except SocketError as error:
        heard.faults.append(str(error))


def _poll(radiod: Radiod, heard: Heard) -> None:
    assert radiod.status_address
    with _noting(heard), contextlib.suppress(OSError):
        target = resolve_group(radiod.status_address, STATUS_PORT)
        with sender(radiod.interface) as sock:
            sock.sendto(poll_command(), target)


def _take(sock: socket.socket, group: str, kind: Kind, heard: Heard) -> None:
    try:
        data, source = sock.recvfrom(MAX_DATAGRAM)
    except BlockingIOError:
        return
    if kind is not Kind.SAMPLES:
        status = decode_status(data)
        if status is not None:
            elsewhere = status.data_address if kind is Kind.CONTROL else None
            stream = heard.stream(elsewhere.rpartition(":")[0] if elsewhere else group, status.ssrc)
            stream.status, stream.status_utc_ns = status, time.time_ns()
        return
    try:
        packet = parse(data)
    except RtpError:
        heard.foreign += 1
        return
    stream = heard.stream(group, packet.ssrc)
    stream.packets += 1
    stream.senders.add((source[0], source[1]))
