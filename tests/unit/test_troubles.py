"""The README's table of troubles says what the program says: each row is made and compared, numbers apart."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers import REPOSITORY
from pipeline.config import Alerts, Channel, Config, Ntp, Radiod
from pipeline.diagnosis import clock, host, network, streams
from pipeline.diagnosis.finding import Finding, Verdict
from pipeline.listening import Heard, Stream
from pipeline.ntp.reading import KernelState
from pipeline.ntp.rows import Row as ServerRow
from pipeline.ntp.rows import RowState
from pipeline.radiod import ChannelStatus
from pipeline.records import UNKNOWN_NS, AnchorSource, ChannelState, ChildState, NtpState
from pipeline.supervision.causes import Snapshot, channel_cause
from pipeline.supervision.troubles import ntp_cause
from snapshots import NOW, S, row, snapshot

GROUP = "239.1.2.55"
WWV = Channel("WWV 10 MHz", 10e6, 10_000_000)
CONFIG = Config(channels=(WWV,), radiod=Radiod(status_address="239.1.2.54:5006"))


def table() -> dict[str, list[list[str]]]:
    """Trouble to the code texts of its three cells."""
    text = (REPOSITORY / "README.md").read_text()
    lines = text[text.index("| trouble |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: [re.findall(r"`([^`]+)`", cell) for cell in cells] for name, *cells in rows}


def plain(text: str) -> str:
    """A text without what differs from case to case: numbers and the blanks around them."""
    return re.sub(r"[-+]?\d+(\.\d+)*", "0", re.sub(r"\s+", " ", text))


TABLE = table()


# status


def channel(child: dict[str, Any] | None = None, config: Config | None = None, **changes: Any) -> str:
    """What is said of a channel."""
    made = row(1, **changes)
    made = replace(made, child=made.child.replace(**(child or {})))
    s = snapshot(made)
    return channel_cause(made, replace(s, config=config) if config else s)[1]


def ntp(why: str = "", **changes: Any) -> str:
    """What is said of the clock."""
    s: Snapshot = snapshot()
    diagnostics = json.dumps({"why": why}).encode()
    return ntp_cause(replace(s, ntp=s.ntp.replace(**changes), ntp_diagnostics=diagnostics))[1]


STATUS: dict[str, list[Callable[[], str]]] = {
    "packets are lost": [lambda: channel(completeness_pct=98.1)],
    "radiod has stopped": [
        lambda: channel(last_packet_monotonic_ns=NOW - 8 * S),
        lambda: channel(last_packet_monotonic_ns=NOW - 90 * S),
    ],
    "SSRC is not radiod's": [
        lambda: channel({"started_monotonic_ns": NOW - 90 * S}, last_packet_monotonic_ns=UNKNOWN_NS)
    ],
    "no status from radiod": [lambda: channel(config=CONFIG, anchor_source=AnchorSource.NTP)],
    "clock not synchronised": [
        lambda: ntp("no server answers (10 timeout); the last good result is carried on", state=NtpState.HOLDOVER),
        lambda: ntp("no server answers (10 timeout)", valid=0, synced=0, state=NtpState.UNSYNCED),
    ],
    "nobody keeps the clock": [lambda: ntp(synced=0, offset_ms=250.0, state=NtpState.UNSYNCED)],
    "a worker dies again and again": [
        lambda: channel({"started_monotonic_ns": NOW - 3 * S, "reason": "killed by SIGKILL"}),
        lambda: channel({"state": ChildState.BACKOFF, "reason": "killed by SIGKILL"}),
    ],
    "disk full or read-only": [
        lambda: channel(state=ChannelState.BLOCKED, backlog=1, reason="minutes wait in memory: disk full")
    ],
    "disk does not answer": [
        lambda: channel(
            state=ChannelState.BLOCKED, backlog=3, reason="minutes wait in memory: disk has not answered for 45 s"
        )
    ],
    "/dev/shm too small": [
        lambda: channel({"state": ChildState.FATAL, "reason": "no room for shared memory segment"}),
    ],
    "memory gone after logout": [lambda: channel({"state": ChildState.FATAL, "reason": ""})],
}


@pytest.mark.parametrize("trouble", STATUS)
def test_status_column(trouble: str) -> None:
    told = [plain(make()).strip() for make in STATUS[trouble]]
    assert [plain(text).strip() for text in TABLE[trouble][0]] == told


# log


@cache
def log_formats() -> list[list[str]]:
    """Every text that the package logs, as its fixed pieces; longer ones than a mere `%s` only."""
    found = ["%s[%d]: %s, starting again in %.1f s", "unsynced: offset unknown"]  # made by outlook() and sentence()
    found.append("host clock was stepped by %.6f s")  # a note of the engine's
    for path in (REPOSITORY / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
                found += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    split = [[p.replace("%%", "%") for p in re.split(r"(?<!%)%[-.\d]*[sdfxr]", text)] for text in found]
    return [pieces for pieces in split if len("".join(pieces)) > 15]


def begins(pieces: list[str], text: str) -> bool:
    """True when `text` is the message, or a beginning of it with twenty or more fixed characters."""
    enough = [k for k in range(1, len(pieces) + 1) if len("".join(pieces[:k])) >= 20 or k == len(pieces)]
    return any(re.fullmatch(".+".join(map(re.escape, pieces[:k])) + ".*", text) for k in enough)


@pytest.mark.parametrize("trouble", [name for name, cells in TABLE.items() if cells[1] and cells[1] != ["status"]])
def test_log_column(trouble: str) -> None:
    formats = log_formats()
    for text in TABLE[trouble][1]:
        assert any(begins(pieces, text) for pieces in formats), text
    assert not any(begins(pieces, "WWV 10 MHz: minute 20261122T140300Z lost") for pieces in formats)


# doctor


def stream(**changes: Any) -> Stream:
    """WWV as it should be, but for the changes to its status."""
    status = ChannelStatus(10_000_000, None, 0, 16_000, "S16BE", 2, 2, 10e6, "iq", 0, 1, None, 0, {}, None)
    return Stream(75, {("127.0.0.1", 4000)}, replace(status, **changes), 0)


def judged(streams_heard: dict[int, Stream]) -> Finding:
    """The first line that is not ok."""
    heard = Heard(1.5, {(GROUP, ssrc): each for ssrc, each in streams_heard.items()})
    return next(f for f in streams.check(CONFIG, heard, running=True) if f.verdict is not Verdict.OK)


def buffer(folder: Path) -> Finding:
    (folder / "rmem_max").write_text("212992")
    return host.buffers(CONFIG, 212_992, folder / "rmem_max")


def membership(folder: Path) -> Finding:
    (folder / "igmp").write_text("Idx\n")
    return network.membership("eth0", [GROUP], True, folder / "igmp")


def bridge(folder: Path) -> Finding:
    (folder / "br0" / "bridge").mkdir(parents=True)
    (folder / "br0" / "bridge" / "multicast_snooping").write_text("1")
    (folder / "br0" / "bridge" / "multicast_querier").write_text("0")
    return network.querier("br0", False, folder)


def servers(_folder: Path) -> Finding:
    names = [("a", ""), ("b", "falseticker"), *((f"c{n}", "timeout") for n in range(4))]
    rows = tuple(
        ServerRow(name, None, RowState.UNUSABLE if why else RowState.COMBINED, why, None, None, None, None, 0)
        for name, why in names
    )
    return next(clock.servers(rows))


def logind(folder: Path) -> Finding:
    (folder / "run/systemd/system").mkdir(parents=True)
    return host.remove_ipc(60_000, folder)


DOCTOR: dict[str, Callable[[Path], Finding]] = {
    "packets are lost": lambda _: host.udp_losses(
        {"RcvbufErrors": 31_909}, {"RcvbufErrors": 31_909, "InDatagrams": 2_600_000}, 1.5
    ),
    "receive buffer too small": buffer,
    "radiod has stopped": lambda _: judged({}),
    "streams stop 4 to 5 minutes after the start (no IGMP querier)": bridge,
    "interface was gone for a while": membership,
    "SSRC is not radiod's": lambda _: judged({10_000: stream(ssrc=10_000)}),
    "two senders with one SSRC": lambda _: judged(
        {10_000_000: replace(stream(), senders={("127.0.0.1", 4000), ("127.0.0.2", 4001)})}
    ),
    "rate or encoding differ": lambda _: judged({10_000_000: stream(sample_rate_hz=12_000)}),
    "no status from radiod": lambda _: judged({10_000_000: replace(stream(), status=None)}),
    "clock not synchronised": servers,
    "nobody keeps the clock": lambda _: clock.daemon(
        Ntp(chronyd_address="127.0.0.1:9", ntpd_address="127.0.0.1:9"), KernelState(False, 16.0, 0.0, 0)
    ),
    "memory gone after logout": logind,
    "receiver overloaded": lambda _: judged(
        {10_000_000: stream(detail={"ad_over": 412, "samples_since_over": 390_000_000, "input_samprate": 129_600_000})}
    ),
    "radiod's AGC is on": lambda _: judged({10_000_000: stream(detail={"agc_enable": True})}),
    "radiod's clock is wrong": lambda _: judged({10_000_000: stream(gps_time_utc_ns=3_200_000_000)}),
    "radiod's front end stands": lambda _: judged({10_000_000: replace(stream(), packets=0)}),
    "alerts go nowhere": lambda _: next(host.alerts(Config(alerts=Alerts(command=("mail",))))),
}
# The rest needs a full disk, a small /dev/shm or a dead instance: test_doctor.py, test_doctor_faults.py.
ELSEWHERE = {
    "a worker dies again and again", "disk full or read-only", "disk does not answer", "disk fills up",
    "/dev/shm too small", "ended without order", "configuration", "clock was set", "machine too busy, or asleep",
}  # fmt: skip


@pytest.mark.parametrize("trouble", DOCTOR)
def test_doctor_column(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_user", lambda _uid: "grape")
    monkeypatch.setattr("shutil.which", lambda _: None)
    found = DOCTOR[trouble](tmp_path)
    assert [plain(text) for text in TABLE[trouble][2]] == [plain(f"{found.verdict} {found.topic} {found.found}")]
    assert found.mend


def test_every_row_is_made_here_or_elsewhere() -> None:
    assert set(TABLE) == set(DOCTOR) | ELSEWHERE
