"""An event as what a command or a URL gets; pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline import DISTRIBUTION
from pipeline.alerts.incidents import Event
from pipeline.config import Station
from pipeline.supervision.causes import duration_text

WORDS = {
    "silent": ("silent", "heard again"),
    "not_recording": ("not recording", "recording again"),
    "clock": ("clock not synchronised", "clock synchronised again"),
    "disk": ("disk nearly full", "disk has room again"),
    "test": ("test message", "test message"),
}
MAX_TEXT = 4000  # characters; services such as ntfy take no more


@dataclass(frozen=True, slots=True)
class Message:
    """One message: a subject line, a text, and the same as fields for programs."""

    subject: str
    text: str
    fields: dict[str, Any]

    @property
    def json(self) -> str:
        """The fields as one line of JSON."""
        return json.dumps(self.fields, ensure_ascii=False)


def message(event: Event, instance: str, host: str, station: Station, utc: str) -> Message:
    """The message of an event that is told at `utc` (ISO 8601)."""
    what = WORDS[event.kind][0 if event.begins else 1]
    names = [name for name in event.texts if name]
    about = f"{len(names)} channels" if len(names) > 3 else ", ".join(names)
    subject = f"{DISTRIBUTION} {instance} on {host}: {f'{about} ' if about else ''}{what}"
    lines = [f"{name}: {text}" if name else text for name, text in event.texts.items()]
    if not event.begins:
        lines = [f"over after {duration_text(event.lasted_s)}; it was:", *lines]
    text = "\n".join([subject, "", *lines])
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 4] + " ..."
    fields = {
        "service": DISTRIBUTION,
        "instance": instance,
        "host": host,
        "station": station.callsign or None,
        "event": "begins" if event.begins else "ends",
        "kind": event.kind,
        "channels": names,
        "causes": dict(event.texts),
        "lasted_s": round(event.lasted_s, 1),
        "utc": utc,
        "subject": subject,
        "text": text,
    }
    return Message(subject, text, fields)
