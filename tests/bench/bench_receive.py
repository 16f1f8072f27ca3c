"""What a channel-minute of packets costs a worker in a tight loop, where nothing but its own code is in the caches.

    python -m tests.bench.bench_receive [--rows]

The same two steps as in a live worker: the kernel puts two seconds' packets into shared memory, and they are entered in
the journal. CPU time is this process's, without the sending.
"""

from __future__ import annotations

import socket
import statistics
import struct
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, print_rows
from helpers import new_names
from pipeline.config import Channel, Recorder
from pipeline.receiver import Receiver
from pipeline.segments import create_segment
from pipeline.sockets import SO_TIMESTAMPNS
from pipeline.stream.intake import Intake, Settings
from pipeline.stream.journal import Journal

SSRC, RATE, FRAMES = 5_000_000, 16_000, 320
# A worker wakes every two seconds.
LOT = 2 * RATE // FRAMES
MINUTES = 3


def minute_ms() -> float:
    """CPU time of taking and placing a minute's packets, ms: median of minutes."""
    names = new_names()
    channel = Channel(name="X", frequency_hz=5e6, ssrc=SSRC, sample_rate_hz=RATE)
    segment = create_segment(names.instance, channel, Recorder(instance=names.instance, buffer_minutes=MINUTES + 1))
    found = []
    try:
        journal = Journal.attach(segment.buf, SSRC)
        assert journal is not None
        intake = Intake(journal, Settings(SSRC, RATE, "S16BE", 0, 0), lambda _: None)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as data,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        ):
            data.bind(("127.0.0.1", 0))
            data.setblocking(False)
            data.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            receiver = Receiver(data, (), SSRC, intake, segment)
            for number in range(MINUTES * 60 * RATE // FRAMES):
                header = struct.pack("!BBHII", 0x80, 97, number & 0xFFFF, number * FRAMES, SSRC)
                out.sendto(header + bytes(range(256)) * 5, data.getsockname())
                if (number + 1) % LOT == 0:
                    begin = time.process_time()
                    assert receiver.drain() == LOT
                    found.append(time.process_time() - begin)
    finally:
        segment.unlink()
    lots = 60 * RATE // FRAMES // LOT
    return statistics.median(sum(found[n : n + lots]) for n in range(0, len(found), lots)) * 1e3


def main() -> None:
    """Print it; `--rows`: for `python -m tests.bench`."""
    if "--rows" in sys.argv[1:]:
        print_rows([Row("3 000 packets taken and placed in a tight loop", "ms", [minute_ms()])])
    else:
        print(f"3 000 packets of {4 * FRAMES} bytes taken and placed, {LOT} at a time: {minute_ms():.2f} ms CPU")


if __name__ == "__main__":
    main()
