"""Text that names a host and a port: `239.1.2.55:5004`, `bee1-status.local`, `[::1]:123`.

Only the text is judged here; nothing is resolved.
"""

from __future__ import annotations

import ipaddress
import re

RTP_PORT = 5004  # ka9q-radio rtp.h, DEFAULT_RTP_PORT
STATUS_PORT = 5006  # ka9q-radio rtp.h, DEFAULT_STAT_PORT
NTP_PORT = 123

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def split_endpoint(text: str, default_port: int) -> tuple[str, int]:
    """(host, port) of `host`, `host:port`, `[v6]` or `[v6]:port`; a bare IPv6 address has no port.

    The host is an address or a DNS name; ValueError says what is wrong with the text.
    """
    host, colon, port_text = _cut(text)
    if colon and not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= 65535):
        raise ValueError(f"port {port_text!r} must be a number from 1 to 65535")
    if not _is_host(host):
        raise ValueError(f"{host!r} is neither an address nor a host name")
    return host, int(port_text) if colon else default_port


def _cut(text: str) -> tuple[str, str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address with a port is written [address]:port")
        return host, rest[:1], rest[1:]
    if text.count(":") > 1:
        return text, "", ""
    return text.partition(":")


def _is_host(host: str) -> bool:
    if ":" in host or not host.strip("0123456789."):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split("."))


def join_endpoint(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def multicast_endpoint(text: str, default_port: int) -> str:
    """`group:port` with the port always stated; the group is a multicast IPv4 address or a name.

    radiod's groups are IPv4 (ka9q-radio multicast.c). ValueError for anything else.
    """
    host, port = split_endpoint(text, default_port)
    if is_address(host) and not (":" not in host and ipaddress.IPv4Address(host).is_multicast):
        raise ValueError("must be a multicast IPv4 address (224.0.0.0 to 239.255.255.255) or a name")
    return join_endpoint(host, port)


def ipv4_address(text: str) -> str:
    """`text` if it is an IPv4 address, else ValueError."""
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise ValueError("must be an IPv4 address") from None


def is_address(host: str) -> bool:
    """True when `host` is a numeric address that needs no resolving."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
