"""Posts one message and ends: `python -m pipeline.alerts.post`, with the order as JSON on standard input."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from email.header import Header
from email.message import Message
from typing import IO, Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its message."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """None: the answer is an error."""


def post(order: dict[str, Any]) -> None:
    """Send it. Raises OSError (of which urllib's errors are a kind) or ValueError."""
    headers = {"Content-Type": order["type"], "User-Agent": "grape-pipeline"}
    # ntfy shows it as the notification's title; others ignore it.
    headers["Title"] = Header(order["title"], "utf-8").encode() if not order["title"].isascii() else order["title"]
    request = urllib.request.Request(order["url"], order["body"].encode(), headers, method="POST")
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=order["timeout_s"]) as answer:
        answer.read(1)


def main() -> int:
    """Post what standard input says; 0 when the other side took it."""
    try:
        post(json.load(sys.stdin))
    except urllib.error.HTTPError as error:
        print(f"alert url: answered {error.code} {error.reason}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"alert url: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
