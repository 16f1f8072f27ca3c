"""What the one-word reasons of tables, logs and JSON mean, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

MEANINGS = {
    # a reply's faults (pipeline.ntp.wire.Refusal)
    "short": "what came is too short for an NTP packet",
    "mode": "what came is no server's answer",
    "version": "what came is neither NTP version 3 nor 4",
    "bogus": "what came does not belong to our request: forged, or too old",
    "zero-ts": "its answer lacks the time stamps",
    "unsync": "it says itself that its clock is not synchronised",
    "header": "it is 16 s or more from its reference, or that lies in the future",
    "stale-ref": "it has not heard from its own reference for a day",
    "local-ref": "it follows nothing but its own clock; ntp.allow_local_reference accepts that",
    "loop": "it follows this host's clock",
    "server-interval": "its stamps say that it answered before it was asked, or 4 s later",
    "host-step": "this host's clock was stepped before the answer came; asked again in its turn",
    "neg-delay": "its stamps contradict each other (round trip below zero)",
    "delay": "the round trip is longer than max_delay_ms",
    "distance": "it may be farther from UTC than max_distance_ms",
    # what the vote says (pipeline.ntp.select.Outcome and the falsetickers)
    "falseticker": "its offset contradicts the majority's",
    "undecided": "answers are outstanding that may decide the vote",
    "no-majority": "no offset suits more than half of the servers; any of them may be wrong",
    "too-few": "fewer servers agree than min_agree asks for",
    # no answer
    "timeout": "no answer within timeout_s",
    "refused": "nothing listens at that address and port",
    "enetunreach": "this host has no route to it",
    "ehostunreach": "the network has no way to it",
    "eperm": "a firewall on this host forbids the request",
    "eacces": "this host forbids the request: a firewall, or a broadcast address",
    # kisses-o'-death (RFC 5905 section 7.4)
    "kiss:RATE": "it wants to be asked less often, and is",
    "kiss:DENY": "it refuses to serve this host, and is left alone",
    "kiss:RSTR": "it refuses to serve this host, and is left alone",
    # local daemons
    "absent": "no such daemon runs here, or not where ntp.chronyd_address and ntp.ntpd_address say",
    "does not answer": "the daemon hangs, or a firewall is in the way",
    # names
    "resolving": "its name is being looked up",
    "not asked yet": "its turn has not come",
    "no usable address": "no address of its name answers, or all have refused",
}
UNKNOWN_KISS = "an unknown kiss-o'-death code, without consequence"
MOST = 3


def meaning(reason: str) -> str:
    """A sentence about the reason; "" for one that speaks for itself (`name: ...`, `same address as ...`)."""
    word, _, heard = reason.partition(" (")
    if word == "timeout" and heard:
        return f"{MEANINGS[word]}; {MEANINGS.get(heard.rstrip(')'), 'something else came')}"
    if reason.startswith("kiss:"):
        return MEANINGS.get(reason, UNKNOWN_KISS)
    return MEANINGS.get(reason, "")


def side(offset_ms: float) -> str:
    """host - UTC as `3.677 ms ahead of UTC` or `0.250 ms behind UTC`."""
    return f"{abs(offset_ms):.3f} ms {'behind' if offset_ms < 0 else 'ahead of'} UTC"


def counted(reasons: Iterable[str]) -> str:
    """How often each reason occurs, the most frequent first: `4 timeout, 1 unsync`; "" when there is none."""
    found = Counter(reason for reason in reasons if reason).most_common()
    told = [f"{count} {reason}" for reason, count in found[:MOST]]
    rest = sum(count for _, count in found[MOST:])
    return ", ".join([*told, f"{rest} other"] if rest else told)
