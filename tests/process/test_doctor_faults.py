"""`doctor` where the faults are real: network namespaces, a full queue, small and read-only file systems."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import REPOSITORY, Names, free_port, needs, needs_root
from pipeline.diagnosis import host
from pipeline.diagnosis.finding import Verdict

CONFIG = """
[recorder]
instance = "{instance}"
data_dir = "{data_dir}"
[radiod]
data_address = "{group}:5004"
interface = "{interface}"
[ntp]
sources = ["servers"]
servers = ["127.0.0.1:{port}"]
chronyd_address = "127.0.0.1:{port}"
ntpd_address = "127.0.0.1:{port}"
timeout_s = 0.05
[[channels]]
name = "WWV 10 MHz"
frequency_hz = 10_000_000
"""
# One end of a cable, the other end being up.
ADD = "ip link add gp0 type veth peer name gp1 && ip link set gp1 up && "


@pytest.fixture
def isolated(names: Names, tmp_path: Path) -> Any:
    """Runs `doctor` after a shell command in a network and mount namespace of its own; findings by topic."""
    needs_root()
    unshare, shell = needs("unshare"), needs("sh")
    needs("ip")

    def examine(prepare: str, interface: str = "gp0", data_dir: Path = tmp_path) -> dict[str, list[dict[str, Any]]]:
        path = tmp_path / "a.toml"
        facts = {"instance": names.instance, "group": names.group, "port": free_port()}
        path.write_text(CONFIG.format(interface=interface, data_dir=data_dir, **facts))
        command = f'ip link set lo up && {prepare} exec "$0" -m pipeline doctor --seconds 0.1 --json -c "$1"'
        done = subprocess.run(
            [unshare, "-n", "-m", shell, "-c", command, sys.executable, str(path)],
            capture_output=True, text=True, check=False, timeout=30,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
        topics: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(done.stdout)["findings"]:
            topics.setdefault(finding["topic"], []).append(finding)
        return topics

    return examine


def test_interface_that_does_not_exist(isolated: Any) -> None:
    found = isolated("")
    (line,) = found["interface"]
    assert line["verdict"] == "fail" and "'gp0' does not exist" in line["found"] and "lo 127.0.0.1" in line["found"]
    assert found["radiod"][0]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("prepare", "verdict", "told", "mend"),
    [
        ("true", "fail", "gp0 is down", "sudo ip link set gp0 up"),
        ("ip link set gp0 multicast off up", "fail", "does not take multicast", "sudo ip link set gp0 multicast on"),
        ("ip link set gp1 down && ip link set gp0 up", "fail", "gp0 has no carrier", "connect the cable"),
        ("ip link set gp0 up", "warn", "no IPv4 address", "sudo ip address add"),
        ("ip link set gp0 up && ip address add 10.9.8.7/24 dev gp0", "ok", "gp0 10.9.8.7, up", ""),
    ],
)
def test_state_of_the_interface_and_the_command_that_mends_it(
    prepare: str, verdict: str, told: str, mend: str, isolated: Any
) -> None:
    (line,) = isolated(f"{ADD}{prepare} &&")["interface"]
    assert (line["verdict"], told in line["found"]) == (verdict, True), line
    assert (line["mend"] or "").startswith(mend)


def test_route_and_the_command_that_mends_it(isolated: Any) -> None:
    up = f"{ADD}ip link set gp0 up && ip address add 10.9.8.7/24 dev gp0 &&"
    (line,) = isolated(up)["route"]
    assert line["verdict"] == "warn" and "there is no route" in line["found"]
    (mended,) = isolated(f"{up} {line['mend'].removeprefix('sudo ')} &&")["route"]
    assert mended["verdict"] == "ok"


def test_wires_that_are_silent_are_the_querier_or_radiod(isolated: Any) -> None:
    found = isolated(f"{ADD}ip link set gp0 up && ip address add 10.9.8.7/24 dev gp0 &&")
    assert found["querier"][0]["verdict"] == "warn"
    assert found["radiod"][0]["verdict"] == "fail" and "nothing from" in found["radiod"][0]["found"]


def test_bridge_that_snoops_without_a_querier_and_the_command_that_mends_it(isolated: Any) -> None:
    # sysfs shows the namespace in which it was mounted.
    bridge = (
        f"{ADD}ip link set gp0 up && ip link add br0 type bridge && ip link set gp0 master br0 && "
        "ip link set br0 up && ip address add 10.9.8.7/24 dev br0 && mount -t sysfs sysfs /sys &&"
    )
    (line,) = isolated(bridge, "br0")["querier"]
    assert line["verdict"] == "warn" and "bridge br0 snoops IGMP" in line["found"]
    (mended,) = isolated(f"{bridge} {line['mend'].removeprefix('sudo ')} &&", "br0")["querier"]
    assert "bridge" not in mended["found"]


def test_small_shared_memory(isolated: Any) -> None:
    (line,) = isolated("mount -t tmpfs -o size=12m tmpfs /dev/shm &&", "lo")["shm"]
    assert line["verdict"] == "fail" and "remount,size=" in line["mend"]


def test_read_only_and_full_disks(isolated: Any, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    line = isolated(f"mount -t tmpfs -o ro,size=1m tmpfs {folder} &&", "lo", folder)["disk"][0]
    assert line["verdict"] == "fail" and "Read-only" in line["found"] and "remount,rw" in line["mend"]
    fill = f"mount -t tmpfs -o size=64k tmpfs {folder} && {{ cat /dev/zero >{folder}/a 2>/dev/null; true; }} &&"
    line = isolated(fill, "lo", folder)["disk"][0]
    assert line["verdict"] == "fail" and "make room" in line["mend"]


def test_datagrams_that_find_no_room_are_seen() -> None:
    before = host.udp_counters()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker,
    ):
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.bind(("127.0.0.1", 0))
        for _ in range(200):
            speaker.sendto(b"\0" * 1000, deaf.getsockname())
    found = host.udp_losses(before, host.udp_counters(), 1.5)
    assert found.verdict is Verdict.FAIL
    assert "for want of buffer" in found.found
