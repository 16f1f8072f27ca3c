"""The fork: what a child does between `fork` and its own main function, and how it ends."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import mmap
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipeline import EXIT_SOFTWARE, PipelineError
from pipeline.process import set_name

log = logging.getLogger(__name__)

LEVEL_SIGNAL = signal.SIGUSR1

# proc(5), oom_score_adj: thousandths of all memory that are put on top of what a process has.
OOM_HIGHEST = 1000
OOM_BEFORE_SUPERVISOR = 20


class SharedLevel:
    """The log level, in memory that children inherit; a signal tells them to look again.

    So `logging.level` follows a reload without touching a stream.
    """

    def __init__(self, level: str) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self.set(level)

    def set(self, level: str) -> None:
        """Take `level` in this process and for children that are told or forked later."""
        self._map[0] = logging.getLevelNamesMapping()[level.upper()]
        self.apply()

    def apply(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Use the shared level in this process."""
        logging.getLogger().setLevel(self._map[0])


def spawn(name: str, run: Callable[[], int], prepare: Callable[[], None], level: SharedLevel) -> int:
    """Fork a child that calls `prepare`, then `run`, and ends with its result; returns the pid.

    The stop signals stay blocked until the child has its own handlers (`process.Lifeline`
    unblocks them), so that none is lost or kills a child that could have flushed. Raises
    OSError when there can be no process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = EXIT_SOFTWARE
        try:
            code = _child(name, run, prepare, level)
        finally:
            os._exit(code)
    return pid


def _child(name: str, run: Callable[[], int], prepare: Callable[[], None], level: SharedLevel) -> int:
    try:
        # Writes every thread's stack on SIGABRT and on a crash in a library, then lets it die.
        faulthandler.enable()
        _go_first()
        signal.signal(LEVEL_SIGNAL, level.apply)
        set_name(name, f"{name} starting")
        prepare()
        return run()
    except PipelineError as error:
        log.error("%s: %s", name, error)
        return error.exit_code
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else EXIT_SOFTWARE
    except BaseException:
        log.exception("%s: internal error", name)
        return EXIT_SOFTWARE
    finally:
        logging.shutdown()


def _go_first() -> None:
    """When memory runs out the kernel takes a child before the supervisor, which replaces it without a loss."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):
        path.write_text(str(min(OOM_HIGHEST, int(path.read_text()) + OOM_BEFORE_SUPERVISOR)))
