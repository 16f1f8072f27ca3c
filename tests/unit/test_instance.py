"""Runtime directory, lock and leftovers of an instance."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.shm import Board, Segment, segment_name
from pipeline.supervision import instance as module
from pipeline.supervision.instance import (
    InstanceError,
    Lock,
    alive,
    belongs,
    check_data_dir,
    instances,
    leftovers,
    locked,
    read_pid,
    running_pid,
    runtime_dir,
)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def test_runtime_directory_by_the_service_manager_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/a:{tmp_path}/b")
    assert runtime_dir() == tmp_path / "a"


def test_runtime_directory_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr(module.os, "geteuid", lambda: 4711)
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4711")
    assert runtime_dir() == Path("/run/user/4711/grape-pipeline")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_dir() == Path("/tmp/grape-pipeline-4711")


@pytest.mark.parametrize("kind", ["writable by all", "link", "file"])
def test_runtime_directory_that_others_control_is_refused(runtime: Path, kind: str) -> None:
    if kind == "link":
        runtime.symlink_to("/tmp")
    elif kind == "file":
        runtime.write_text("")
    else:
        runtime.mkdir()
        runtime.chmod(0o777)
    with pytest.raises(InstanceError, match="runtime directory"):
        runtime_dir(create=True)


def test_lock_is_exclusive_names_its_holder_and_leaves_no_file(runtime: Path) -> None:
    assert running_pid("x") is None
    lock = Lock.acquire("x", 0)
    assert locked("x") and instances() == ["x"]
    assert read_pid("x") == running_pid("x") == os.getpid()
    with pytest.raises(InstanceError, match=f"pid {os.getpid()}"):
        Lock.acquire("x", 0)
    Lock.acquire("y", 0).release()
    lock.release()
    assert not locked("x") and list(runtime.iterdir()) == []


def test_lock_on_a_name_that_is_gone_is_not_taken(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between open and flock the holder may leave and unlink; that lock would exclude nobody."""
    first = Lock.acquire("x", 0)
    real = fcntl.flock

    def leave_before(fd: int, operation: int) -> None:
        monkeypatch.setattr(module.fcntl, "flock", real)
        first.release()
        real(fd, operation)

    monkeypatch.setattr(module.fcntl, "flock", leave_before)
    second = Lock.acquire("x", 5)
    assert os.fstat(second.fd).st_ino == (runtime / "x.lock").stat().st_ino
    second.release()


def test_alive_and_belongs() -> None:
    name = f"inst{os.getpid()}"
    assert alive(os.getpid()) and not alive(2**22 + 1)
    assert not belongs(os.getpid(), name)
    board = Board.create(name, os.getpid(), 0, 0)
    try:
        assert belongs(os.getpid(), name)
        assert not belongs(os.getppid(), name)
        assert running_pid(name) == os.getpid(), "found by its board when it has another runtime directory"
    finally:
        board.segment.unlink()
    assert belongs(os.getpid(), name), "an unlinked board is still mapped"


@pytest.fixture
def two_instances() -> Iterator[str]:
    """`NAME` and `NAME-b`, each with a channel; for `NAME`, `b` might be a channel too."""
    name = f"left{os.getpid()}"
    made = [
        Board.create(name, 1, 0, 0).segment,
        Board.create(f"{name}-b", 1, 0, 0).segment,
        Segment.create(segment_name(name, "A"), 4096),
        Segment.create(segment_name(name, "OLD"), 4096),
        Segment.create(segment_name(f"{name}-b", "C"), 4096),
    ]
    yield name
    for segment in made:
        segment.unlink()


def test_leftovers_are_ones_own(two_instances: str) -> None:
    name = two_instances
    assert leftovers(name, ["A"]) == [segment_name(name, "OLD")]
    assert leftovers(f"{name}-b", []) == [segment_name(f"{name}-b", "C")]


def test_data_dir_is_made_and_left_empty(tmp_path: Path) -> None:
    check_data_dir(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_data_dir_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstanceError, match="recorder.data_dir .*file/data cannot be written to: Not a directory"):
        check_data_dir(tmp_path / "file" / "data")


def test_full_disk_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    check_data_dir(tmp_path)
    assert "No space left" in caplog.text
