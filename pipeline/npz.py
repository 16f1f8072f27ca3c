"""NPZ files: made in memory, read back by plain `numpy.load`.

Deflate is isal's: the same format as zlib's at a small part of the time. Nothing that is read is ever unpickled.
"""

from __future__ import annotations

import functools
import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from pipeline import PipelineError, durable
from pipeline.configrules import HIGHEST_RATE_HZ
from pipeline.ziparchive import PIECE, ZipArchive

# Arrays below this size are stored: their deflate header costs more than it saves.
SMALL = 4096
OBJECT_ARRAY = "it is an object array, which only pickle can read"
_ZIP_MAGIC = b"PK\x03\x04"


@runtime_checkable
class Blocks(Protocol):
    """An array in C order that is made piece by piece."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def blocks(self, size: int) -> Iterator[npt.NDArray[Any]]:
        """Its rows, `size` at a time; each piece is gone when the next one is asked for."""


Array = npt.NDArray[Any] | Blocks


def write(path: Path, arrays: Mapping[str, Array], level: int) -> int:
    """Write `arrays` as `path`, whole or not at all; returns the file's size in bytes.

    Raises as `packed` and `durable.write` do.
    """
    content = packed(arrays, level)
    durable.write(path, content)
    return len(content)


def packed(arrays: Mapping[str, Array], level: int) -> bytes:
    """What the file of `arrays` holds. `level` 0 stores, 1 to 3 are isal's levels, 4 to 9 zlib's.

    Raises TypeError for object and record arrays, ValueError for a name that is not ASCII and for more than a zip
    holds.
    """
    content = io.BytesIO()
    archive = ZipArchive(content, level)
    for name, array in arrays.items():
        _add(archive, name, array)
    archive.close()
    return content.getvalue()


def _add(archive: ZipArchive, name: str, array: Array) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"{name}: an object array cannot be read without pickle")
    if array.dtype.kind == "V":
        raise TypeError(f"{name}: an array of {array.dtype} would lose its fields; give each an array of its own")
    size = math.prod(array.shape) * array.dtype.itemsize
    header = _header_of(array.dtype.str, array.shape)
    archive.add(f"{name}.npy", len(header) + size, _parts(header, array, size), deflate=size > SMALL)


def _parts(header: bytes, array: Array, size: int) -> Iterator[memoryview | bytes]:
    yield header
    if isinstance(array, Blocks):
        rows = max(1, PIECE * array.shape[0] // max(1, size))
        yield from (_bytes_of(block) for block in array.blocks(rows))
    elif size > SMALL:
        yield _bytes_of(np.asarray(array, order="C"))
    else:
        yield array.tobytes()


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


@functools.lru_cache(maxsize=256)
def _header_of(descr: str, shape: tuple[int, ...]) -> bytes:
    """The header of an array in C order; those of one minute's file are nearly all those of the minute before."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


class UnreadableFile(PipelineError):
    """A file is not an NPZ that can be read."""


class NoMemoryToRead(UnreadableFile):
    """A file may be sound, but there was no memory to read it."""


# What zipfile, zlib and numpy raise on bytes that are not what they should be.
_ISAL_ERROR: Any = isal_zlib.error  # a class, whatever its stub says
_MALFORMED: tuple[type[Exception], ...] = (
    ValueError, TypeError, KeyError, EOFError, SyntaxError, RuntimeError, OverflowError, MemoryError, RecursionError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, _ISAL_ERROR,
)  # fmt: skip


MOST_MEMBERS = 1_000
LONGEST_HEADER = 4_000
# A minute of complex64 with its header; a larger member is not one of ours, but might fill the memory.
LARGEST_MEMBER = 60 * 8 * HIGHEST_RATE_HZ + LONGEST_HEADER


@dataclass(frozen=True, slots=True)
class Contents:
    """What could be read of a file.

    `values` are its arrays, scalars as Python values and text as str; `faults` the reason for each array that could
    not be read. `file_bytes` is the size of the file.
    """

    values: dict[str, Any]
    faults: dict[str, str]
    file_bytes: int


def read(source: Path | bytes) -> dict[str, Any]:
    """All arrays of a file, or of what one would hold; scalars as Python values, text as str.

    `iq` is complex64 also where the file holds `iq_int16` and `iq_scale` instead. Raises
    UnreadableFile with the reason, NoMemoryToRead among them.
    """
    contents = _read(source, (), True)
    values = contents.values
    if "iq" not in values and "iq_int16" in values and not _has_pairs(values):
        raise UnreadableFile(f"{_name(source)}: iq_int16 must be pairs and have an iq_scale")
    return _with_iq(values)


def read_partly(path: Path, headers_of: Collection[str] = ()) -> Contents:
    """As `read`, but an array that cannot be read is left out and named with the reason.

    Of the arrays in `headers_of` only the header is read: they have their shape and type, and are zero. Raises
    UnreadableFile when the file is not an archive at all.
    """
    contents = _read(path, headers_of, False)
    return replace(contents, values=_with_iq(contents.values))


def _read(source: Path | bytes, headers_of: Collection[str], all_or_nothing: bool) -> Contents:
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file, _opened(file) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                try:
                    array = _array(archive, info, name in headers_of)
                except _MALFORMED as error:
                    if all_or_nothing and isinstance(error, MemoryError):
                        raise NoMemoryToRead(f"{_name(source)}: no memory to read {name}") from None
                    if all_or_nothing:
                        raise ValueError(f"{name} cannot be read: {_reason(error)}") from None
                    faults[name] = _reason(error)
                else:
                    values[name] = array.item() if array.ndim == 0 else array
            return Contents(values, faults, file.seek(0, os.SEEK_END))
    except OSError as error:
        raise UnreadableFile(f"{_name(source)}: {error.strerror or error}") from None
    except _MALFORMED as error:
        raise UnreadableFile(f"{_name(source)}: {_reason(error)}") from None


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes"


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    magic = file.read(len(_ZIP_MAGIC))
    if magic != _ZIP_MAGIC:
        raise ValueError("not an npz file" if magic else "empty, not an npz file")
    if not zipfile.is_zipfile(file):
        raise ValueError("cut short: the zip directory at its end is missing")
    archive = zipfile.ZipFile(file)
    if len(archive.infolist()) > MOST_MEMBERS:
        raise ValueError(f"{len(archive.infolist())} arrays, which no minute file has")
    return archive


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header_only: bool) -> npt.NDArray[Any]:
    """One member; nothing is reserved that its header asks for before its size is known to be that."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed by method {info.compress_type}, which is not an npz's")
    if info.file_size > LARGEST_MEMBER:
        raise ValueError(f"{info.file_size} bytes, more than a minute takes")
    with archive.open(info) as member:
        # zipfile has no public way to choose the decompressor either; zlib's does the same work in twice the time.
        if info.compress_type == zipfile.ZIP_DEFLATED and hasattr(member, "_decompressor"):
            member._decompressor = isal_zlib.decompressobj(-zlib.MAX_WBITS)
        shape, fortran_order, dtype = _header(member)
        if dtype.hasobject:
            raise ValueError(OBJECT_ARRAY)
        size = math.prod(shape) * dtype.itemsize
        held = info.file_size - member.tell()
        if size != held:
            longer = "longer" if held > size else "shorter"
            raise ValueError(f"it is {longer} than its header says: {held} bytes, not {size}")
        if header_only:
            return np.broadcast_to(np.zeros((), dtype), shape)
        data = member.read(size)
        # Reading to the end is what makes zipfile check the sum.
        if len(data) != size or member.read(1):
            raise ValueError(f"it ends after {len(data)} of {size} bytes")
    array = np.frombuffer(bytearray(data), dtype) if size else np.zeros(math.prod(shape), dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        text = ".".join(map(str, version))
        raise ValueError(f"its header is of version {text}, which arrays of numbers and text never have")
    width = 2 if version == (1, 0) else 4
    length = member.read(width)
    size = int.from_bytes(length, "little")
    if len(length) < width or size > LONGEST_HEADER:
        raise ValueError(f"its header is of {size} bytes")
    return _parsed(version, length + member.read(size))


@functools.lru_cache(maxsize=1024)
def _parsed(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """A header; those of one tree's files are nearly all the same, and parsing them took half of the time."""
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return parse(io.BytesIO(header))
    except MemoryError:  # Python's parser, of brackets within brackets
        raise ValueError("its header is nested too deeply") from None


def _reason(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def _has_pairs(values: Mapping[str, Any]) -> bool:
    pairs, scale = values.get("iq_int16"), values.get("iq_scale")
    return (
        isinstance(pairs, np.ndarray)
        and pairs.dtype.kind == "i"
        and pairs.shape[1:] == (2,)
        and isinstance(scale, float)
    )


def _with_iq(values: dict[str, Any]) -> dict[str, Any]:
    if "iq" not in values and _has_pairs(values):
        pairs = values["iq_int16"]
        header_only = 0 in pairs.strides and pairs.size > 1
        zeros = np.broadcast_to(np.zeros((), np.complex64), len(pairs))
        values["iq"] = zeros if header_only else int16_to_iq(pairs, values["iq_scale"])
    return values


def int16_to_iq(pairs: npt.NDArray[np.int16], scale: float) -> npt.NDArray[np.complex64]:
    """(n, 2) int16 as n complex64, exactly what `storage = "complex64"` would have held."""
    parts = np.multiply(pairs, np.float32(scale), dtype=np.float32)
    return np.ascontiguousarray(parts).view(np.complex64).reshape(-1)
