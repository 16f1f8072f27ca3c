"""Runs `stub_instance.py` and looks at it from outside: board, /proc, commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.__main__ import run
from pipeline.records import ChildRecord, ChildState
from pipeline.shm import Board, SharedMemoryError, unlink

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_instance.py")
DEADLINE_S = 15.0
_numbers = iter(range(1, 1000))


class Instance:
    """One instance under test, with channels A, B and C unless told otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = f"t{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.data_dir = folder / "data"
        self.data_dir.mkdir()
        (self.data_dir / "behave").mkdir()
        self.runtime = folder / "run"
        self.interface = "lo"
        self.config_path = folder / "config.toml"
        self._channels: dict[str, dict[str, object]] = {}
        self._supervision: dict[str, float] = {}
        self.level = "INFO"
        self.station = ""
        self.file_instance = self.name
        for number, name in enumerate("ABC", start=1):
            self.channel(name, frequency_hz=number * 1_000_000)
        self._log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self._board: Board | None = None
        self._seen: set[int] = set()
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(self.runtime))

    # Configuration

    def channel(self, name: str, **values: object) -> None:
        self._channels.setdefault(name, {}).update(values)

    def drop(self, name: str) -> None:
        del self._channels[name]

    def settings(self, **values: float) -> None:
        self._supervision.update(values)

    def behave(self, name: str, order: str | None, when: str = "") -> None:
        """What the stub worker `name` does from now on; `when` may be "stopping"."""
        path = self.data_dir / "behave" / when / name
        path.parent.mkdir(exist_ok=True)
        if order is None:
            path.unlink()
        else:
            path.write_text(order)

    def write_config(self) -> None:
        lines = [
            "[station]", f'callsign = "{self.station}"',
            "[recorder]", f'instance = "{self.file_instance}"', f'data_dir = "{self.data_dir}"',
            "[radiod]", 'status_address = "239.1.2.3:5006"', f'interface = "{self.interface}"',
            "[logging]", f'level = "{self.level}"',
            "[supervisor]", *(f"{key} = {value}" for key, value in self._supervision.items()),
        ]  # fmt: skip
        for name, values in self._channels.items():
            lines += ["[[channels]]", f'name = "{name}"']
            lines += [f"{k} = " + (f'"{v}"' if isinstance(v, str) else str(v)) for k, v in values.items()]
        self.config_path.write_text("\n".join(lines) + "\n")

    # Running

    def launch(self, mode: str = "serve", **environment: str) -> None:
        self.write_config()
        self._board = None
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(STUB), mode, str(self.config_path), self.name],
                stderr=log, stdout=log, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def start(self, up: set[str] | None = None) -> None:
        self.launch()
        self.up(up)

    def up(self, names: set[str] | None = None) -> None:
        """Wait until the named channels (default: all) and the monitor run."""
        wanted = {"ntp", *(set(self._channels) if names is None else names)}

        def all_up() -> bool:
            children = self.children()
            return all(n in children and children[n].state == ChildState.RUNNING for n in wanted)

        self.wait(all_up, f"{sorted(wanted)} to run")

    def run_to_end(self, **environment: str) -> tuple[int, str]:
        """A further start that is expected to fail; its exit code and what it said."""
        self.write_config()
        done = subprocess.run(
            [sys.executable, str(STUB), "serve", str(self.config_path)], capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, timeout=DEADLINE_S + 10,
        )  # fmt: skip
        return done.returncode, done.stderr

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def command(self, *arguments: str) -> int:
        return run([arguments[0], "-c", str(self.config_path), *arguments[1:]])

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}\n{self.log()}")
            time.sleep(0.02)

    def beats(self, count: int, wait_for_board: bool = True) -> None:
        """Let the supervisor publish `count` more times."""
        if not wait_for_board:
            time.sleep(count)
            return
        before = self.children()["supervisor"].heartbeat_monotonic_ns
        self.wait(
            lambda: self.children()["supervisor"].heartbeat_monotonic_ns >= before + count * 900_000_000, "heartbeats"
        )

    # Looking

    def children(self) -> dict[str, ChildRecord]:
        if self._board is None:
            try:
                board = Board.open(self.name)
            except SharedMemoryError:
                return {}
            if board.header.supervisor_pid != self.pid:  # a dead one's
                return {}
            self._board = board
        found = {record.name: record for cell in self._board.children if (record := cell.read()).name}
        self._seen |= {record.pid for record in found.values() if record.pid}
        return found

    def child(self, name: str) -> ChildRecord:
        return self.children()[name]

    def board_index(self, name: str) -> int:
        assert self._board is not None
        return [cell.read().name for cell in self._board.children].index(name) - 2

    def exists_as(self, name: str, ssrc: int) -> bool:
        """The worker of `name` runs and says that it records `ssrc`."""
        if self.children().get(name, ChildRecord()).state != ChildState.RUNNING or self._board is None:
            return False
        return self._board.channels[self.board_index(name)].read().ssrc == ssrc

    def child_processes(self) -> list[int]:
        """The supervisor's children, also those that are not on the board."""
        try:
            return [int(p) for p in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    def names(self) -> list[str]:
        return [name for name in self.children() if name != "supervisor"]

    def pids(self) -> dict[str, int]:
        return {name: record.pid for name, record in self.children().items() if name != "supervisor"}

    def log(self) -> str:
        return self._log_path.read_text() if self._log_path.exists() else ""

    def segments(self) -> list[str]:
        return sorted(p.name for p in Path("/dev/shm").glob(f"grape-pipeline-{self.name}*"))

    def flushed(self, name: str) -> int:
        return int((self.data_dir / "flushed" / name).read_text())

    @staticmethod
    def comm(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text().strip()

    @staticmethod
    def title(pid: int) -> str:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()

    @staticmethod
    def exists(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    @staticmethod
    def all_sockets(pid: int) -> list[str]:
        """Inodes of the sockets that a process has open."""
        links = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(link.readlink()))
        return sorted(x.removeprefix("socket:[")[:-1] for x in links if x.startswith("socket:["))

    def sockets(self, pid: int) -> list[str]:
        """Of these, the IPv4 UDP sockets."""
        udp = {line.split()[9] for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
        return [inode for inode in self.all_sockets(pid) if inode in udp]

    def clean_up(self) -> None:
        with contextlib.suppress(Exception):
            self.children()
        mine = f"grape-pipeline-{self.name}"
        for pid in {self.pid, *self._seen} - {0}:
            # A pid that was seen may be somebody else's by now.
            with contextlib.suppress(OSError):
                if mine in Path(f"/proc/{pid}/maps").read_text():
                    os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait(DEADLINE_S)
        for name in self.segments():
            unlink("/" + name)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """An instance that is gone, with all it made, when the test is over."""
    made = Instance(tmp_path, monkeypatch)
    yield made
    made.clean_up()
