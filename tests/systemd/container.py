"""Debian with systemd as PID 1, in a folder and in namespaces of its own; its only network is its own loopback."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from helpers import REPOSITORY

MIRROR, RELEASE, PYTHON, GLIBC = "http://deb.debian.org/debian", "bookworm", "3.11", 36
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv,iproute2,procps,git,sudo,curl"
CLONE = "home/pi/grape-pipeline"
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")
BOOT_S = 60.0


def make_root(folder: Path) -> Path:
    """A fresh Debian with a clone of this repository's HEAD; what was downloaded is kept in `folder`."""
    base, wheels, root = folder / "debian", folder / "wheels", folder / "run"
    if not (base / "etc/pip.conf").exists():
        include = f"--include={PACKAGES}"
        subprocess.run(["debootstrap", "--variant=minbase", include, RELEASE, str(base), MIRROR], check=True)
        (base / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["web"], "setuptools>=68", "wheel"]
    stamp = wheels / "wanted"
    if not stamp.exists() or stamp.read_text() != str(wanted):
        tags = [f"--platform=manylinux_2_{minor}_{platform.machine()}" for minor in range(5, GLIBC + 1)]
        command = ["-m", "pip", "download", "-q", "--only-binary=:all:", f"--python-version={PYTHON}", *tags]
        subprocess.run([sys.executable, *command, "-d", str(wheels), *wanted], check=True)
        stamp.write_text(str(wanted))
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost grape\n")
    (root / "etc/sudoers.d/pi").write_text("pi ALL=(ALL) NOPASSWD: ALL\n")
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(root / CLONE)], check=True)
    return root


class Container:
    """The system, its files below `root`; off until `boot`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = root.with_name("console")
        self._nspawn: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Switch it on, when it was on after it has switched itself off, and wait until it is up."""
        if self._nspawn is not None:
            self._nspawn.wait(BOOT_S)
        with self._log.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--private-network"]
                + ["--register=no", "--keep-unit", "--hostname=grape", "--console=pipe"]
                + [f"--bind-ro={self.root.with_name('wheels')}:/wheels"]
                # Read as on a machine; without the capability nobody in there can set the clock.
                + ["--system-call-filter=adjtimex clock_adjtime"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        if not until(lambda: self.out("systemctl is-system-running") in ("running", "degraded"), BOOT_S):
            raise SystemExit(f"the container does not boot; see {self._log}")

    def off(self) -> None:
        """Stop it in order, or kill it."""
        if self._nspawn is not None:
            self._nspawn.terminate()
            try:
                self._nspawn.wait(90)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()

    def _leader(self) -> str:
        """The pid, outside, of its PID 1; "0", which cannot be entered, before it has our root as its own."""
        assert self._nspawn is not None
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split():
                if Path(f"/proc/{pid}/root").samefile(self.root):
                    return pid
        return "0"

    def run(self, command: str, stdin: str = "", user: str = "root") -> subprocess.CompletedProcess[str]:
        """A shell command in the clone, whatever its exit status; stderr is part of stdout."""
        enter = ["nsenter", "-t", self._leader(), "-m", "-u", "-i", "-n", "-p", "-C", "env", "-i", *ENVIRONMENT]
        shell = ["runuser", "-u", user, "--", "sh", "-c", f"cd /{CLONE}; {command}"]
        return subprocess.run(
            [*enter, *shell], input=stdin, text=True, errors="replace", check=False, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def out(self, command: str) -> str:
        """What a command of root's prints."""
        return self.run(command).stdout.strip()

    def show(self, unit: str, key: str) -> str:
        """One property of a unit."""
        return self.out(f"systemctl show -P {key} {unit}")


def until(condition: Callable[[], object], patience_s: float) -> bool:
    """Whether `condition` becomes true in time; asked five times a second."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
