"""The whole simulated station: radiod through its restarts, and the NTP servers beside it.

`run_simulator` is the job of a process; `running_simulator` starts that process and ends it. The NTP
servers are a process of their own, so that synthesis does not spoil their stamps.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipeline.simulator.ntp import Address, running_farm
from pipeline.simulator.radiod import Radiod
from pipeline.simulator.roster import Clock, Run
from pipeline.simulator.spec import SimulatorError, SimulatorSpec, spec_from_json, spec_to_json
from pipeline.simulator.truth import TruthFile
from pipeline.simulator.wire import find_interface

_LEAD_NS = 20_000_000
_LEAD_PER_CHANNEL_NS = 4_000_000
_LONGEST_WAIT_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class Ready:
    """What the simulator says when it is about to send its first packet."""

    pid: int
    start_utc_ns: int
    source_port: int
    ntp_addresses: tuple[Address, ...]


def run_simulator(
    spec: SimulatorSpec, stop: Callable[[], bool], ready: Callable[[Ready], None] = lambda _: None
) -> int:
    """Send until `stop()` or `spec.duration_s`; `stop` is asked at least every 0.1 s.

    Returns how long after its planned instant a packet left, at most, ns: what this machine adds to the simulation.
    Call it from a single-threaded process: it forks when there are NTP servers. Raises SimulatorError.
    """
    interface = find_interface(spec.interface)
    truth = TruthFile(spec.truth)
    try:
        with running_farm(spec.ntp_servers, spec.seed) as addresses:
            run = Run(spec, interface, Clock.start(), truth)
            station = _Station(run, stop)
            ready(Ready(os.getpid(), station.start_utc_ns, station.source_port, addresses))
            try:
                station.live()
            finally:
                station.close()
            return run.overdue_ns
    except OSError as error:
        raise SimulatorError(f"simulator: {error}") from error
    finally:
        truth.close()


class _Station:
    """radiod's lives one after the other; an ended one lingers while its delayed packets are under way."""

    def __init__(self, run: Run, stop: Callable[[], bool]) -> None:
        self._run, self._stop = run, stop
        self._restarts = sorted(run.spec.restarts)
        self._lead_ns = _LEAD_NS + _LEAD_PER_CHANNEL_NS * len(run.spec.channels)
        begin_ns = time.monotonic_ns() + self._lead_ns
        self._begin_ns = begin_ns
        self._next_life_ns: int | None = None
        self._generation = 0
        self._lingering: list[Radiod] = []
        self._radiod: Radiod | None = Radiod(run, 0, begin_ns)
        self.source_port = self._radiod.source_port
        self.start_utc_ns = run.clock.utc(begin_ns)
        duration_s = run.spec.duration_s
        self._end_ns = begin_ns + round(duration_s * 1e9) if duration_s is not None else None
        run.truth.note(
            "simulator",
            version=1,
            seed=run.spec.seed,
            start_utc_ns=self.start_utc_ns,
            start_monotonic_ns=begin_ns,
            data_address=run.spec.data_address,
            status_address=run.spec.status_address,
            pid=os.getpid(),
        )

    def live(self) -> None:
        """Until told to stop or the time is over."""
        while not self._stop():
            now_ns = time.monotonic_ns()
            if self._end_ns is not None and now_ns >= self._end_ns:
                return
            self._restart_when_due(now_ns)
            for radiod in self._lives():
                radiod.run_due(now_ns)
            self._bury()
            self._wait()

    def close(self) -> None:
        """End everything; delayed packets are given up."""
        for radiod in self._lives():
            if radiod is self._radiod:
                radiod.halt("stop")
            radiod.close()

    def _lives(self) -> list[Radiod]:
        return self._lingering + ([self._radiod] if self._radiod is not None else [])

    def _restart_when_due(self, now_ns: int) -> None:
        if self._radiod is not None and self._restarts:
            at_s, silent_s = self._restarts[0]
            if now_ns >= self._begin_ns + round(at_s * 1e9):
                self._restarts.pop(0)
                self._radiod.run_due(now_ns)
                self._radiod.halt("restart")
                self._lingering.append(self._radiod)
                self._radiod = None
                self._next_life_ns = self._begin_ns + round((at_s + silent_s) * 1e9)
                self._run.truth.note("restart", utc_ns=self._run.clock.utc(now_ns), silent_s=silent_s)
        if self._next_life_ns is not None and now_ns >= self._next_life_ns - self._lead_ns:
            self._generation += 1
            self._radiod = Radiod(self._run, self._generation, self._next_life_ns)
            self._next_life_ns = None

    def _bury(self) -> None:
        for radiod in [radiod for radiod in self._lingering if radiod.due_ns is None]:
            radiod.close()
            self._lingering.remove(radiod)

    def _wait(self) -> None:
        """Until something is due or a command comes, at most 0.1 s."""
        now_ns = time.monotonic_ns()
        dues = [radiod.due_ns for radiod in self._lives()] + [now_ns + _LONGEST_WAIT_NS, self._end_ns]
        if self._next_life_ns is not None:
            dues.append(self._next_life_ns - self._lead_ns)
        wait_ns = max(0, min(due for due in dues if due is not None) - now_ns)
        if self._radiod is None:
            time.sleep(wait_ns / 1e9)
            return
        poll = select.poll()
        poll.register(self._radiod.control, select.POLLIN)
        if poll.poll(wait_ns // 1_000_000):
            self._radiod.handle_commands()
        elif wait_ns % 1_000_000:
            time.sleep((wait_ns % 1_000_000) / 1e9)  # poll counts whole milliseconds


@contextmanager
def running_simulator(spec: SimulatorSpec, deadline_s: float = 15.0) -> Iterator[Ready]:
    """Run the simulator in a child process for the length of the block.

    The child ends with the block, or when this process dies. Raises SimulatorError if it does not become
    ready in time or refuses.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.simulator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False
    )
    try:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(spec_to_json(spec).encode() + b"\n")
        child.stdin.flush()
        yield _await_ready(child.stdout.fileno(), time.monotonic() + deadline_s)
    finally:
        _end(child)


def _await_ready(fd: int, deadline: float) -> Ready:
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise SimulatorError("simulator: not ready in time")
        part = os.read(fd, 65536)
        if not part:
            raise SimulatorError("simulator: ended before it was ready; see its message above")
        line += part
    facts = json.loads(line)
    addresses = tuple((str(host), int(port)) for host, port in facts.pop("ntp_addresses"))
    return Ready(ntp_addresses=addresses, **facts)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def child_main() -> int:
    """The child's side of `running_simulator`: specification on stdin, one JSON line out, then the run."""
    line = sys.stdin.readline()
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _: stopped.append(signum))
    watch = select.poll()
    watch.register(sys.stdin.fileno(), select.POLLIN)

    def stop() -> bool:
        return bool(stopped) or bool(watch.poll(0))  # stdin readable = the parent has gone

    def ready(facts: Ready) -> None:
        sys.stdout.write(json.dumps(asdict(facts)) + "\n")
        sys.stdout.flush()

    try:
        run_simulator(spec_from_json(line), stop, ready)
    except SimulatorError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0
