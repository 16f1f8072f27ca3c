"""The service units under a real systemd: README's installation, restarts, kills, hangs, an upgrade, a reboot.

    sudo .venv/bin/python -m tests.systemd [--folder /var/tmp/grape-systemd]

In a container with a simulated radiod and no network but its own loopback. Every sample that was
sent must be in the files. A line for each thing shown, exit status 0 or 1, in five minutes. Takes root,
`apt install debootstrap systemd-container`, one such run at a time, and 1 GB in --folder: what Debian's and
PyPI's servers were asked for the first time is kept there. It tries what is committed.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # as pytest does
from helpers import REPOSITORY
from pipeline.simulator.truth import Truth
from systemd.container import CLONE, Container, make_root, until
from truthcheck import check_simulated, load_tree

UNIT, WEB = "grape-pipeline@default", "grape-pipeline-web@default"
CHANNELS = {"CHU 7.85 MHz": 7_850_000, "WWV 5 MHz": 5_000_000, "WWV 10 MHz": 10_000_000}
RATE = 16_000
CONFIG, DATA, TRUTH = "etc/grape-pipeline/grape-pipeline.toml", "var/lib/grape-pipeline", "var/lib/truth"
NTP_PORTS = range(11123, 11127)
# Of init: callsign, locator, status group, interface, folder, whether to listen.
ANSWERS = "AC0G\nEM38ww\n239.1.2.54:5006\nlo\n\n\n"
ALL_UP = f"{len(CHANNELS)}/{len(CHANNELS)} up"
# Data and two status sockets of each channel.
SOCKETS = str(3 * len(CHANNELS))
# systemd's own judgement: 0 is closed, 10 open.
EXPOSURE = {UNIT: 2.0, WEB: 1.6}
WATCHDOG_S, STOP_S, RESTART_S, WORKER_STOPPED_S = 60.0, 75.0, 30.0, 20.0
READ_CLOCK = "'from pipeline.ntp.kernel import read; print(read())'"


class Trial:
    """The steps, in order, and what they found."""

    def __init__(self, box: Container) -> None:
        self.box = box
        self.failed = 0
        self.joined = 0

    def shown(self, what: str, holds: object, found: object = "") -> None:
        """Tell one result."""
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {what}" + (f": {found}" if str(found) else ""), flush=True)

    def install(self) -> None:
        """README's commands, by an operator who may use sudo, on a machine whose radiod is the simulator."""
        self.box.run(f"useradd -s /bin/bash pi && chown -R pi: /{Path(CLONE).parent}")
        self.operator("bin/grape-pipeline --version")
        channels = " ".join(f"--channel '{name}:{hz}'" for name, hz in CHANNELS.items())
        servers = f"--ntp-servers {len(NTP_PORTS)} --ntp-base-port {NTP_PORTS[0]}"
        simulate = f"bin/grape-pipeline simulate --programme counter --truth /{TRUTH} {servers} {channels}"
        began = time.monotonic()
        self.box.run(f"systemd-run -q --unit=radiod -p WorkingDirectory=/{CLONE} /{CLONE}/{simulate}")
        clone, init, install = commands()
        self.operator(clone)
        told = self.operator(f"script -qec '{init}' /dev/null", ANSWERS)
        self.shown("README: init finds radiod's channels", f"radiod sends {len(CHANNELS)}" in told)
        self.edit("#servers = .*", f"servers = {json.dumps([f'127.0.0.1:{port}' for port in NTP_PORTS])}")
        self.edit("#sources = .*", 'sources = ["servers"]')
        told = self.operator(install)
        running = "Active: active (running)" in told
        self.shown("README: install-service", running, "" if running else told)
        self.shown("every channel hears its stream", until(self.hears_all, RESTART_S))
        self.joined = round((time.monotonic() - began + 1) * RATE)

    def look(self) -> None:
        """What an operator sees of a sound instance, and what it may do."""
        self.shown("ready, STATUS=", self.sound(), self.box.show(UNIT, "StatusText"))
        told = self.operator("sudo grape-pipeline doctor")
        self.shown("doctor fails nothing", not re.search("(?m)^fail", told), told.splitlines()[-1])
        told = self.box.out("cat /proc/$(pgrep -x gp-super)/status")
        self.shown("no privileges", re.search(r"NoNewPrivs:\s*1", told) and re.search(r"CapEff:\s*0+\n", told))
        # Under the unit's own filter, since nobody tells what the monitor was refused.
        allowed = f"-p SystemCallErrorNumber=EPERM -p SystemCallFilter='{self.box.show(UNIT, 'SystemCallFilter')}'"
        python = "/opt/grape-pipeline/.venv/bin/python"
        told = self.box.out(f"systemd-run -q --pipe --wait -p User=grape-pipeline {allowed} {python} -c {READ_CLOCK}")
        self.shown("the kernel's clock state can be read", told.startswith("KernelState"), told)
        self.exposure(UNIT)
        archives = self.box.root / DATA / "archives"
        wrote = until(lambda: len(list(archives.rglob("*.npz"))) == len(CHANNELS), 70)
        self.shown("minutes are written", wrote)

    def disturb(self) -> None:
        """Everything that must not cost a sample."""
        self.replaced("systemctl restart", lambda: self.box.run(f"systemctl restart {UNIT}"))
        # As an upgrade of systemd does.
        self.box.run("systemctl daemon-reexec; systemctl restart systemd-journald")
        self.replaced("SIGKILL of the supervisor, after daemon-reexec", lambda: self.signal("KILL"))
        warned = any("did not stop in order" in line for line in self.journal("warning"))
        self.shown("warnings have their priority in the journal", warned)
        self.logout()
        self.upgrade()
        self.stop_worker()
        self.reload()
        self.hang()

    def logout(self) -> None:
        """logind removes what a user leaves in /dev/shm, but not what the recorder's has there."""
        session = "systemd-run -q --wait -p PAMName=login -p User="
        before = self.box.out("ls /dev/shm")
        done = self.box.run(f"{session}pi touch /dev/shm/x && {session}grape-pipeline true")
        gone = done.returncode == 0 and until(lambda: self.box.out("ls /dev/shm") == before, 30)
        self.shown("logout: the recorder's shared memory stays, others' goes", gone and self.sound())

    def upgrade(self) -> None:
        """README's, to a version with other dependencies, so that the packages are installed again."""
        git = "git -c user.name=a -c user.email=a@example.org"
        self.operator("sed -i 's/^__version__ = .*/__version__ = \"9.9.9\"/' pipeline/__init__.py")
        self.operator(f'sed -i \'s/"ntplib>=.*"/"ntplib>=0.3"/\' pyproject.toml; {git} commit -qam 9.9.9')
        self.operator("sudo git -C /opt/grape-pipeline pull")
        self.replaced("upgrade to another version", lambda: self.operator(commands()[2]))
        told = self.box.out("curl -s --unix-socket /run/grape-pipeline/default.control.sock http://localhost/status")
        self.shown("the new version runs", json.loads(told)["version"] == "9.9.9")

    def stop_worker(self) -> None:
        """Stopped for longer than the heartbeat's limit, so that the supervisor replaces it."""
        pid = self.worker("WWV_5_MHz")
        self.box.run(f"kill -STOP {pid}; sleep {WORKER_STOPPED_S}; kill -CONT {pid}")
        replaced = until(lambda: self.sound() and self.worker("WWV_5_MHz") not in ("", pid), RESTART_S)
        self.shown(f"a worker stopped for {WORKER_STOPPED_S:.0f} s is replaced", replaced)

    def reload(self) -> None:
        """A faulty configuration changes nothing, a sound one is taken."""
        sound, pid = self.config(), self.box.show(UNIT, "MainPID")
        self.write(sound + "\n[nonsense]\n")
        self.box.run(f"systemctl reload {UNIT}")
        refused = until(lambda: any("configuration stays in force" in line for line in self.journal("err")), RESTART_S)
        self.shown("reload of a faulty configuration changes nothing", refused and self.sound())
        alerts = '[alerts]\ncommand = ["/usr/bin/tee", "-a", "/var/lib/grape-pipeline/alerts"]\nafter_s = 5.0'
        self.write(sound.replace("[alerts]", alerts))
        self.box.run(f"systemctl reload {UNIT}")
        taken = until(lambda: self.worker("gp-alerts"), RESTART_S) and self.box.show(UNIT, "MainPID") == pid
        self.shown("reload takes the new configuration", taken)
        told = self.operator("sudo grape-pipeline alerts --test")
        self.shown("alerts --test as the service does", "as grape-pipeline" in told and "command: sent" in told)

    def hang(self) -> None:
        """The supervisor stopped until the watchdog strikes; meanwhile a worker for 20 s, whom nobody replaces."""
        pid = self.worker("WWV_10_MHz")

        def stop() -> None:
            self.signal("STOP")
            self.box.run(f"kill -STOP {pid}; sleep {WORKER_STOPPED_S}; kill -CONT {pid}")
            self.shown(f"a worker goes on after {WORKER_STOPPED_S:.0f} s", self.worker("WWV_10_MHz") == pid)

        self.replaced("watchdog: a supervisor that hangs", stop, WATCHDOG_S + RESTART_S)
        where = any('supervisor.py", line' in line for line in self.journal("info"))
        told = any("Watchdog timeout" in line for line in self.journal("err"))
        self.shown("watchdog: told in the journal, and where it hung", told and where)

    def stop(self) -> None:
        """What is held is written, and all of it is what was sent."""
        sent, began = Truth.read(self.box.root / TRUTH), time.monotonic()
        self.box.run(f"systemctl stop {UNIT}")
        took = time.monotonic() - began
        self.shown("systemctl stop", took < STOP_S and self.box.show(UNIT, "Result") == "success", f"{took:.1f} s")
        left = self.box.out("ls /dev/shm")
        self.shown("nothing is left in shared memory", not left, left)
        self.compare(sent, ())
        self.shown("no minute in two parts", not list((self.box.root / DATA / "parts").rglob("*.npz")))

    def refuse(self) -> None:
        """Exit status 78 is final, until somebody mends the configuration."""
        sound = self.config()
        self.write(sound + "\n[nonsense]\n")
        self.box.run(f"systemctl start {UNIT}; sleep 5")  # five times RestartSec
        state = [self.box.show(UNIT, key) for key in ("ActiveState", "ExecMainStatus", "NRestarts")]
        self.shown("a faulty configuration is not tried again", state == ["failed", "78", "0"], state)
        self.shown("and is told in the journal", any("nonsense" in line for line in self.journal("err")))
        self.write(sound)
        self.box.run(f"systemctl start {UNIT}")
        self.shown("mended, it starts", until(self.sound, RESTART_S))

    def page(self) -> None:
        """The web unit, beside it."""
        self.operator("sudo /opt/grape-pipeline/.venv/bin/pip install waitress matplotlib")
        self.operator(
            f"sudo cp etc/grape-pipeline-web@.service /etc/systemd/system/; sudo systemctl enable --now {WEB}"
        )
        live, picture = (f"curl -s http://127.0.0.1:8073/{path}" for path in ("live.json", "minute/WWV_10_MHz.png"))
        self.shown("web unit: the page answers", until(lambda: "WWV_10_MHz" in self.box.out(live), RESTART_S))
        self.shown("web unit: it draws", "PNG" in self.box.out(f"{picture} | head -c 4"))
        self.exposure(WEB)

    def reboot(self) -> None:
        """What is held is written before, and after it recording goes on."""
        sent = Truth.read(self.box.root / TRUTH)
        self.box.run("systemctl reboot")
        self.box.boot()
        self.shown("reboot: starts with the machine", until(self.sound, RESTART_S))
        self.compare(sent, ("start", "stop"))

    def alert(self) -> None:
        """radiod does not start with the machine, and somebody is told."""
        path = self.box.root / DATA / "alerts"
        self.shown("an alert while radiod is silent", until(lambda: "silent" in path.read_text(), 60))

    # What several steps need

    def replaced(self, what: str, do: Callable[[], object], patience_s: float = RESTART_S) -> None:
        """`do` ends the supervisor; systemd has another up with the same sockets."""
        old, began = self.box.show(UNIT, "MainPID"), time.monotonic()
        do()
        back = until(lambda: self.box.show(UNIT, "MainPID") not in ("0", old) and self.sound(), patience_s)
        took, kept = time.monotonic() - began, self.box.show(UNIT, "NFileDescriptorStore")
        self.shown(what, back and kept == SOCKETS, f"up after {took:.1f} s, {kept} sockets kept")

    def compare(self, sent: Truth, excused: tuple[str, ...]) -> None:
        """The files against what was sent; only what is listed with a cause that is `excused` may be missing."""
        data = self.box.root / DATA
        for name, ssrc in CHANNELS.items():
            verdict = check_simulated(data, sent, ssrc, self.joined, excused)
            causes = {str(cause) for values in load_tree(data, ssrc) for cause in values["gap_cause"]}
            told = "; ".join([f"{verdict.files} files, {verdict.samples} samples", *verdict.faults[:3]])
            self.shown(f"{name}: files are what was sent", not verdict.faults and causes <= {"start", "stop"}, told)

    def exposure(self, unit: str) -> None:
        score = re.search(r"exposure level for \S+ ([\d.]+)", self.box.out(f"systemd-analyze security {unit}"))
        self.shown(f"systemd-analyze security {unit}", score and float(score[1]) <= EXPOSURE[unit], score and score[1])

    def sound(self) -> bool:
        return [self.box.show(UNIT, key) for key in ("ActiveState", "StatusText")] == ["active", ALL_UP]

    def hears_all(self) -> bool:
        told = self.box.run("grape-pipeline status --json 2>/dev/null").stdout
        return told.startswith("{") and all(row["packets_received"] > 0 for row in json.loads(told)["channels"])

    def operator(self, command: str, stdin: str = "") -> str:
        return self.box.run(command, stdin, "pi").stdout

    def signal(self, name: str) -> None:
        self.box.run(f"systemctl kill --kill-whom=main -s {name} {UNIT}")

    def worker(self, name: str) -> str:
        return self.box.out(f"pgrep -x {name}")

    def journal(self, priority: str) -> list[str]:
        """The unit's lines of exactly this priority."""
        return self.box.out(f"journalctl -o cat -u {UNIT} -p {priority}..{priority}").splitlines()

    def config(self) -> str:
        return (self.box.root / CONFIG).read_text()

    def write(self, text: str) -> None:
        (self.box.root / CONFIG).write_text(text)

    def edit(self, pattern: str, replacement: str) -> None:
        self.write(re.sub(f"(?m)^{pattern}$", lambda _: replacement, self.config()))


def commands() -> list[str]:
    """README's three."""
    block = re.search(r"## Install\n.*?```\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1].strip().splitlines()


def main() -> int:
    """Make, boot, try, tidy up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(prog="python -m tests.systemd", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/grape-systemd"))
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    box = Container(make_root(folder))
    trial = Trial(box)
    try:
        box.boot()
        trial.install()
        trial.look()
        trial.disturb()
        trial.stop()
        trial.refuse()
        trial.page()
        trial.reboot()
        trial.alert()
    finally:
        box.off()
    print(f"FAILED: {trial.failed}" if trial.failed else "passed")
    return 1 if trial.failed else 0


if __name__ == "__main__":
    sys.exit(main())
