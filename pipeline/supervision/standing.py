"""The rights of a running instance, for a command that tries what the instance would do.

Under systemd a program gets no rights that the service has not (NoNewPrivileges), which most mailers need:
what root tries works and tells nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline import PipelineError

_PR_SET_NO_NEW_PRIVS = 38  # prctl(2)


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a process: effective ids, further groups, and whether exec may give it more rights."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    no_new_privileges: bool

    @property
    def user(self) -> str:
        """The user's name, or number."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def standing_of(pid: int) -> Standing:
    """As /proc says (proc(5)). Raises PipelineError when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise PipelineError(f"process {pid}: {error.strerror}") from None
    rows = dict(re.findall(r"(?m)^(\w+):[ \t]*(.*)$", text))
    uid, gid = (int(rows[key].split()[1]) for key in ("Uid", "Gid"))
    return Standing(uid, gid, tuple(map(int, rows["Groups"].split())), rows.get("NoNewPrivs") == "1")


def assume(standing: Standing) -> None:
    """Give up, for good, what `standing` does not have, and go home.

    Raises PipelineError for another user's, unless we are root.
    """
    if os.geteuid() == 0 and standing.uid != 0:
        os.setgroups(standing.groups)
        os.setresgid(*[standing.gid] * 3)
        os.setresuid(*[standing.uid] * 3)
        with contextlib.suppress(KeyError):
            # Mailers look for their configuration there.
            os.environ["HOME"] = pwd.getpwuid(standing.uid).pw_dir
        os.environ.update(USER=standing.user, LOGNAME=standing.user)
    elif os.geteuid() != standing.uid:
        raise PipelineError(f"only root and {standing.user} can do as {standing.user} does")
    if standing.no_new_privileges and ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise PipelineError("the kernel does not let us give up new privileges")
