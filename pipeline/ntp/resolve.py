"""Things that may block for seconds, kept away from the cycle: names, local daemons.

Each job is a thread of its own, so that a name that takes 30 s to fail delays no other;
never more than one per key, so their number is bounded by the configuration.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from pipeline.ntp.peer import Address


def lookup(host: str, port: int) -> tuple[Address, ...]:
    """All addresses of a name, best first (RFC 6724 order), each once. OSError when there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    return tuple(dict.fromkeys(Address.of(str(sockaddr[0]), port) for _, _, _, _, sockaddr in found))


class Background:
    """Runs functions in daemon threads; `wake` is called from there when a result is ready."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._running: set[Hashable] = set()
        self._results: queue.SimpleQueue[tuple[Hashable, Any]] = queue.SimpleQueue()

    def submit(self, key: Hashable, function: Callable[[], Any]) -> bool:
        """Start `function` unless one with this key still runs."""
        if key in self._running:
            return False
        self._running.add(key)
        threading.Thread(target=self._run, args=(key, function), daemon=True, name=f"ntp {key}").start()
        return True

    def _run(self, key: Hashable, function: Callable[[], Any]) -> None:
        try:
            result = function()
        except Exception as error:  # handed to the loop, which names it
            result = error
        self._results.put((key, result))
        self._wake()

    def finished(self) -> Iterator[tuple[Hashable, Any]]:
        """Results since the last call, a failure as its exception."""
        while True:
            try:
                key, result = self._results.get_nowait()
            except queue.Empty:
                return
            self._running.discard(key)
            yield key, result
