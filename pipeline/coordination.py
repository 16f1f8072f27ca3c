"""What a coordinator (HamSCI's sigmond) tells its clients: variables, read again at every reload.

systemd copies its `EnvironmentFile=`s into a service when it starts, and never again. The
client contract (sections 2, 8, 11) wants the facts in them to be taken up at SIGHUP, so the
files are read here: what they say goes before what the process was started with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

# Colon-separated, later files go first; the unit adds its instance's own.
FILES_VARIABLE = "GRAPE_PIPELINE_ENV_FILES"
DEFAULT_FILES = "/etc/sigmond/coordination.env"
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def variables() -> Mapping[str, str]:
    """The environment, with what the coordinator's files say now."""
    found = dict(os.environ)
    for name in os.environ.get(FILES_VARIABLE, DEFAULT_FILES).split(":"):
        if name:
            found |= _read(Path(name))
    return found


def _read(path: Path) -> dict[str, str]:
    """The assignments of an environment file as systemd.exec(5) reads it; {} when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    matches = (_ASSIGNMENT.fullmatch(line) for line in text.splitlines())
    return {match[1]: _unquoted(match[2].strip()) for match in matches if match}


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def radiod_variable(radiod_id: str, fact: str) -> str:
    """The variable of a fact about a radiod: RADIOD_BEE1_HF_STATUS_LOCAL_CHAIN_DELAY_NS."""
    return f"RADIOD_{re.sub(r'[^A-Z0-9]', '_', radiod_id.upper())}_{fact}"
