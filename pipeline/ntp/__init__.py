"""How far the host's clock is from UTC, measured and never touched.

`wire`, `peer`, `plan`, `pool`, `select`, `evaluation`, `frequency`, `verdict`, `report`,
`rows`, `words`, `reading` and `engine` are pure: no clock, socket, thread or randomness; time is an
argument. `loop` has the sockets; `clock`, `resolve`, `chronyd`, `ntpd`, `kernel` and `local`
are the other edges; `monitor` is the process, `once` a single measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.config import Ntp

if TYPE_CHECKING:
    from pipeline.ntp.once import Measurement


def measure_once(config: Ntp, progress: Callable[[int, int], None] | None = None) -> Measurement:
    """One round of measurement of all configured sources; see `pipeline.ntp.once`."""
    from pipeline.ntp import once  # so that importing a pure module opens no socket module

    return once.measure_once(config, progress)
