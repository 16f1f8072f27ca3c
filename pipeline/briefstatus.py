"""The few fields of a radiod status that every one of them is looked at for; the rest when it is asked for.

A channel's status comes twice a second and has some sixty fields, of which recording needs seven integers.
What they mean, and all the rest, is ka9q-python's word (`pipeline.radiod.decode_status`), with which these
agree on every datagram that it can decode.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from ka9q.status import ChannelStatus as Ka9qStatus
from ka9q.types import StatusType

from pipeline.radiod import COMMAND_TAG, MAX_STATUS_BYTES, Detail, believed_rate, believed_utc_ns, decode_status

_EOL = int(StatusType.EOL)
_LONG_LENGTH = 0x80
_LONGEST_INTEGER = 8
_WANTED = frozenset(
    {
        StatusType.OUTPUT_SSRC,
        StatusType.GPS_TIME,
        StatusType.RTP_TIMESNAP,
        StatusType.OUTPUT_SAMPRATE,
        StatusType.OUTPUT_ENCODING,
        StatusType.OUTPUT_CHANNELS,
        StatusType.COMMAND_TAG,
    }
)


@dataclass(frozen=True, slots=True)
class BriefStatus:
    """What recording needs of one status packet; as in `pipeline.radiod.ChannelStatus`, None = not to be believed."""

    ssrc: int
    gps_time_utc_ns: int | None
    rtp_timesnap: int | None
    sample_rate_hz: int | None
    encoding: str | None
    output_channels: int | None
    command_tag: int | None
    datagram: bytes

    @property
    def is_ours(self) -> bool:
        """True when the channel's last command came from this program."""
        return self.command_tag == COMMAND_TAG

    def integers(self, wanted: Collection[int]) -> dict[int, int]:
        """Other fields of the packet, by type (ka9q-radio status.h), as unsigned integers; those that it has."""
        return _integers(self.datagram, wanted)

    def detail(self) -> Detail:
        """All that is worth keeping of the packet; empty when a field of no use here spoils it."""
        whole = decode_status(self.datagram)
        return {} if whole is None else whole.detail


def brief_status(datagram: bytes) -> BriefStatus | None:
    """The status in a datagram; None for commands, garbage and packets that name no channel. Never raises."""
    if not 0 < len(datagram) <= MAX_STATUS_BYTES or datagram[0] != 0:
        return None
    found = _integers(datagram)
    ssrc, timesnap = found.get(StatusType.OUTPUT_SSRC), found.get(StatusType.RTP_TIMESNAP)
    if ssrc is None or ssrc > 0xFFFFFFFF:
        return None
    channels, encoding = found.get(StatusType.OUTPUT_CHANNELS), found.get(StatusType.OUTPUT_ENCODING)
    return BriefStatus(
        ssrc,
        believed_utc_ns(found.get(StatusType.GPS_TIME)),
        timesnap if timesnap is not None and timesnap <= 0xFFFFFFFF else None,
        believed_rate(found.get(StatusType.OUTPUT_SAMPRATE)),
        None if encoding is None else _encoding_name(encoding),
        channels if channels is not None and 1 <= channels <= 255 else None,
        found.get(StatusType.COMMAND_TAG),
        datagram,
    )


def _integers(datagram: bytes, wanted: Collection[int] = _WANTED) -> dict[int, int]:
    """The wanted fields of a packet, by type: type, length, big-endian value (ka9q-radio status.c)."""
    found: dict[int, int] = {}
    at, size = 1, len(datagram)
    while at + 1 < size:
        kind, length = datagram[at], datagram[at + 1]
        if kind == _EOL:
            break
        at += 2
        if length & _LONG_LENGTH:
            begin, at = at, min(at + (length & ~_LONG_LENGTH), size)
            length = int.from_bytes(datagram[begin:at])
        if at + length > size:
            break
        if kind in wanted:
            found[kind] = int.from_bytes(datagram[at : at + min(length, _LONGEST_INTEGER)])
        at += length
    return found


@lru_cache(maxsize=64)
def _encoding_name(number: int) -> str:
    name: str = Ka9qStatus(output_encoding=number).encoding_name
    return name
