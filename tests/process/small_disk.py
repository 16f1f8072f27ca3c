"""A small file system of a test's own (tmpfs; needs root)."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """Mounted on `folder`."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "grape-test", str(folder)], check=True)

    def remount(self, options: str) -> None:
        """Read-only and back, for example."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def fill(self) -> Path:
        """Leave not one block; the file that takes them."""
        path = self.folder / "somebody-elses-file"
        with path.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        return path


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[SmallDisk]:
    """Unmounted at the end."""
    found = SmallDisk(folder, options)
    try:
        yield found
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
