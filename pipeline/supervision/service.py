"""From a configuration to a running instance and back: what `start` does.

Order: data_dir, lock, what a dead instance left, board, control socket, supervisor. The
reverse at the end. Everything that can be wrong is found before the first fork and told
in one PipelineError.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import EXIT_FAILURE, EXIT_SOFTWARE, PipelineError
from pipeline.config import Config
from pipeline.logs import effective_level
from pipeline.process import allow_descriptors, set_name
from pipeline.shm import Board
from pipeline.supervision import signals
from pipeline.supervision.child import SharedLevel
from pipeline.supervision.control import ControlServer
from pipeline.supervision.control_api import make_handler
from pipeline.supervision.fdstore import SocketStore
from pipeline.supervision.instance import (
    DISK_TROUBLE,
    InstanceError,
    Lock,
    check_data_dir,
    clear_stale_board,
    leftovers,
    log_path,
    runtime_dir,
    socket_path,
)
from pipeline.supervision.notify import Notifier
from pipeline.supervision.parts import Parts, real_parts
from pipeline.supervision.supervisor import Supervisor

log = logging.getLogger(__name__)

# Children of a dead supervisor notice within 2 s and then flush what they hold.
ORPHAN_PATIENCE_S = 10.0


def serve(config: Config, parts: Parts | None = None, ready: Callable[[], None] = lambda: None) -> int:
    """Run the instance in this process until it is told to stop; its exit code.

    `ready` is called once the board exists and every child is forked. Raises PipelineError
    when it cannot start.
    """
    instance = config.recorder.instance
    # systemd's watchdog ends a supervisor that hangs with SIGABRT: then the log says where.
    faulthandler.enable()
    allow_descriptors()
    set_name("gp-super", f"supervisor {instance} starting")
    check_data_dir(config.recorder.data_dir)
    parts = parts or real_parts()
    with _locked(instance), signals.blocked(), _board(instance) as board:
        for name in leftovers(instance, (channel.id for channel in config.channels)):
            log.warning("shared memory %s holds samples of a channel that is not configured; left alone", name)
        notifier = Notifier.from_environment()
        level = SharedLevel(effective_level(config.logging.level))
        control = ControlServer(socket_path(instance))
        try:
            store = SocketStore.from_environment(notifier)
            supervisor = Supervisor(config, parts, board, control, notifier, level, store)
            # What exists by now is shared with all children; nothing may touch its pages for counting.
            gc.collect()
            gc.freeze()
            supervisor.start()
            log.info("instance %s: %d channels, supervisor pid %d", instance, len(supervisor.seats), os.getpid())
            ready()
            return supervisor.run(make_handler(supervisor))
        finally:
            control.close()
            log.info("instance %s: supervisor leaves", instance)


@contextlib.contextmanager
def _locked(instance: str) -> Iterator[None]:
    lock = Lock.acquire(instance, ORPHAN_PATIENCE_S)
    try:
        if clear_stale_board(instance, ORPHAN_PATIENCE_S):
            log.warning("instance %s: the last supervisor did not stop in order", instance)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _board(instance: str) -> Iterator[Board]:
    board = Board.create(instance, os.getpid(), time.time_ns(), time.monotonic_ns())
    try:
        yield board
    finally:
        board.segment.unlink()


def detach(config: Config, parts: Parts | None = None) -> int:
    """Start the instance as a daemon; its pid, once it is up.

    Raises PipelineError with the daemon's own text when it could not start.
    """
    check_data_dir(config.recorder.data_dir)
    path = log_path(config)
    try:
        log_fd = _open_log(path)
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise InstanceError(f"log file {path}: {error.strerror}") from None
        log.error("log file %s: %s", path, error.strerror)
        path = runtime_dir(create=True) / path.name
        log.error("the log goes to %s", path)
        log_fd = _open_log(path)
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become_daemon(config, parts, writer, log_fd)
    os.close(writer)
    os.close(log_fd)
    os.waitpid(child, 0)
    # One message, not until the end of file: the daemon's children have the pipe as well.
    told = os.read(reader, 65536)
    os.close(reader)
    return _read_outcome(told, path)


def _open_log(path: Path) -> int:
    path.parent.mkdir(exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def _become_daemon(config: Config, parts: Parts | None, writer: int, log_fd: int) -> None:
    """In the first child: fork again in a new session, so that no terminal can ever be ours. Never returns."""
    os.setsid()
    if os.fork():
        os._exit(0)
    outcome: dict[str, object] = {}

    def tell(**told: object) -> None:
        if not outcome:
            outcome.update(told)
            os.write(writer, json.dumps(outcome).encode())
            os.close(writer)

    code = EXIT_SOFTWARE
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log_fd, 1), (log_fd, 2)):
            os.dup2(source, target)
        code = serve(config, parts, lambda: tell(pid=os.getpid()))
    except PipelineError as error:
        code = error.exit_code
        log.error("%s", error)
        tell(error=str(error), code=code)
    except BaseException as error:
        log.exception("internal error")
        tell(error=f"internal error: {error!r}", code=code)
    finally:
        logging.shutdown()
        os._exit(code)


def _read_outcome(told: bytes, path: Path) -> int:
    outcome = json.loads(told) if told else {}
    if "pid" in outcome:
        return int(outcome["pid"])
    error = PipelineError(outcome.get("error") or f"the instance ended while it was starting; its log is {path}")
    error.exit_code = outcome.get("code", EXIT_FAILURE)
    raise error
