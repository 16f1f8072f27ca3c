"""Control, sockets and status against a radiod (the simulated one) that lacks a channel."""

from __future__ import annotations

import os
import socket
import time

from pipeline.config import Channel, Radiod
from pipeline.radiod import LIFETIME_BLOCKS, ChannelStatus, Control, decode_status
from pipeline.records import UNKNOWN_NS, ChannelRecord
from pipeline.simulator.spec import ChannelSpec, SimulatorSpec
from pipeline.simulator.station import running_simulator
from pipeline.sockets import ChannelSockets, open_channel

PID = os.getpid()
DATA = f"239.{192 + (PID >> 16) % 32}.{PID >> 8 & 255}.{PID & 255}"
CONTROL = f"239.{224 + (PID >> 16) % 32}.{PID >> 8 & 255}.{PID & 255}"
S = 10**9


class Listener:
    """What a worker would know of one channel."""

    def __init__(self, channel: Channel, sockets: ChannelSockets) -> None:
        self.channel, self.sockets = channel, sockets
        self.packets: list[bytes] = []
        self.statuses: list[ChannelStatus] = []
        self.heard_ns = UNKNOWN_NS

    def listen(self) -> None:
        self.packets += drain(self.sockets.data)
        for each in self.sockets.status:
            self.statuses += filter(None, map(decode_status, drain(each)))
        if self.packets:
            self.heard_ns = time.monotonic_ns()

    def record(self) -> ChannelRecord:
        now = time.monotonic_ns()
        return ChannelRecord(heartbeat_monotonic_ns=now, started_monotonic_ns=1, last_packet_monotonic_ns=self.heard_ns)


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(65536))
        except BlockingIOError:
            return found


def test_radiod_makes_the_missing_channel_and_the_present_one_is_left_alone() -> None:
    present = Channel(name="present", frequency_hz=5e6, ssrc=5_000_000, data_address=f"{DATA}:5004")
    missing = Channel(
        name="missing", frequency_hz=1e7, ssrc=77, sample_rate_hz=12_000, encoding="F32LE", data_address=f"{DATA}:5004"
    )
    settings = Radiod(interface="lo", status_address=f"{CONTROL}:5006")
    simulated = SimulatorSpec(
        channels=(ChannelSpec("present", 5e6),), data_address=(DATA, 5004), status_address=(CONTROL, 5006)
    )
    listeners = [Listener(channel, open_channel(channel, settings)) for channel in (present, missing)]
    control = Control(settings)
    try:
        with running_simulator(simulated):
            until = time.monotonic() + 20
            while time.monotonic() < until and not all(len(x.packets) > 20 and x.statuses for x in listeners):
                for each in listeners:
                    each.listen()
                control.poll(time.monotonic_ns(), [(x.channel, x.record()) for x in listeners])
                time.sleep(0.02)
    finally:
        control.close()
        for each in listeners:
            each.sockets.close()
    assert all(len(x.packets) > 20 for x in listeners)
    assert {s.is_ours for s in listeners[0].statuses} == {False}
    made = listeners[1].statuses[-1]
    assert made.is_ours
    assert (made.ssrc, made.sample_rate_hz, made.encoding, made.preset) == (77, 12_000, "F32LE", "iq")
    assert (made.frequency_hz, made.detail["agc_enable"]) == (1e7, False)
    assert made.lifetime_blocks is not None and LIFETIME_BLOCKS - 1000 < made.lifetime_blocks <= LIFETIME_BLOCKS
