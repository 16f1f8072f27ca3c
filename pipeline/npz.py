"""NPZ files: written whole or not at all, read back by plain `numpy.load`.

A file is made under a name that no reader looks for, forced to disk, and only then given
its own name, which must be free; then the folder is forced to disk. Deflate is isal's:
the same format as zlib's at a small part of the time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from pipeline import PipelineError

TEMPORARY_SUFFIX = ".tmp"
# Arrays below this size are stored: their deflate header costs more than it saves.
SMALL = 4096
ISAL_LEVELS = 3
# What file systems without hard links (exFAT, some network ones) answer.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


_ZIP_MAGIC = b"PK\x03\x04"


class FileExists(PipelineError):
    """The final name is taken; nothing is ever overwritten."""


class _Archive(zipfile.ZipFile):
    """A zip whose members are deflated at `level`: 1 to 3 are isal's, above that zlib's."""

    level = 2

    def _open_to_write(self, zinfo: zipfile.ZipInfo, force_zip64: bool = False) -> IO[bytes]:
        handle: Any = super()._open_to_write(zinfo, force_zip64)  # type: ignore[misc]
        # zipfile has no public way to choose the compressor; without this attribute zlib's default does the work.
        if zinfo.compress_type == zipfile.ZIP_DEFLATED and hasattr(handle, "_compressor"):
            library: Any = isal_zlib if self.level <= ISAL_LEVELS else zlib
            handle._compressor = library.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        stream: IO[bytes] = handle
        return stream


def write(path: Path, arrays: Mapping[str, npt.NDArray[Any]], level: int) -> int:
    """Write `arrays` as `path`, atomically; returns the file's size in bytes.

    `level` 0 stores, 1 to 3 are isal's levels, 4 to 9 zlib's.

    Raises FileExists when the name is taken and OSError when the disk refuses; neither
    leaves anything behind but, after a crash, a name that ends in `.tmp`.
    """
    _make_folder(path.parent)
    if path.exists():
        raise FileExists(f"{path} exists already; it was left as it is")
    # The process is in the name: two instances that share a folder by mistake do not share this file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            with _Archive(file, "w") as archive:
                archive.level = level
                for name, array in arrays.items():
                    _add(archive, name, array)
            file.flush()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        _publish(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    return size


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, durably, if the name is free."""
    try:
        os.link(temporary, path)  # a rename would replace what has come under this name meanwhile
    except FileExistsError:
        raise FileExists(f"{path} exists already; it was left as it is") from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        temporary.rename(path)
    try:
        temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except BaseException:
        # A name that may be gone after a power cut must not be taken for a written minute.
        _remove(path)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the failure that led here is the one to report
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _add(archive: _Archive, name: str, array: npt.NDArray[Any]) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"{name}: an object array cannot be read without pickle")
    array = np.asarray(array, order="C")
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    deflate = array.nbytes > SMALL and archive.level > 0
    info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    with archive.open(info, "w", force_zip64=array.nbytes > 1 << 31) as member:
        np.lib.format.write_array_header_1_0(member, np.lib.format.header_data_from_array_1_0(array))
        # Zero-length and zero-dimensional arrays have no buffer to look into.
        flat: Any = array.reshape(-1)
        member.write(memoryview(flat).cast("B") if array.ndim and array.size else array.tobytes())


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a new name in it survives a power cut.

    Raises OSError, but not where the file system cannot do this to folders at all.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def remove_orphans(folder: Path) -> list[Path]:
    """Delete temporary files that a crash left in `folder`; returns what was deleted."""
    orphans = sorted(folder.glob(f".*.npz.*{TEMPORARY_SUFFIX}")) if folder.is_dir() else []
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans


class UnreadableFile(PipelineError):
    """A file is not an NPZ that can be read."""


# What zipfile, zlib and numpy raise on bytes that are not what they should be.
_MALFORMED = (
    ValueError, TypeError, KeyError, EOFError, SyntaxError, RuntimeError, OverflowError, MemoryError, RecursionError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """All arrays of a file; scalars as Python values, text as str.

    `iq` is complex64 also where the file holds `iq_int16` and `iq_scale` instead. Raises
    UnreadableFile with the reason.
    """
    try:
        with path.open("rb") as file:
            loaded = _arrays(file)
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from None
    except _MALFORMED as error:
        raise UnreadableFile(f"{path}: {_reason(error)}") from None
    values = {name: array.item() if array.ndim == 0 else array for name, array in loaded.items()}
    if "iq" not in values and "iq_int16" in values:
        pairs, scale = values["iq_int16"], values.get("iq_scale")
        if np.shape(pairs)[1:] != (2,) or not isinstance(scale, float):
            raise UnreadableFile(f"{path}: iq_int16 must be pairs and have an iq_scale")
        values["iq"] = int16_to_iq(pairs, scale)
    return values


def read_partly(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """As `read`, but an array that cannot be read is left out; also the reason for each that was.

    Raises UnreadableFile when the file is not an archive at all.
    """
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    try:
        with path.open("rb") as file, _opened(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                try:
                    array = _array(archive, info)
                except _MALFORMED as error:
                    faults[name] = _reason(error)
                else:
                    found[name] = array.item() if array.ndim == 0 else array
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror or error}") from None
    except _MALFORMED as error:
        raise UnreadableFile(f"{path}: {_reason(error)}") from None
    if (
        "iq" not in found
        and np.shape(found.get("iq_int16", 0))[1:] == (2,)
        and isinstance(found.get("iq_scale"), float)
    ):
        found["iq"] = int16_to_iq(found["iq_int16"], found["iq_scale"])
    return found, faults


def _arrays(file: IO[bytes]) -> dict[str, npt.NDArray[Any]]:
    with _opened(file) as archive:
        return {info.filename.removesuffix(".npy"): _array(archive, info) for info in archive.infolist()}


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    magic = file.read(len(_ZIP_MAGIC))
    if magic != _ZIP_MAGIC:
        raise ValueError("not an npz file" if magic else "empty, not an npz file")
    if not zipfile.is_zipfile(file):
        raise ValueError("cut short: the zip directory at its end is missing")
    return zipfile.ZipFile(file)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed by method {info.compress_type}, which is not an npz's")
    try:
        with archive.open(info) as member:
            array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            # zipfile checks the sum of a member only when it has been read to its end.
            if member.read(1):
                raise ValueError("it is longer than its header says")
    except _MALFORMED as error:
        raise ValueError(f"{info.filename.removesuffix('.npy')} cannot be read: {_reason(error)}") from None
    return array


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "allow_pickle" in text:
        return "it is an object array, which only pickle can read"
    return text


def int16_to_iq(pairs: npt.NDArray[np.int16], scale: float) -> npt.NDArray[np.complex64]:
    """(n, 2) int16 as n complex64, exactly what `storage = "complex64"` would have held."""
    parts = np.multiply(pairs, np.float32(scale), dtype=np.float32)
    return np.ascontiguousarray(parts).view(np.complex64).reshape(-1)
