"""The supervisor's signals: blocked for good, and taken when the supervisor looks."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from pipeline.process import HAND_OVER_SIGNAL, STOP_SIGNALS
from pipeline.supervision.child import LEVEL_SIGNAL

# SIGIO: the control socket is ready. The level's and the workers' hand-over are blocked for the children, too, until
# they have a handler.
SIGNALS = frozenset({*STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO, LEVEL_SIGNAL, HAND_OVER_SIGNAL})


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block the signals; what is pending at the end is forgotten, so that a second Ctrl-C does not kill us then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(SIGNALS, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take(timeout_s: float) -> set[int]:
    """All signals that are pending, after waiting for the first up to `timeout_s`."""
    taken: set[int] = set()
    info = signal.sigtimedwait(SIGNALS, timeout_s)
    while info is not None and info.si_signo not in taken:
        taken.add(info.si_signo)
        info = signal.sigtimedwait(SIGNALS, 0)
    return taken
