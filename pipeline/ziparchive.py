"""A zip archive: members, each made in one go, then the directory (PKWARE's APPNOTE.TXT, 4.3).

zipfile reads them well. To write the eighty small members of a minute file it takes several times as long, it sums
up the large one with zlib's crc32, and it deflates with nothing but zlib. Deflate is isal's here: the same format at a
small part of the time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import IO, Any

from isal import isal_zlib

ISAL_LEVELS = 3
STORED, DEFLATED = 0, 8
# Deflated piece by piece: in the processor's cache, and into memory that need not be asked of the system each time.
PIECE = 1 << 18
# Sizes and places have 32 bits without an extension; a minute of two million samples a second takes 1 GB. Something
# is left for what deflate adds where nothing can be saved.
LIMIT = 4_200_000_000

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
# Where a local header has CRC, deflated and whole size.
_SUMS, _SUMS_AT = struct.Struct("<3I"), 14
_VERSION = 20
_MADE_BY_UNIX = 3 << 8 | _VERSION
_FIRST_DATE = 1 << 5 | 1  # 1 January 1980: what has the same content is the same file
_ATTRIBUTES = 0o644 << 16


class ZipArchive:
    """Writes members into `file`, which is empty and can seek; `level` 0 stores, 1 to 3 are isal's, 4 to 9 zlib's."""

    def __init__(self, file: IO[bytes], level: int) -> None:
        self._file = file
        self._level = level
        self._at = 0
        self._directory: list[bytes] = []
        self._names: set[str] = set()

    def add(self, name: str, size: int, parts: Iterable[memoryview | bytes], deflate: bool) -> None:
        """A member made of the bytes of `parts`, `size` in all, stored unless `deflate`; each part is used at once.

        Raises ValueError, and adds nothing, when it does not fit or has a name that is taken or not ASCII. Also when
        its parts have another size; then the archive is of no use.
        """
        if not name.isascii():
            raise ValueError(f"{name!a}: a member's name must be ASCII")
        if name in self._names:
            raise ValueError(f"{name}: a member of that name is in the archive already")
        begin = self._at
        if begin + size > LIMIT:
            raise ValueError(f"{name}: {size} bytes are more than the archive's {LIMIT} leave room for")
        self._names.add(name)
        deflate = deflate and self._level > 0
        method = DEFLATED if deflate else STORED
        short = name.encode("ascii")
        head = _LOCAL.pack(b"PK\3\4", _VERSION, 0, method, 0, _FIRST_DATE, 0, 0, 0, len(short), 0) + short
        self._write(head)
        crc, found = self._deflate(parts) if deflate else self._store(parts)
        if found != size:
            raise ValueError(f"{name}: {found} bytes came of {size}")
        held = self._at - begin - len(head)
        self._file.seek(begin + _SUMS_AT)
        self._file.write(_SUMS.pack(crc, held, size))
        self._file.seek(self._at)
        self._directory.append(
            _ENTRY.pack(
                b"PK\1\2", _MADE_BY_UNIX, _VERSION, 0, method, 0, _FIRST_DATE, crc, held, size,
                len(short), 0, 0, 0, 0, _ATTRIBUTES, begin,
            ) + short
        )  # fmt: skip

    def _store(self, parts: Iterable[memoryview | bytes]) -> tuple[int, int]:
        """Write the parts as they are; returns their CRC and size."""
        crc = size = 0
        for part in parts:
            crc, size = isal_zlib.crc32(part, crc), size + len(part)
            self._write(part)
        return crc, size

    def _deflate(self, parts: Iterable[memoryview | bytes]) -> tuple[int, int]:
        """Write the parts deflated; returns their CRC and size."""
        library: Any = isal_zlib if self._level <= ISAL_LEVELS else zlib
        deflater = library.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)
        crc = size = 0
        for part in parts:
            for at in range(0, len(part), PIECE):
                piece = part[at : at + PIECE]
                crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
                self._write(deflater.compress(piece))
        self._write(deflater.flush())
        return crc, size

    def close(self) -> None:
        """Write the directory, after which the archive is whole; the file stays open."""
        begin, count = self._at, len(self._directory)
        self._write(b"".join(self._directory))
        self._write(_END.pack(b"PK\5\6", 0, 0, count, count, self._at - begin, begin, 0))

    def _write(self, data: memoryview | bytes) -> None:
        self._file.write(data)
        self._at += len(data)
