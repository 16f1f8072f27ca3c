"""What one packet costs the kernel, by the number of channels: all in one group, or each in a group of its own.

    python -m tests.bench.bench_group [--rows]

radiod sends the channels of a section to one group, so every packet is offered to every channel's socket, whose
filter refuses what is another channel's. On loopback the sender pays for that; on a network card the kernel's softirq.
"""

from __future__ import annotations

import contextlib
import statistics
import struct
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, print_rows
from helpers import Names, new_names
from pipeline.config import Channel, Radiod
from pipeline.sockets import open_channel, sender

CHANNELS = (1, 10, 100, 300)
PACKETS = 2000
ROUNDS = 5
PAYLOAD = bytes(1280)


def packet_us(names: list[Names], joined: int) -> float:
    """CPU time of sending one packet that one of `joined` channels takes, us: median of rounds.

    The channels share the groups of `names` evenly; the packet is the first channel's.
    """
    found = []
    with contextlib.ExitStack() as opened:
        for n in range(joined):
            group = names[n % len(names)].data_address
            channel = Channel(name=f"C{n}", frequency_hz=1e6, ssrc=1000 + n, data_address=group)
            opened.callback(open_channel(channel, Radiod(interface="lo")).close)
        out = opened.enter_context(sender("lo"))
        datagram = struct.pack("!BBHII", 0x80, 97, 0, 0, 1000) + PAYLOAD
        for _ in range(ROUNDS):
            begin = time.process_time()
            for _ in range(PACKETS):
                out.sendto(datagram, (names[0].group, names[0].data_port))
            found.append((time.process_time() - begin) / PACKETS * 1e6)
    return statistics.median(found)


def main() -> None:
    """Print the table; cores are those of 50 packets a second and channel. `--rows`: for `python -m tests.bench`."""
    if "--rows" in sys.argv[1:]:
        print_rows(
            Row(
                f"the kernel's share of a packet, {joined} channels, a group each", "us",
                [packet_us([new_names() for _ in range(joined)], joined)], "one group",
                [packet_us([new_names()], joined)],
            )
            for joined in CHANNELS[:-1]
        )  # fmt: skip
        return
    print(f"{'channels':>8} {'one group: us a packet':>24} {'cores':>6} {'a group each: us a packet':>28} {'cores':>6}")
    for joined in CHANNELS:
        row = [packet_us([new_names() for _ in range(groups)], joined) for groups in (1, joined)]
        cores = [cost * 50 * joined / 1e6 for cost in row]
        print(f"{joined:8} {row[0]:24.1f} {cores[0]:6.2f} {row[1]:28.1f} {cores[1]:6.2f}")


if __name__ == "__main__":
    main()
