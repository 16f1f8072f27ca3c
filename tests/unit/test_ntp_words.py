"""Every reason that may be shown has a meaning for people."""

from __future__ import annotations

import pytest

from pipeline.ntp.select import Outcome
from pipeline.ntp.wire import Refusal
from pipeline.ntp.words import counted, meaning, side

# What an operator needs no explanation for: the row is fine, or says it all.
PLAIN = {"majority", "no-candidates"}


@pytest.mark.parametrize("reason", [*Refusal, *(o.value for o in Outcome if o.value not in PLAIN), "falseticker"])
def test_reasons_have_meanings(reason: str) -> None:
    assert meaning(reason)


def test_composed_reasons() -> None:
    assert meaning("timeout (bogus)") == f"{meaning('timeout')}; {meaning('bogus')}"
    assert meaning("kiss:XFOO") == "an unknown kiss-o'-death code, without consequence"
    assert meaning("kiss:DENY") != meaning("kiss:RATE") != meaning("kiss:XFOO")
    assert meaning("name: Name or service not known") == meaning("same address as a.test") == meaning("") == ""


def test_counted() -> None:
    assert counted([]) == counted(["", ""]) == ""
    assert counted(["unsync", "timeout", "", "timeout"]) == "2 timeout, 1 unsync"
    assert counted("aaabbcde") == "3 a, 2 b, 1 c, 2 other"


def test_side() -> None:
    assert side(3.6774) == "3.677 ms ahead of UTC"
    assert side(-0.25) == "0.250 ms behind UTC"
