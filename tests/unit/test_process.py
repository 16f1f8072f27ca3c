"""What the processes have in common."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRY = """
import resource, sys
from pipeline.process import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
allow_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [(256, 1024, "1024 1024"), (1024, 9000, "8192 9000"), (9000, 9000, "9000 9000")],
    ids=["as many as may be", "enough", "never fewer"],
)
def test_more_descriptors_are_allowed(soft: int, hard: int, then: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(soft), str(hard)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == then.split()
