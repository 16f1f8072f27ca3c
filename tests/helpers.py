"""What tests of all kinds share: waiting for a condition, tools that may be missing, names of their own."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_MEMORY = Path("/dev/shm")
# Set where everything has to run: a missing tool is then a failure.
CI = os.environ.get("GRAPE_CI") == "1"

_serial = itertools.count()


def wait_for(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """The first true value of `condition`, asked every 10 ms; the test fails when none came in time."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {deadline_s:g} s for {what}; last value: {value!r}")
        time.sleep(0.01)


def unavailable(reason: str) -> NoReturn:
    """Skip the test for `reason`, or fail it where everything has to run."""
    if CI:
        pytest.fail(f"GRAPE_CI=1 and {reason}")
    pytest.skip(reason)


def needs(tool: str) -> str:
    """The path of a program, also one in sbin."""
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        unavailable(f"{tool} is not installed")
    return path


def needs_root() -> None:
    """For tests that make network namespaces or mount file systems."""
    if os.geteuid() != 0:
        unavailable("not root")


@dataclass(frozen=True, slots=True)
class Names:
    """Names that no other test, process or program uses: an instance and a multicast group with two ports."""

    instance: str
    group: str
    data_port: int = 5004
    status_port: int = 5006

    @property
    def data_address(self) -> str:
        """`group:port` of the RTP streams."""
        return f"{self.group}:{self.data_port}"

    @property
    def status_address(self) -> str:
        """`group:port` of radiod's status."""
        return f"{self.group}:{self.status_port}"


def new_names() -> Names:
    """Fresh names, from this process's id and a counter."""
    serial = next(_serial)
    digest = hashlib.sha256(f"{os.getpid()}/{serial}".encode()).digest()
    # 239.192.0.0/14 is for local use (RFC 2365).
    return Names(f"t{os.getpid()}-{serial}", f"239.{192 + digest[0] % 4}.{digest[1]}.{digest[2]}")


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with contextlib.closing(socket.socket(socket.AF_INET, kind)) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def segments(instance: str) -> list[Path]:
    """The instance's shared memory that exists."""
    names = (f"grape-pipeline-{instance}", f"grape-pipeline-{instance}-*")
    return sorted(path for name in names for path in SHARED_MEMORY.glob(name))
