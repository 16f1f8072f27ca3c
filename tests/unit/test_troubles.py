"""The README's table of troubles says what the program says: each cell is made and compared, numbers apart."""

from __future__ import annotations

import ast
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import REPOSITORY
from pipeline import doctor
from pipeline.config import Alerts, Channel, Config, ConfigError, Ntp, Radiod, Recorder, parse_config
from pipeline.diagnosis import clock, host, network, streams
from pipeline.diagnosis.finding import Finding, Verdict
from pipeline.listening import Heard, Stream
from pipeline.ntp.reading import KernelState
from pipeline.ntp.report import sentence
from pipeline.ntp.rows import Row as ServerRow
from pipeline.ntp.rows import RowState
from pipeline.radiod import ChannelStatus
from pipeline.records import (
    FLAG_AGC,
    UNKNOWN_NS,
    AlertsRecord,
    AnchorSource,
    ChannelState,
    ChildState,
    NtpRecord,
    NtpState,
)
from pipeline.shm import SharedMemoryError
from pipeline.supervision import instance
from pipeline.supervision.causes import Snapshot
from pipeline.supervision.report import lines, ntp_words
from pipeline.supervision.restarts import Life, Limits
from pipeline.supervision.story import Story
from pipeline.supervision.troubles import health
from snapshots import NOW, S, row, snapshot

GROUP = "239.1.2.55"
WWV = Channel("WWV 10 MHz", 10e6, 10_000_000)
CONFIG = Config(channels=(WWV,), radiod=Radiod(status_address="239.1.2.54:5006"))
BAD_CONFIG = '[ntp]\nmode = "x"\n[[channels]]\nname = "A"\nfrequency_hz = 1e6\n'


def table() -> dict[str, list[list[str]]]:
    """Trouble to the code texts of its three cells: `status` and `top`, log, `doctor`."""
    text = (REPOSITORY / "README.md").read_text()
    rows = text[text.index("| trouble |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    return {name: [re.findall(r"`([^`]+)`", cell) for cell in others] for name, *others in cells}


def plain(text: str) -> str:
    """A text without what differs from case to case: numbers and the blanks around them."""
    return re.sub(r"[-+]?\d+(\.\d+)*", "0", re.sub(r"\s+", " ", text)).strip()


TABLE = table()
Texts = list[Callable[[], str]]


def test_no_cell_is_empty() -> None:
    assert {name: len(cells) for name, cells in TABLE.items()} == dict.fromkeys(TABLE, 3)
    assert [name for name, cells in TABLE.items() if not all(cells)] == []


# status


def seen(child: dict[str, Any] | None = None, config: Config = CONFIG, **changes: Any) -> Snapshot:
    """An instance with one channel of which something is to be told."""
    made = row(1, **changes)
    s = snapshot(replace(made, child=made.child.replace(name=WWV.id, **(child or {})), channel=WWV))
    return replace(s, config=replace(config, recorder=replace(config.recorder, data_dir=Path("/data"))))


def told(s: Snapshot) -> str:
    """The first line of what `status` has to say."""
    return health(s).causes[0]


def channel(child: dict[str, Any] | None = None, config: Config = CONFIG, **changes: Any) -> str:
    """What is said of the channel, without its name."""
    return told(seen(child, config, **changes)).removeprefix(f"{WWV.id}: ")


def clocked(why: str = "", **changes: Any) -> Snapshot:
    """An instance whose clock is to be told of."""
    s = snapshot()
    return replace(s, ntp=s.ntp.replace(**changes), ntp_diagnostics=json.dumps({"why": why}).encode())


SILENT = [seen(last_packet_monotonic_ns=NOW - 8 * S), seen(last_packet_monotonic_ns=NOW - 90 * S)]
UNHEARD = seen({"started_monotonic_ns": NOW - 90 * S}, last_packet_monotonic_ns=UNKNOWN_NS)
STRANGER = seen({"packets_bad_1m": 3_000, "packets_received_1m": 3_000})
BUFFER = seen({"socket_dropped_1m": 412}, socket_buffer_bytes=208 << 10)
OVERLOADED = seen(overload_age_s=3.0)
AGC = seen(radiod_flags=FLAG_AGC)
AHEAD = seen(radiod_offset_ms=3200.0)
RATE = seen(sample_rate_hz=12_000)
NO_STATUS = seen(anchor_source=AnchorSource.NTP)
UNKEPT = clocked(synced=0, offset_ms=250.0, state=NtpState.UNSYNCED)
HANGING = seen(state=ChannelState.BLOCKED, backlog=3, reason="minutes wait in memory: disk has not answered for 45 s")
FULL = seen(state=ChannelState.BLOCKED, backlog=1, reason="minutes wait in memory: disk full")
LOW = seen(disk_free_bytes=5_000_000_000)
DYING = seen({"started_monotonic_ns": NOW - 3 * S, "reason": "killed by SIGKILL"})
DEAD = seen({"state": ChildState.BACKOFF, "reason": "killed by SIGKILL"})
NO_ROOM = seen(
    {"state": ChildState.FATAL, "reason": "no room for shared memory segment /grape-pipeline-default-WWV_10_MHz"}
)
PAUSED = replace(snapshot(), supervisor=snapshot().supervisor.replace(paused_monotonic_ns=NOW - 40 * S, paused_s=3.1))
ORPHANED = replace(snapshot(), supervisor_exists=False)
UNTOLD = replace(
    snapshot(),
    alerts=snapshot().monitor.replace(name="alerts"),
    alerts_report=AlertsRecord(NOW, waiting=1, reason="command: exit status 1"),
)
HOLDOVER = "no server answers (10 timeout); the last good result is carried on"


def bare(s: Snapshot) -> str:
    return told(s).removeprefix(f"{WWV.id}: ")


def unseen() -> str:
    """What is told of an instance whose shared memory is gone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance, "running_pid", lambda _: 4711)
        return instance.why_absent("default-that-is-not", SharedMemoryError("none"))[0].replace("-that-is-not", "")


def fault() -> str:
    """The first fault of a configuration."""
    with pytest.raises(ConfigError) as caught:
        parse_config(BAD_CONFIG, Path("a.toml"))
    return str(caught.value)


STATUS: dict[str, Texts] = {
    "packets are lost": [lambda: channel(completeness_pct=98.1)],
    "receive buffer too small": [lambda: bare(BUFFER)],
    "radiod has stopped": [lambda: bare(SILENT[0]), lambda: bare(SILENT[1])],
    "streams stop 4 to 5 minutes after the start (no IGMP querier)": [lambda: bare(SILENT[1])],
    "interface was gone for a while": [lambda: bare(SILENT[1])],
    "SSRC is not radiod's": [lambda: bare(UNHEARD)],
    "two senders with one SSRC": [lambda: bare(STRANGER)],
    "rate or encoding differ": [lambda: bare(RATE)],
    "radiod's front end stands": [lambda: bare(SILENT[1])],
    "receiver overloaded": [lambda: bare(OVERLOADED)],
    "radiod's AGC is on": [lambda: bare(AGC)],
    "radiod's clock is wrong": [lambda: bare(AHEAD)],
    "no status from radiod": [lambda: bare(NO_STATUS)],
    "clock not synchronised": [
        lambda: told(clocked(HOLDOVER, state=NtpState.HOLDOVER)),
        lambda: told(clocked("no server answers (10 timeout)", valid=0, synced=0, state=NtpState.UNSYNCED)),
    ],
    "nobody keeps the clock": [lambda: told(UNKEPT)],
    "clock was set": [lambda: next(w for w in ntp_words(clocked(step_count=1)) if "set" in w)],
    "machine too busy, or asleep": [lambda: lines(PAUSED)[0].partition("; ")[2]],
    "a worker dies again and again": [lambda: bare(DYING), lambda: bare(DEAD)],
    "disk full or read-only": [lambda: bare(FULL)],
    "disk does not answer": [lambda: bare(HANGING)],
    "disk fills up": [lambda: bare(LOW)],
    "/dev/shm too small": [lambda: bare(NO_ROOM)],
    "memory gone after logout": [unseen],
    "ended without order": [lambda: told(ORPHANED)],
    "alerts go nowhere": [lambda: told(UNTOLD)],
    "configuration": [fault],
}


@pytest.mark.parametrize("trouble", TABLE)
def test_status_column(trouble: str) -> None:
    assert [plain(text) for text in TABLE[trouble][0]] == [plain(make()) for make in STATUS[trouble]]


# log


def logged(module: str, beginning: str, *arguments: object) -> str:
    """What the module's log call with this text says."""
    found = []
    for node in ast.walk(ast.parse((REPOSITORY / f"pipeline/{module}.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
            found += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    (text,) = {each for each in found if each.startswith(beginning) and takes(each, len(arguments))}
    return text % arguments


def takes(text: str, count: int) -> bool:
    return text.replace("%%", "").count("%") == count


def story(s: Snapshot) -> str:
    """The line that a trouble gets when it has lasted; its words are those of `status`."""
    teller = Story()
    teller.look(s)
    line = teller.look(later(s))[0]
    return logged("supervision/publication", "%s: %s", line.who or "supervisor", line.text)


def later(s: Snapshot) -> Snapshot:
    """Four seconds on, with the same ages."""
    step = 4 * S

    def moved(record: Any) -> Any:
        names = [f.name for f in record.LAYOUT.fields if f.name.endswith("monotonic_ns")]
        known = {n: getattr(record, n) + step for n in names if getattr(record, n) != UNKNOWN_NS}
        return record.replace(**known)

    rows = tuple(replace(r, child=moved(r.child), record=moved(r.record)) for r in s.rows)
    return replace(
        s, now_ns=s.now_ns + step, rows=rows, supervisor=moved(s.supervisor), monitor=moved(s.monitor),
        ntp=moved(s.ntp),
    )  # fmt: skip


def silent_group() -> str:
    return logged("supervision/membership", "%s: silent for", f"{GROUP}:5004", 8)


ASKED = ("WWV 10 MHz", "239.1.2.54", 5006, 10_000_000, 1, 1)
FILE = "20261122T140300Z_10000000_iq.npz"
UNSYNCED = NtpRecord(state=NtpState.UNSYNCED)


def died() -> str:
    """What becomes of a worker that was killed, as the log tells it."""
    life = Life(Limits(2.0, 60.0, 30.0, 10.0, 2.0, 20.0))
    life.forked(0)
    life.exited(-9, 0)
    return logged("supervision/supervisor", "%s[%d]: %s", WWV.id, 4711, life.outlook(0))


LOG: dict[str, Texts] = {
    "packets are lost": [
        lambda: logged("worker", "%s: minute %s written", "WWV 10 MHz", FILE[:16], 98.1, 57, 55, 138, FILE)
    ],
    "receive buffer too small": [
        lambda: logged("sockets", "channel %s: receive buffer", "WWV 10 MHz", 208, 2.1, 10, 16_777_216),
        lambda: logged("worker", "%s: %d packets lost", "WWV 10 MHz", 412, 208),
    ],
    "radiod has stopped": [lambda: logged("radiod", "channel %s: not heard", *ASKED), silent_group],
    "streams stop 4 to 5 minutes after the start (no IGMP querier)": [silent_group],
    "interface was gone for a while": [
        lambda: logged(
            "supervision/membership",
            "%s: silent, and",
            f"{GROUP}:5004",
            "radiod.interface 'eth0' does not exist on this machine; there are: lo 127.0.0.1",
        )
    ],
    "SSRC is not radiod's": [lambda: logged("radiod", "channel %s: not heard", *ASKED)],
    "two senders with one SSRC": [lambda: story(STRANGER)],
    "rate or encoding differ": [lambda: story(RATE)],
    "radiod's front end stands": [silent_group],
    "receiver overloaded": [lambda: story(OVERLOADED)],
    "radiod's AGC is on": [lambda: story(AGC)],
    "radiod's clock is wrong": [lambda: story(AHEAD)],
    "no status from radiod": [lambda: story(NO_STATUS)],
    "clock not synchronised": [lambda: sentence(UNSYNCED, 10, "no server answers (10 timeout)")],
    "nobody keeps the clock": [lambda: sentence(UNKEPT.ntp, 10)],
    "clock was set": [
        lambda: logged("hostclock", "%s: the host's clock was set", "WWV 10 MHz", 0.25),
    ],
    "machine too busy, or asleep": [
        lambda: logged("supervision/supervisor", "the supervisor could not", 3.1),
        lambda: logged("supervision/surroundings", "the machine slept", 812.0),
    ],
    "a worker dies again and again": [died],
    "disk full or read-only": [
        lambda: logged("worker", "%s: cannot write", "WWV 10 MHz", OSError(28, "No space left on device", "/data"))
    ],
    "disk does not answer": [lambda: story(HANGING)],
    "disk fills up": [lambda: story(LOW)],
    "/dev/shm too small": [lambda: logged("supervision/supervisor", "%s: %s", WWV.id, NO_ROOM.rows[0].child.reason)],
    "memory gone after logout": [lambda: logged("supervision/publication", "shared memory", "/grape-pipeline-default")],
    "ended without order": [lambda: logged("supervision/service", "instance %s: the last", "default")],
    "alerts go nowhere": [
        lambda: logged("alerts/delivery", "alert not sent", "command", "exit status 1", 60, "pi: WWV_10_MHz silent")
    ],
    "configuration": [lambda: logged("supervision/control_api", "reload: %s", fault())],
}


@pytest.mark.parametrize("trouble", TABLE)
def test_log_column(trouble: str) -> None:
    assert [plain(text) for text in TABLE[trouble][1]] == [plain(make()) for make in LOG[trouble]]


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


def running(s: Snapshot) -> Finding:
    """What `doctor` has to say of an instance that runs."""
    return next(iter(doctor._instance(CONFIG, s)))


def steps(_folder: Path) -> Finding:
    nobody = Ntp(chronyd_address="127.0.0.1:9", ntpd_address="127.0.0.1:9")
    return next(f for f in clock.check(nobody, clocked(step_count=1).ntp) if f.topic == "steps")


def on_disk(folder: Path, problem: Callable[[], OSError | None] = lambda: None) -> Finding:
    """The first line on the disk that is not ok."""
    config = replace(CONFIG, recorder=Recorder(data_dir=folder, min_free_gb=1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "DISK_PATIENCE_S", 0.2)
        patch.setattr(host, "_not_writable", lambda _: problem())
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5e9))
        found = next(f for f in host.disk(config, 1000.0) if f.verdict is not Verdict.OK)
    return replace(found, found=found.found.replace(str(folder), "/data"))


def hanging(folder: Path) -> Finding:
    answered = threading.Event()
    try:
        return on_disk(folder, lambda: answered.wait(30) and None)  # type: ignore[func-returns-value]
    finally:
        answered.set()


def small_memory(folder: Path) -> Finding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.statvfs", lambda _: SimpleNamespace(f_bavail=10_000, f_frsize=1000))
        found = next(host.shared_memory(CONFIG, folder))
    return replace(found, found=found.found.replace(str(folder), "/dev/shm"))


def unseen_instance(_folder: Path) -> Finding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance, "running_pid", lambda _: 4711)
        config = replace(CONFIG, recorder=Recorder(instance="default-that-is-not"))
        (found,) = doctor._instance(config, None)
    return replace(found, found=found.found.replace("-that-is-not", ""))


def leftover(folder: Path) -> Finding:
    (folder / "grape-pipeline-default-WWV_10_MHz").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "SHM_DIR", folder)
        patch.setattr(host, "running_pid", lambda _: None)
        patch.setattr(host, "locked", lambda _: False)
        patch.setattr(host, "socket_path", lambda _: folder / "none")
        return next(host.left_behind(CONFIG))


def faulty(_folder: Path) -> Finding:
    with pytest.raises(ConfigError) as caught:
        parse_config(BAD_CONFIG, Path("a.toml"))
    return next(doctor._faults(caught.value, Path("a.toml")))


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
    "receiver overloaded": lambda _: judged(
        {10_000_000: stream(detail={"ad_over": 412, "samples_since_over": 390_000_000, "input_samprate": 129_600_000})}
    ),
    "radiod's AGC is on": lambda _: judged({10_000_000: stream(detail={"agc_enable": True})}),
    "radiod's clock is wrong": lambda _: judged({10_000_000: stream(gps_time_utc_ns=3_200_000_000)}),
    "radiod's front end stands": lambda _: judged({10_000_000: replace(stream(), packets=0)}),
    "alerts go nowhere": lambda _: next(host.alerts(Config(alerts=Alerts(command=("mail",))))),
    "clock was set": steps,
    "machine too busy, or asleep": lambda _: running(PAUSED),
    "a worker dies again and again": lambda _: running(DEAD),
    "disk full or read-only": lambda folder: on_disk(folder, lambda: OSError(28, "No space left on device")),
    "disk does not answer": hanging,
    "disk fills up": on_disk,
    "/dev/shm too small": small_memory,
    "memory gone after logout": unseen_instance,
    "ended without order": leftover,
    "configuration": faulty,
}


# What it says as long as nothing has happened.
BEFORE: dict[str, Callable[[Path], Finding]] = {"memory gone after logout": logind}


@pytest.mark.parametrize("trouble", TABLE)
def test_doctor_column(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_user", lambda _uid: "grape")
    monkeypatch.setattr("shutil.which", lambda _: None)
    before = [BEFORE[trouble]] if trouble in BEFORE else []
    found = [make(tmp_path) for make in (*before, DOCTOR[trouble])]
    assert [plain(text) for text in TABLE[trouble][2]] == [plain(f"{f.verdict} {f.topic} {f.found}") for f in found]
    assert all(f.mend for f in found)
