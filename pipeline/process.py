"""What every process of the pipeline shares: its name, its signals, its tie to the parent."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import signal
import socket
from types import FrameType

import setproctitle

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The supervisor will start a successor at once, which goes on where this process stops.
HAND_OVER_SIGNAL = signal.SIGUSR2
# As etc/grape-pipeline@.service has it.
DESCRIPTORS = 8192


def set_name(comm: str, title: str) -> None:
    """Show `title` in `ps` and `pgrep -f`, and the first 15 bytes of `comm` in plain `top`.

    setproctitle also overwrites the comm name with the title's beginning, hence the order.
    """
    setproctitle.setproctitle(f"grape-pipeline: {title}")
    setproctitle.setthreadtitle(comm.encode()[:15].decode(errors="ignore"))


def allow_descriptors() -> None:
    """Let this process and its children open what many channels need: each takes six of a shell's usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Lifeline:
    """A child's reasons to leave: a stop signal, or a parent that is no longer its own.

    Made right after the fork. Signals only set a flag and wake `wait`; SIGHUP is the
    supervisor's business and ignored here.
    """

    def __init__(self, parent_pid: int) -> None:
        self._parent = parent_pid
        self._stop = False
        self.handing_over = False
        self.wake_fd, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop)
        signal.signal(HAND_OVER_SIGNAL, self._on_hand_over)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _on_hand_over(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = self.handing_over = True

    def wake(self) -> None:
        """End a `wait` from another thread."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
            os.write(self._wake_write, b"\0")

    def orphaned(self) -> bool:
        """True when the process that forked this one is gone."""
        return os.getppid() != self._parent

    def stopping(self) -> bool:
        """True when it is time to flush and leave."""
        return self._stop or self.orphaned()

    def wait(self, timeout_s: float, incoming: socket.socket | None = None) -> None:
        """Sleep up to `timeout_s`; a signal, `wake` or a datagram on `incoming` ends it early."""
        poll = select.poll()
        poll.register(self.wake_fd, select.POLLIN)
        if incoming is not None:
            poll.register(incoming, select.POLLIN)
        # Rounded up, lest what is due in half a millisecond be waited for by turning in circles.
        for fd, _ in poll.poll(math.ceil(max(0.0, timeout_s) * 1e3)):
            if fd == self.wake_fd:
                os.read(self.wake_fd, 512)
