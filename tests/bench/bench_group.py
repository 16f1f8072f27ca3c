"""What one packet of a shared group costs the kernel, by the number of channels that have joined it.

    python -m tests.bench.bench_group

radiod sends all channels to one group, so every packet is offered to every channel's socket, whose filter
refuses what is another channel's. On loopback the sender pays for that; on a network card the kernel's softirq.
"""

from __future__ import annotations

import contextlib
import statistics
import struct
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from helpers import Names, new_names
from pipeline.config import Channel, Radiod
from pipeline.sockets import open_channel, sender

CHANNELS = (1, 10, 100, 300)
PACKETS = 2000
ROUNDS = 5
PAYLOAD = bytes(1280)


def packet_us(names: Names, joined: int) -> float:
    """CPU time of sending one packet that one of `joined` channels takes, us: median of rounds."""
    found = []
    with contextlib.ExitStack() as opened:
        for n in range(joined):
            channel = Channel(name=f"C{n}", frequency_hz=1e6, ssrc=1000 + n, data_address=names.data_address)
            opened.callback(open_channel(channel, Radiod(interface="lo")).close)
        out = opened.enter_context(sender("lo"))
        datagram = struct.pack("!BBHII", 0x80, 97, 0, 0, 1000) + PAYLOAD
        for _ in range(ROUNDS):
            begin = time.process_time()
            for _ in range(PACKETS):
                out.sendto(datagram, (names.group, names.data_port))
            found.append((time.process_time() - begin) / PACKETS * 1e6)
    return statistics.median(found)


def main() -> None:
    """Print the table."""
    print(f"{'channels':>8} {'us a packet':>12} {'cores, 50 packets a second and channel':>40}")
    for joined in CHANNELS:
        cost = packet_us(new_names(), joined)
        print(f"{joined:8} {cost:12.1f} {cost * 50 * joined / 1e6:40.2f}")


if __name__ == "__main__":
    main()
