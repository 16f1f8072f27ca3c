"""Files that are written whole or not at all.

A file is written under a name that no reader looks for, forced to disk, and only then given its own name, which must be
free; then the folder is forced to disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from pipeline import PipelineError

TEMPORARY_SUFFIX = ".tmp"
# What file systems without hard links (exFAT, some network ones) answer.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


class FileExists(PipelineError):
    """The final name is taken; nothing is ever overwritten."""


def write(path: Path, content: bytes) -> None:
    """Write a file, atomically.

    Raises FileExists when the name is taken and OSError when the disk refuses. Nothing is left behind then but, after
    a crash, a name that ends in `.tmp`.
    """
    _make_folder(path.parent)
    if path.exists():
        raise FileExists(f"{path} exists already; it was left as it is")
    # The process is in the name: two instances that share a folder by mistake do not share this file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, durably, if the name is free."""
    try:
        os.link(temporary, path)  # a rename would replace what has come under this name meanwhile
    except FileExistsError:
        raise FileExists(f"{path} exists already; it was left as it is") from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        temporary.rename(path)
    try:
        temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except BaseException:
        # A name that may be gone after a power cut must not be taken for a written minute.
        _remove(path)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the failure that led here is the one to report
        path.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, so that a new name in it survives a power cut.

    Raises OSError, but not where the file system cannot do this to folders at all.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def remove_orphans(folder: Path) -> list[Path]:
    """Delete temporary files that a crash left in `folder`; returns what was deleted."""
    orphans = sorted(folder.glob(f".*.npz.*{TEMPORARY_SUFFIX}")) if folder.is_dir() else []
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans
