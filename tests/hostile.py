"""Datagrams that a recorder must survive: noise of all sizes, forged RTP of the right SSRC, mutilated statuses."""

from __future__ import annotations

import random
import struct
import time

from helpers import REPOSITORY
from pipeline.pcap import PcapReader
from pipeline.sockets import sender

A_TURN = 20


def attack(group: str, ssrc: int, end: float, count: int | None = None, pause_s: float = 0.002, seed: int = 3) -> int:
    """Send until `end` (CLOCK_MONOTONIC), at most `count` datagrams; returns how many left.

    A quarter of them is RTP with the SSRC of a stream that is being recorded, at random places.
    """
    chance = random.Random(seed)
    status = next(d.payload for d in PcapReader(REPOSITORY / "tests/data/radiod-status.pcap") if d.payload[0] == 0)
    sent = 0
    with sender("lo") as sock:
        while time.monotonic() < end and (count is None or sent < count):
            for _ in range(A_TURN):
                for port, data in _four(chance, ssrc, status):
                    try:
                        sock.sendto(data, (group, port))
                    except BlockingIOError:
                        continue
                    sent += 1
            time.sleep(pause_s)
    return sent


def _four(chance: random.Random, ssrc: int, status: bytes) -> tuple[tuple[int, bytes], ...]:
    noise = chance.randbytes(chance.choice((0, 1, 11, 12, 13, 60, 1292, 1500)))
    forged = struct.pack(
        "!BBHII", 0x80 | chance.choice((0, 0, 0, 0x1F, 0x30)), chance.randrange(256),
        chance.randrange(65536), chance.randrange(1 << 32), ssrc,
    )  # fmt: skip
    broken = bytearray(status)
    for _ in range(chance.randrange(1, 8)):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    return (5004, noise), (5004, forged + noise), (5006, noise), (5006, bytes(broken))
