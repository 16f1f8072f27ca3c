"""Files appear whole under their name or not at all, and what cannot be read says why."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import durable, npz
from pipeline.config import ConfigError, parse_config
from pipeline.configrules import HIGHEST_RATE_HZ
from pipeline.durable import FileExists, remove_orphans
from pipeline.npz import UnreadableFile, int16_to_iq, read, write
from pipeline.ziparchive import ZipArchive

NAME = "20261122T191600Z_10000000_iq.npz"
CHANNEL = {"name": "wide", "frequency_hz": 10_000_000}


def noise(samples: int = 20_000) -> np.ndarray[Any, Any]:
    """Samples of 16-bit origin, which do not compress to nothing."""
    parts = np.random.default_rng(1).integers(-3000, 3000, 2 * samples).astype(np.float32) / np.float32(32768)
    return parts.view(np.complex64)


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    """One array of each sort that a minute file has."""
    return {
        "iq": noise(),
        "channel_name": np.array("WWV 10 MHz"),
        "sample0_utc_ns": np.array(1_795_320_960_000_000_001),
        "ntp_offset_ms": np.array(float("nan")),
        "ntp_valid": np.array(True),
        "gap_cause": np.array(["network", "zero_block"]),
        "many": np.array(["network"] * 1000),
        "none": np.array([], np.str_),
        "gap_sample_indices": np.array([1, 2], np.uint32),
        "pairs": np.zeros((5000, 2), np.int16),
        "turned": np.arange(20_000, dtype=np.int64).reshape(100, 200).T,
        "empty": np.zeros(0, np.complex64),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A name in folders that do not exist yet."""
    return tmp_path / "archives" / "WWV_10_MHz" / NAME


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file; read only."""
    found = tmp_path_factory.mktemp("whole") / NAME
    write(found, arrays(), 2)
    return found


def same(loaded: dict[str, Any]) -> None:
    """What was read is what `arrays` made, bit for bit."""
    expected = arrays()
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        found = np.asarray(loaded[name])
        assert found.shape == array.shape, name
        np.testing.assert_array_equal(found, array, err_msg=name)


# -- writing --


def test_a_minute_at_the_highest_rate_that_may_be_configured_is_read(path: Path) -> None:
    """Made of one small piece, so that the test takes no gigabyte."""
    [channel] = parse_config({"channels": [{**CHANNEL, "sample_rate_hz": HIGHEST_RATE_HZ}]}).channels
    with pytest.raises(ConfigError):
        parse_config({"channels": [{**CHANNEL, "sample_rate_hz": HIGHEST_RATE_HZ + 1}]})
    rate = channel.sample_rate_hz
    header = npz._header_of("<c8", (60 * rate,))
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        archive = ZipArchive(file, 1)
        archive.add("iq.npy", len(header) + 60 * 8 * rate, [header, *[bytes(8 * rate // 100)] * 6000], deflate=True)
        archive.close()
    found = npz.read_partly(path, ("iq",))
    assert found.faults == {}
    assert found.values["iq"].shape == (60 * rate,)


@pytest.mark.parametrize("level", range(10))
def test_every_level_is_read_by_plain_numpy(path: Path, level: int) -> None:
    size = write(path, arrays(), level)
    assert size == path.stat().st_size
    with np.load(path) as plain:
        same({name: plain[name] for name in plain.files})
        assert all(plain[name].dtype == array.dtype for name, array in arrays().items())
    same(read(path))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        deflated = archive.getinfo("iq.npy").compress_type == zipfile.ZIP_DEFLATED
        assert deflated == (level > 0)


def test_size_is_near_what_numpy_makes(path: Path, tmp_path: Path) -> None:
    write(path, arrays(), 2)
    np.savez_compressed(tmp_path / "numpy.npz", **arrays())
    assert path.stat().st_size < 1.3 * (tmp_path / "numpy.npz").stat().st_size
    write(path.with_name("stored.npz"), arrays(), 0)
    assert path.stat().st_size < 0.95 * path.with_name("stored.npz").stat().st_size


@pytest.mark.parametrize("level", [4, 6, 9])
def test_higher_levels_are_zlibs(path: Path, level: int) -> None:
    write(path, {"iq": noise()}, level)
    with zipfile.ZipFile(path) as archive:
        found, content = archive.getinfo("iq.npy").compress_size, archive.read("iq.npy")
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    assert found == pytest.approx(len(deflate.compress(content) + deflate.flush()), rel=1e-3)


def test_same_input_gives_the_same_bytes(path: Path) -> None:
    write(path, arrays(), 2)
    write(path.with_name("again.npz"), arrays(), 2)
    assert path.read_bytes() == path.with_name("again.npz").read_bytes()


def test_object_arrays_are_refused(path: Path) -> None:
    with pytest.raises(TypeError, match="ntp_offset_ms"):
        write(path, {"ntp_offset_ms": np.array(None)}, 2)
    assert not path.parent.exists()


@pytest.mark.parametrize("kind", ["i4,f8", "V8", [("at", "i8")]])
def test_arrays_of_records_are_refused(path: Path, kind: Any) -> None:
    with pytest.raises(TypeError, match="gaps: "):
        write(path, {"gaps": np.zeros(2, kind)}, 2)
    assert not path.parent.exists()


def test_name_that_is_not_ascii_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="must be ASCII"):
        write(path, {"größe": np.zeros(2)}, 2)
    assert not path.parent.exists()


def test_numbers_are_arrays_too(path: Path) -> None:
    write(path, {"rate": np.float64(1.5), "many": np.float64(2.0)[None]}, 2)
    assert read(path)["rate"] == 1.5


def test_header_of_many_brackets_is_a_fault_of_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        header = b"(" * 3000
        archive.writestr("x.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UnreadableFile, match="x cannot be read") as found:
        read(tmp_path / "x.npz")
    assert not isinstance(found.value, npz.NoMemoryToRead)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
@pytest.mark.parametrize("level", [0, 2, 6])
def test_unzip_finds_no_fault(path: Path, level: int) -> None:
    write(path, arrays(), level)
    subprocess.run(["unzip", "-tq", path], check=True, capture_output=True)


@pytest.mark.parametrize("hard_links", [True, False])
def test_existing_file_is_left_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an older recording")
    if not hard_links:
        monkeypatch.setattr(os, "link", raiser(errno.EPERM))
    with pytest.raises(FileExists, match="exists already"):
        write(path, arrays(), 2)
    assert path.read_bytes() == b"an older recording"
    assert list(path.parent.iterdir()) == [path]


def test_file_that_comes_while_writing_is_left_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_instance(_fd: int) -> None:
        path.write_bytes(b"the other one's")

    monkeypatch.setattr(os, "fsync", other_instance)
    path.parent.mkdir(parents=True)
    with pytest.raises(FileExists):
        write(path, arrays(), 2)
    assert path.read_bytes() == b"the other one's"
    assert list(path.parent.iterdir()) == [path]


def test_without_hard_links_it_is_renamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raiser(errno.EPERM))
    write(path, arrays(), 2)
    same(read(path))
    assert list(path.parent.iterdir()) == [path]


def test_content_then_name_then_folder_reach_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def note_fsync(fd: int) -> None:
        of = Path(f"/proc/self/fd/{fd}").readlink()
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        steps.append(f"{'folder' if folder else 'file'} {of.name if folder else ''}".strip())
        assert folder or (of.suffix == ".tmp" and of.stat().st_size > 1000 and not path.exists())
        fsync(fd)

    def note_link(source: Path, target: Path) -> None:
        steps.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    write(path, arrays(), 2)
    folders = [f"folder {path.parents[1].name}", f"folder {path.parents[2].name}"]
    assert steps == [*folders, "file", "name", f"folder {path.parent.name}"]


# -- failing --


def raiser(number: int) -> Callable[..., Any]:
    """A function that fails with this errno."""

    def fail(*_arguments: Any, **_named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `limit` bytes (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("level", [0, 2])
def test_write_that_fails_leaves_nothing(path: Path, fraction: float, level: int) -> None:
    size = write(path.with_name("whole.npz"), arrays(), level)
    with file_size_limit(int(size * fraction)), pytest.raises(OSError, match="too large"):
        write(path, arrays(), level)
    assert list(path.parent.iterdir()) == [path.with_name("whole.npz")]
    write(path, arrays(), level)
    same(read(path))


def fail_nth_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The file's own fsync is number 0, its folder's is number 1."""
    fsync, calls = os.fsync, iter(range(10))

    def fail(fd: int) -> None:
        if next(calls) == number:
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)


STEPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "open": lambda patch: patch.setattr(Path, "open", raiser(errno.ENOSPC)),
    "fsync of the file": lambda patch: fail_nth_fsync(patch, 0),
    "naming": lambda patch: patch.setattr(os, "link", raiser(errno.EDQUOT)),
    "fsync of the folder": lambda patch: fail_nth_fsync(patch, 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_step_that_fails_leaves_nothing(path: Path, step: str) -> None:
    path.parent.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        STEPS[step](patch)
        with pytest.raises(OSError) as caught:
            write(path, arrays(), 2)
    assert caught.value.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT)
    assert list(path.parent.iterdir()) == []
    write(path, arrays(), 2)
    same(read(path))


def test_rename_that_fails_leaves_nothing(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", raiser(errno.EPERM))
        patch.setattr(Path, "rename", raiser(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            write(path, arrays(), 2)
    assert list(path.parent.iterdir()) == []


def test_first_failure_is_reported_when_cleaning_up_fails_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raiser(errno.EDQUOT))
    monkeypatch.setattr(Path, "unlink", raiser(errno.EROFS))
    with pytest.raises(OSError) as caught:
        write(path, arrays(), 2)
    assert caught.value.errno == errno.EDQUOT
    [left] = path.parent.iterdir()
    assert left.suffix == ".tmp"


def test_folder_that_cannot_be_synced_at_all_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def no_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", no_folders)
    write(path, arrays(), 2)
    same(read(path))


def test_killed_in_the_middle_leaves_what_no_reader_takes(path: Path) -> None:
    path.parent.mkdir(parents=True)
    child = os.fork()
    if not child:
        os.fsync = lambda _fd: os._exit(9)
        write(path, arrays(), 2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    [left] = path.parent.iterdir()
    assert not left.name.endswith(".npz")
    assert remove_orphans(path.parent) == [left]
    assert list(path.parent.iterdir()) == []


def test_only_orphans_of_ours_are_removed(path: Path) -> None:
    path.parent.mkdir(parents=True)
    kept = [path, path.with_name("notes.tmp"), path.with_name(".hidden"), path.with_name(f"{NAME}.tmp")]
    orphans = [path.with_name(f".{NAME}.{number}.tmp") for number in (1, 22)]
    for each in (*kept, *orphans):
        each.touch()
    assert remove_orphans(path.parent) == orphans
    assert sorted(path.parent.iterdir()) == sorted(kept)
    assert remove_orphans(path.parent / "not there") == []


# -- reading --


def test_scalars_are_python_values(whole: Path) -> None:
    values = read(whole)
    assert values["channel_name"] == "WWV 10 MHz"
    assert [type(values[name]) for name in ("channel_name", "sample0_utc_ns", "ntp_offset_ms", "ntp_valid")] == [
        str, int, float, bool,
    ]  # fmt: skip


def test_int16_pairs_become_the_same_samples(path: Path) -> None:
    pairs = np.random.default_rng(2).integers(-32768, 32768, (1000, 2), np.int16)
    write(path, {"iq_int16": pairs, "iq_scale": np.array(1 / 32768)}, 2)
    found = read(path)["iq"]
    assert found.dtype == np.complex64
    assert found.tobytes() == (pairs.astype(np.float32) / np.float32(32768)).tobytes()
    assert int16_to_iq(pairs[:0], 1 / 32768).shape == (0,)


@pytest.mark.parametrize("pairs", [np.zeros((4, 3), np.int16), np.zeros(4, np.int16), np.array(1)])
def test_int16_of_another_shape_is_refused(path: Path, pairs: np.ndarray[Any, Any]) -> None:
    write(path, {"iq_int16": pairs, "iq_scale": np.array(1 / 32768)}, 2)
    with pytest.raises(UnreadableFile, match="must be pairs"):
        read(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="absent.npz: No such file"):
        read(tmp_path / "absent.npz")
    with pytest.raises(UnreadableFile, match="directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"RIFF....WAVEfmt ", "not an npz file"), (b"PK\x03\x04more", "cut short")]
)
def test_other_files_say_what_they_are(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"x.npz: .*{reason}"):
        read(tmp_path / "x.npz")


def test_array_files_and_plain_zips_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(10))
    with pytest.raises(UnreadableFile, match="not an npz"):
        read(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello, this is no array")
    with pytest.raises(UnreadableFile, match="readme.txt cannot be read"):
        read(tmp_path / "b.npz")


def test_object_array_is_named_and_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ntp_offset_ms=np.array(None, object))
    with pytest.raises(UnreadableFile, match="ntp_offset_ms cannot be read: it is an object array"):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 0.6, 0.9, 0.99, 0.999])
def test_truncated_file_is_cut_short(whole: Path, tmp_path: Path, fraction: float) -> None:
    content = whole.read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(UnreadableFile, match="cut short"):
        read(tmp_path / "x.npz")


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    small = {**arrays(), "iq": noise(600), "many": np.array(["late"] * 300), "turned": np.zeros(0)}
    write(tmp_path / "x.npz", small, 2)
    content = (tmp_path / "x.npz").read_bytes()
    chance, refused, damaged = random.Random(3), 0, tmp_path / "y.npz"
    for at in chance.sample(range(len(content)), 600):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
        try:
            found = read(damaged)
        except UnreadableFile as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        # The zip's dates, versions and attributes may be anything; its data may not.
        for name in small.keys() & found.keys():
            np.testing.assert_array_equal(np.asarray(found[name]), small[name], err_msg=f"byte {at}")
    assert refused > 400


def test_array_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("iq.npy", "w") as member:
        np.lib.format.write_array(member, np.arange(4))
        member.write(b"and more")
    with pytest.raises(UnreadableFile, match="longer than its header"):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive, archive.open("iq.npy", "w") as member:
        np.lib.format.write_array(member, np.arange(4))
    with pytest.raises(UnreadableFile, match="compressed by method"):
        read(tmp_path / "x.npz")


def test_suffix_of_a_file_in_the_making_is_not_a_readers(whole: Path) -> None:
    assert not durable.TEMPORARY_SUFFIX.endswith(".npz")
    assert sorted(whole.parent.rglob("*.npz")) == [whole]
