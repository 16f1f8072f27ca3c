"""One running instance: its runtime directory, its lock, and what a dead one left behind.

The lock is a flock on `<runtime>/<instance>.lock`, which also holds the supervisor's
pid. Forked children inherit the descriptor, so the lock is free only when the last
process of the instance is gone: a new supervisor can never run beside living children of
a dead one, and no pid has to be trusted for that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline import PipelineError
from pipeline.config import Config
from pipeline.shm import MAGIC, Board, SharedMemoryError, segment_name, unlink

log = logging.getLogger(__name__)

SHM_DIR = Path("/dev/shm")
POLL_S = 0.05


# Of a disk, as opposed to a wrong path or missing rights, which somebody has to mend first.
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class InstanceError(PipelineError):
    """The instance's name, lock or runtime directory cannot be had."""


def runtime_dir(create: bool = False) -> Path:
    """Where lock and control socket live.

    systemd's RUNTIME_DIRECTORY; else /run/grape-pipeline when we may write there; else
    under XDG_RUNTIME_DIR; else a directory of our own in /tmp. With `create` it exists
    afterwards, belongs to us and nobody else can write to it, or InstanceError is raised.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    system = Path("/run/grape-pipeline")
    if given:
        path = Path(given)
    elif os.geteuid() == 0 or os.access(system, os.W_OK):
        path = system
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(os.environ["XDG_RUNTIME_DIR"]) / "grape-pipeline"
    else:
        path = Path(f"/tmp/grape-pipeline-{os.geteuid()}")
    if create:
        _make_private(path)
    return path


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise InstanceError(f"runtime directory {path}: {error.strerror}; set RUNTIME_DIRECTORY to another") from None
    foreign = found.st_uid not in (0, os.geteuid())
    if not stat.S_ISDIR(found.st_mode) or foreign or found.st_mode & stat.S_IWOTH:
        raise InstanceError(
            f"runtime directory {path} is not a directory that only uid {os.geteuid()} can write to; remove it"
        )


def socket_path(instance: str) -> Path:
    """The control socket's path."""
    return runtime_dir() / f"{instance}.control.sock"


def lock_path(instance: str) -> Path:
    """The lock file's path."""
    return runtime_dir() / f"{instance}.lock"


def log_path(config: Config) -> Path:
    """Where a detached instance writes its log."""
    return config.recorder.data_dir / "log" / f"{config.recorder.instance}.log"


def alive(pid: int) -> bool:
    """True when a process with this pid exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def belongs(pid: int, instance: str) -> bool:
    """True when process `pid` lives and has the instance's board mapped.

    Pids are used again; a mapping of our segment is not something a stranger has.
    """
    board = str(SHM_DIR / segment_name(instance).lstrip("/"))
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except PermissionError:
        return alive(pid) and _title(pid).startswith("grape-pipeline:")
    except OSError:
        return False
    paths = (line.split(maxsplit=5)[5:] for line in maps.splitlines())
    return any(path and path[0].removesuffix(" (deleted)") == board for path in paths)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def read_pid(instance: str) -> int | None:
    """The pid in the lock file; None when there is none."""
    try:
        return int(lock_path(instance).read_text().strip() or "0") or None
    except (OSError, ValueError):
        return None


def locked(instance: str) -> bool:
    """True while any process of the instance lives."""
    try:
        fd = os.open(lock_path(instance), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    else:
        return False
    finally:
        os.close(fd)


def running_pid(instance: str) -> int | None:
    """The supervisor's pid if one runs; found by the lock, or by the board for another user's instance."""
    pid = read_pid(instance)
    if pid is not None and locked(instance) and alive(pid):
        return pid
    pid = _board_supervisor(instance)
    return pid if pid is not None and belongs(pid, instance) else None


def why_absent(instance: str, error: SharedMemoryError) -> tuple[str, int | None]:
    """Why there is no board to look at, and the supervisor's pid if the instance runs all the same."""
    gone = not (SHM_DIR / segment_name(instance).lstrip("/")).exists()
    pid = running_pid(instance) if gone else None
    if pid is None:
        return str(error), None
    told = f"runs (pid {pid}), but its shared memory {segment_name(instance)} was removed (RemoveIPC of logind?)"
    return f"{told}; start it again", pid


def instances() -> list[str]:
    """Names of the instances that run from this runtime directory."""
    return sorted(p.name.removesuffix(".lock") for p in runtime_dir().glob("*.lock") if locked(p.stem))


class Lock:
    """Exclusive right to run an instance, held by every process that inherits `fd`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def acquire(cls, instance: str, wait_s: float) -> Lock:
        """Take the lock; wait up to `wait_s` for children of a dead supervisor to leave.

        Raises InstanceError naming the running supervisor's pid, or the children that stay.
        """
        path = runtime_dir(create=True) / f"{instance}.lock"
        deadline = time.monotonic() + wait_s
        # A command that looks whether the instance runs holds the lock for an instant.
        settle = time.monotonic() + 5 * POLL_S
        while (fd := _try_lock(path)) is None:
            pid = read_pid(instance)
            now = time.monotonic()
            if pid is not None and alive(pid) and now > min(settle, deadline):
                raise InstanceError(
                    f"instance {instance} is already running (pid {pid}); "
                    f"stop it with 'grape-pipeline stop' or choose another recorder.instance"
                )
            if now > deadline:
                raise InstanceError(_leftover_text(instance, _board_pids(instance)))
            time.sleep(POLL_S)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return cls(path, fd)

    def release(self) -> None:
        """Give the instance up."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self.fd)


def _try_lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder unlinks the file when it leaves: then this is a lock on a name that is gone.
        if os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _board_pids(instance: str) -> list[int]:
    """Living processes that the instance's board names."""
    try:
        board = Board.open(instance)
    except SharedMemoryError:
        return []
    pids = {board.header.supervisor_pid, *(cell.read().pid for cell in board.children)}
    return sorted(pid for pid in pids if pid and pid != os.getpid() and belongs(pid, instance))


def _board_supervisor(instance: str) -> int | None:
    try:
        return Board.open(instance).header.supervisor_pid
    except SharedMemoryError:
        return None


def _leftover_text(instance: str, pids: Iterable[int]) -> str:
    names = " ".join(map(str, pids)) or "unknown, see 'pgrep -af grape-pipeline'"
    return f"processes of a dead supervisor of instance {instance} are still there: {names}; end them and start again"


def clear_stale_board(instance: str, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Remove a dead supervisor's board; True when there was one.

    The lock is per runtime directory, the board per machine: so this also finds an
    instance of the same name that somebody else runs, and raises InstanceError.
    """
    if not (SHM_DIR / segment_name(instance).lstrip("/")).exists():
        return False
    deadline = time.monotonic() + wait_s
    while pids := _board_pids(instance):
        if (pid := _board_supervisor(instance)) in pids:
            raise InstanceError(f"instance {instance} is already running (pid {pid}), not from {runtime_dir()}")
        if time.monotonic() > deadline:
            raise InstanceError(_leftover_text(instance, pids))
        sleep(POLL_S)
    try:
        unlink(segment_name(instance))
    except Exception as error:
        raise InstanceError(f"shared memory {segment_name(instance)} cannot be removed: {error}") from None
    return True


def check_data_dir(path: Path) -> None:
    """Make `path` if it is missing and see that files can be made there; InstanceError if not.

    A full or failing disk is no reason to refuse: it may be full of our own data, samples of
    the last run may be in memory, and minutes can wait there until it is mended.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".write-test-", dir=path)
        os.close(fd)
        Path(name).unlink()
    except OSError as error:
        if error.errno in DISK_TROUBLE and path.is_dir():
            log.error("data_dir %s: %s; minutes will wait in memory", path, error.strerror)
            return
        raise InstanceError(
            f"recorder.data_dir {path} cannot be written to: {error.strerror}; "
            f"give user {_user()} access or choose another"
        ) from None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def leftovers(instance: str, known: Iterable[str]) -> list[str]:
    """Names of the instance's sample segments that belong to none of the `known` channel ids.

    A segment counts for the longest instance name that fits, for `a-b` may be an instance
    as well as a channel of `a`.
    """
    prefix = segment_name("").lstrip("/")
    names = sorted(p.name for p in SHM_DIR.glob(f"{prefix}*"))
    boards = [n for n in names if _is_board(SHM_DIR / n)]
    own = segment_name(instance).lstrip("/")
    expected = {segment_name(instance, channel).lstrip("/") for channel in known}
    found = []
    for name in names:
        owner = max((b for b in boards if name.startswith(b + "-")), key=len, default=own)
        if name.startswith(own + "-") and name not in boards and name not in expected and owner == own:
            found.append("/" + name)
    return found


def _is_board(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == MAGIC.to_bytes(8, "little")
    except OSError:
        return False
