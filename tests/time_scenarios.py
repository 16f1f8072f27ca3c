"""What can happen to time: one scenario a line, each for any number of minutes."""

from __future__ import annotations

from collections.abc import Callable

from time_world import Host, Lateness, Scenario, Timeline

QUIET = Lateness(0.4, 0.2, 0.005, 5.0)
LOADED = Lateness(40.0, 0.0, 0.2, 120.0)
GOOD = Host()
HOURS_MS = 3_600_000.0


def scenarios(minutes: float) -> list[Scenario]:
    """All scenarios; the streams of each last `minutes` in all, events at shares of them."""
    s = minutes * 60

    def one(name: str, host: Host = GOOD, **facts: object) -> Scenario:
        return Scenario(name, (Timeline(minutes, **facts),), host)  # type: ignore[arg-type]

    def parts(name: str, *timelines: Callable[[float], Timeline], **facts: object) -> Scenario:
        share = minutes / len(timelines)
        return Scenario(name, tuple(make(share) for make in timelines), **facts)  # type: ignore[arg-type]

    return [
        one("radiod as measured"),
        one("quiet machine", late=QUIET),
        one("loaded machine", late=LOADED),
        one("sample clock +50 ppm", ppm=50),
        one("sample clock -50 ppm", ppm=-50),
        one("sample clock +1 ppm", ppm=1),
        one("sample clock drifts 5 ppm an hour", ppm=1, drift_ppm_per_h=5),
        one("sample clock cools down 20 ppm an hour", ppm=30, drift_ppm_per_h=-20),
        one("A/D loses 100 samples unseen, twice", lost=((s / 3, 100), (s / 2, 100))),
        one("A/D loses 0.2 s of samples", lost=((s / 2, 3200),)),
        one("first statuses 80 ms late", late_between=((0, 3, 80),)),
        one("everything 300 ms late for 20 s", late_between=((s / 2, s / 2 + 20, 300),)),
        one("everything 20 ms late for two minutes", late_between=((s / 2, s / 2 + 120, 20),)),
        one("one status in 100 tells a timestamp 3 s old", catch_up=0.01),
        one("one status in 500 tells a timestamp to come", torn=0.002),
        one("mute every now and then", mutes=tuple((k * s / 9, k * s / 9 + 25) for k in range(1, 8))),
        one("no status at all", statuses=()),
        one("status stops half-way", statuses=((0, s / 2),)),
        one("status begins half-way", statuses=((s / 2, 1e12),)),
        one("no status, sample clock +20 ppm", statuses=(), ppm=20),
        one("no NTP", Host(ntp_ms=None)),
        one("no NTP, no status", Host(ntp_ms=None, offset_ms=4_000), statuses=()),
        one("NTP over a wide area", Host(ntp_ms=12)),
        one("NTP silent for a third", Host(ntp_out=((s / 3, 2 * s / 3),))),
        one("host 40 ms ahead", Host(offset_ms=40)),
        one("host 40 ms ahead, no status", Host(offset_ms=40), statuses=()),
        one("host drifts 30 ppm", Host(ppm=30)),
        one("host set by +0.5 s and back", Host(steps=((s / 3, 500), (s / 2, -500)))),
        one("host set by -1 h and back", Host(steps=((s / 3, -HOURS_MS), (s / 2, HOURS_MS)))),
        one("host set by +1 h and back, no status", Host(steps=((s / 3, HOURS_MS), (s / 2, -HOURS_MS))), statuses=()),
        one("host 9 s wrong until NTP sets it", Host(9_000, steps=((s / 3, -9_000),), ntp_out=((0, s / 3),))),
        one("radiod on another host, 3 ms off", remote_ms=3, network=Lateness(0.4, 0.2, 0.02, 4)),
        one("radiod on another host, 90 ms off", remote_ms=90, network=Lateness(0.4, 0.2, 0.02, 4)),
        one("radiod's host is set by 0.2 s", remote_ms=0, remote_steps=((s / 2, 200),)),
        parts("leap second", Timeline, begin_s=30.0, leap_after_s=30 + int(minutes / 2) * 60),
        parts(
            "radiod starts again, three times", Timeline,
            *[lambda m, k=k: Timeline(m, port=40_001 + k, first_rtp=(1 << 32) - 320 + k) for k in range(3)],
        ),
        parts("rate changes to 24 kHz", Timeline, lambda m: Timeline(m, rate_hz=24_000, first_rtp=(1 << 32) - 480)),
        parts("timestamps jump", Timeline, lambda m: Timeline(m, first_rtp=1 << 31, pause_s=2.5)),
        parts("12 kHz with 5 % loss", lambda m: Timeline(m, rate_hz=12_000), loss=0.05),
        parts("known chain delay", Timeline, chain_delay_ns=14_300_000),
    ]  # fmt: skip


__all__ = ["scenarios"]
