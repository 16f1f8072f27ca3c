"""Under what circumstances a channel's minutes were received: what their files say beyond samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from pipeline.briefstatus import BriefStatus
from pipeline.config import Channel, Config
from pipeline.hostclock import RecorderClock
from pipeline.minutefile import Context, HostEvidence
from pipeline.records import NtpRecord
from pipeline.stream.intake import Intake
from pipeline.stream.minute import Minute
from pipeline.stream.timeline import MINUTE


class Circumstances:
    """One channel's; `read_ntp` gives the monitor's newest record."""

    def __init__(
        self,
        config: Config,
        channel: Channel,
        session_id: str,
        read_ntp: Callable[[], NtpRecord],
        intake: Intake,
        clock: RecorderClock,
    ) -> None:
        self._config = config
        self._channel = channel
        self._session_id = session_id
        self._read_ntp = read_ntp
        self._intake = intake
        self._clock = clock
        self._snapshots: dict[int, tuple[NtpRecord, int]] = {}
        self._minute_seen = 0

    def watch(self, now_utc: int | None, now_ns: int) -> None:
        """Keep the NTP record as it was when each minute ended; UTC by the stream, CLOCK_MONOTONIC."""
        if now_utc is None:
            return
        minute = now_utc // MINUTE * MINUTE
        if minute != self._minute_seen:
            self._minute_seen = minute
            self._snapshots[minute - MINUTE] = (self._read_ntp(), now_ns)
            while len(self._snapshots) > 2 * self._config.recorder.buffer_minutes:
                del self._snapshots[next(iter(self._snapshots))]

    def of(self, minute: Minute, now_ns: int) -> Context:
        """What is to be said of a minute that was cut just now."""
        config = self._config
        ntp, at = self._snapshots.get(minute.utc_ns) or (self._read_ntp(), now_ns)
        status = self._intake.announcements.latest
        return Context(
            config.station,
            self._channel,
            self._session_id,
            ntp,
            ntp.at(at, config.ntp.stale_after_s),
            self._host(minute),
            status.detail() if isinstance(status, BriefStatus) else {},
            config.recorder.storage,
            time.time(),
            config.radiod.chain_delay_ns,
        )

    def _host(self, minute: Minute) -> HostEvidence:
        """How this host's clocks stood when the minute's newest packet came."""
        if not minute.last_arrival_ns:
            return HostEvidence()
        epoch = next((e for e in self._intake.epochs if e.id == minute.segments[-1].epoch_id), None)
        ppm, sigma = epoch.rate_ppm() if epoch is not None else (math.nan, math.nan)
        shift_ns = self._clock.shift_ns
        at_ns = minute.last_arrival_ns + shift_ns
        monotonic_ns = at_ns - time.time_ns() + time.monotonic_ns()
        return HostEvidence(at_ns, monotonic_ns, minute.last_timestamp, ppm, sigma, shift_ns)
