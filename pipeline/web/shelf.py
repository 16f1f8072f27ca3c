"""What the page keeps of a channel's folder: its names while nothing changes, and the day over a restart.

A folder of weeks has tens of thousands of names, and listing them every few seconds would cost more than all else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import npz
from pipeline.config import Channel
from pipeline.plotting.days import Days

log = logging.getLogger(__name__)

# A folder that has changed within this time may change again and keep its date, ns.
SETTLED_NS = 2_000_000_000


class Listing:
    """The minute files of a folder, listed again when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed = 0
        self._names: list[str] = []
        self._as_of = (-1, -1)

    def names(self) -> list[str]:
        """The names now, in the order of time; none when the folder cannot be read."""
        try:
            found = self.folder.stat()
            as_of = (found.st_ino, found.st_mtime_ns)
            if as_of != self._as_of:
                with os.scandir(self.folder) as entries:
                    self._names = sorted(entry.name for entry in entries if entry.name.endswith("_iq.npz"))
                self.listed += 1
                self._as_of = as_of if time.time_ns() - found.st_mtime_ns > SETTLED_NS else (-1, -1)
        except OSError:
            self._names, self._as_of = [], (-1, -1)
        return self._names

    def of_day(self, stamp: str) -> list[str]:
        """The names that begin with `stamp`, YYYYMMDDT."""
        names = self.names()
        return names[bisect_left(names, stamp) : bisect_left(names, stamp + "~")]


class DayStore:
    """Days that are put together, in a cache folder; without one nothing is kept.

    What is there is a cache: of another day, tree or version, or damaged, it counts for nothing.
    """

    def __init__(self, folder: Path | None, archives: Path) -> None:
        self._folder = folder
        self._tree = hashlib.sha256(str(archives.absolute()).encode()).hexdigest()[:12]

    def _path(self, channel: Channel) -> Path | None:
        return None if self._folder is None else self._folder / f"day-{self._tree}-{channel.id}.npz"

    def recall(self, channel: Channel, day: Days) -> set[str]:
        """Fill `day` with what was kept; the names of the files that are in it.

        What cannot be used is removed, and leaves `day` as it was.
        """
        path = self._path(channel)
        if path is None or not path.exists():
            return set()
        try:
            kept = npz.read(path)
            seen = _names(kept["seen"])
            return seen if day.recall(kept) else set()
        except (npz.UnreadableFile, KeyError, ValueError) as error:
            log.warning("web: %s is not a day that was kept, and is read again from its files: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return set()

    def keep(self, channel: Channel, day: Days, seen: set[str]) -> None:
        """Write `day` with the names of its files; a cache that cannot be written is none."""
        path = self._path(channel)
        if path is None:
            return
        draft = path.with_suffix(".new")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                arrays: dict[str, Any] = {"seen": np.array(sorted(seen)), **day.kept()}
                np.savez_compressed(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)


def _names(found: object) -> set[str]:
    if not isinstance(found, np.ndarray) or found.ndim != 1 or (found.size and found.dtype.kind != "U"):
        raise ValueError("seen: not a list of names")
    return set(found.tolist())


def cache_folder() -> Path:
    """systemd's CACHE_DIRECTORY, else grape-pipeline in the user's cache folder."""
    given = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "grape-pipeline"
