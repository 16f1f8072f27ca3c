"""The pictures of all channels, drawn when they are asked for and kept until there is something new.

One thread reads the day's files, newest first and in the gaps of its own work, so that a
page opened in the evening does not take a core from the recorder; what it has put together
is kept in a cache for the next run. One picture is drawn at a time. A channel is one of the
configuration's: no name from outside becomes a path.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import PipelineError
from pipeline.audit.onefile import parse_name
from pipeline.config import Channel, Config
from pipeline.plot import load
from pipeline.plotting.days import Days
from pipeline.web.drawing import day_png, minute_png
from pipeline.web.shelf import DayStore, Listing

log = logging.getLogger(__name__)

DAY_S = 86_400
POLL_S = 3.0
# Of the time that reading takes, pause as much again: at most half a core while there is a backlog.
PAUSE = 1.0
# Of some 2500 lines within 3 Hz of the carrier a picture of 176 pixels shows no more.
LINES_AS_ONE = 12
# A run that is killed has so many files of a channel to read again.
KEEP_FILES = 15


class _Shelf:
    """One channel: its folder, the day that is being put together, pictures and what they show."""

    def __init__(self, channel: Channel, folder: Path, kept: DayStore) -> None:
        self.channel = channel
        self.day: Days | None = None
        self.seen: set[str] = set()
        self.pictures: dict[str, tuple[object, bytes]] = {}
        self._listing = Listing(folder)
        self._kept = kept
        self._files_kept = 0

    def newest(self) -> Path | None:
        """The last whole minute on disk."""
        names = reversed(self._listing.names())
        name = next((name for name in names if parse_name(name) is not None), None)
        return None if name is None else self._listing.folder / name

    def turn_to(self, day_s: int) -> None:
        """Begin a new day if it is one, with what an earlier run has put together of it."""
        if self.day is None or self.day.first_s != day_s:
            self.day = Days(self.channel.name, self.channel.frequency_hz, day_s, day_s + DAY_S, LINES_AS_ONE)
            self.seen = self._kept.recall(self.channel, self.day)
            self._files_kept = self.day.files

    def keep(self, least: int) -> None:
        """Keep the day for a later run, if so many files are new in it."""
        if self.day is not None and self.day.files - self._files_kept >= least:
            self._kept.keep(self.channel, self.day, self.seen)
            self._files_kept = self.day.files

    def next_file(self) -> tuple[Path, int] | None:
        """The newest file of the day that is not yet in it."""
        assert self.day is not None
        stamp = time.strftime("%Y%m%dT", time.gmtime(self.day.first_s))
        for name in reversed(self._listing.of_day(stamp)):
            if name not in self.seen and (named := parse_name(name)) is not None:
                return self._listing.folder / name, named.minute_s
        return None


class Gallery:
    """Pictures by channel; `start` lets its thread run until `stop`."""

    def __init__(self, config: Config, now_s: Callable[[], float] = time.time, cache: Path | None = None) -> None:
        archives = config.recorder.data_dir / "archives"
        kept = DayStore(cache, archives)
        self._shelves = {c.id: _Shelf(c, archives / c.id, kept) for c in config.channels}
        self._now_s = now_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gallery", daemon=True)

    def start(self) -> None:
        """Begin to read the day."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and keep what it has read."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for shelf in self._shelves.values():
            shelf.keep(1)

    def minute(self, channel: str) -> bytes | None:
        """The last file's spectrogram as PNG; None for an unknown channel or when there is no file."""
        shelf = self._shelves.get(channel)
        path = shelf.newest() if shelf is not None else None
        if shelf is None or path is None:
            return None
        with self._lock:
            try:
                return self._drawn(shelf, "minute", path, lambda: minute_png(load(path)))
            except PipelineError as error:
                log.warning("web: %s", error)
                return None

    def day(self, channel: str) -> bytes | None:
        """Today's strip as PNG; None for an unknown channel or when nothing of the day has been read."""
        shelf = self._shelves.get(channel)
        with self._lock:
            day = shelf.day if shelf is not None else None
            if shelf is None or day is None or not day.files:
                return None
            return self._drawn(shelf, "day", (day.first_s, day.files), lambda: day_png(day))

    @staticmethod
    def _drawn(shelf: _Shelf, kind: str, shows: object, draw: Callable[[], bytes]) -> bytes:
        known = shelf.pictures.get(kind)
        if known is None or known[0] != shows:
            known = shelf.pictures[kind] = (shows, draw())
        return known[1]

    def step(self) -> bool:
        """Add one file to a channel's day; False when there is none left."""
        day_s = int(self._now_s()) // DAY_S * DAY_S
        did = False
        for shelf in self._shelves.values():
            with self._lock:
                shelf.turn_to(day_s)
            found = shelf.next_file()
            if found is None:
                continue
            path, minute_s = found
            shelf.seen.add(path.name)
            did = True
            try:
                values = load(path)
                with self._lock:
                    assert shelf.day is not None
                    shelf.day.add(values, minute_s)
            except PipelineError as error:
                log.warning("web: %s", error)
            shelf.keep(KEEP_FILES)
        return did

    def _run(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            busy = self.step()
            self._stop.wait(PAUSE * (time.monotonic() - begin) if busy else POLL_S)
