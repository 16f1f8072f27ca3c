"""From what is wrong now to one message an incident; pure, time is an argument.

A condition becomes an incident when it has been there for `after_s`, blinking included: only
half of that without it starts the count again. It is over when it was away for `clear_after_s`,
so that what comes and goes is one incident. Conditions of a kind that begin or end together
are told together: nine channels of a radiod that stopped are one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.alerts.conditions import Key


@dataclass(frozen=True, slots=True)
class Event:
    """What is to be told: an incident begins or is over; `texts` by channel ("" = the instance)."""

    begins: bool
    kind: str
    texts: Mapping[str, str]
    lasted_s: float  # the longest of them, until now


@dataclass(slots=True)
class _Track:
    text: str
    since_s: float
    fine_since_s: float | None = None
    told: bool = False


class Incidents:
    """The conditions that were seen, and which of them were told."""

    def __init__(self, after_s: float, clear_after_s: float) -> None:
        self._after_s = after_s
        self._clear_after_s = clear_after_s
        self._tracks: dict[Key, _Track] = {}

    def restore(self, told: Mapping[Key, tuple[str, float]], now_s: float) -> None:
        """What an earlier process told and did not take back: text and age in seconds, by key."""
        for key, (text, age_s) in told.items():
            self._tracks[key] = _Track(text, now_s - age_s, told=True)

    def told(self, now_s: float) -> dict[Key, tuple[str, float]]:
        """The incidents that are open, as `restore` takes them."""
        return {key: (track.text, now_s - track.since_s) for key, track in self._tracks.items() if track.told}

    def update(self, now_s: float, wrong: Mapping[Key, str]) -> list[Event]:
        """Take what is wrong at `now_s` (monotonic, seconds); what is to be told."""
        for key, text in wrong.items():
            track = self._tracks.setdefault(key, _Track(text, now_s))
            track.text, track.fine_since_s = text, None
        for key, track in list(self._tracks.items()):
            if key in wrong:
                continue
            if track.fine_since_s is None:
                track.fine_since_s = now_s
            if not track.told and now_s - track.fine_since_s >= self._after_s / 2:
                del self._tracks[key]
        return [*self._begun(now_s), *self._ended(now_s)]

    def _begun(self, now_s: float) -> Iterable[Event]:
        waiting = {
            key: now_s - track.since_s
            for key, track in self._tracks.items()
            if not track.told and track.fine_since_s is None
        }
        for kind, keys in _together(waiting, self._after_s).items():
            for key in keys:
                self._tracks[key].told = True
            yield self._event(True, kind, keys, now_s)

    def _ended(self, now_s: float) -> Iterable[Event]:
        away = {
            key: now_s - track.fine_since_s
            for key, track in self._tracks.items()
            if track.told and track.fine_since_s is not None
        }
        for kind, keys in _together(away, self._clear_after_s).items():
            yield self._event(False, kind, keys, now_s)
            for key in keys:
                del self._tracks[key]

    def _event(self, begins: bool, kind: str, keys: list[Key], now_s: float) -> Event:
        tracks = {subject: self._tracks[kind, subject] for _, subject in keys}
        texts = {subject: track.text for subject, track in tracks.items()}
        return Event(begins, kind, texts, now_s - min(track.since_s for track in tracks.values()))


def _together(ages: Mapping[Key, float], due_s: float) -> dict[str, list[Key]]:
    """By kind, the keys that are due and those of the kind that are half-way there, if any is due."""
    due = {key[0] for key, age in ages.items() if age >= due_s}
    return {kind: [key for key, age in ages.items() if key[0] == kind and age >= due_s / 2] for kind in sorted(due)}
