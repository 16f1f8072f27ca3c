"""What a channel-minute costs from the socket to the file, live, beside what libraries take for its file alone.

    python -m tests.bench.bench_channel [--minutes N] [--channels N] [--encoding S16BE] [--rate HZ]
                                        [--default-buffer] [--rows]

Nine channels by default, since processes that share a core find each other's caches. CPU time is the kernel's
account of whole processes (CLOCK_PROCESS_CPUTIME_ID, nanoseconds, threads that ended included; what
/proc/PID/stat says is sampled by the tick and misleads). The files' figures are medians of repeats that take
turns. `--default-buffer` gives the sockets what net.core.rmem_default gives them when nothing is configured;
`--rows`: for `python -m tests.bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, clock, cpu_of, print_rows  # noqa: E402
from bench.timed_program import DEFAULT_BUFFER, JOB, PARTS, TURN  # noqa: E402
from e2e.live import environment_of, spec, write_config  # noqa: E402
from helpers import REPOSITORY, Names, new_names, wait_for  # noqa: E402
from pipeline import npz  # noqa: E402
from pipeline.config import Recorder  # noqa: E402
from pipeline.shm import Board, SharedMemoryError  # noqa: E402
from pipeline.simulator.spec import WWV_CHU, ChannelSpec  # noqa: E402
from pipeline.simulator.station import Ready, running_simulator  # noqa: E402

REPEATS = 5
KILLS = 10
BARE = "a process that takes the packets, as often, and does nothing else"
RATE = 16_000
PEER = "np.savez_compressed"
# A worker that has written two minutes has all that it will ever have.
SETTLED_MINUTES = 1


def private_mb(pid: int) -> float:
    """Memory that would be free without the process (USS): nobody else has mapped these pages."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) / 1e3


def pids(board: Board) -> dict[int, int]:
    """Channel's index to its worker's pid."""
    return {n: child.pid for n, cell in enumerate(board.children[2:]) if (child := cell.read()).pid}


@dataclass
class Instance:
    """The running program and what it shows."""

    board: Board
    child: subprocess.Popen[bytes]
    began: float


@contextlib.contextmanager
def running(config: Path, folder: Path, names: Names, default_buffer: bool) -> Iterator[Instance]:
    """The program with timed workers; ended with SIGTERM."""
    environment = environment_of(folder) | ({DEFAULT_BUFFER: "1"} if default_buffer else {})
    command = [
        sys.executable,
        str(REPOSITORY / "tests/bench/timed_program.py"),
        str(folder),
        "start",
        "-c",
        str(config),
    ]
    with (folder / "log").open("wb") as log:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield Instance(wait_for(lambda: board_of(names), 30, "the start"), child, began)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def board_of(names: Names) -> Board | None:
    """The instance's board when it is there."""
    with contextlib.suppress(SharedMemoryError, OSError):
        return Board.open(names.instance)
    return None


def placed(board: Board, channel: int) -> int:
    """Packets of a channel that have their place, as far as it says."""
    return int(board.channels[channel].read().packets_received)


def start_s(instance: Instance, channels: int) -> float:
    """From the command to the first packet of the last channel."""
    wait_for(lambda: all(placed(instance.board, n) for n in range(channels)), 30, "packets on every channel")
    return time.monotonic() - instance.began


def restart_s(board: Board, channel: int) -> float:
    """From a worker's SIGKILL to the next packet placed."""
    pid, known = pids(board)[channel], placed(board, channel)
    begin = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def again() -> bool:
        record = board.channels[channel].read()
        return record.pid != pid and record.packets_received > known

    while not again():
        time.sleep(0.002)
        assert time.monotonic() - begin < 30, "the worker does not come back"
    return time.monotonic() - begin


@dataclass
class Costs:
    """CPU s a channel-minute of what was seen in a window, and the rest of what the window showed."""

    whole: float
    parts: dict[str, float]
    memory_mb: list[float]
    write_s: list[float]
    age_s: float
    writing_age_s: float
    later_s: float
    fill: float
    supervisor: float
    simulator: float
    wakeups: float
    # Of processes that only take the same packets off sockets of their own, as often.
    bare: float


@contextlib.contextmanager
def bare_receivers(config: Path, count: int, folder: Path) -> Iterator[list[int]]:
    """Pids of processes that receive as workers do, and nothing else."""
    program = str(REPOSITORY / "tests/bench/bare_receiver.py")
    children = [
        subprocess.Popen([sys.executable, program, str(config), str(n)], env=environment_of(folder))
        for n in range(count)
    ]
    try:
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.terminate()
            child.wait(20)


def window(
    instance: Instance, station: Ready, minutes: int, channels: int, bare: list[int]
) -> tuple[float, float, Costs]:
    """Watch whole minutes; the parts come when the workers have stopped."""
    who = pids(instance.board)
    supervisor = instance.child.pid
    clocks = [*who.values(), *bare, supervisor, station.pid]
    before, begin = {pid: cpu_of(pid) for pid in clocks}, time.monotonic()
    memory: list[float] = []
    while time.monotonic() < begin + 60 * minutes:
        time.sleep(2.0)
        memory += map(private_mb, who.values())
    end = time.monotonic()
    per = channels * (end - begin) / 60
    used = {pid: cpu_of(pid) - before[pid] for pid in clocks}
    whole = sum(used[pid] for pid in who.values()) / per
    return begin, end, Costs(
        whole, {}, sorted(memory), [], 0.0, 0.0, 0.0, 0.0, used[supervisor] / per, used[station.pid] / per, 0.0,
        sum(used[pid] for pid in bare) / per,
    )  # fmt: skip


def with_parts(costs: Costs, folder: Path, begin: float, end: float) -> Costs:
    """What the workers noted in the window."""
    notes: list[dict[str, Any]] = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    turns = np.array([t for note in notes for t in note["turns"] if begin <= t[0] < end])
    jobs = [job for note in notes for job in note["jobs"] if begin <= job[0] < end]
    # The worker that was killed has left none.
    noted = sum(any(begin <= t[0] < end for t in note["turns"]) for note in notes)
    per = noted * (end - begin) / 60
    column = {name: turns[:, n] for n, name in enumerate(TURN)}
    took = {name: float(column[name].sum()) / per for name in (*PARTS, "turn")}
    job = {name: sum(row[n] for row in jobs) / per for n, name in enumerate(JOB)}
    rest = took["turn"] - took["take"] - took["publish"]
    inner = ("from the socket", "into the journal", "statuses")
    costs.parts = {
        "receive, place, status": took["take"],
        **{f"of it {name}": took[name] for name in inner},
        "of it headers, places, records": took["take"] - sum(took[name] for name in inner),
        "publish": took["publish"],
        "cut and the rest of a turn": rest,
        "of it the cut": took["cut"],
        "write": job["cpu"],
        "of it listening for tones": job["tones"],
        "of it decoding, deflate, sums": job["deflate"],
        "wake up": costs.whole - took["turn"] - job["cpu"],
    }
    costs.write_s = sorted(row[JOB.index("wall")] for row in jobs)
    writing = column["writing"] > 0
    costs.writing_age_s = float(column["age"][writing].max(initial=0.0))
    # Of so many other wake-ups the latest one, as a rule.
    costs.age_s = float(np.quantile(column["age"][~writing], 1 - 1 / (1 + np.count_nonzero(writing))))
    costs.later_s = max(0.0, costs.writing_age_s - costs.age_s)
    costs.fill, costs.wakeups = float(column["fill"].max()), len(turns) / per
    return costs


def arrays_like(values: dict[str, Any], iq: Any, storage: str) -> dict[str, Any]:
    """A minute file's arrays with other samples, as `storage` keeps them."""
    rest = {name: np.asarray(value) for name, value in values.items() if name not in ("iq", "iq_int16", "iq_scale")}
    if storage == "complex64":
        return {**rest, "iq": iq}
    pairs = np.rint(iq.view(np.float32).reshape(-1, 2) * 32768).astype(np.int16)
    return {**rest, "iq_int16": pairs, "iq_scale": np.asarray(1 / 32768)}


def whole(iq: Any) -> Any:
    """Samples as radiod's S16 brings them."""
    parts = np.clip(np.rint(iq.astype(np.complex64).view(np.float32) * 32768), -32768, 32767) / 32768
    return parts.astype(np.float32).view(np.complex64)


def signals() -> dict[str, Any]:
    """Noise of -40 dBFS, and carriers of -6 dBFS with noise of -70 dBFS."""
    rng = np.random.default_rng(1)
    n = 60 * RATE
    noise = (rng.standard_normal(2 * n) / np.sqrt(2)).view(np.complex128)
    t = np.arange(n) / RATE
    return {
        "noise": whole(noise * 10 ** (-40 / 20)),
        "carrier 1.3 Hz off": whole(0.5 * np.exp(2j * np.pi * 1.3 * t) + noise * 10 ** (-70 / 20)),
        "carrier 1 kHz off": whole(0.5 * np.exp(2j * np.pi * 1003.7 * t) + noise * 10 ** (-70 / 20)),
    }


def files(values: dict[str, Any], folder: Path) -> Iterator[tuple[str, str, tuple[float, float], float]]:
    """(signal, way, CPU and wall s, MB) of one minute's file, by default settings."""
    level = Recorder().compression_level
    read = clock()
    for kind, iq in signals().items():
        floats, pairs = (arrays_like(values, iq, storage) for storage in ("complex64", "int16"))
        ways: dict[str, Callable[[Path], object]] = {
            PEER: lambda path, a=floats: np.savez_compressed(path, **a),
            "np.savez": lambda path, a=floats: np.savez(path, **a),
            "ours": lambda path, a=floats: npz.write(path, a, level),
            "ours, int16": lambda path, a=pairs: npz.write(path, a, level),
        }
        used: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        sizes = {}
        for _ in range(REPEATS):
            for way, write in ways.items():
                path = folder / "minute.npz"
                begin = read()
                write(path)
                end = read()
                used[way].append((end[0] - begin[0], end[1] - begin[1]))
                sizes[way] = path.stat().st_size / 1e6
                path.unlink()
        for way in ways:
            cpu, wall = (statistics.median(column) for column in zip(*used[way], strict=True))
            yield kind, way, (cpu, wall), sizes[way]


def made_up(count: int, rate: int, encoding: str) -> tuple[ChannelSpec, ...]:
    """The nine of a GRAPE station, then others."""
    named = [(c.name, c.frequency_hz) for c in WWV_CHU] + [(f"EXTRA {n}", 1e6 + 1e4 * n) for n in range(count)]
    return tuple(ChannelSpec(name, hz, sample_rate_hz=rate, encoding=encoding) for name, hz in named[:count])


def live(
    minutes: int, channels: tuple[ChannelSpec, ...], folder: Path, default_buffer: bool = False
) -> tuple[Costs, float, list[float]]:
    """Costs, s from the start to the last channel's first packet, s from kills to packets."""
    names, chance = new_names(), random.Random(1)
    # Synthesis of real signals would take the machine; a counter's minutes deflate no better than noise.
    with running_simulator(spec(names, channels, folder / "truth")) as ready:
        config = write_config(names, ready, channels, folder)
        with running(config, folder, names, default_buffer) as instance:
            started = start_s(instance, len(channels))
            with bare_receivers(config, 0 if default_buffer else len(channels), folder) as bare:
                time.sleep(60 * SETTLED_MINUTES)
                begin, end, costs = window(instance, ready, minutes, len(channels), bare)
            # Not one that was watched: its notes die with it.
            victim = len(channels) - 1
            gone = []
            for _ in range(KILLS if len(channels) > 1 else 0):
                # Not twice within the supervisor's initial delay: the second one would have to wait.
                time.sleep(chance.uniform(1.5, 2.5))
                gone.append(restart_s(instance.board, victim))
    return with_parts(costs, folder, begin, end), started, gone


def report(costs: Costs, started: float, gone: list[float]) -> None:
    """The live part, for people."""
    print(f"\nCPU s a channel-minute {costs.whole:8.4f}")
    for name, cost in costs.parts.items():
        print(f"  {name:36} {cost:7.4f}")
    print(f"a process that only takes the packets {costs.bare:7.4f}")
    print(f"wake-ups a channel-minute    {costs.wakeups:7.1f}")
    print(f"supervisor, a channel-minute {costs.supervisor:7.4f}   (the simulator: {costs.simulator:.4f})")
    memory = costs.memory_mb
    print(f"private memory (USS), MB     {statistics.median(memory):7.1f}   most, during a write, {memory[-1]:.1f}")
    print(f"a write takes, s             {statistics.median(costs.write_s):7.3f}   most {costs.write_s[-1]:.3f}")
    print(f"oldest packet queued, s      {costs.age_s:7.3f}   during a write at most {costs.writing_age_s:.3f}")
    print(f"later during a write, ms     {1e3 * costs.later_s:7.1f}")
    print(f"receive buffer used at most  {100 * costs.fill:7.1f} %")
    print(f"start to every first packet, s {started:5.2f}")
    if gone:
        print(f"SIGKILL to the next packet, s {statistics.median(gone):6.3f}   most {max(gone):.3f}")


WANTED_SIZE = {
    ("noise", "ours"): "at most 1.05", ("carrier 1.3 Hz off", "ours"): "at most 1.2",
    ("carrier 1 kHz off", "ours"): "at most 1.2",
}  # fmt: skip
INT16_WANTED = "at most 0.75"


def rows_of_files(found: list[tuple[str, str, tuple[float, float], float]]) -> Iterator[Row]:
    """Ours, as complex64 and as int16, beside numpy's."""
    of = {(kind, way): (costs, size) for kind, way, costs, size in found}
    for kind in dict.fromkeys(kind for kind, _ in of):
        for way, peer in (("ours", PEER), ("ours", "np.savez"), ("ours, int16", PEER)):
            what = f"a minute's file, {kind}{way.removeprefix('ours')}"
            (mine, mine_mb), (theirs, theirs_mb) = of[kind, way], of[kind, peer]
            yield Row(what, "ms", [s * 1e3 for s in mine], peer, [s * 1e3 for s in theirs])
            wanted = "" if peer != PEER else INT16_WANTED if "int16" in way else WANTED_SIZE[kind, way]
            yield Row(f"{what}: size", "MB", [mine_mb], peer, [theirs_mb], wanted=wanted)


def rows_of_live(costs: Costs, started: float, gone: list[float], title: str) -> Iterator[Row]:
    """What the live part says, beside nobody."""
    yield Row(f"{title}: CPU a channel-minute", "ms", [costs.whole * 1e3], wanted="at most 60")
    for name, cost in costs.parts.items():
        peer = (BARE, [costs.bare * 1e3]) if name.startswith("receive") and costs.bare else ("", [])
        yield Row(f"- {name}", "ms", [cost * 1e3], *peer)
    yield Row("- wake-ups", "", [costs.wakeups])
    yield Row("supervisor, a channel-minute", "ms", [costs.supervisor * 1e3])
    yield Row("a worker's own memory (USS)", "MB", [statistics.median(costs.memory_mb)], wanted="at most 25")
    yield Row("- most, during a write", "MB", [costs.memory_mb[-1]], wanted="at most 25")
    yield Row("a write, from start to name on disk", "ms", [statistics.median(costs.write_s) * 1e3])
    yield Row("- longest", "ms", [costs.write_s[-1] * 1e3], wanted="at most 500")
    yield Row("receiving later during a write, by", "ms", [costs.later_s * 1e3], wanted="at most 20")
    yield Row("receive buffer used at most", "%", [100 * costs.fill], wanted="at most 50")
    yield Row("start to every first packet", "s", [started], wanted="less than 1.5")
    if gone:
        yield Row("SIGKILL to the next packet placed", "ms", [statistics.median(gone) * 1e3], wanted="less than 300")
        yield Row("- longest", "ms", [max(gone) * 1e3], wanted="less than 300")


def rows(options: argparse.Namespace, channels: tuple[ChannelSpec, ...], folder: Path) -> Iterator[Row]:
    """All for `python -m tests.bench`: with our receive buffer, with the system's, and the files."""
    title = f"{len(channels)} live channels of {options.rate / 1e3:g} kHz {options.encoding}"
    for default_buffer in (False, True):
        place = folder / f"{default_buffer}"
        place.mkdir()
        costs, started, gone = live(options.minutes, channels, place, default_buffer)
        if default_buffer:
            yield Row("with the system's receive buffer: CPU", "ms", [costs.whole * 1e3])
            yield Row("- wake-ups", "", [costs.wakeups])
            yield Row("- receiving later during a write, by", "ms", [costs.later_s * 1e3], wanted="at most 20")
            yield Row("- receive buffer used at most", "%", [100 * costs.fill], wanted="at most 50")
        else:
            yield from rows_of_live(costs, started, gone, title)
    yield from rows_of_files(list(files(largest(folder / "False"), folder)))


def largest(folder: Path) -> dict[str, Any]:
    """A whole minute's file."""
    return npz.read(max((folder / "data" / "archives").rglob("*.npz"), key=lambda path: path.stat().st_size))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=2)
    parser.add_argument("--channels", type=int, default=9)
    parser.add_argument("--encoding", default="S16BE")
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--default-buffer", action="store_true")
    parser.add_argument("--rows", action="store_true")
    options = parser.parse_args()
    channels = made_up(options.channels, options.rate, options.encoding)
    if options.rows:
        with tempfile.TemporaryDirectory() as made:
            print_rows(rows(options, channels, Path(made)))
        return 0
    print(f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        costs, started, gone = live(options.minutes, channels, folder, options.default_buffer)
        print(f"{len(channels)} channels, {options.rate} Hz {options.encoding}, {options.minutes} minutes")
        report(costs, started, gone)
        print(f"\n{'a minute of ' + str(RATE) + ' Hz':20} {'written by':20} {'CPU s':>8} {'x':>7} {'MB':>7} {'x':>6}")
        peer = (1.0, 1.0)
        for kind, way, (cpu, _), size in files(largest(folder), folder):
            peer = (cpu, size) if way == PEER else peer
            print(f"{kind:20} {way:20} {cpu:8.4f} {cpu / peer[0]:7.3f} {size:7.2f} {size / peer[1]:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
