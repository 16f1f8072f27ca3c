"""The writer: what it does with a name that is taken, with a full disk, and with a fault of our own."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from minutes import CHANNEL, PACKETS, RATE, context, cut_all, one_cut, play, recording, stream
from pipeline import durable, npz
from pipeline import writer as writer_module
from pipeline.config import Recorder
from pipeline.minutefile import ARCHIVES, PARTS, Context, minute_path
from pipeline.stream.cutter import Cut
from pipeline.stream.timeline import SECOND
from pipeline.writer import Writer, Written
from streams import T0

DEADLINE_S = 20.0


def recorder(data_dir: Path, **facts: Any) -> Recorder:
    """Where the test writes; without a reserve, so that a nearly full disk does not matter."""
    return Recorder(data_dir=data_dir, **{"min_free_gb": 0.0, **facts})


def run(writer: Writer, cut: Cut, contexts: list[Context] | None = None) -> Written:
    """Write one cut and wait for it."""
    writer.start(cut, [context(minute) for minute in cut.minutes] if contexts is None else contexts)
    assert writer.busy
    written = writer.poll(DEADLINE_S)
    assert written is not None
    assert not writer.busy
    return written


class Bench(NamedTuple):
    """A writer and the folder that it writes to."""

    writer: Writer
    folder: Path
    woken: threading.Event

    def files(self) -> list[Path]:
        """Everything that lies below the folder, whatever its name."""
        return sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A writer into an empty folder."""
    woken = threading.Event()
    yield Bench(Writer(CHANNEL, recorder(tmp_path), woken.set), tmp_path, woken)


MAIN = minute_path(Path(), CHANNEL, T0)


def part(number: int, rate_hz: int = RATE) -> Path:
    """The relative name of a second part."""
    return Path(PARTS, CHANNEL.id, MAIN.name.replace("_iq", f"_{rate_hz}sps_{number}_iq"))


def test_minute_is_written_and_the_worker_woken(bench: Bench) -> None:
    assert bench.writer.poll() is None
    cut = one_cut()
    written = run(bench.writer, cut)
    assert written.paths == (bench.folder / MAIN,)
    assert (written.cut, written.error) == (cut, None)
    assert written.duration_s > 0
    assert bench.woken.wait(DEADLINE_S)
    assert bench.files() == [MAIN]
    assert npz.read(bench.folder / MAIN)["valid_samples"] == 60 * RATE
    assert bench.writer.poll() is None


def test_receiving_goes_on_while_the_disk_is_slow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    real = durable.write

    def slow(*arguments: Any) -> None:
        assert gate.wait(DEADLINE_S)
        real(*arguments)

    monkeypatch.setattr(durable, "write", slow)
    cut = one_cut()
    bench.writer.start(cut, [context(cut.minutes[0])])
    assert bench.writer.poll() is None
    assert bench.writer.busy
    gate.set()
    written = bench.writer.poll(DEADLINE_S)
    assert written is not None
    assert written.paths == (bench.folder / MAIN,)


def test_compression_level_is_the_configured_one(tmp_path: Path) -> None:
    sizes = []
    for level in (0, 2):
        writer = Writer(CHANNEL, recorder(tmp_path / str(level), compression_level=level), lambda: None)
        sizes.append(run(writer, one_cut()).paths[0].stat().st_size)
    assert sizes[0] > 60 * RATE * 8 > sizes[1]


# -- a name that is taken --


def test_same_minute_again_is_recognised(bench: Bench) -> None:
    run(bench.writer, one_cut(range(590)))

    def unread() -> tuple[int, int, int]:
        """Of the file, without the time of the last access: it is read."""
        now = (bench.folder / MAIN).stat()
        return now.st_ino, now.st_mtime_ns, now.st_size

    before = unread()
    written = run(bench.writer, one_cut(range(590)))
    assert written.paths == (bench.folder / MAIN,)
    assert bench.files() == [MAIN]
    assert unread() == before


def test_name_of_a_recognised_minute_is_forced_to_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench.writer, one_cut())
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    run(bench.writer, one_cut())
    assert synced == [(bench.folder / MAIN).parent]


@pytest.mark.parametrize(
    ("numbers", "facts"),
    [(range(300, PACKETS), {}), (range(PACKETS - 1), {}), (range(PACKETS), {"first_rtp": 4711})],
    ids=["the rest of it", "one packet less", "another timeline"],
)
def test_other_samples_of_the_minute_become_a_part(bench: Bench, numbers: range, facts: dict[str, Any]) -> None:
    # A program started again in mid-minute: same mapping, same epoch number, other samples.
    run(bench.writer, one_cut())
    before = (bench.folder / MAIN).read_bytes()
    other = one_cut(numbers, **facts)
    written = run(bench.writer, other)
    assert written.paths == (bench.folder / part(1),)
    assert bench.files() == [MAIN, part(1)]
    assert (bench.folder / MAIN).read_bytes() == before
    assert npz.read(bench.folder / part(1))["packets_received"] == other.minutes[0].packets_received


def test_as_many_but_other_samples_become_a_part(bench: Bench) -> None:
    for missing, name in ((5, MAIN), (6, part(1)), (5, MAIN), (6, part(1))):
        cut = one_cut([n for n in range(PACKETS) if n != missing])
        assert run(bench.writer, cut).paths == (bench.folder / name,)


def test_parts_are_counted_and_recognised(bench: Bench) -> None:
    cuts = [one_cut(range(start, PACKETS)) for start in (0, 100, 200)]
    first = [run(bench.writer, cut).paths for cut in cuts]
    again = [run(bench.writer, cut).paths for cut in cuts]
    assert first == again == [(bench.folder / name,) for name in (MAIN, part(1), part(2))]
    assert bench.files() == [MAIN, part(1), part(2)]


def test_int16_storage_recognises_what_complex_storage_wrote(tmp_path: Path) -> None:
    cut = one_cut()
    for storage in ("complex64", "int16", "int16", "complex64"):
        writer = Writer(CHANNEL, recorder(tmp_path), lambda: None)
        written = run(writer, cut, [context(cut.minutes[0], storage=storage)])
        assert written.paths == (tmp_path / MAIN,)
        assert written.bytes == (tmp_path / MAIN).stat().st_size
    writer = Writer(CHANNEL, recorder(tmp_path / "pairs"), lambda: None)
    for _ in range(2):
        assert run(writer, cut, [context(cut.minutes[0], storage="int16")]).paths == (tmp_path / "pairs" / MAIN,)
    assert not (tmp_path / PARTS).exists()


def test_samples_that_are_not_numbers_equal_themselves(bench: Bench) -> None:
    recorded = recording(encoding="F32LE")
    payload = np.array([np.nan, 1.0] * 100, "<f4").tobytes()
    for number in range(PACKETS):
        recorded.packet(number, number * 100, payload, T0 + (number + 1) * SECOND // 10)
    [cut, *_] = cut_all(recorded)
    assert run(bench.writer, cut).paths == run(bench.writer, cut).paths
    assert not (bench.folder / PARTS).exists()


def test_array_where_a_number_should_be_is_another_minute(bench: Bench) -> None:
    npz.write(bench.folder / MAIN, {"sample_rate": np.array([RATE, RATE])}, 0)
    assert run(bench.writer, one_cut()).paths == (bench.folder / part(1),)


@pytest.mark.parametrize("content", [b"", b"something else", b"PK\x03\x04"])
def test_unreadable_file_under_the_name_is_left_alone(bench: Bench, content: bytes) -> None:
    (bench.folder / MAIN).parent.mkdir(parents=True)
    (bench.folder / MAIN).write_bytes(content)
    assert run(bench.writer, one_cut()).paths == (bench.folder / part(1),)
    assert (bench.folder / MAIN).read_bytes() == content


def test_parts_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PARTS", 1)
    for start in (0, 100):
        assert run(bench.writer, one_cut(range(start, PACKETS))).error is None
    written = run(bench.writer, one_cut(range(200, PACKETS)))
    assert written.error is not None
    assert written.error.errno == errno.EEXIST
    assert bench.files() == [MAIN, part(1)]


def test_second_rate_of_a_minute_is_a_part_at_once(bench: Bench) -> None:
    recorded = recording()
    play(recorded, stream(), range(400))
    other = stream(start_ns=T0 + 45 * SECOND, rate_hz=2 * RATE, first_rtp=777, first_sequence=9000)
    play(recorded, other, range(300), origin=("127.0.0.1", 41_000))
    [cut] = cut_all(recorded)
    assert [minute.rate_hz for minute in cut.minutes] == [RATE, 2 * RATE]
    for _ in range(2):
        assert run(bench.writer, cut).paths == (bench.folder / MAIN, bench.folder / part(1, 2 * RATE))
    assert bench.files() == [MAIN, part(1, 2 * RATE)]
    assert npz.read(bench.folder / part(1, 2 * RATE))["sample_rate"] == 2 * RATE


# -- failing --


def test_reserve_on_the_disk_is_kept(tmp_path: Path) -> None:
    writer = Writer(CHANNEL, recorder(tmp_path, min_free_gb=1e9), lambda: None)
    written = run(writer, one_cut())
    assert written.paths == ()
    assert written.error is not None
    assert written.error.errno == errno.ENOSPC
    assert "min_free_gb = 1e+09" in str(written.error)
    assert not list(tmp_path.rglob("*.npz*"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_failure_is_reported_and_leaves_nothing(bench: Bench, number: int) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    cut = one_cut()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        written = run(bench.writer, cut)
    assert written.error is not None
    assert written.error.errno == number
    assert (written.cut, written.paths) == (cut, ())
    assert bench.files() == []
    assert run(bench.writer, cut).paths == (bench.folder / MAIN,)


def test_second_minute_that_fails_does_not_undo_the_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    [first], [second] = one_cut().minutes, one_cut(start_ns=T0 + 60 * SECOND).minutes
    cut = replace(one_cut(), minutes=[first, second])
    real, calls = durable.write, iter(range(10))

    def fail_second(*arguments: Any) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(durable, "write", fail_second)
    written = run(bench.writer, cut)
    assert written.error is not None
    assert written.paths == (bench.folder / MAIN,)
    again = run(bench.writer, cut)
    assert again.error is None
    assert len(again.paths) == 2
    assert again.paths[0] == bench.folder / MAIN


@pytest.mark.parametrize(
    ("fault", "number"), [(MemoryError(), errno.ENOMEM), (durable.FileExists("taken meanwhile"), errno.EEXIST)]
)
def test_what_may_pass_is_tried_again(bench: Bench, fault: Exception, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "write", thrower(fault))
        written = run(bench.writer, one_cut())
    assert written.error is not None
    assert written.error.errno == number
    assert run(bench.writer, one_cut()).error is None


def test_no_memory_to_compare_with_is_no_other_minute(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench.writer, one_cut())
    real = npz._array

    def poor(archive: Any, info: Any, header_only: bool) -> Any:
        if info.filename == "iq.npy":
            raise MemoryError
        return real(archive, info, header_only)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npz, "_array", poor)
        written = run(bench.writer, one_cut())
    assert written.error is not None and written.error.errno == errno.ENOMEM
    assert run(bench.writer, one_cut()).paths == (bench.folder / MAIN,)
    assert bench.files() == [MAIN]


def test_fault_of_our_own_is_never_taken_for_success(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "build", thrower(TypeError("a bug")))
    cut = one_cut()
    bench.writer.start(cut, [context(cut.minutes[0])])
    with pytest.raises(TypeError, match="a bug"):
        bench.writer.poll(DEADLINE_S)
    assert bench.woken.is_set()
    assert bench.files() == []


def thrower(fault: Exception) -> Callable[..., Any]:
    """A function that raises."""

    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise fault

    return fail


def test_nothing_but_minutes_lies_in_archives(bench: Bench) -> None:
    for start in (0, 100):
        run(bench.writer, one_cut(range(start, PACKETS)))
    assert [path.name for path in (bench.folder / ARCHIVES).rglob("*.npz")] == [MAIN.name]
