"""Tables that say how a shared record lies in memory, and the bytes that follow from them.

A record is a named tuple with one `Layout`: an ordered table of (field, struct code, unit and meaning). The table is
the only description of the bytes: the pack/unpack code comes from it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a shared record: its name, `struct` code and meaning with unit."""

    name: str
    code: str
    meaning: str


class Layout:
    """An ordered table of fields with the compiled little-endian `struct.Struct`."""

    def __init__(self, name: str, *table: Field) -> None:
        self.name = name
        self.fields = table
        self.struct = struct.Struct("<" + "".join(f.code for f in table))
        self.size = self.struct.size
        self.places = {f.name: place for place, f in enumerate(table)}
        self._text = tuple(i for i, f in enumerate(table) if f.code.endswith("s"))
        self._width = {i: int(table[i].code[:-1]) for i in self._text}

    def pack(self, values: list[Any]) -> bytes:
        """Bytes of one record; text is cut to its field at a UTF-8 boundary."""
        for i in self._text:
            raw = values[i].encode()
            if len(raw) > self._width[i]:
                raw = raw[: self._width[i]].decode(errors="ignore").encode()
            values[i] = raw
        return self.struct.pack(*values)

    def unpack(self, payload: bytes) -> list[Any]:
        """Values of one record in table order, text decoded."""
        values = list(self.struct.unpack_from(payload))
        for i in self._text:
            values[i] = values[i].rstrip(b"\0").decode("utf-8", "replace")
        return values

    def offsets(self) -> list[tuple[int, Field]]:
        """Byte offset of each field within the record."""
        at, rows = 0, []
        for f in self.fields:
            rows.append((at, f))
            at += struct.calcsize("<" + f.code)
        return rows


class Record(tuple[Any, ...]):
    """Base of the shared records, beside their named tuple: bytes and back through `LAYOUT`."""

    __slots__ = ()
    LAYOUT: ClassVar[Layout]

    def to_bytes(self) -> bytes:
        """The record as it lies in shared memory."""
        return self.LAYOUT.pack(list(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """The record that `to_bytes` wrote."""
        return tuple.__new__(cls, cls.LAYOUT.unpack(payload))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; TypeError for a name that is not a field."""
        values, places = list(self), self.LAYOUT.places
        try:
            for name, value in changes.items():
                values[places[name]] = value
        except KeyError:
            unknown = sorted(changes.keys() - places.keys())
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}") from None
        return tuple.__new__(type(self), values)
