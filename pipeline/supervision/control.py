"""The control socket: HTTP/1.1 with JSON over a Unix stream socket, one request a connection.

Served from the supervisor's loop, without threads: `serve` takes what has arrived, answers
what is complete and returns. Nothing here waits. A client that sends slowly, too much or
nonsense costs a buffer of 64 KiB for two seconds; sixteen clients at a time are listened
to. Readiness is told to the supervisor by SIGIO, which it waits for with its other signals.

Root and the supervisor's own user may ask everything (SO_PEERCRED), whatever the mode of the
socket or its folder. Where there is a group `sigmond` that the supervisor is in, the socket is
the group's too (client contract 0.8, section 13.1), for reading: its members may GET.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pipeline import PipelineError

log = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
MAX_CLIENTS = 16
DEADLINE_NS = 2_000_000_000
READERS = "sigmond"

TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' exposition format
# (HTTP status, JSON object or plain text)
Reply = tuple[int, dict[str, Any] | str]
Handler = Callable[[str, str, dict[str, Any]], Reply]


class ControlError(PipelineError):
    """The control socket cannot be made or asked."""


class RequestError(Exception):
    """The request is not what we speak; carries the HTTP status to answer with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def parse_request(data: bytes) -> tuple[str, str, dict[str, Any]] | None:
    """(method, path without query, JSON body) of one request; None while it is incomplete.

    Raises RequestError for what can never become a request (RFC 9112; chunked bodies are not taken).
    """
    if len(data) > MAX_REQUEST:
        raise RequestError(413, f"request is longer than {MAX_REQUEST} bytes")
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise RequestError(400, "request line is not HTTP/1.1")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise RequestError(501, "Transfer-Encoding is not supported; send Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length) > MAX_REQUEST:
        raise RequestError(400, "Content-Length is not a number of bytes that can be taken")
    if len(body) < int(length):
        return None
    return words[0], words[1].partition("?")[0], _json_object(body[: int(length)])


def _json_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "body is not JSON") from None
    if not isinstance(value, dict):
        raise RequestError(400, "body is not a JSON object")
    return value


def format_reply(status: int, value: dict[str, Any] | str) -> bytes:
    """One HTTP response with a JSON or text body, after which the connection is closed."""
    is_text = isinstance(value, str)
    body = value.encode() if isinstance(value, str) else json.dumps(value, allow_nan=False).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {TEXT if is_text else 'application/json'}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _share(path: Path) -> bool:
    """Give the socket to the readers' group, if there is one that we are in; the kernel then keeps others out."""
    try:
        group = grp.getgrnam(READERS).gr_gid
        os.chown(path, -1, group)
        path.chmod(0o660)
    except (KeyError, OSError):
        return False
    return True


def _signal_when_ready(sock: socket.socket) -> None:
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)


class _Client:
    """One connection: what came, what is still to be sent, and until when it may stay."""

    def __init__(self, sock: socket.socket, now_ns: int, may_order: bool) -> None:
        self.sock = sock
        self.may_order = may_order
        self.received = bytearray()
        self.out = b""
        self.deadline_ns = now_ns + DEADLINE_NS

    def step(self, handler: Handler) -> bool:
        """Do what can be done now; False when the connection is finished."""
        if not self.out and not self._receive():
            return False
        if not self.out:
            self.out = self._answer(handler)
        return self._send() if self.out else True

    def _receive(self) -> bool:
        """Take what is there; False when the client has gone."""
        while len(self.received) <= MAX_REQUEST:
            try:
                data = self.sock.recv(16384)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.received += data
        return True

    def _answer(self, handler: Handler) -> bytes:
        try:
            request = parse_request(bytes(self.received))
            if request is not None and request[0] != "GET" and not self.may_order:
                raise RequestError(403, "only root and the instance's own user may do this")
            return b"" if request is None else format_reply(*handler(*request))
        except RequestError as error:
            return format_reply(error.status, {"error": str(error)})
        except Exception:  # supervision must not end because a question has no answer
            log.exception("control: no answer")
            return format_reply(500, {"error": "internal error, see log"})

    def _send(self) -> bool:
        try:
            self.out = self.out[self.sock.send(self.out) :]
        except BlockingIOError:
            return True
        return bool(self.out)


class ControlServer:
    """The listening socket and its clients; its owner has SIGIO blocked or ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clients: list[_Client] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            mask = os.umask(0o177)
            try:
                self._listener.bind(str(path))
            finally:
                os.umask(mask)
            self._shared = _share(path)
            self._listener.listen(MAX_CLIENTS)
            _signal_when_ready(self._listener)
        except OSError as error:
            self._listener.close()
            raise ControlError(f"control socket {path}: {error.strerror or error}") from None

    def serve(self, now_ns: int, handler: Handler) -> None:
        """Accept, read, answer and drop; never waits. A handler error is answered with 500 and logged."""
        self._accept(now_ns)
        for client in list(self._clients):
            try:
                goes_on = client.step(handler)
            except OSError:
                goes_on = False
            if not goes_on or now_ns >= client.deadline_ns:
                client.sock.close()
                self._clients.remove(client)

    def _accept(self, now_ns: int) -> None:
        while len(self._clients) < MAX_CLIENTS:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            own = peer_uid(sock) in (0, os.geteuid())
            if not own and not self._shared:
                log.warning("control: refused uid %d", peer_uid(sock))
                sock.close()
                continue
            _signal_when_ready(sock)
            self._clients.append(_Client(sock, now_ns, own))

    @property
    def busy(self) -> bool:
        """True while a client is connected, whose deadline has to be watched."""
        return bool(self._clients)

    def close(self, unlink: bool = True) -> None:
        """Close all; a child passes `unlink=False` and leaves the name to the supervisor."""
        for client in self._clients:
            client.sock.close()
        self._clients.clear()
        self._listener.close()
        if unlink:
            with contextlib.suppress(OSError):
                self.path.unlink()


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def ask(
    path: Path, method: str, target: str, body: dict[str, Any] | None = None, timeout_s: float = 10.0
) -> tuple[int, dict[str, Any]]:
    """Send one request to the supervisor's control socket; (HTTP status, JSON).

    Raises ControlError when nobody answers.
    """
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(payload)}\r\n\r\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(head.encode() + payload)
            with sock.makefile("rb") as stream:
                data = stream.read()
    except OSError as error:
        raise ControlError(f"control socket {path}: {error.strerror or error}; does the instance run?") from None
    try:
        answer, _, text = data.partition(b"\r\n\r\n")
        return int(answer.split(b" ", 2)[1]), json.loads(text)
    except (ValueError, IndexError):
        raise ControlError(f"control socket {path}: the answer is not HTTP with JSON") from None
