"""The one component that keeps radiod's channels, fenced off from supervision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeline.config import Channel, Radiod
from pipeline.records import ChannelRecord
from pipeline.supervision.crew import reason_of
from pipeline.supervision.parts import Control

log = logging.getLogger(__name__)


class RadiodGuard:
    """Polls `Control` and outlives its errors: each kind is logged once until a poll succeeds."""

    def __init__(self, make: Callable[[Radiod], Control]) -> None:
        self._make = make
        self._radiod: Radiod | None = None
        self._control: Control | None = None
        self._told: set[str] = set()

    def poll(self, radiod: Radiod, now_ns: int, channels: Sequence[tuple[Channel, ChannelRecord]]) -> None:
        """Let radiod's channels be created and renewed, if that is configured."""
        if radiod.status_address is None or not radiod.create_channels:
            return
        # A library's fault here must not end the recording of channels that exist.
        try:
            if self._control is None or radiod != self._radiod:
                self._control, self._radiod = self._make(radiod), radiod
            self._control.poll(now_ns, channels)
        except Exception as error:
            kind = f"{type(error).__name__}: {reason_of(error)}"
            if kind not in self._told:
                self._told.add(kind)
                expected = isinstance(error, OSError) or hasattr(error, "exit_code")
                log.error("radiod control: %s; channels are not created or renewed", kind, exc_info=not expected)
        else:
            self._told.clear()
