"""Archives that zipfile and others read."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from pipeline.ziparchive import PIECE, ZipArchive

LARGE = b"".join(number.to_bytes(3) for number in range(PIECE // 2))


def archive(level: int, members: dict[str, tuple[bytes, ...]]) -> bytes:
    """An archive in which only large members are to be deflated."""
    file = io.BytesIO()
    made = ZipArchive(file, level)
    for name, parts in members.items():
        size = sum(map(len, parts))
        made.add(name, size, parts, deflate=size > 100)
    made.close()
    return file.getvalue()


MEMBERS: dict[str, tuple[bytes, ...]] = {
    "a.npy": (b"head", b"body"), "empty": (), "large": (b"head", LARGE, b"", b"tail"), "z": (bytes(101),),
}  # fmt: skip


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4, 9])
def test_zipfile_finds_what_was_put_in(level: int) -> None:
    data = archive(level, MEMBERS)
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == {n: b"".join(p) for n, p in MEMBERS.items()}
        deflated = {info.filename for info in found.infolist() if info.compress_type == zipfile.ZIP_DEFLATED}
        assert deflated == ({"large", "z"} if level else set())
    assert (len(data) < len(LARGE)) == (level > 0)


def test_local_headers_say_what_the_directory_says() -> None:
    """Who reads from front to back has them alone."""
    data = archive(2, MEMBERS)
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        for info in found.infolist():
            local = data[info.header_offset :]
            assert local[:4] == b"PK\3\4"
            sums = tuple(int.from_bytes(local[at : at + 4], "little") for at in (14, 18, 22))
            assert sums == (info.CRC, info.compress_size, info.file_size)


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_finds_no_fault(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(archive(2, MEMBERS))
    subprocess.run(["unzip", "-tq", "x.zip"], cwd=tmp_path, check=True, capture_output=True)


def test_name_that_is_taken_is_refused() -> None:
    """Readers take the one or the other."""
    file = io.BytesIO()
    made = ZipArchive(file, 2)
    made.add("some", 1, (b"1",), deflate=False)
    with pytest.raises(ValueError, match="some: a member of that name is in the archive already"):
        made.add("some", 1, (b"2",), deflate=False)
    made.close()
    with zipfile.ZipFile(file) as found:
        assert {name: found.read(name) for name in found.namelist()} == {"some": b"1"}


@pytest.mark.parametrize("name", ["Zürich.npy", "\udcff"])
def test_name_that_is_not_ascii_is_refused(name: str) -> None:
    made = ZipArchive(io.BytesIO(), 2)
    with pytest.raises(ValueError, match="a member's name must be ASCII") as caught:
        made.add(name, 1, (b"1",), deflate=False)
    assert ascii(name) in str(caught.value)


def test_more_than_a_zip_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ziparchive.LIMIT", 1000)
    made = ZipArchive(io.BytesIO(), 2)
    made.add("some", 900, (bytes(900),), deflate=False)
    with pytest.raises(ValueError, match="more: 70 bytes are more than the archive's 1000"):
        made.add("more", 70, (bytes(70),), deflate=True)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("size", [9, 11])
def test_parts_of_another_size_than_was_said_are_no_member(size: int, deflate: bool) -> None:
    made = ZipArchive(io.BytesIO(), 1)
    with pytest.raises(ValueError, match=f"some: 10 bytes came of {size}"):
        made.add("some", size, (bytes(4), bytes(6)), deflate=deflate)
