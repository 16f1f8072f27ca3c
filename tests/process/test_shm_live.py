"""Cells between processes: writers at full speed, writers that are killed, readers in Python and C.

GRAPE_LONG=1 runs the long forms: 10 million reads, 1000 kills.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.cells import CELL_HEADER, FILLING, Cell, cell_size, slot_size
from pipeline.records import NtpRecord, NtpState
from pipeline.shm import Board, Segment, segment_name

LONG = os.environ.get("GRAPE_LONG") == "1"
READS = 10_000_000 if LONG else 1_000_000
KILLS = 1000 if LONG else 200
SMALL, LARGE = 16, 2048  # words of a record; a reader is more often stopped within a long copy
ROOT = Path(__file__).parents[2]
INSTANCE = f"test-live-{os.getpid()}"


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create(f"/{INSTANCE}", cell_size(8 * LARGE))
    yield made
    made.unlink()


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(INSTANCE, os.getpid(), 1, 2)
    yield made
    made.segment.unlink()


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child that leaves with 0, or 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def apart(pids: list[int], others: list[int]) -> None:
    """Give `pids` a processor of their own, so that both sides run at the same instants."""
    first, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        pytest.skip("writer and readers run at once only on two processors")
    for pid in pids:
        os.sched_setaffinity(pid, {first})
    for pid in others:
        os.sched_setaffinity(pid, set(rest))


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def write_for_ever(segment: Segment, words: int, parent: int) -> None:
    """Every word of record k is k; ends with the parent, whatever becomes of the test."""
    cell = Cell(segment.buf, 0, 8 * words)
    k = cell.sequence()
    while os.getppid() == parent:
        for _ in range(10_000):
            k += 1
            cell.write(struct.pack("<Q", k) * words)


RESULT = struct.Struct("<QQQQ")


def read_many(segment: Segment, words: int, count: int, out: mmap.mmap, at: int) -> None:
    """Store how many reads were whole, torn, refused, and how many saw a new record."""
    read = Cell(segment.buf, 0, 8 * words).read
    whole = torn = refused = new = 0
    before = b""
    for _ in range(count):
        payload = read()
        if payload is None:
            refused += 1
            continue
        first = payload[:8]
        if payload == first * words:
            whole += 1
        else:
            torn += 1
        if first != before:
            new += 1
            before = first
    RESULT.pack_into(out, at, whole, torn, refused, new)


@pytest.mark.parametrize(("words", "reads"), [(SMALL, READS // 2), (LARGE, READS // 20)])
def test_no_record_is_torn_by_a_writer_at_full_speed(segment: Segment, words: int, reads: int) -> None:
    """`reads` by each of two readers."""
    parent = os.getpid()
    Cell(segment.buf, 0, 8 * words).write(struct.pack("<Q", 1) * words)
    out = mmap.mmap(-1, 4096)
    writer = fork(lambda: write_for_ever(segment, words, parent))
    try:
        readers = [fork(partial(read_many, segment, words, reads, out, at)) for at in (0, RESULT.size)]
        apart([writer], readers)
        assert [os.waitpid(pid, 0)[1] for pid in readers] == [0, 0]
    finally:
        end(writer)
    results = [RESULT.unpack_from(out, at) for at in (0, RESULT.size)]
    assert [whole for whole, _, _, _ in results] == [reads] * 2, results
    assert all(new > 100 for _, _, _, new in results), results


def died_in_the_middle(view: memoryview) -> bool:
    """The slot that nobody is pointed to is marked, or filled beyond the sequence."""
    sequence = struct.unpack_from("<Q", view)[0]
    at = CELL_HEADER + (sequence + 1 & 1) * slot_size(8 * SMALL)
    mark, first = struct.unpack_from("<QQ", view, at)
    return bool(mark == FILLING or first > sequence)


def test_a_killed_writer_never_leaves_its_readers_without_a_record(segment: Segment) -> None:
    parent = os.getpid()
    rng = random.Random(9)
    cell = Cell(segment.buf, 0, 8 * SMALL)
    cell.write(struct.pack("<Q", 1) * SMALL)
    newest, in_the_middle, progressed = 1, 0, 0

    def look() -> int:
        payload = cell.read()
        assert payload is not None
        assert payload == payload[:8] * SMALL
        found: int = struct.unpack_from("<Q", payload)[0]
        assert found >= newest
        return found

    for _ in range(KILLS):
        began_with = newest
        writer = fork(lambda: write_for_ever(segment, SMALL, parent))
        try:
            until = time.monotonic() + 2
            while newest < began_with + 3 and time.monotonic() < until:
                newest = look()
            until = time.monotonic() + rng.random() * 0.002
            while time.monotonic() < until:
                newest = look()
        finally:
            end(writer)
        newest = look()
        progressed += newest > began_with
        in_the_middle += died_in_the_middle(segment.buf)
    assert progressed == KILLS
    assert in_the_middle > KILLS // 20


READ_LOOP = """
import os, sys
from pipeline.shm import Board
board = Board.open(sys.argv[1])
for _ in range(1000):
    board.ntp.read(), board.ntp._cell.read(), board.channels[3].read()
os.getppid()
for _ in range(100_000):
    board.ntp.read()
for _ in range(100_000):
    board.ntp._cell.read()
os.getppid()
"""


def test_reading_makes_no_system_call(board: Board, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    board.ntp.write(NtpRecord(offset_ms=1.0))
    trace = tmp_path / "trace"
    command = [strace, "-f", "-o", str(trace), sys.executable, "-c", READ_LOOP, INSTANCE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    marks = [i for i, line in enumerate(lines) if "getppid(" in line]
    assert len(marks) == 2
    assert lines[marks[0] + 1 : marks[1]] == []


@pytest.fixture(scope="module")
def c_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        pytest.skip("no C compiler is installed")
    program = tmp_path_factory.mktemp("c") / "shm_reader"
    source = Path(__file__).with_name("shm_reader.c")
    strict = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", str(ROOT / "etc")]
    done = subprocess.run(
        [gcc, *strict, "-o", str(program), str(source), "-lrt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    return done.stdout.rstrip("\n")


def test_a_c_program_reads_what_python_writes(board: Board, c_reader: Path) -> None:
    name = segment_name(INSTANCE)
    assert run(c_reader, name) == "none"
    for turn in range(3):  # both slots
        record = NtpRecord(
            published_monotonic_ns=(1 << 62) + turn, monotonic_ns=-5, utc_ns=1_795_321_452_000_000_000,
            offset_ms=-0.1234567890123, uncertainty_ms=1e-9, jitter_ms=2.5e300, step_count=4_000_000_000, truechimers=7,
            falsetickers=65535, valid=1, synced=1, state=NtpState.HOLDOVER, quality=2, leap=3, stratum=15, flags=513,
            source="Zürich (3 of 5)",
        )  # fmt: skip
        board.ntp.write(record)
        words = run(c_reader, name).split(" ", 16)
        kinds = [float if isinstance(value, float) else int for value in record[:-1]]
        assert tuple(kind(word) for kind, word in zip(kinds, words, strict=False)) == record[:-1]
        assert words[-1] == record.source


def test_a_c_program_never_sees_a_torn_record(board: Board, c_reader: Path) -> None:
    parent = os.getpid()
    payloads = [NtpRecord(step_count=k, truechimers=k, falsetickers=k).to_bytes() for k in range(1, 1000)]

    def write() -> None:
        cell = board.ntp._cell
        while os.getppid() == parent:
            for payload in payloads:
                cell.write(payload)

    board.ntp._cell.write(payloads[0])
    writer = fork(write)
    try:
        count = 1_000_000
        assert run(c_reader, segment_name(INSTANCE), str(count)) == f"{count} 0 0"
    finally:
        end(writer)
