"""What a look at the NTP state costs, ours beside the usual ways, in one run on one machine.

    python -m tests.bench.bench_shm [--torn]

Every row is the median of rounds that interleave all rows, since a shared machine's speed drifts.
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

ROOT = Path(__file__).parents[2]
ROUNDS = 25
RECORD = NtpRecord(
    published_monotonic_ns=10**15, monotonic_ns=10**15, utc_ns=1_795_321_452 * 10**9, offset_ms=-0.412,
    uncertainty_ms=3.1, jitter_ms=0.2, truechimers=7, falsetickers=1, valid=1, synced=1, state=NtpState.SYNCED,
    quality=1, leap=0, stratum=2, source="time.google.com (7 of 8)",
)  # fmt: skip
BARE = struct.Struct("<8d")


def costs_ns(looks: dict[str, Callable[[], Any]], about_s: float = 0.02) -> dict[str, list[float]]:
    """Durations of one call in ns, one a round, the rows in turn."""
    counts = {}
    for name, look in looks.items():
        begin = time.perf_counter_ns()
        look()
        look()
        counts[name] = max(1, min(50_000, round(about_s * 2e9 / (time.perf_counter_ns() - begin + 1))))
    found: dict[str, list[float]] = {name: [] for name in looks}
    for _ in range(ROUNDS):
        for name, look in looks.items():
            begin = time.perf_counter_ns()
            for _ in range(counts[name]):
                look()
            found[name].append((time.perf_counter_ns() - begin) / counts[name])
    return found


def ratio(costs: list[float], reference: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(costs, reference, strict=True))


def serve(path: str, payload: bytes) -> None:
    """A Unix-socket server that answers every request with the record as JSON."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        peer, _ = listener.accept()
        while peer.recv(16):
            peer.sendall(payload)


def peers(folder: Path, close: list[Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """The usual ways to hand a record to another process (or thread)."""
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


def main() -> None:
    """Print the table."""
    board = Board.create(f"bench-{os.getpid()}", os.getpid(), 0, 0)
    close: list[Callable[[], Any]] = [board.segment.unlink]
    try:
        board.ntp.write(RECORD)
        with tempfile.TemporaryDirectory() as folder:
            rows = {**ours(board), **peers(Path(folder), close)}
            costs = costs_ns(rows)
        bare, snapshot = costs["bare 64-byte copy + unpack"], costs["ntp.read(): validated record, unchanged"]
        print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
        print(f"{'':42} {'ns a look':>12} {'of bare':>10} {'of ntp.read()':>14}")
        for name, cost in costs.items():
            print(f"{name:42} {statistics.median(cost):12,.0f} {ratio(cost, bare):10.2f} {ratio(cost, snapshot):14.2f}")
        print("beside a writer at full speed, both on processors of their own:")
        for name, rate, writes in beside_a_writer(board):
            print(f"{name:42} {rate / 1e6:.2f} million reads/s, {writes / 1e6:.2f} million records/s written")
    finally:
        for each in reversed(close):
            each()
    if "--torn" in sys.argv[1:]:
        test = str(ROOT / "tests" / "process" / "test_shm_live.py")
        command = [sys.executable, "-m", "pytest", "-v", "-k", "torn or killed", "--durations=0", test]
        sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "GRAPE_LONG": "1"}, check=False).returncode)


if __name__ == "__main__":
    main()
