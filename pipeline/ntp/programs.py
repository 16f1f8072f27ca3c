"""`chronyc` and `ntpq`, for hosts that let nothing else talk to their daemons.

A process per reading costs a hundred to ten thousand times what the daemons' protocols
cost, and hangs for seconds when the daemon does; hence only where configured, and killed
after a second. Exit codes say little (ntpq succeeds without a daemon): the text decides.
"""

from __future__ import annotations

import re
import subprocess

from pipeline.ntp import clock, ntpd
from pipeline.ntp.chronyd import Tracking, assess
from pipeline.ntp.reading import Absence, Reading
from pipeline.ntp.wire import Instant

TIMEOUT_S = 1.0
TRACKING_FIELDS = 14
LEAPS = {"Normal": 0, "Insert second": 1, "Delete second": 2}
STATUS = re.compile(r"status=([0-9a-f]{4})\b")


def chronyc(host: str, port: int) -> Reading | Absence:
    """`chronyc -c tracking` of the daemon at host:port."""
    text = _run("chronyc", "-n", "-c", "-h", host, "-p", str(port), "tracking")
    return text if isinstance(text, Absence) else parse_tracking(text, clock.read())


def ntpq(host: str) -> Reading | Absence:
    """`ntpq -c rv` of the daemon at `host`."""
    text = _run("ntpq", "-n", "-c", "rv", host)
    return text if isinstance(text, Absence) else parse_variables(text, clock.read())


def parse_tracking(text: str, now: Instant) -> Reading | Absence:
    """The line of `chronyc -c tracking`. Takes any text."""
    fields = text.strip().split(",")
    if len(fields) != TRACKING_FIELDS:
        return Absence("chronyc", text.strip().splitlines()[0] if text.strip() else "absent")
    try:
        numbers = [float(f) for f in fields[3:13]]
        updated_s, theta_s, _, rms_s, _, _, skew_ppm, root_delay_s, root_dispersion_s, interval_s = numbers
        tracking = Tracking(
            refid=int(fields[0], 16),
            reference=fields[1] or fields[0],
            stratum=int(fields[2]),
            leap=LEAPS.get(fields[13], 3),
            updated_s=updated_s,
            theta_s=theta_s,
            rms_s=rms_s,
            skew=skew_ppm * 1e-6,
            root_delay_s=root_delay_s,
            root_dispersion_s=root_dispersion_s,
            interval_s=interval_s,
        )
    except ValueError:
        return Absence("chronyc", "answers with garbage")
    return assess("chronyc", tracking, now)


def parse_variables(text: str, now: Instant) -> Reading | Absence:
    """The output of `ntpq -c rv`. Takes any text."""
    status = STATUS.search(text)
    if status is None:
        return Absence("ntpq", "absent")
    return ntpd.parse(text, int(status[1], 16), now, "ntpq")


def _run(*command: str) -> str | Absence:
    name = command[0]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return Absence(name, "not installed")
    except subprocess.TimeoutExpired:
        return Absence(name, "does not answer")
    except OSError as error:
        return Absence(name, f"cannot be run: {error.strerror or error}")
    return done.stdout.decode(errors="replace")
