"""What a look at the NTP state costs, ours beside the usual ways, in one run on one machine.

    python -m tests.bench.bench_shm [--torn] [--rows]

Every row is the median of rounds that interleave all rows, since a shared machine's speed drifts. CPU time is that of
all processes that have a part in it, a manager's or a server's too. `--rows`: for `python -m tests.bench`.
`--torn` adds the long forms of tests/process/test_shm_live.py: 10 million reads beside a writer at
full speed, 1000 killed writers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.records import NtpRecord, NtpState
from pipeline.shm import Board

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from bench.figures import Row, clock, print_rows

ROOT = Path(__file__).parents[2]
ROUNDS = 25
RECORD = NtpRecord(
    published_monotonic_ns=10**15, monotonic_ns=10**15, utc_ns=1_795_321_452 * 10**9, offset_ms=-0.412,
    uncertainty_ms=3.1, jitter_ms=0.2, truechimers=7, falsetickers=1, valid=1, synced=1, state=NtpState.SYNCED,
    quality=1, leap=0, stratum=2, source="time.google.com (7 of 8)",
)  # fmt: skip
BARE = struct.Struct("<8d")


Costs = dict[str, list[tuple[float, float]]]


def costs_ns(looks: dict[str, Callable[[], Any]], servers: dict[str, int], about_s: float = 0.02) -> Costs:
    """(CPU, wall) of one call in ns, one a round, the looks in turn; `servers` are the pids that answer some."""
    counts = {}
    for name, look in looks.items():
        begin = time.perf_counter_ns()
        look()
        look()
        counts[name] = max(1, min(50_000, round(about_s * 2e9 / (time.perf_counter_ns() - begin + 1))))
    found: Costs = {name: [] for name in looks}
    for _ in range(ROUNDS):
        for name, look in looks.items():
            read = clock([servers[name]] if name in servers else [])
            begin_cpu, begin_wall = read()
            for _ in range(counts[name]):
                look()
            cpu, wall = read()
            found[name].append(((cpu - begin_cpu) / counts[name] * 1e9, (wall - begin_wall) / counts[name] * 1e9))
    return found


def medians(costs: list[tuple[float, float]]) -> list[float]:
    """Of CPU and wall."""
    return [statistics.median(column) for column in zip(*costs, strict=True)]


def ratios(costs: list[tuple[float, float]], reference: list[tuple[float, float]]) -> list[float]:
    """Medians of the rounds' ratios, CPU and wall."""
    rounds = [(a[0] / b[0], a[1] / b[1]) for a, b in zip(costs, reference, strict=True)]
    return medians(rounds)


def serve(path: str, payload: bytes) -> None:
    """A Unix-socket server that answers every request with the record as JSON."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        peer, _ = listener.accept()
        while peer.recv(16):
            peer.sendall(payload)


def peers(folder: Path, close: list[Callable[[], Any]], servers: dict[str, int]) -> dict[str, Callable[[], Any]]:
    """The usual ways to hand a record to another process (or thread); `servers` gets the pids that answer."""
    as_dict = RECORD._asdict()
    text = json.dumps(as_dict).encode()
    lock = threading.Lock()
    held = dict(as_dict)

    def lock_and_dict() -> dict[str, Any]:
        with lock:
            return dict(held)

    array = multiprocessing.Array("c", RECORD.to_bytes())

    def array_and_lock() -> tuple[Any, ...]:
        with array.get_lock():
            raw = bytes(array.get_obj())
        return RECORD.LAYOUT.struct.unpack(raw)

    (folder / "ntp.json").write_bytes(text)
    manager = multiprocessing.Manager()
    close.append(manager.shutdown)
    shared = manager.dict(as_dict)
    path = str(folder / "ntp.sock")
    server = multiprocessing.get_context("fork").Process(target=serve, args=(path, text), daemon=True)
    server.start()
    close.append(server.terminate)
    client = socket.socket(socket.AF_UNIX)
    until = time.monotonic() + 5
    while client.connect_ex(path) and time.monotonic() < until:
        time.sleep(0.01)

    def unix_socket() -> Any:
        client.sendall(b"?")
        return json.loads(client.recv(4096))

    servers |= {"Unix socket + JSON": server.pid or 0, "multiprocessing.Manager dict": manager._process.pid}
    found: dict[str, Callable[[], Any]] = {
        "threading.Lock + dict (one process)": lock_and_dict,
        "multiprocessing.Array + lock": array_and_lock,
        "JSON file": lambda: json.loads((folder / "ntp.json").read_bytes()),
        "Unix socket + JSON": unix_socket,
        "multiprocessing.Manager dict": shared.copy,
    }
    chronyc = shutil.which("chronyc")
    if chronyc:
        # Nobody listens there: the answer is a refusal at once, so this is a lower bound.
        command = [chronyc, "-h", "127.0.0.1", "-p", "9", "-n", "tracking"]
        found["chronyc subprocess (no daemon)"] = lambda: subprocess.run(command, capture_output=True, check=False)
    return found


def ours(board: Board) -> dict[str, Callable[[], Any]]:
    """The parts of a read, and the whole as a worker calls it."""
    memory, view, at = board.segment.map, board.segment.buf, board.header.ntp_offset
    cell = board.ntp._cell
    return {
        "bare 64-byte copy + unpack": lambda: BARE.unpack(memory[at : at + 64]),
        "the same through a memoryview": lambda: BARE.unpack(bytes(view[at : at + 64])),
        "Cell.read: validated bytes": cell.read,
        "ntp.read(): validated record, unchanged": board.ntp.read,
        "ntp.read(): validated record, new": lambda: NtpRecord.from_bytes(cell.read() or b""),
        "ntp.write()": lambda: board.ntp.write(RECORD),
    }


def beside_a_writer(board: Board) -> list[tuple[str, float, float]]:
    """(name, reads a second, records written a second) beside a writer at full speed."""
    payloads = [RECORD.replace(step_count=k).to_bytes() for k in range(1000)]
    parent = os.getpid()
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[1:] or processors)
    writer = os.fork()
    if writer == 0:
        try:
            os.sched_setaffinity(0, processors[:1])
            while os.getppid() == parent:
                for payload in payloads:
                    board.ntp._cell.write(payload)
        finally:
            os._exit(0)
    rows = []
    try:
        for name, look in (("Cell.read", board.ntp._cell.read), ("ntp.read()", board.ntp.read)):
            rates, written = [], []
            for _ in range(7):
                begin, first = time.perf_counter(), board.ntp._cell.sequence()
                for _ in range(200_000):
                    look()
                took = time.perf_counter() - begin
                rates.append(200_000 / took)
                written.append((board.ntp._cell.sequence() - first) / took)
            rows.append((name, statistics.median(rates), statistics.median(written)))
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)
        os.sched_setaffinity(0, processors)
    return rows


BARE_WAY, UNCHANGED, NEW = (
    "bare 64-byte copy + unpack", "ntp.read(): validated record, unchanged", "ntp.read(): validated record, new",
)  # fmt: skip
WANTED = {
    BARE_WAY: "at most 2.5", "multiprocessing.Manager dict": "at most 0.02",
    "chronyc subprocess (no daemon)": "at most 0.0005",
}  # fmt: skip


def rows_of(costs: Costs, beside: list[tuple[str, float, float]]) -> list[Row]:
    """The rows for `python -m tests.bench`."""
    others = [name for name in costs if name == BARE_WAY or not name.startswith(("Cell", "ntp.", "the same"))]

    def row(what: str, ours: str, peer: str, wanted: str) -> Row:
        us = [[value / 1e3 for value in medians(costs[way])] for way in (ours, peer)]
        return Row(what, "us", us[0], peer, us[1], ratios(costs[ours], costs[peer]), wanted)

    found = [row("a look at the NTP state", UNCHANGED, peer, WANTED.get(peer, "")) for peer in others]
    found.append(row("a look at a state that is new", NEW, BARE_WAY, ""))
    return found + [
        Row(
            f"- {name} beside a writer at full speed",
            "million/s",
            [rate / 1e6],
            wanted="at least 1" if name == "ntp.read()" else "",
        )
        for name, rate, _ in beside
    ]


def report(costs: Costs, beside: list[tuple[str, float, float]]) -> None:
    """The tables for people."""
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(f"{'':42} {'ns a look, CPU':>14} {'wall':>12} {'of bare':>10} {'of ntp.read()':>14}")
    for name, cost in costs.items():
        cpu, wall = medians(cost)
        of_bare, of_ours = (ratios(cost, costs[other])[1] for other in (BARE_WAY, UNCHANGED))
        print(f"{name:42} {cpu:14,.0f} {wall:12,.0f} {of_bare:10.2f} {of_ours:14.2f}")
    print("beside a writer at full speed, both on processors of their own:")
    for name, rate, writes in beside:
        print(f"{name:42} {rate / 1e6:.2f} million reads/s, {writes / 1e6:.2f} million records/s written")


def main() -> None:
    """Print the table."""
    board = Board.create(f"bench-{os.getpid()}", os.getpid(), 0, 0)
    close: list[Callable[[], Any]] = [board.segment.unlink]
    try:
        board.ntp.write(RECORD)
        with tempfile.TemporaryDirectory() as folder:
            servers: dict[str, int] = {}
            looks = {**ours(board), **peers(Path(folder), close, servers)}
            costs = costs_ns(looks, servers)
        beside = beside_a_writer(board)
    finally:
        for each in reversed(close):
            each()
    if "--rows" in sys.argv[1:]:
        print_rows(rows_of(costs, beside))
    else:
        report(costs, beside)
    if "--torn" in sys.argv[1:]:
        test = str(ROOT / "tests" / "process" / "test_shm_live.py")
        command = [sys.executable, "-m", "pytest", "-v", "-k", "torn or killed", "--durations=0", test]
        sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "GRAPE_LONG": "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
