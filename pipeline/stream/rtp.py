"""Datagram to RTP packet, serial-number arithmetic, payload bytes to samples (RFC 3550).

Everything that knows about 16- and 32-bit wraps is here. Sequence numbers and timestamps
are *extended* (unbounded integers) everywhere else; only the wire and the files carry the
wrapped values.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER = struct.Struct("!BBHII")
HEADER_SIZE = HEADER.size
VERSION_BITS = 0x80
MARKER = 0x80
TIMESTAMP_MODULUS = 1 << 32
SEQUENCE_MODULUS = 1 << 16

# Names and numbers as radiod's status gives them (ka9q-radio src/rtp.h, enum encoding).
ENCODING_NUMBERS = {"S16LE": 1, "S16BE": 2, "F32LE": 4, "F16LE": 6, "F32BE": 8, "F16BE": 9}
ENCODING_NAMES = {number: name for name, number in ENCODING_NUMBERS.items()}
_DTYPES: dict[str, np.dtype[Any]] = {
    "S16LE": np.dtype("<i2"),
    "S16BE": np.dtype(">i2"),
    "F32LE": np.dtype("<f4"),
    "F32BE": np.dtype(">f4"),
    "F16LE": np.dtype("<f2"),
    "F16BE": np.dtype(">f2"),
}
# radiod's 16-bit full scale (ka9q-radio src/import.h): int16 / 32768 is in [-1, 1).
S16_SCALE = 1.0 / 32768.0


class RtpError(ValueError):
    """A datagram is not the RTP packet it should be; the text names the first fault."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The fields of one RTP packet that a recorder needs; `payload` is [start, end) in the datagram."""

    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload_start: int
    payload_end: int


def parse(datagram: bytes | bytearray | memoryview) -> Packet:
    """Check and split one datagram (RFC 3550 section 5.1).

    Raises RtpError and nothing else.
    """
    size = len(datagram)
    if size < HEADER_SIZE:
        raise RtpError(f"RTP header is truncated: {size} bytes")
    flags, kind, sequence, timestamp, ssrc = HEADER.unpack_from(datagram)
    if flags & 0xC0 != VERSION_BITS:
        raise RtpError(f"RTP version is {flags >> 6}, not 2")
    start = HEADER_SIZE + 4 * (flags & 0x0F)
    if start > size:
        raise RtpError("RTP contributing sources are truncated")
    if flags & 0x10:
        if start + 4 > size:
            raise RtpError("RTP extension header is truncated")
        start += 4 + 4 * int.from_bytes(datagram[start + 2 : start + 4], "big")
        if start > size:
            raise RtpError("RTP extension is truncated")
    end = size
    if flags & 0x20:
        padding = datagram[size - 1]
        if padding == 0 or start + padding > size:
            raise RtpError(f"RTP padding of {padding} bytes does not fit")
        end -= padding
    return Packet(bool(kind & MARKER), kind & 0x7F, sequence, timestamp, ssrc, start, end)


def signed16(difference: int) -> int:
    """A difference of sequence numbers as the nearest signed distance (RFC 1982)."""
    return ((difference + 0x8000) & 0xFFFF) - 0x8000


def signed32(difference: int) -> int:
    """A difference of timestamps as the nearest signed distance (RFC 1982)."""
    return ((difference + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000


def wrap32(timestamp: int) -> int:
    """An extended timestamp as it is on the wire."""
    return timestamp & 0xFFFF_FFFF


def wrap16(sequence: int) -> int:
    """An extended sequence number as it is on the wire."""
    return sequence & 0xFFFF


def bytes_per_frame(encoding: str) -> int:
    """Bytes of one I/Q pair; of an encoding that cannot be decoded, as if it were 16-bit."""
    return 2 * int(_DTYPES[encoding].itemsize) if encoding in _DTYPES else 4


def is_s16(encoding: str) -> bool:
    """True for the two encodings whose samples are 16-bit integers."""
    return bool(_DTYPES[encoding].kind == "i")


def decode(payload: memoryview | bytes, encoding: str, out: npt.NDArray[np.complex64]) -> None:
    """Payload bytes of len(out) frames (I first) into complex64 samples.

    S16 is divided by 32768, which is exact in float32; F32 is taken as it is, F16 widened.
    """
    raw: npt.NDArray[Any] = np.frombuffer(payload, _DTYPES[encoding], count=2 * len(out))
    parts = out.view(np.float32)
    if raw.dtype.kind == "i":
        np.multiply(raw, np.float32(S16_SCALE), out=parts, casting="unsafe")
    else:
        parts[:] = raw


def decode_s16(payload: memoryview | bytes, encoding: str, out: npt.NDArray[np.int16]) -> None:
    """Payload bytes of an S16 encoding into an (n, 2) array of native int16."""
    out.reshape(-1)[:] = np.frombuffer(payload, _DTYPES[encoding], count=2 * len(out))


def mean_power(payload: memoryview, encoding: str, frames: int) -> float:
    """Mean |iq|^2 of a payload's first `frames` frames, full scale 1.

    Without numpy: of one packet every two seconds, what that needs is not in the caches.
    """
    dtype = _DTYPES[encoding]
    values = struct.unpack_from(f"{dtype.str[0]}{2 * frames}{dtype.char}", payload)
    power = math.hypot(*values) ** 2 / frames
    return power * S16_SCALE**2 if dtype.kind == "i" else power


def silent(payload: memoryview | bytes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the packets that lie one after the other in `payload` hold nothing but zero bytes.

    `lengths` are their sizes in bytes, multiples of 4 that add up to len(payload).
    """
    if not len(lengths):
        return np.zeros(0, np.bool_)
    words = np.frombuffer(payload, np.uint32)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) // 4
    if words[starts].all():
        # Nearly always, and told by one word a packet.
        return np.zeros(len(lengths), np.bool_)
    return np.asarray(np.maximum.reduceat(words, starts) == 0)
