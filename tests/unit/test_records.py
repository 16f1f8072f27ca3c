"""The shared records: bytes and back, units at the edges, and the C header beside them."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import cells, shm
from pipeline.layout import Field, Layout, Record
from pipeline.records import (
    UNKNOWN_NS,
    AlertsRecord,
    ChannelRecord,
    ChannelState,
    ChildRecord,
    NtpQuality,
    NtpRecord,
    NtpState,
)

HEADER = Path(__file__).parents[2] / "etc" / "grape_pipeline_shm.h"
RECORDS = (NtpRecord, ChannelRecord, ChildRecord, AlertsRecord)
S = 1_000_000_000
C_TYPES = {"q": "int64_t", "Q": "uint64_t", "i": "int32_t", "I": "uint32_t", "H": "uint16_t", "B": "uint8_t"}


def same(a: Record, b: Record) -> bool:
    """Equality in which NaN equals NaN."""
    return type(a) is type(b) and all(x == y or repr(x) == repr(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", RECORDS)
def test_defaults_survive_the_bytes(kind: type[Record]) -> None:
    assert same(kind.from_bytes(kind().to_bytes()), kind())
    assert len(kind().to_bytes()) == kind.LAYOUT.size


def test_every_default_says_unknown_not_zero() -> None:
    record = NtpRecord()
    assert math.isnan(record.offset_ms) and math.isnan(record.uncertainty_ms)
    assert record.monotonic_ns == UNKNOWN_NS and record.published_monotonic_ns == UNKNOWN_NS
    assert (record.valid, record.synced, record.leap, record.source) == (0, 0, 3, "")
    assert ChannelRecord().last_packet_monotonic_ns == UNKNOWN_NS


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.data())
def test_any_values_survive_the_bytes(kind: type[Record], data: st.DataObject) -> None:
    values = {f.name: data.draw(values_of(f), label=f.name) for f in kind.LAYOUT.fields}
    record = kind().replace(**values)
    assert same(kind.from_bytes(record.to_bytes()), record)


def values_of(field: Field) -> st.SearchStrategy[object]:
    if field.code.endswith("s"):
        width = int(field.code[:-1])
        text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=width)
        return text.filter(lambda s: len(s.encode()) <= width)
    if field.code == "d":
        return st.floats()
    bits = 8 * struct.calcsize(field.code)
    low = -(1 << (bits - 1)) if field.code.islower() else 0
    return st.integers(low, low + (1 << bits) - 1)


def test_text_too_long_is_cut_between_characters() -> None:
    record = NtpRecord(source="ü" * 25)
    assert NtpRecord.from_bytes(record.to_bytes()).source == "ü" * 20
    assert NtpRecord.from_bytes(NtpRecord(source="x" + "ü" * 25).to_bytes()).source == "x" + "ü" * 19


def test_bytes_that_are_not_utf8_are_still_readable() -> None:
    raw = bytearray(NtpRecord(source="abc").to_bytes())
    raw[-40:-37] = b"\xff\xfeA"
    assert NtpRecord.from_bytes(bytes(raw)).source == "\ufffd\ufffdA"


def test_enum_members_are_stored_as_their_numbers() -> None:
    record = NtpRecord(state=NtpState.HOLDOVER, quality=NtpQuality.RELAXED)
    assert NtpRecord.from_bytes(record.to_bytes()).state == NtpState.HOLDOVER
    assert ChannelRecord.from_bytes(ChannelRecord(state=ChannelState.BLOCKED).to_bytes()).state == 4


def test_replace_changes_the_named_fields_only() -> None:
    record = ChannelRecord(name="WWV", ssrc=5, packets_lost=7)
    changed = record.replace(packets_lost=8, reason="x")
    assert type(changed) is ChannelRecord
    assert (changed.name, changed.ssrc, changed.packets_lost, changed.reason) == ("WWV", 5, 8, "x")
    assert record.packets_lost == 7
    with pytest.raises(TypeError, match="no field packets_missing"):
        record.replace(packets_missing=1)
    with pytest.raises(AttributeError):
        record.packets_lost = 9  # type: ignore[misc]


def test_a_fresh_ntp_record_is_shown_as_it_is() -> None:
    shown = NtpRecord(
        published_monotonic_ns=100 * S, monotonic_ns=98 * S, utc_ns=5, offset_ms=-0.4, uncertainty_ms=2.0, valid=1,
        synced=1, state=NtpState.SYNCED, quality=NtpQuality.STRICT, leap=0, stratum=2, source="chronyd",
    ).at(101 * S, stale_after_s=30)  # fmt: skip
    assert shown["valid"] is True and shown["synced"] is True
    assert (shown["state"], shown["quality"], shown["offset_ms"]) == ("synced", "strict", -0.4)
    assert (shown["age_s"], shown["source"], shown["leap"], shown["stratum"]) == (3.0, "chronyd", 0, 2)


@pytest.mark.parametrize(("age_s", "stale"), [(30.0, False), (30.000000001, True)])
def test_a_dead_monitors_record_is_neither_valid_nor_synced(age_s: float, stale: bool) -> None:
    record = NtpRecord(published_monotonic_ns=0, monotonic_ns=0, valid=1, synced=1, state=NtpState.SYNCED)
    shown = record.at(round(age_s * S), stale_after_s=30)
    assert (shown["valid"], shown["synced"]) == (not stale, not stale)
    assert shown["state"] == ("unsynced" if stale else "synced")


def test_nothing_known_yet_is_null_everywhere() -> None:
    shown = NtpRecord().at(5, stale_after_s=30)
    assert shown["state"] == "starting" and shown["valid"] is False
    unknown = ("quality", "offset_ms", "uncertainty_ms", "jitter_ms", "source", "stratum", "leap", "utc_ns", "age_s")
    assert {name: shown[name] for name in unknown} == dict.fromkeys(unknown)


def test_layouts_keep_their_sizes_and_natural_alignment() -> None:
    assert [(kind.LAYOUT.name, kind.LAYOUT.size) for kind in RECORDS] == [
        ("ntp", 104),
        ("channel", 432),
        ("child", 312),
        ("alerts", 152),
    ]
    for kind in RECORDS:
        for at, field in kind.LAYOUT.offsets():
            size = 1 if field.code.endswith("s") else struct.calcsize(field.code)
            assert at % size == 0, (kind, field.name)


def c_struct(layout: Layout) -> str:
    """What the C header must say about a record."""
    lines = [f"struct grape_{layout.name} {{ /* {layout.size} bytes */"]
    for at, f in layout.offsets():
        text = f.code.endswith("s")
        kind = "char" if text else "double" if f.code == "d" else C_TYPES[f.code]
        name = f"{f.name}[{f.code[:-1]}];" if text else f"{f.name};"
        lines.append(f"    {kind:8} {name:26} /* {at:3} {f.meaning} */")
    return "\n".join([*lines, "} __attribute__((packed));"])


@pytest.mark.parametrize("kind", RECORDS)
def test_the_c_header_describes_the_record_byte_for_byte(kind: type[Record]) -> None:
    found = re.search(rf"^struct grape_{kind.LAYOUT.name} .*?^}}[^\n]*;", HEADER.read_text(), re.M | re.S)
    assert found is not None
    assert found[0] == c_struct(kind.LAYOUT)


def test_the_c_header_has_the_segments_constants() -> None:
    text = HEADER.read_text()
    assert f"#define GRAPE_MAGIC UINT64_C(0x{shm.MAGIC:016x})" in text
    assert f"#define GRAPE_VERSION {shm.VERSION}u" in text
    assert f"#define GRAPE_READ_TRIES {cells.READ_TRIES}" in text
    assert f"#define GRAPE_DIAGNOSTICS_SIZE {shm.DIAGNOSTICS_SIZE} " in text
    header = re.search(r"^struct grape_header .*?^}", text, re.M | re.S)
    assert header is not None
    members = re.findall(r"^    (\w+) +(\w+)(\[64\])?; +/\* +(\d+)", header[0], re.M)
    assert [name for _, name, _, _ in members] == list(shm.Header.__slots__)
    at = 0
    for kind, _, width, offset in members:
        assert at == int(offset)
        at += 64 if width else {"int64_t": 8, "uint64_t": 8, "uint32_t": 4}[kind]
    assert at == shm.HEADER.size
