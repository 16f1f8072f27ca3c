"""What watching costs: `top` once a second, `status`, and questions to the control socket, beside nine workers.

    python -m tests.bench.bench_watch [SECONDS]

CPU is the kernel's own account of each process (schedstat, ns), as a share of one core. That the
workers have no part in it is shown by stopping them (SIGSTOP): a stopped process makes no system
call and holds no lock that it could give, yet a thousand looks succeed and its account stands still.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.screen import Screen

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from e2e.live import environment_of, receiving, running, spec, write_config
from helpers import new_names, wait_for
from pipeline.config import Config, load_config
from pipeline.shm import Board
from pipeline.simulator.spec import WWV_CHU as NINE
from pipeline.simulator.station import running_simulator
from pipeline.supervision.control import ask
from pipeline.supervision.instance import socket_path
from pipeline.terminal import Top, Watch

SECONDS = 20
LOOKS = 1000


def cpu_ns(pid: int) -> int:
    """CPU time that a process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def share(used_ns: float, seconds: float) -> str:
    """Percent of one core."""
    return f"{used_ns / seconds / 1e7:.3f} % of a core"


def looker(config: Config) -> tuple[Top, Console]:
    """What the command `top` runs, onto a terminal of 80x24 that nobody sees."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    return Top(Watch(config.recorder.instance, config), console, interactive=True), console


def draw(top: Top, console: Console) -> None:
    """One picture of `top`."""
    console.print(Screen(Group(*top.picture())), end="")


def once_a_second(config: Config, seconds: int) -> float:
    """CPU ns of `seconds` pictures, one a second."""
    top, console = looker(config)
    draw(top, console)  # what is loaded once
    begin = cpu_ns(os.getpid())
    for _ in range(seconds):
        time.sleep(1.0)
        draw(top, console)
    return cpu_ns(os.getpid()) - begin


def children(instance: str) -> dict[str, int]:
    """Name to pid of the workers."""
    return {child.name: child.pid for cell in Board.open(instance).children[2:] if (child := cell.read()).pid}


@contextmanager
def stopped(pids: Iterator[int]) -> Iterator[None]:
    """The processes do not run meanwhile."""
    held = list(pids)
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in held:
            wait_for(lambda pid=pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", 5, "T")
        yield
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)


def looks_beside_stopped_workers(config: Config) -> None:
    """A thousand looks at nine workers that cannot do anything; well within the limit for a hung one."""
    workers = children(config.recorder.instance)
    top, _ = looker(config)
    with stopped(iter(workers.values())):
        before = {name: cpu_ns(pid) for name, pid in workers.items()}
        begin = time.perf_counter()
        for _ in range(LOOKS):
            assert top.watch.look() is not None
        took = time.perf_counter() - begin
        after = {name: cpu_ns(pid) for name, pid in workers.items()}
    used = sum(after[name] - before[name] for name in workers)
    print(f"{LOOKS} looks with all {len(workers)} workers stopped: {1e6 * took / LOOKS:.0f} us each, "
          f"the workers used {used} ns of CPU")  # fmt: skip


def control_socket(config: Config, target: str, seconds: int) -> float:
    """CPU ns of the supervisor for one question a second, beyond what it uses anyway."""
    supervisor = Board.open(config.recorder.instance).header.supervisor_pid
    path = socket_path(config.recorder.instance)
    used = []
    for question in (False, True):
        begin = cpu_ns(supervisor)
        for _ in range(seconds):
            time.sleep(1.0)
            if question:
                ask_raw(path, target)
        used.append(cpu_ns(supervisor) - begin)
    return used[1] - used[0]


def ask_raw(path: Path, target: str) -> None:
    """GET; the body is of no interest."""
    if target == "/metrics":
        subprocess.run(
            ["curl", "-s", "--unix-socket", str(path), f"http://localhost{target}"], capture_output=True, check=True
        )
    else:
        ask(path, "GET", target)


def main() -> None:
    """Measure and print."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    names = new_names()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ.update(environment_of(folder))
        with running_simulator(spec(names, NINE, folder / "truth")) as ready:
            path = write_config(names, ready, NINE, folder)
            config = load_config(path)
            with running(path, folder) as (program, _):
                wait_for(lambda: receiving(program), 20, "packets")
                print(f"top, a picture a second: {share(once_a_second(config, seconds), seconds)}")
                looks_beside_stopped_workers(config)
                for target in ("/status", "/metrics"):
                    used = control_socket(config, target, seconds)
                    print(f"GET {target}, once a second: {share(used, seconds)} of the supervisor's")
                workers = children(names.instance)
                before = sum(map(cpu_ns, workers.values()))
                time.sleep(seconds)
                print(
                    f"for comparison, one worker: {share((sum(map(cpu_ns, workers.values())) - before) / 9, seconds)}"
                )


if __name__ == "__main__":
    main()
