"""Checks of the machine: software, kernel limits, shared memory, disk, what dead instances left."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from pipeline import DISTRIBUTION
from pipeline.addresses import RTP_PORT
from pipeline.config import Channel, Config
from pipeline.diagnosis.finding import Finding, fail, ok, warn
from pipeline.landing import LANDING_SIZE, reserved
from pipeline.shm import segment_name
from pipeline.sockets import (
    BUFFER_WARNING_S,
    DATA_BUFFER_BYTES,
    SocketError,
    buffer_seconds,
    granted_bytes,
    open_listener,
    resolve_group,
)
from pipeline.stream.journal import geometry
from pipeline.supervision.causes import duration_text
from pipeline.supervision.instance import SHM_DIR, leftovers, locked, read_pid, running_pid, socket_path

OLDEST_PYTHON = (3, 11)
# What a lost datagram of ten thousand does to a day is eight seconds of gaps.
LOST_SHARE = 1e-4
# fsync on a busy SD card may take seconds.
DISK_PATIENCE_S = 10.0
DAYS_FAIL, DAYS_WARN = 1.0, 7.0
# The newest files, whose sizes are the present rate.
RATE_FILES = 30
RATE_AGE_S = 86_400.0
FIRST_USER_ID = 1000  # login.defs(5), UID_MIN: RemoveIPC spares system users
T = TypeVar("T")
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+?)\s*>=\s*([0-9.]+)\s*$")


def software() -> Iterator[Finding]:
    """Python, and each library against the version that the package asks for."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield fail("software", f"Python {python} is too old", "sudo apt install python3.11 python3.11-venv")
    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield warn("software", f"Python {python}; {DISTRIBUTION} is not installed as a package", "bin/grape-pipeline")
        return
    bad = list(outdated(wanted))
    for name, text in bad:
        yield fail("software", text, f"{sys.executable} -m pip install --upgrade {name}")
    if not bad:
        yield ok("software", f"Python {python}, libraries as wanted")


def outdated(requirements: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of the libraries that are missing or older than `name>=version`."""
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is None:  # an extra, or a form that pyproject.toml does not use
            continue
        name, oldest = match.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, f"{name} is missing"
            continue
        if _numbers(found) < _numbers(oldest):
            yield name, f"{name} {found} is older than {oldest}"


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)[:3]]


def buffers(config: Config, running: int | None, rmem_max: Path = Path("/proc/sys/net/core/rmem_max")) -> Finding:
    """What the kernel allows, and what it grants to a channel's socket (`running`: has granted, bytes)."""
    mend = f"sudo sysctl -w net.core.rmem_max={DATA_BUFFER_BYTES} (for good: etc/99-grape-pipeline.conf)"
    limit = int(rmem_max.read_text())
    told = f"net.core.rmem_max is {limit}"
    widest = max(config.enabled_channels, key=lambda c: c.sample_rate_hz, default=None)
    if widest is None:
        return ok("buffer", told) if limit >= DATA_BUFFER_BYTES else warn("buffer", told, mend)
    # Root may exceed the limit, the service's user may not.
    granted = running or min(limit, _granted(widest, config) or limit)
    holds = buffer_seconds(widest, granted)
    told += f"; {granted >> 10} KiB granted hold {holds:.1f} s of {widest.name}"
    if holds < BUFFER_WARNING_S:
        return warn("buffer", f"{told}, {BUFFER_WARNING_S:.0f} s are wanted", mend)
    return ok("buffer", told)


def _granted(channel: Channel, config: Config) -> int | None:
    try:
        group, port = resolve_group(channel.data_address, RTP_PORT)
        with open_listener(config.radiod.interface, group, port) as sock:
            return granted_bytes(sock)
    except SocketError:  # told by the checks of the network
        return None


def udp_counters(snmp: Path = Path("/proc/net/snmp")) -> dict[str, int]:
    """The kernel's UDP counters of this network namespace, since boot."""
    names, values = (line.split()[1:] for line in snmp.read_text().splitlines() if line.startswith("Udp:"))
    return dict(zip(names, map(int, values), strict=True))


def udp_losses(before: dict[str, int], after: dict[str, int], seconds: float) -> Finding:
    """Datagrams that came and found no room; only RcvbufErrors counts what no filter refused."""
    mend = f"sudo sysctl -w net.core.rmem_max={DATA_BUFFER_BYTES}, then restart what receives"
    total, now = after["RcvbufErrors"], after["RcvbufErrors"] - before["RcvbufErrors"]
    if now:
        return fail("udp", f"{now} datagrams lost within {seconds:.1f} s for want of buffer (RcvbufErrors)", mend)
    if total > LOST_SHARE * after["InDatagrams"]:
        share = 100 * total / max(1, after["InDatagrams"] + total)
        return warn("udp", f"{total} datagrams ({share:.2g} %) lost for want of buffer since boot, none now", mend)
    return ok("udp", f"{total} datagrams lost for want of buffer since boot, none now")


def shared_memory(config: Config, folder: Path = SHM_DIR) -> Iterator[Finding]:
    """Room in /dev/shm for the minutes that wait while a disk fails; whether logging out empties it."""
    try:
        room = os.statvfs(folder)
    except OSError as error:
        yield fail("shm", f"{folder}: {error.strerror}", f"sudo mount -t tmpfs tmpfs {folder}")
        return
    channels, minutes = config.enabled_channels, config.recorder.buffer_minutes
    samples = sum(geometry(c.sample_rate_hz, minutes).size for c in channels)
    wanted = samples + len(channels) * LANDING_SIZE
    least = samples * 2 / minutes + len(channels) * sum(length for _, length in reserved())
    used = sum(path.stat().st_blocks * 512 for path in _segments(config.recorder.instance, folder))
    free = room.f_bavail * room.f_frsize + used
    told = f"{folder} has {free / 1e6:.0f} MB for {len(channels)} channels"
    mend = f"sudo mount -o remount,size={(wanted >> 20) + 64}M {folder}, or lower recorder.buffer_minutes"
    if free < least:
        yield fail("shm", f"{told}, two minutes of them take {least / 1e6:.0f} MB", mend)
    elif free < wanted:
        yield warn("shm", f"{told}, {minutes} minutes of them may take {wanted / 1e6:.0f} MB", mend)
    else:
        yield ok("shm", f"{told}, {minutes} minutes of them take at most {wanted / 1e6:.0f} MB")
    yield remove_ipc(os.geteuid())


def _segments(instance: str, folder: Path) -> list[Path]:
    own = segment_name(instance).lstrip("/")
    return [path for name in (own, f"{own}-*") for path in folder.glob(name)]


def remove_ipc(uid: int, root: Path = Path("/")) -> Finding:
    """systemd-logind removes a user's shared memory at his last logout, unless told otherwise (logind.conf(5))."""
    if not (root / "run/systemd/system").exists():
        return ok("ipc", "no systemd here that would remove shared memory at logout")
    if uid < FIRST_USER_ID:
        return ok("ipc", "a system user's shared memory survives logouts")
    name = _user(uid)
    if (root / "var/lib/systemd/linger" / name).exists():
        return ok("ipc", f"user {name} lingers, so that shared memory survives logouts")
    folders = [root / place / "systemd" for place in ("usr/lib", "run", "etc")]
    files = [*(f for d in folders for f in sorted((d / "logind.conf.d").glob("*.conf"))), folders[-1] / "logind.conf"]
    setting = "yes"
    for path in [files[-1], *files[:-1]]:  # drop-ins overrule the file
        with contextlib.suppress(OSError):
            for value in re.findall(r"(?m)^\s*RemoveIPC\s*=\s*(\S+)", path.read_text()):
                setting = value.lower()
    if setting in ("no", "false", "0", "off"):
        return ok("ipc", "RemoveIPC=no")
    return warn(
        "ipc", f"RemoveIPC=yes: logind removes the shared memory of {name} at the last logout, while recording",
        f"sudo loginctl enable-linger {name}, or run it as a system user",
    )  # fmt: skip


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def disk(config: Config, mb_per_day: float) -> Iterator[Finding]:
    """Whether files can be made, and for how long; `mb_per_day` is the estimate while there are no files."""
    folder = config.recorder.data_dir
    place = within(DISK_PATIENCE_S, lambda: next((p for p in (folder, *folder.parents) if p.exists()), Path("/")))
    problem = None if place is None else within(DISK_PATIENCE_S, lambda: [_not_writable(place)])
    if place is None or problem is None:
        told = f"{place or folder}: does not answer within {DISK_PATIENCE_S:g} s"
        yield fail("disk", told, "see dmesg for errors of the disk or its server; the minutes wait in memory")
        return
    yield from _room(config, place, problem[0], mb_per_day)


def _room(config: Config, place: Path, problem: OSError | None, mb_per_day: float) -> Iterator[Finding]:
    folder = config.recorder.data_dir
    owner = _user(os.geteuid())
    if problem is not None:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = f"make room on {place}" if full else f"sudo install -d -o {owner} {folder}"
        mend = f"sudo mount -o remount,rw {place}" if problem.errno == errno.EROFS else mend
        yield fail("disk", f"{place}: {problem.strerror} (user {owner})", mend)
    else:
        yield ok("disk", f"{place} can be written to" + ("" if place == folder else f", {folder} will be made there"))
    usage = shutil.disk_usage(place)
    measured = present_mb_per_day(folder, time.time())
    rate = measured or mb_per_day
    free_gb = usage.free / 1e9 - config.recorder.min_free_gb
    days = max(0.0, free_gb) * 1e3 / rate if rate else float("inf")
    told = f"{usage.free / 1e9:.1f} GB free on {place}, {config.recorder.min_free_gb:g} to be left"
    lasts = duration_text(days * 86_400) if rate else "ever"
    told += f": room for {lasts} at {rate / 1e3:.1f} GB a day ({'as of the newest files' if measured else 'estimate'})"
    if days < DAYS_FAIL:
        yield fail("disk", told, "make room, or set recorder.data_dir to a larger disk")
    elif days < DAYS_WARN:
        yield warn("disk", told, 'plan for it: remove old days, recorder.storage = "int16", or a larger disk')
    else:
        yield ok("disk", told)


def within(seconds: float, ask: Callable[[], T]) -> T | None:
    """The answer, None when there is none in time: then a thread is left that waits for it, and ends with us."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _not_writable(folder: Path) -> OSError | None:
    """What happens when a file is made there and forced to disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def present_mb_per_day(data_dir: Path, now_s: float) -> float | None:
    """What the channels' newest files of the last day come to in a day; None without any."""
    total = 0.0
    for channel in sorted((data_dir / "archives").glob("*")):
        newest = sorted(channel.glob("*.npz"))[-RATE_FILES:]
        found = [path.stat() for path in newest]
        sizes = [each.st_size for each in found if now_s - each.st_mtime < RATE_AGE_S]
        total += sum(sizes) / len(sizes) * 1440 / 1e6 if sizes else 0.0
    return total or None


def alerts(config: Config) -> Iterator[Finding]:
    """Whether the program that is to tell somebody is there; only a message shows that it works."""
    command = config.alerts.command
    if command and shutil.which(command[0]) is None:
        mend = "install it, or give its full path in [alerts] command"
        yield fail("alerts", f"{command[0]} is not a program that can be run; nobody would be told", mend)
    elif command or config.alerts.url:
        yield ok("alerts", f"configured; try them with: {DISTRIBUTION} alerts --test")


def left_behind(config: Config) -> Iterator[Finding]:
    """Segments, sockets and processes of an instance that ended without order."""
    instance = config.recorder.instance
    if running_pid(instance) is not None:
        yield from _strays(config)
        return
    if locked(instance):
        mend = f"pgrep -af grape-pipeline, then kill them (last supervisor: {read_pid(instance)})"
        yield fail("leftovers", f"processes of a dead supervisor of instance {instance} are still there", mend)
        return
    names = [path.name for path in _segments(instance, SHM_DIR)]
    names += [path.name for path in (socket_path(instance),) if path.exists()]
    if names:
        told = f"a dead instance left {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if names[3:] else "")
        yield warn("leftovers", told, f"{DISTRIBUTION} start, which salvages the samples in it")
    else:
        yield ok("leftovers", f"none of instance {instance}, which does not run")


def _strays(config: Config) -> Iterator[Finding]:
    strays = leftovers(config.recorder.instance, (c.id for c in config.channels))
    if strays:
        paths = " ".join(f"{SHM_DIR}{name}" for name in strays)
        yield warn("leftovers", f"samples of channels that are not configured: {', '.join(strays)}", f"rm {paths}")
    else:
        yield ok("leftovers", "none")
