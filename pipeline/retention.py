"""Which minute files are too old to keep, and their removal: a channel's own, oldest first, a few at a time.

Done by each worker's writing thread, before a minute is written: there it may wait for a
slow disk without holding anything up, needs no further process, and makes room on a full
disk before it is missed. Age is what the name says, never the file's date, and "now" is the
UTC of the minute being written, so a copied tree or a wrong date of a file removes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

DAY_S = 86400
# Of both kinds of names, see minutefile.minute_path and part_path.
NAME = re.compile(r"(\d{8}T\d{6})Z_\d+_(?:\d+sps_\d+_)?iq\.npz", re.ASCII)
# A pass may hold up the minute that waits to be written by about this many unlinks.
PER_PASS = 200


def day_of(name: str) -> int | None:
    """Days since 1970 of the UTC day that a file is of; None for a name that is not ours."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    y, m, d, h, minute = (int(found[1][a:b]) for a, b in ((0, 4), (4, 6), (6, 8), (9, 11), (11, 13)))
    with contextlib.suppress(ValueError):
        if h < 24 and minute < 60:
            return int(np.datetime64(f"{y:04}-{m:02}-{d:02}", "D").astype(int))
    return None


def expired(names: Iterable[str], today: int, keep_days: int) -> list[str]:
    """Names of files older than `keep_days` whole days before `today` (days since 1970), oldest first.

    Never of today's files, and never the newest.
    """
    known = sorted(name for name in names if day_of(name) is not None)
    limit = today - max(keep_days, 1)
    return [name for name in known[:-1] if (day_of(name) or 0) < limit]


def sweep(folders: Iterable[Path], now_s: float, keep_days: int, limit: int = PER_PASS) -> tuple[list[Path], bool]:
    """Remove what is too old in each folder; what was removed, and whether more is left for another pass.

    Raises OSError where the disk refuses.
    """
    removed: list[Path] = []
    for folder in folders:
        for name in expired(_regular_files(folder), int(now_s // DAY_S), keep_days):
            if len(removed) == limit:
                return removed, True
            (folder / name).unlink(missing_ok=True)
            removed.append(folder / name)
    return removed, False


def _regular_files(folder: Path) -> list[str]:
    """A link is somebody's own arrangement, so it and what it points to are left alone."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
