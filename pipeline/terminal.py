"""The terminal of `top`: pictures out, keys in; the terminal is left as it was found.

Where pictures cannot replace each other (TERM=dumb, a pipe) they follow one another.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, auto
from types import FrameType

from rich.console import Console, Group
from rich.screen import Screen
from rich.text import Text

from pipeline import PipelineError
from pipeline.config import Config
from pipeline.shm import Board, SharedMemoryError
from pipeline.supervision.causes import Level, Snapshot
from pipeline.supervision.control import ask
from pipeline.supervision.instance import socket_path, why_absent
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import supervisor_cause
from pipeline.top import View, absent, frame

REFRESH_S = 1.0
# The kernel counts CPU time in ticks of 10 ms: the load is that of the last ten looks.
LOAD_LOOKS = 10
RESTART_TIMEOUT_S = 2.0


class Key(Enum):
    """What a user can ask for."""

    QUIT = auto()
    RESTART = auto()
    UP = auto()
    DOWN = auto()


# Cursor keys in normal and in application mode (terminfo kcuu1, kcud1).
_KEYS = {
    b"q": Key.QUIT, b"Q": Key.QUIT, b"\x03": Key.QUIT, b"r": Key.RESTART, b"k": Key.UP, b"j": Key.DOWN,
    b"\x1b[A": Key.UP, b"\x1bOA": Key.UP, b"\x1b[B": Key.DOWN, b"\x1bOB": Key.DOWN,
}  # fmt: skip


def parse_keys(data: bytes) -> list[Key]:
    """The keys in what a terminal sent; other keys and sequences are nothing."""
    found, at = [], 0
    while at < len(data):
        size = 3 if data[at : at + 2] in (b"\x1b[", b"\x1bO") else 1
        key = _KEYS.get(data[at : at + size])
        found += [key] if key else []
        at += size
    return found


class Watch:
    """An instance as it is looked at again and again, also over its end and next start."""

    def __init__(self, instance: str, config: Config | None) -> None:
        self.instance = instance
        self.config = config
        self.why = ""
        self.pid: int | None = None  # of one that runs and cannot be looked at
        self.now: Snapshot | None = None
        self._board: Board | None = None
        self._past: deque[Snapshot] = deque(maxlen=LOAD_LOOKS)

    def look(self) -> Snapshot | None:
        """The instance now; None, and the reason in `why`, when it does not run."""
        if self.now is not None:
            self._past.append(self.now)
        self.now = self._take()
        if self.now is None or supervisor_cause(self.now)[0] is Level.CRIT:
            # A segment of the same name may be a new instance's by now.
            self._board = None
            self.now = self._take()
        return self.now

    @property
    def before(self) -> Snapshot | None:
        """An earlier look, against which the present load is seen."""
        return self._past[0] if self._past else None

    def _take(self) -> Snapshot | None:
        try:
            self._board = self._board or Board.open(self.instance)
        except SharedMemoryError as error:
            self.why, self.pid = why_absent(self.instance, error)
            return None
        return take(self._board, self.config, brief=True)


class Top:
    """The state of the view: which channel is selected, and what was said last."""

    def __init__(self, watch: Watch, console: Console, interactive: bool) -> None:
        self.watch = watch
        self.console = console
        self.interactive = interactive
        self.selected = 0
        self.message = ""

    def picture(self) -> list[Text]:
        """Look, and draw."""
        s = self.watch.look()
        # Without a picture that is replaced there is no height to keep to.
        height = self.console.height if self.interactive else 1000
        self.selected = max(0, min(self.selected, len(s.rows) - 1)) if s else 0
        view = View(
            self.console.width, height, time.time(), self.selected, self.interactive, self.message, self.watch.before
        )
        if s is None:
            return absent(self.watch.instance, self.watch.why, view, self.watch.pid)
        return frame(s, view)

    def obey(self, key: Key) -> bool:
        """Do what a key asks for; False to leave."""
        if key is Key.QUIT:
            return False
        if key is Key.RESTART:
            self._restart()
        else:
            self.selected += 1 if key is Key.DOWN else -1
            self.message = ""
        return True

    def _restart(self) -> None:
        s = self.watch.now
        if s is None or not s.rows:
            return
        name = s.rows[min(self.selected, len(s.rows) - 1)].child.name
        try:
            path = socket_path(self.watch.instance)
            status, answer = ask(path, "POST", "/restart", {"channels": [name]}, RESTART_TIMEOUT_S)
        except PipelineError as error:
            self.message = str(error)
            return
        self.message = f"restarting {name}" if status < 400 else str(answer.get("error", f"refused with {status}"))


def run(instance: str, config: Config | None) -> None:
    """Show the instance until the user has seen enough."""
    console = Console()
    watch = Watch(instance, config)
    if not console.is_terminal or console.is_dumb_terminal or not sys.stdin.isatty():
        _print_on(Top(watch, console, interactive=False))
        return
    top = Top(watch, console, interactive=True)
    with _cbreak(sys.stdin.fileno()), console.screen(hide_cursor=True):
        _loop(top, lambda lines: console.print(Screen(Group(*lines)), end=""), sys.stdin.fileno())


def once(instance: str, config: Config | None) -> Snapshot | None:
    """Print one picture; what was seen."""
    watch = Watch(instance, config)
    top = Top(watch, Console(), interactive=False)
    _print(top)
    return watch.now


def _loop(top: Top, show: Callable[[list[Text]], None], fd: int) -> None:
    due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            show(top.picture())
            due = max(due + REFRESH_S, now)
        ready, _, _ = select.select([fd], [], [], max(0.0, due - time.monotonic()))
        if not ready:
            continue
        data = os.read(fd, 256)
        if not data or not all(top.obey(key) for key in parse_keys(data)):
            return
        due = time.monotonic()


def _print_on(top: Top) -> None:
    while True:
        _print(top)
        top.console.print()
        time.sleep(REFRESH_S)


def _print(top: Top) -> None:
    for line in top.picture():
        top.console.print(line, crop=False, soft_wrap=True)


@contextlib.contextmanager
def _cbreak(fd: int) -> Iterator[None]:
    """Keys as they are pressed and not shown; also put right when the program is told to end."""
    before = termios.tcgetattr(fd)

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
