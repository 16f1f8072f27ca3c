"""Becomes a program as systemd starts it: with kept descriptors from 3 on, and told of them in the environment.

python as_service.py FD:NAME,... COMMAND...
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    kept = [word.split(":", 1) for word in sys.argv[1].split(",") if word]
    # Out of the way of the numbers that they are to have.
    fds = [os.dup2(int(fd), 500 + i) for i, (fd, _) in enumerate(kept)]
    for i, fd in enumerate(fds):
        os.dup2(fd, 3 + i)
        os.close(fd)
    if fds:
        names = ":".join(name for _, name in kept)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=names)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
