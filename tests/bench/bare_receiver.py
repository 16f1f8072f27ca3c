"""A process that takes one channel's packets off a socket every two seconds and does nothing with them.

    python bare_receiver.py CONFIG NUMBER       the configuration's channel of that number, until SIGTERM

What this costs is the least that receiving can cost in Python with a process a channel, on the machine as it is: each
wake-up finds caches cold that others have used meanwhile.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from pipeline.config import load_config
from pipeline.rhythm import LONGEST_S
from pipeline.sockets import open_channel


def main() -> None:
    """Receive."""
    config = load_config(Path(sys.argv[1]))
    data = open_channel(config.enabled_channels[int(sys.argv[2])], config.radiod).data
    buffer = bytearray(65536)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(LONGEST_S)
        try:
            while True:
                data.recv_into(buffer)
        except BlockingIOError:
            pass


if __name__ == "__main__":
    main()
