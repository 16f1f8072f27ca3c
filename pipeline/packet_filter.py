"""Classic BPF programs that let only one channel's datagrams into a socket's queue; pure.

All channels of a radiod share one group, so without a filter every socket would queue
every channel's packets and hold a ninth of the time. What a UDP socket's filter sees
begins at the UDP header (Linux net/ipv4/udp.c); a load beyond the end refuses the
datagram. Classic BPF has no loops, so the walk over a status packet's fields is unrolled.
"""

from __future__ import annotations

import struct

ACCEPT = 0xFFFFFFFF
REFUSE = 0
MAX_INSTRUCTIONS = 4096  # Linux include/uapi/linux/bpf_common.h, BPF_MAXINSNS

UDP_HEADER = 8
RTP_HEADER = 12
# A status packet has about 60 fields and OUTPUT_SSRC is the first (ka9q-radio radio_status.c).
FIELDS_WALKED = 64
OUTPUT_SSRC = 18  # ka9q-radio status.h
EOL = 0

_NET_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from the IP header
_IP_SOURCE = 12

Instruction = tuple[int, int, int, int]

# Linux include/uapi/linux/filter.h; _X loads are relative to the index register.
_LD_WORD, _LD_HALF, _LD_BYTE, _LD_LENGTH = 0x20, 0x28, 0x30, 0x80
_LD_WORD_X, _LD_HALF_X, _LD_BYTE_X = 0x40, 0x48, 0x50
_LDX_CONST, _LDX_MEM, _ST, _TAX = 0x01, 0x61, 0x02, 0x07
_ADD, _ADD_X, _SUB_X, _AND, _OR_X, _SHIFT_LEFT = 0x04, 0x0C, 0x1C, 0x54, 0x4C, 0x64
_JUMP, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x05, 0x15, 0x35, 0x45, 0x06


def _do(code: int, k: int = 0) -> Instruction:
    return (code, 0, 0, k)


def _unless(test: int, k: int, verdict: int) -> list[Instruction]:
    """Go on when the test holds, else return `verdict`."""
    return [(test, 1, 0, k), _do(_RETURN, verdict)]


def _when(test: int, k: int, verdict: int) -> list[Instruction]:
    """Return `verdict` when the test holds, else go on."""
    return [(test, 0, 1, k), _do(_RETURN, verdict)]


def _from_source(source: int | None) -> list[Instruction]:
    """Refuse what another IPv4 address sent; nothing when any may send."""
    if source is None:
        return []
    return [_do(_LD_WORD, _NET_HEADER + _IP_SOURCE), *_unless(_JUMP_EQ, source, REFUSE)]


def _rtp_of(ssrc: int) -> list[Instruction]:
    """Refuse all but RTP version 2 of one SSRC."""
    return [
        _do(_LD_LENGTH),
        *_unless(_JUMP_GE, UDP_HEADER + RTP_HEADER, REFUSE),
        _do(_LD_BYTE, UDP_HEADER),
        _do(_AND, 0xC0),
        *_unless(_JUMP_EQ, 0x80, REFUSE),
        _do(_LD_WORD, UDP_HEADER + 8),
        *_unless(_JUMP_EQ, ssrc, REFUSE),
    ]


def foreign_filter(ssrc: int, source: int) -> bytes:
    """Only RTP version 2 datagrams of `ssrc` from anybody but IPv4 address `source`, cut to the RTP header."""
    return _assemble(
        [
            _do(_LD_WORD, _NET_HEADER + _IP_SOURCE),
            *_when(_JUMP_EQ, source, REFUSE),
            *_rtp_of(ssrc),
            _do(_RETURN, UDP_HEADER + RTP_HEADER),
        ]
    )


def _assemble(program: list[Instruction]) -> bytes:
    assert len(program) <= MAX_INSTRUCTIONS, len(program)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def rtp_filter(ssrc: int, source: int | None = None) -> bytes:
    """Only RTP version 2 datagrams of `ssrc` (RFC 3550 section 5.1), from IPv4 address `source` if given."""
    return _assemble(
        [
            *_from_source(source),
            *_rtp_of(ssrc),
            _do(_RETURN, ACCEPT),
        ]
    )


def status_filter(ssrc: int, source: int | None = None) -> bytes:
    """Only radiod status packets whose OUTPUT_SSRC is `ssrc`, from IPv4 address `source` if given.

    Layout from ka9q-radio status.c: a type byte (0 = status, 1 = command), then fields of
    type, length, value. Refused: commands, packets of other channels or of none, fields
    that run over the end. A packet that the walk cannot decide (a field of 128 bytes or
    more, or more than FIELDS_WALKED fields, before OUTPUT_SSRC) is left to the decoder.
    """
    head = [
        *_from_source(source),
        _do(_LD_BYTE, UDP_HEADER),
        *_unless(_JUMP_EQ, 0, REFUSE),
        _do(_LDX_CONST, UDP_HEADER + 1),
    ]
    step = _field_step(0)
    walk = [
        instruction
        for left in reversed(range(FIELDS_WALKED))
        # Distance from the end of a step's jump to the comparison behind the last step.
        for instruction in _field_step(left * len(step) + _AFTER_JUMP + 1)
    ]
    return _assemble([*head, *walk, _do(_RETURN, ACCEPT), *_compare_ssrc(ssrc)])


# Instructions of a step behind its jump: load, two for long fields, and three to move on.
_AFTER_JUMP = 6


def _field_step(to_comparison: int) -> list[Instruction]:
    """One field at the index register: leave with a verdict, jump, or move the register to the next."""
    return [
        _do(_LD_BYTE_X, 0),
        *_when(_JUMP_EQ, EOL, REFUSE),
        (_JUMP_EQ, 0, 1, OUTPUT_SSRC),
        _do(_JUMP, to_comparison),
        _do(_LD_BYTE_X, 1),
        *_when(_JUMP_SET, 0x80, ACCEPT),
        _do(_ADD_X),
        _do(_ADD, 2),
        _do(_TAX),
    ]


def _compare_ssrc(ssrc: int) -> list[Instruction]:
    """The verdict on the OUTPUT_SSRC field at the index register: 0 to 4 bytes, big-endian."""
    same = [*_unless(_JUMP_EQ, ssrc, REFUSE), _do(_RETURN, ACCEPT)]
    values = [
        [*_when(_JUMP_EQ, 0, ACCEPT if ssrc == 0 else REFUSE)],
        [_do(_LD_BYTE_X, 2), *same],
        [_do(_LD_HALF_X, 2), *same],
        [
            _do(_LD_BYTE_X, 2),
            _do(_SHIFT_LEFT, 16),
            _do(_ST, 0),
            _do(_LD_HALF_X, 3),
            _do(_LDX_MEM, 0),
            _do(_OR_X),
            *same,
        ],
        [_do(_LD_WORD_X, 2), *same],
    ]
    program = [_do(_LD_BYTE_X, 1), *values[0]]
    for size in (1, 2, 3, 4):
        program += [(_JUMP_EQ, 0, len(values[size]), size), *values[size]]
    return [*program, _do(_RETURN, ACCEPT)]
