"""Rules for single values of the configuration, beside those that `pipeline.schema` has for all; pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pipeline.addresses import RTP_PORT, STATUS_PORT, join_endpoint, multicast_endpoint, split_endpoint

# A minute of it, 1 GB as complex64, is what the program's limits are made for.
HIGHEST_RATE_HZ = 2_000_000
# What else the log, `status` and the board tell of by name; a channel of that name could not be told apart.
RESERVED_IDS = ("supervisor", "ntp", "radiod", "disk", "alerts", "web")
_NAME = re.compile(r"(?![. ])[A-Za-z0-9 ._+-]{1,48}(?<! )")


def data_endpoint(text: str) -> str:
    """Rule: a group that carries RTP."""
    return multicast_endpoint(text, RTP_PORT)


def status_endpoint(text: str) -> str:
    """Rule: a group that carries radiod's status."""
    return multicast_endpoint(text, STATUS_PORT)


def daemon_endpoint(text: str) -> str:
    """Rule: where a daemon on this host is asked; the port must be stated."""
    host, port = split_endpoint(text, 0)
    if not port:
        raise ValueError("must be host:port")
    return join_endpoint(host, port)


def channel_name(text: str) -> str:
    """Rule: a name that is a folder, a segment and a process title without any quoting."""
    if "/" in text or "\\" in text or ".." in text:
        raise ValueError("path outside data_dir: a name must not contain / \\ or ..")
    if text.replace(" ", "_") in RESERVED_IDS:
        raise ValueError(f"must not be one of {', '.join(RESERVED_IDS)}")
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 48 letters, digits, blanks and . _ - +, no dot or blank first, no blank last")
    return text


def web_address(text: str) -> str:
    """Rule: a URL that can be posted to, or nothing."""
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or " " in text or not text.isascii()):
        raise ValueError("must begin with http:// or https:// and name a host")
    return text
