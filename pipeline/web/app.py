"""The page's WSGI application (PEP 3333): seven addresses, GET only, nothing else is served.

An address is looked up whole and a channel is one of the configuration's, so nothing that
a client sends becomes a path. The Host header must be an address, this host or a name that
was allowed: a page elsewhere that points its own name at us (DNS rebinding) gets nothing.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.shm import Board, SharedMemoryError
from pipeline.supervision.causes import Level
from pipeline.supervision.instance import why_absent
from pipeline.supervision.snapshot import take
from pipeline.supervision.troubles import supervisor_cause
from pipeline.web.live import absent_json, live_json

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from pipeline.config import Config

log = logging.getLogger(__name__)

# Everything comes from here, and nobody may frame it.
POLICY = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'"
HEADERS = (
    ("Content-Security-Policy", f"{POLICY}; form-action 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_PICTURE = re.compile(r"/(minute|day)/([A-Za-z0-9._+-]{1,48})\.png")


class Pictures(Protocol):
    """Where pictures come from."""

    def minute(self, channel: str) -> bytes | None:
        """PNG, None when there is none."""

    def day(self, channel: str) -> bytes | None:
        """PNG, None when there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    age: str = "no-store"


class Site:
    """The application; `hosts` are names, in lower case, under which the page may be asked for."""

    def __init__(self, config: Config, instance: str, pictures: Pictures, hosts: Iterable[str] = ()) -> None:
        name = socket.gethostname().lower()
        self._hosts = {"localhost", name, f"{name}.local", *hosts}
        self._config = config
        self._instance = instance
        self._pictures = pictures
        self._board: Board | None = None
        folder = resources.files("pipeline.web").joinpath("static")
        self._static = {path: (folder.joinpath(file).read_bytes(), kind) for path, (file, kind) in STATIC.items()}

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """See PEP 3333."""
        answer = self.answer(
            environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", ""), environ.get("HTTP_HOST", "")
        )
        headers = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))]
        headers += [("Cache-Control", answer.age), *HEADERS]
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        start_response(f"{answer.status} {answer.status.phrase}", headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]

    def answer(self, method: str, path: str, host: str) -> Answer:
        """What a request gets."""
        if not self._is_host(host):
            return Answer(HTTPStatus.MISDIRECTED_REQUEST, b"this host name is not allowed; see --allow-host\n")
        if method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET only\n")
        if path in self._static:
            body, kind = self._static[path]
            return Answer(HTTPStatus.OK, body, kind, "no-cache")
        if path == "/live.json":
            return Answer(HTTPStatus.OK, json.dumps(self._live(), allow_nan=False).encode(), "application/json")
        if found := _PICTURE.fullmatch(path):
            return self._picture(getattr(self._pictures, found[1]), found[2])
        return Answer(HTTPStatus.NOT_FOUND, b"there is no such page\n")

    @staticmethod
    def _picture(draw: Callable[[str], bytes | None], channel: str) -> Answer:
        png = draw(channel)
        if png is None:
            return Answer(HTTPStatus.NOT_FOUND, b"there is no such picture yet\n")
        return Answer(HTTPStatus.OK, png, "image/png", "private, max-age=30")

    def _is_host(self, header: str) -> bool:
        """A name that was allowed, or any address, which no foreign page can pass off as its own name."""
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", header)
        if found is None:
            return False
        host = found[1].lower().removesuffix(".")
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return host in self._hosts
        return True

    def _live(self) -> dict[str, Any]:
        """The instance now; its next start is found too."""
        for _ in range(2):
            try:
                board = self._board or Board.open(self._instance)
            except SharedMemoryError as error:
                return absent_json(self._instance, *why_absent(self._instance, error), time.time())
            seen = take(board, self._config, brief=True)
            self._board = board if supervisor_cause(seen)[0] is not Level.CRIT else None
            if self._board is not None:
                break
        return live_json(seen, time.time())
