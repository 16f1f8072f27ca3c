"""The host's clock: who keeps it, and how far it is from UTC."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pipeline import DISTRIBUTION
from pipeline.config import Ntp
from pipeline.diagnosis.finding import Finding, fail, ok, warn
from pipeline.ntp import kernel, measure_once
from pipeline.ntp.local import SOURCES
from pipeline.ntp.reading import KernelState, Reading
from pipeline.ntp.report import parse_diagnostics, sentence
from pipeline.ntp.rows import Row, RowState
from pipeline.records import NtpRecord, NtpState

MEND_DAEMON = "sudo apt install chrony && sudo systemctl enable --now chrony"
SHOWN_SERVERS = 3


def check(ntp: Ntp, running: NtpRecord | None, diagnostics: bytes | None = None) -> Iterator[Finding]:
    """The clock as the running instance sees it, else by one round of the configured sources."""
    rows: tuple[Row, ...] = ()
    if running is not None:
        view = running.at(time.monotonic_ns(), ntp.stale_after_s)
        why = str(parse_diagnostics(diagnostics).get("why") or "")
        told = f"as the instance measures it: {sentence(running, running.truechimers + running.falsetickers, why)}"
        if view["state"] != NtpState(running.state).name.lower():
            told += f"; but nothing was published for {ntp.stale_after_s:g} s and more"
        synced = bool(view["synced"])
    else:
        measured = measure_once(ntp)
        synced, rows = bool(measured.record.synced), measured.servers
        told = sentence(measured.record, len(rows))
    yield ok("clock", told) if synced else fail("clock", told, f"{MEND_DAEMON}; who says what: {DISTRIBUTION} ntp")
    if running is not None and running.step_count:
        told = f"the host's clock was set {running.step_count}x since the instance started"
        yield warn("steps", told, "let one daemon keep the clock, and slew it; who it was: journalctl -u chrony")
    yield from servers(rows)
    yield daemon(ntp, kernel.read())


def servers(rows: tuple[Row, ...]) -> Iterator[Finding]:
    """What is the matter with the servers that do not count."""
    bad = [row for row in rows if row.state in (RowState.UNUSABLE, RowState.FALSETICKER)]
    if not bad:
        return
    listed = ", ".join(f"{row.name} ({row.reason})" for row in bad[:SHOWN_SERVERS])
    more = f" and {len(bad) - SHOWN_SERVERS} more" if bad[SHOWN_SERVERS:] else ""
    mend = f"see {DISTRIBUTION} ntp; UDP port 123 must pass the firewall"
    yield warn("servers", f"{len(bad)} of {len(rows)} servers do not count: {listed}{more}", mend)


def daemon(ntp: Ntp, state: KernelState | None) -> Finding:
    """Whether anybody on this host keeps its clock."""
    readings = [found for name in ("chronyd", "ntpd") if isinstance(found := SOURCES[name](ntp), Reading)]
    if readings:
        best = readings[0]
        return ok("daemon", f"{best.source} keeps the clock (stratum {best.stratum}, {best.reference})")
    if state is None:
        return warn("daemon", "the kernel's clock state cannot be read", MEND_DAEMON)
    drift = f"maximum error {state.max_error_s:.3f} s, frequency {state.frequency * 1e6:+.1f} ppm"
    if not state.synchronised:
        return warn("daemon", f"nobody keeps this host's clock ({drift})", MEND_DAEMON)
    return ok("daemon", f"the kernel's clock is kept by some daemon ({drift})")
