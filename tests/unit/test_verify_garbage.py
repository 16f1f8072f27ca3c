"""Whatever lies in a tree becomes a finding: no exception, nothing unpickled, no memory that a header asks for."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minutes import CHANNEL, ancestor, arrays_of, one_cut
from pipeline import npz
from pipeline.audit.examine import examine
from pipeline.audit.onefile import parse_name
from pipeline.minutefile import minute_path
from pipeline.verify import verify_tree
from streams import T0

NAME = "20261122T041600Z_10000000_iq.npz"


def place(tree: Path) -> Path:
    """Where the minute of T0 belongs."""
    path = minute_path(tree, CHANNEL, T0)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def codes(tree: Path) -> set[str]:
    """Names of what is wrong."""
    return {f.issue.code for f in verify_tree(tree).findings.kept if f.issue.severity != "info"}


def member(header: bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy with a header of one's own."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def archive(members: dict[str, bytes]) -> bytes:
    """A zip of these."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return whole.getvalue()


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("/tmp/grape-pipeline-was-unpickled",)


HUGE = b"{'descr': '<c8', 'fortran_order': False, 'shape': (100000000000,), }"
NEGATIVE = b"{'descr': '<c8', 'fortran_order': False, 'shape': (-5,), }"
PICKLED = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
FILES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no archive",
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "an archive of text": archive({"readme.txt": b"hello"}),
    "a huge header": archive({"iq.npy": member(HUGE, bytes(800))}),
    "a negative shape": archive({"iq.npy": member(NEGATIVE)}),
    "a pickle": archive({"iq.npy": member(PICKLED, pickle.dumps(Bomb()))}),
    "a pickle without a header": archive({"iq.npy": pickle.dumps(Bomb())}),
    "code for a header": archive({"iq.npy": member(b"__import__('os').mkdir('/tmp/grape-pipeline-was-unpickled')")}),
    "a header of a million bytes": archive({"iq.npy": member(b"{" + b" " * 1_000_000 + b"}", b"", (2, 0))}),
    "a deep header": archive({"iq.npy": member(b"(" * 3_000)}),
    "an unknown version": archive({"iq.npy": member(HUGE, b"", (9, 9))}),
    "ten thousand arrays": archive({f"{n}.npy": b"" for n in range(10_000)}),
    "the same name twice": archive({"iq.npy": member(HUGE)}) + archive({"iq.npy": member(HUGE)}),
    "many zeros": archive({"iq.npy": bytes(10_000_000)}),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_minutes(what: str, tmp_path: Path) -> None:
    place(tmp_path).write_bytes(FILES[what])
    tracemalloc.start()
    found = codes(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found <= {"unreadable", "empty_file", "keys", "object_array"}
    assert found
    assert not Path("/tmp/grape-pipeline-was-unpickled").exists()
    assert peak < 50_000_000


def test_more_than_a_minute_takes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to whatever their header says."""
    place(tmp_path).write_bytes(archive({"iq.npy": member(HUGE.replace(b"100000000000", b"100000"), bytes(800_000))}))
    monkeypatch.setattr(npz, "LARGEST_MEMBER", 800_000)
    [finding] = verify_tree(tmp_path).findings.kept
    assert "more than a minute takes" in finding.issue.what


def test_not_even_files(tmp_path: Path) -> None:
    path = place(tmp_path)
    path.mkdir()
    path.with_name(NAME.replace("0416", "0417")).symlink_to(tmp_path / "nowhere")
    os.mkfifo(path.with_name(NAME.replace("0416", "0418")))
    path.parent.joinpath("loop").symlink_to(tmp_path)
    assert codes(tmp_path) == {"stray", "no_minutes"}


def test_names_that_are_not_text(tmp_path: Path) -> None:
    path = place(tmp_path)
    raw = os.fsencode(path.parent) + b"/\xff\x1b[2J.npz"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    audit = verify_tree(tmp_path)
    [finding] = [f for f in audit.findings.kept if f.issue.code == "stray"]
    finding.file.encode()
    str(audit.to_json()).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    path = place(tmp_path)
    path.write_bytes(b"x")
    path.chmod(0)
    assert codes(tmp_path) == {"unreadable"}
    path.parent.chmod(0)
    try:
        assert codes(tmp_path) == {"unreadable_folder", "no_minutes"}
    finally:
        path.parent.chmod(0o755)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes turned, cut out, put in or cut off."""
    at = chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + chance.randbytes(chance.randrange(1, 50)) + content[at:]
    if kind == 2:
        return content[:at] + content[at + chance.randrange(1, 200) :]
    turned = bytearray(content)
    for _ in range(chance.choice([1, 1, 5, 50])):
        turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
    return bytes(turned)


@pytest.mark.parametrize("ours", [True, False])
def test_damaged_files(ours: bool, tmp_path: Path) -> None:
    path = place(tmp_path)
    arrays = arrays_of(one_cut([n for n in range(600) if n % 100])) if ours else ancestor(60_000)
    whole = {name: np.asarray(value) for name, value in arrays.items()}
    whole["iq"] = whole["iq"][:600]  # most of a small file is header and directory
    npz.write(path, whole, 1)
    content, chance, sound = path.read_bytes(), random.Random(7), 0
    for _ in range(400):
        path.write_bytes(damaged(content, chance))
        sound += not codes(tmp_path)
    assert sound == 0, "a file that is too short is never sound"


ODD: list[Any] = [
    0, -1, 1, 2**31, 2**32, 2**63 - 1, -(2**63), 0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e300, -1e300,
    True, "", "x" * 10_000, "\x1b[2J", b"bytes", np.zeros(0), np.zeros(3), np.zeros((2, 2)), np.array(["a", "b"]),
    np.zeros(3, np.complex128), np.full(5, 2**64 - 1, np.uint64), np.full(1, -(2**62), np.int64), np.array([2**40]),
    np.array([np.nan, 1]), np.datetime64("2026-11-22"), np.array([(1, 2.0)], "i4,f8"), np.array([3, 1, 2], np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize("ours", [True, False])
def test_values_that_make_no_sense(ours: bool, samples: bool) -> None:
    """Any one or any few of a file's keys changed to anything: no exception ever."""
    arrays = arrays_of(one_cut([n for n in range(600) if n % 100])) if ours else ancestor(60_000)
    arrays = {name: value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
              for name, value in arrays.items()}  # fmt: skip
    named = parse_name(NAME)
    assert named is not None
    assert not ours or not examine(arrays, {}, NAME, named, "WWV_10_MHz", samples).issues
    chance, told = random.Random(11), 0
    single = [{name: odd} for name in arrays for odd in ODD]
    several = [{chance.choice(list(arrays)): chance.choice(ODD) for _ in range(3)} for _ in range(300)]
    for change in chance.sample(single, 500) + several:
        plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in change.items()}
        told += bool(examine({**arrays, **plain}, {}, NAME, named, "WWV_10_MHz", samples).issues)
    assert told > 400
