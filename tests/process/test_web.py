"""The page: what it serves and what not, what it shows, and how it looks in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Browser, browser
from helpers import REPOSITORY, free_port, needs, wait_for
from minutes import CHANNEL, PACKETS, arrays_of, one_cut
from pipeline import npz
from pipeline.config import Channel, Config, Recorder
from pipeline.web.app import Site
from pipeline.web.gallery import DAY_S, Gallery
from pipeline.web.shelf import Listing
from streams import T0
from tests.process import instance_fixture

Instance = instance_fixture.Instance
instance = instance_fixture.instance
PNG = b"\x89PNG\r\n\x1a\n"


def write_minute(data_dir: Path, minute_s: int, channel: Channel = CHANNEL, gap: range = range(0)) -> Path:
    """A file of `channel` that says it is the minute at `minute_s`."""
    arrays = arrays_of(one_cut([n for n in range(PACKETS) if n not in gap]))
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(minute_s))
    path = data_dir / "archives" / channel.id / f"{stamp}_{int(channel.frequency_hz)}_iq.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    npz.write(path, arrays, 1)
    return path


class Drawn:
    """Pictures that say what they are of."""

    def minute(self, channel: str) -> bytes | None:
        return PNG + b"minute" if channel == "A" else None

    def day(self, channel: str) -> bytes | None:
        return PNG + b"day" if channel == "A" else None


def site(*hosts: str) -> Site:
    return Site(Config(), "no-such-instance", Drawn(), hosts)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/live.json", "application/json"),
        ("/minute/A.png", "image/png"),
        ("/day/A.png", "image/png"),
    ],
)
def test_addresses(path: str, kind: str) -> None:
    answer = site().answer("GET", path, "localhost:8073")
    assert (answer.status, answer.kind) == (200, kind)


@pytest.mark.parametrize(
    "path",
    [
        "", "/page.html", "/static/page.css", "/../page.css", "//page.css", "/page.css/", "/minute/../A.png",
        "/minute/..%2fA.png", "/minute/%2e%2e/A.png", "/minute/A", "/minute/B.png", "/minute/A.png/x", "/year/A.png",
        "/minute//etc/passwd.png", "/minute/A.png\x00", "/minute/A.png\n", "/_drawn/A.png", "/status.json",
    ],
)  # fmt: skip
def test_nothing_else_is_served(path: str) -> None:
    assert site().answer("GET", path, "localhost").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", ""])
def test_only_to_look_at(method: str) -> None:
    assert site().answer(method, "/", "localhost").status == 405


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True), ("LOCALHOST:8073", True), ("127.0.0.1:8073", True), ("[::1]:8073", True),
        ("192.168.1.5", True), (socket.gethostname(), True), (f"{socket.gethostname()}.local:80", True),
        ("grape.example.org", True), ("evil.example.org", False), ("", False), ("localhost.evil.org", False),
        ("127.0.0.1.evil.org", False), ("a b", False), ("localhost:x", False), ("[localhost]", False),
    ],
)  # fmt: skip
def test_a_foreign_name_gets_nothing(host: str, allowed: bool) -> None:
    """A page elsewhere may point its name at 127.0.0.1 (DNS rebinding); the Host header tells."""
    assert site("grape.example.org").answer("GET", "/live.json", host).status == (200 if allowed else 421)


def test_the_last_minute_and_the_day_are_drawn_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    midnight = T0 // 10**9 // DAY_S * DAY_S
    gallery = Gallery(Config(recorder=Recorder(data_dir=tmp_path), channels=(CHANNEL,)), lambda: midnight + 7200.0)
    assert gallery.minute(CHANNEL.id) is None, "no folder yet"
    assert gallery.day(CHANNEL.id) is None
    for hour in range(3):
        write_minute(tmp_path, midnight + 3600 * hour, gap=range(30, 60 * hour))
    write_minute(tmp_path, midnight - 60)
    (tmp_path / "archives" / CHANNEL.id / "20991231T000000Z_1_iq.npz.tmp").write_text("")
    while gallery.step():
        pass
    first = gallery.minute(CHANNEL.id), gallery.day(CHANNEL.id)
    assert all(png is not None and png.startswith(PNG) for png in first)
    assert gallery.minute(CHANNEL.id) is first[0] and gallery.day(CHANNEL.id) is first[1]
    write_minute(tmp_path, midnight + 7200 + 60)
    assert gallery.minute(CHANNEL.id) not in (None, first[0])
    assert gallery.step()
    assert gallery.day(CHANNEL.id) not in (None, first[1])
    broken = write_minute(tmp_path, midnight + 7200 + 120)
    broken.write_bytes(b"PK nonsense")
    assert gallery.step() and not gallery.step()
    assert gallery.minute(CHANNEL.id) is None
    assert broken.name in caplog.text
    for name in ("", "..", "../archives", "A", "WWV 10 MHz"):
        assert gallery.minute(name) is None and gallery.day(name) is None


def test_a_later_run_goes_on_with_the_day(tmp_path: Path) -> None:
    midnight = T0 // 10**9 // DAY_S * DAY_S
    config = Config(recorder=Recorder(data_dir=tmp_path / "data"), channels=(CHANNEL,))

    def run(day_s: int = midnight, cache: Path | None = tmp_path / "cache") -> tuple[int, Gallery]:
        gallery, steps = Gallery(config, lambda: day_s + 7200.0, cache), 0
        while gallery.step():
            steps += 1
        gallery.stop()
        return steps, gallery

    for hour in range(3):
        write_minute(tmp_path / "data", midnight + 3600 * hour, gap=range(30, 60 * hour))
    steps, first = run()
    assert steps == 3
    steps, second = run()
    assert steps == 0
    assert second.day(CHANNEL.id) == first.day(CHANNEL.id)
    write_minute(tmp_path / "data", midnight + 7260)
    assert run()[0] == 1
    assert run(cache=None)[0] == 4, "without a cache all is read"
    assert run(midnight + DAY_S)[0] == 0, "another day begins empty"
    assert run()[0] == 0, "and leaves what was kept"
    (kept,) = (tmp_path / "cache").iterdir()
    for damage in (b"", b"PK nonsense", kept.read_bytes()[:1000]):
        kept.write_bytes(damage)
        assert run()[0] == 4


def test_a_folder_is_listed_when_it_has_changed(tmp_path: Path) -> None:
    listing = Listing(tmp_path)
    for name in ("20261122T000000Z_1_iq.npz", "20261123T000000Z_1_iq.npz", "20261123T000100Z_1_iq.npz.tmp"):
        (tmp_path / name).touch()
    assert len(listing.names()) == 2
    assert listing.of_day("20261123T") == ["20261123T000000Z_1_iq.npz"]
    os.utime(tmp_path, (1_000, 1_000))
    before = listing.listed
    assert [len(listing.names()) for _ in range(5)] == [2] * 5
    assert listing.listed == before + 1
    (tmp_path / "20261124T000000Z_1_iq.npz").touch()
    assert len(listing.names()) == 3
    assert Listing(tmp_path / "none").names() == []


@pytest.fixture
def page(instance: Instance) -> Iterator[tuple[str, int]]:
    """The real command beside an instance of three channels, two of which have files: host and port."""
    minute_s = int(time.time()) // 60 * 60 - 120
    for name, frequency in (("A", 1e6), ("B", 2e6)):
        write_minute(instance.data_dir, minute_s, Channel(name, frequency, 1), gap=range(30, 60))
    instance.start()
    port = free_port(socket.SOCK_STREAM)
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "web",
        "-c",
        str(instance.config_path),
        "--listen",
        f"127.0.0.1:{port}",
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(instance.folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        wait_for(lambda: process.poll() is not None or answers(port), 30, "the page")
        yield "127.0.0.1", port
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def get(where: tuple[str, int], target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request as it is written, without a client's tidying of paths."""
    connection = http.client.HTTPConnection(*where, timeout=30)
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read()


def test_served(instance: Instance, page: tuple[str, int]) -> None:
    status, headers, body = get(page, "/")
    assert status == 200 and b"<table>" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    for target in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/minute/..%2f..%2fA.png"):
        assert get(page, target)[0] == 404, target
    assert get(page, "/live.json", Host="evil.example.org")[0] == 421
    live: dict[str, Any] = json.loads(get(page, "/live.json")[2])
    assert live["instance"] == instance.name
    assert [channel["id"] for channel in live["channels"]] == ["A", "B", "C"]
    assert [words.split()[0] for words in live["processes"]] == ["supervisor", "ntp"]
    assert get(page, "/minute/A.png")[2].startswith(PNG)
    assert get(page, "/minute/C.png")[0] == 404
    # It looks; it does nothing to the recorder and outlives it.
    before = instance.pids()
    assert instance.stop() == 0
    stopped = json.loads(get(page, "/live.json")[2])
    assert (stopped["level"], stopped["up"], stopped["channels"]) == ("CRIT", "not running", [])
    assert before.keys() == {"ntp", "A", "B", "C"}


def test_in_a_browser(instance: Instance, page: tuple[str, int], tmp_path: Path) -> None:
    program = needs("chromium")
    with browser(program, tmp_path) as chromium:
        for width, height, columns in ((1400, 1000, 10), (390, 844, 5)):
            chromium.open(f"http://{page[0]}:{page[1]}/", width, height)
            looks_right(chromium, width, columns)
            if folder := os.environ.get("GRAPE_SCREENSHOTS"):
                chromium.screenshot(Path(folder) / f"web-{width}.png")
        # Trouble is seen without a reload of the page.
        instance.behave("B", "exit 78")
        causes = "[...document.querySelectorAll('#causes li')].map(c => c.textContent).join()"
        wait_for(lambda: "B: given up" in chromium.evaluate(causes), 20, "the cause")
        assert chromium.evaluate("document.title").startswith("CRIT ")
        faults = [fault for fault in chromium.faults if "C.png" not in fault]
        assert faults == []


def looks_right(chromium: Browser, width: int, columns: int) -> None:
    """Three rows, two channels' pictures, words instead of the third's, and nothing sticks out."""
    wait_for(lambda: chromium.evaluate("document.querySelectorAll('#channels tr').length") == 3, 30, "three rows")
    cells = chromium.evaluate("[...document.querySelectorAll('#channels td:first-child')].map(c => c.textContent)")
    assert cells == ["A", "B", "C"]
    there = "[...document.querySelectorAll('img')].filter(i => i.naturalWidth > 0).map(i => i.alt.split(', ').pop())"
    wait_for(lambda: sorted(chromium.evaluate(there)) == ["A", "A", "B", "B"], 30, "the pictures of A and B")
    none = "[...document.querySelectorAll('#channel-C figcaption')].every(c => c.textContent.endsWith('nothing yet'))"
    wait_for(lambda: chromium.evaluate(none), 10, "the words instead of C's")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    shown = chromium.evaluate("[...document.querySelectorAll('th')].filter(h => h.offsetWidth).length")
    assert shown == columns


def test_without_the_extra_it_says_what_to_install(instance: Instance) -> None:
    instance.write_config()
    code = "import sys; sys.modules['waitress'] = None; from pipeline.__main__ import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "web", "-c", str(instance.config_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "web needs waitress" in done.stderr and "pip install waitress matplotlib" in done.stderr


def test_a_port_that_is_taken_is_said(instance: Instance) -> None:
    instance.write_config()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert instance.command("web", "--listen", f"127.0.0.1:{taken.getsockname()[1]}") == 1
