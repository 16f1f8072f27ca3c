"""As much of systemd as a Type=notify unit with FileDescriptorStoreMax sees of it (see sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from helpers import wait_for

AS_SERVICE = Path(__file__).with_name("as_service.py")


class ServiceManager:
    """Starts one service again and again and keeps the descriptors that it hands over."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "notify"
        self.kept: dict[str, int] = {}
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.address))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 8)
            if data == b"end":
                return
            lines = dict(line.split("=", 1) for line in data.decode().splitlines())
            name = lines.get("FDNAME", "")
            if "FDSTORE" in lines:
                self._keep(name, fds)
            elif "FDSTOREREMOVE" in lines and name in self.kept:
                os.close(self.kept.pop(name))
            self.said += data.decode().splitlines()

    def _keep(self, name: str, fds: list[int]) -> None:
        for fd in fds:
            known = self.kept.get(name)
            if known is None:
                self.kept[name] = fd
                continue
            # systemd keeps what is really another one under the same name as well; nobody should rely on that.
            assert os.fstat(fd).st_ino == os.fstat(known).st_ino, f"two sockets are called {name}"
            os.close(fd)

    def start(self, command: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the service with what is kept, and wait until it says READY=1."""
        kept = dict(self.kept)
        self.said.clear()
        listed = ",".join(f"{fd}:{name}" for name, fd in kept.items())
        self.process = process = subprocess.Popen(
            [sys.executable, str(AS_SERVICE), listed, *command], pass_fds=kept.values(), stdout=log, stderr=log,
            env={**environment, "NOTIFY_SOCKET": str(self.address)},
        )  # fmt: skip
        wait_for(lambda: "READY=1" in self.said or process.poll() is not None, 20, "READY=1")
        assert process.poll() is None, f"the service ended with {process.returncode}"
        return process

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", str(self.address))
        self._thread.join()
        self._socket.close()
        for fd in self.kept.values():
            os.close(fd)


@contextmanager
def service_manager(folder: Path) -> Iterator[ServiceManager]:
    """A service manager that stops its service at the end."""
    manager = ServiceManager(folder)
    try:
        yield manager
    finally:
        manager.close()
