"""Real chronyd daemons on loopback. Always with -x: they never touch the clock."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers import free_port, needs, unavailable
from pipeline.config import Server
from pipeline.ntp import chronyd
from pipeline.ntp.reading import Reading

PORT = "{port}"  # in a directive: the port that all servers of a set use
ROOT = "local stratum 1"
# Polls fast and settles within a second or two; without makestep, which never converges under -x.
FAST = "minpoll 0 maxpoll 0 iburst"


def follows(host: str, port: str = PORT, more: str = "") -> str:
    """The directive of a daemon that follows `host`."""
    return f"server {host} port {port} {FAST} {more}".rstrip()


@dataclass
class Daemon:
    """One chronyd, on an address of its own."""

    host: str
    port: int
    command_port: int
    home: Path
    directives: str
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> Server:
        """It as an NTP server."""
        return Server(self.host, self.port)

    @property
    def command_address(self) -> str:
        """Where it answers its monitoring protocol."""
        return f"127.0.0.1:{self.command_port}"

    def start(self) -> None:
        """Start it, again if it was killed."""
        self.home.mkdir(mode=0o750, exist_ok=True)
        conf = self.home / "chrony.conf"
        conf.write_text(
            f"port {self.port}\nbindaddress {self.host}\ncmdport {self.command_port}\nbindcmdaddress 127.0.0.1\n"
            f"bindcmdaddress {self.home}/sock\npidfile {self.home}/pid\nallow 127.0.0.0/8\n{self.directives}\n"
        )
        (self.home / "pid").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [needs("chronyd"), "-x", "-d", "-U", "-u", "root", "-f", str(conf)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )

    def send(self, number: signal.Signals) -> None:
        """A signal to it."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def settled(self, within_s: float = 1e-3) -> bool:
        """It says that it is synchronised; the bound of its first updates is a second and more."""
        found = chronyd.read("127.0.0.1", self.command_port)
        return isinstance(found, Reading) and found.bound_s < within_s

    def sources(self) -> list[list[str]]:
        """The fields of `chronyc -c sources`."""
        command = [needs("chronyc"), "-n", "-c", "-h", "127.0.0.1", "-p", str(self.command_port), "sources"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return [line.split(",") for line in done.stdout.splitlines()]


@contextmanager
def chronyds(folder: Path, hosts: Mapping[str, str], faked: Mapping[str, str] | None = None) -> Iterator[list[Daemon]]:
    """Daemons by their address, with their directives; `faked` has an address's environment."""
    needs("chronyd")
    port = free_port()
    with ExitStack() as stack:
        daemons: list[Daemon] = []
        for i, (host, directives) in enumerate(hosts.items()):
            text = directives.replace(PORT, str(port))
            made = Daemon(host, port, free_port(), folder / f"chronyd{i}", text, (faked or {}).get(host, {}))
            stack.callback(made.kill)
            made.start()
            daemons.append(made)
        yield daemons


def faketime(offset: str, library: str = "libfaketime.so.1") -> dict[str, str]:
    """The environment of a program that sees CLOCK_REALTIME shifted, and the monotonic clocks as they are."""
    found: Sequence[Path] = sorted(Path("/usr/lib").glob(f"*/faketime/{library}"))
    if not found:
        unavailable("libfaketime is not installed")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
