"""The control socket's HTTP: what is a request, what is refused, and that nothing waits."""

from __future__ import annotations

import grp
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.supervision.control import (
    DEADLINE_NS,
    MAX_REQUEST,
    ControlError,
    ControlServer,
    Reply,
    RequestError,
    ask,
    format_reply,
    parse_request,
)


def request(body: bytes = b"", *headers: str, first: str = "POST /restart?now=1 HTTP/1.1") -> bytes:
    lines = [first, f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_request_is_complete_at_its_last_byte_and_not_before() -> None:
    data = request(b'{"channels": ["A"]}', "Host: localhost", "Accept: */*")
    for cut in range(len(data)):
        assert parse_request(data[:cut]) is None
    assert parse_request(data) == ("POST", "/restart", {"channels": ["A"]})


def test_no_body_is_an_empty_object() -> None:
    assert parse_request(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n") == ("GET", "/status", {})


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (request(b"{]"), 400),
        (request(b"[1]"), 400),
        (request(b"[" * 30000), 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: ²\r\n\r\n".encode("latin-1"), 400),
        (request(b"", "Transfer-Encoding: chunked"), 501),
        (b"x" * (MAX_REQUEST + 1), 413),
    ],
)
def test_what_can_never_be_a_request_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(data)
    assert caught.value.status == status


@given(st.binary(max_size=300) | st.binary(max_size=100).map(request))
def test_any_bytes_are_a_request_or_incomplete_or_refused(data: bytes) -> None:
    try:
        found = parse_request(data)
    except RequestError:
        return
    assert found is None or isinstance(found[2], dict)


def test_reply_has_its_length() -> None:
    head, _, body = format_reply(404, {"error": "µ"}).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"error": "µ"}


@pytest.fixture
def sigio() -> Iterator[None]:
    """Readiness is told by SIGIO, which would end a process that does not wait for it."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def server(tmp_path: Path, sigio: None) -> Iterator[ControlServer]:
    made = ControlServer(tmp_path / "s")
    yield made
    made.close()


def echo(method: str, path: str, body: dict[str, Any]) -> Reply:
    if path == "/bug":
        raise KeyError("bug")
    return 200, {"method": method, "path": path, "body": body}


def connect(server: ControlServer) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(server.path))
    return sock


def test_request_in_pieces_is_answered_when_whole_and_closed(server: ControlServer) -> None:
    with connect(server) as sock:
        data = request(b'{"a": 1}')
        sock.sendall(data[:20])
        server.serve(0, echo)
        sock.sendall(data[20:])
        server.serve(1, echo)
        answer = sock.makefile("rb").read()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["body"] == {"a": 1}


def test_large_reply_is_sent_as_the_client_reads(server: ControlServer) -> None:
    large = {"text": "x" * 3_000_000}
    with connect(server) as sock:
        sock.sendall(request())
        received = b""
        for _ in range(1000):
            server.serve(0, lambda *_: (200, large))
            chunk = sock.recv(1 << 20)
            received += chunk
            if not chunk:
                break
    assert len(received) > 3_000_000


def test_silent_client_is_dropped_at_its_deadline(server: ControlServer) -> None:
    with connect(server) as sock:
        server.serve(0, echo)
        server.serve(DEADLINE_NS - 1, echo)
        assert server.busy
        server.serve(DEADLINE_NS, echo)
        assert not server.busy
        assert sock.recv(1) == b""


def test_fault_in_the_handler_is_the_clients_500_and_no_more(
    server: ControlServer, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(server) as sock:
        sock.sendall(request(first="GET /bug HTTP/1.1"))
        server.serve(0, echo)
        assert sock.recv(100).startswith(b"HTTP/1.1 500")
    assert "bug" in caplog.text


def test_nobody_at_the_socket_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="does the instance run"):
        ask(tmp_path / "none", "GET", "/healthz")


def ask_as(server: ControlServer, uid: int, data: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What a user of this id is answered; nothing when the connection is closed at once."""
    monkeypatch.setattr("pipeline.supervision.control.peer_uid", lambda _: uid)
    with connect(server) as sock:
        sock.sendall(data)
        server.serve(0, echo)
        try:
            return sock.recv(1000)
        except ConnectionResetError:  # closed with our request unread
            return b""


def test_others_are_not_answered(server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600
    assert ask_as(server, 54_321, request(first="GET /status HTTP/1.1"), monkeypatch) == b""
    assert ask_as(server, 0, request(), monkeypatch).startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("sigio")
def test_sigmond_s_group_may_look_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grp.getgrnam", lambda name: grp.struct_group((name, "x", os.getegid(), [])))
    made = ControlServer(tmp_path / "shared.sock")
    try:
        assert made.path.stat().st_mode & 0o777 == 0o660
        assert ask_as(made, 54_321, request(first="GET /status HTTP/1.1"), monkeypatch).startswith(b"HTTP/1.1 200")
        assert ask_as(made, 54_321, request(first="POST /stop HTTP/1.1"), monkeypatch).startswith(b"HTTP/1.1 403")
        assert ask_as(made, 0, request(first="POST /stop HTTP/1.1"), monkeypatch).startswith(b"HTTP/1.1 200")
    finally:
        made.close()
