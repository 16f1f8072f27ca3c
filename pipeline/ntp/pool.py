"""All configured servers together: whom to ask now, at which address, and what came of it.

Two names that lead to one address are one server with one vote; the second name waits
until it leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.addresses import is_address
from pipeline.config import Ntp, Server
from pipeline.ntp.peer import RESOLVE_AFTER_NS, Address, Peer
from pipeline.ntp.plan import MISSES_BEFORE_BACKOFF, PUBLIC_INTERVAL_S, SECOND, Grid
from pipeline.ntp.report import Counters, Note
from pipeline.ntp.wire import Instant, Kiss, Refusal, Refused, Sample
from pipeline.ntp.words import meaning

SERVERS = "servers"  # the name of this source in the configuration
# A name that fails is tried again soon, as the network may just be coming up, then less often.
RESOLVE_RETRY_NS = 5 * SECOND
RESOLVE_RETRY_DOUBLINGS = 6
# So many requests in a row unanswered by servers that used to answer are worth a look at
# all the others, before it is their turn.
SUSPICIOUS_MISSES = 3


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request to peer `index`."""

    index: int
    address: Address


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look the peer's name up, away from the loop."""

    index: int
    server: Server


class Pool:
    """The peers, in the order of the configuration. Counts in `counters`, tells in `notes`."""

    def __init__(self, config: Ntp, grid: Grid, now: Instant, counters: Counters, notes: list[Note]) -> None:
        self._limit = config.max_parallel if config.parallel else 1
        self._counters = counters
        self._notes = notes
        self._resolving: set[int] = set()
        self._silent = 0
        asked = config.servers if SERVERS in config.sources else ()
        samples = config.samples if config.mode == "advanced" else 1
        self.peers = [_peer(i, server, grid, samples) for i, server in enumerate(asked)]
        for peer in self.peers:
            if peer.numeric:
                self._assign(peer, now)

    def __len__(self) -> int:
        return len(self.peers)

    # What came of it

    def outcome(self, index: int, outcome: Sample | Refused | Kiss, now: Instant, elapsed_s: float) -> None:
        """The server's answer, `elapsed_s` after the request."""
        peer = self.peers[index]
        if peer.void():
            return
        self._counters.answered(elapsed_s)
        if peer.reported:
            peer.reported = False
            self._note(f"{peer.name}: answers again")
        if isinstance(outcome, Sample):
            self._sampled(peer, outcome, now)
        elif isinstance(outcome, Refused):
            if outcome.reason not in (peer.reason, Refusal.HOST_STEP):
                self._note(f"{peer.name}: unusable ({outcome.reason}): {meaning(outcome.reason)}", warning=True)
            self._counters.refused += 1
            self._counters.refusals[str(outcome.reason)] += 1
            peer.refused(outcome)
        else:
            self._kissed(peer, outcome.code, now)

    def _sampled(self, peer: Peer, sample: Sample, now: Instant) -> None:
        was_outage = self.outage()
        self._counters.samples += 1
        self._silent = 0
        peer.sampled(sample)
        if was_outage:
            self._note("servers answer again")
            for each in self.peers:
                each.misses = 0  # it was our line and no fault of theirs
                each.ask_soon(now.monotonic)
                if each is not peer:  # the first to be heard again is not to decide alone
                    each.begin()

    def _kissed(self, peer: Peer, code: str, now: Instant) -> None:
        self._counters.kisses += 1
        self._counters.refusals[f"kiss:{code}"] += 1
        peer.kissed(code, now.monotonic)
        told = f"{peer.name}: kiss-o'-death {code}: {meaning(peer.reason)}"
        if code == "RATE":
            wait_s = (peer.next_ns - now.monotonic) / SECOND
            told += f"; every {peer.interval_s:.0f} s from now on, next in {wait_s:.0f} s"
        self._note(told, warning=True)

    def missed(self, index: int, reason: str, now: Instant, unreachable: bool = False, sent: bool = True) -> None:
        """No answer; `unreachable` when none can come from this address, not `sent` when nothing left this host."""
        peer = self.peers[index]
        if peer.void():
            return
        if peer.misses < MISSES_BEFORE_BACKOFF:
            self._silent += 1
        before = self.outage()
        peer.missed(reason, now.monotonic, sent=sent)
        self._counters.missed += 1
        # An address that never answered may be one of a family that leads nowhere from here.
        hopeless = unreachable or not peer.answered
        if hopeless and peer.address is not None:
            peer.unreachable.add(peer.address)
        if hopeless or peer.misses >= MISSES_BEFORE_BACKOFF:
            self._assign(peer, now, ask_at_once=hopeless)
        outage = self.outage()
        if peer.misses >= MISSES_BEFORE_BACKOFF and not (outage or before or peer.reported):
            peer.reported = True
            self._note(f"{peer.name}: no answer to {peer.misses} requests in a row ({reason})", warning=True)
        if outage and not before:
            self._note("no server answers", warning=True)

    # Names

    def resolved(self, index: int, addresses: Sequence[Address], now: Instant) -> None:
        """All addresses of the peer's name, best first."""
        peer = self.peers[index]
        self._resolving.discard(index)
        peer.resolve_ns = now.monotonic + RESOLVE_AFTER_NS
        peer.lookup_failures = 0
        peer.addresses = tuple(addresses)
        peer.unreachable.clear()
        if peer.address not in addresses or peer.dead or peer.misses:
            self._assign(peer, now, ask_at_once=True)

    def unresolved(self, index: int, reason: str, now: Instant) -> None:
        """The name has no address; an old one stays in use."""
        peer = self.peers[index]
        self._resolving.discard(index)
        peer.resolve_ns = now.monotonic + (RESOLVE_RETRY_NS << min(peer.lookup_failures, RESOLVE_RETRY_DOUBLINGS))
        peer.lookup_failures += 1
        if peer.address is None and peer.reason != reason:
            peer.reason = reason
            self._note(f"{peer.name}: {reason}", warning=True)

    def _assign(self, peer: Peer, now: Instant, ask_at_once: bool = False) -> None:
        """Take the next address of the peer's name that is nobody else's and was not refused."""
        claimed = {p.address: p for p in self.peers if p is not peer and p.address is not None}
        at = peer.addresses.index(peer.address) + 1 if peer.address in peer.addresses else 0
        for address in peer.addresses[at:] + peer.addresses[:at]:
            if address in claimed or not peer.may_use(address):
                continue
            if address != peer.address:
                peer.use(address)
                if ask_at_once:
                    peer.next_ns = now.monotonic
            return
        if peer.address is None or (peer.address in claimed and peer.addresses):
            holders = {a: claimed[a] for a in peer.addresses if a in claimed}
            if not any(self._make_way(a, holder, peer, now) for a, holder in holders.items()):
                taken = next((holder.name for holder in holders.values()), None)
                peer.use(None, f"same address as {taken}" if taken else "no usable address")

    def _make_way(self, address: Address, holder: Peer, peer: Peer, now: Instant) -> bool:
        """True when the holder of an address has another one to go to, and leaves it to a peer that has none."""
        claimed = {p.address for p in self.peers}
        free = next((a for a in holder.addresses if a not in claimed and holder.may_use(a)), None)
        if free is None or not peer.may_use(address):
            return False
        for each, its in ((holder, free), (peer, address)):
            each.use(its)
            each.next_ns = now.monotonic
        return True

    # What to do

    def requests(self, now: Instant) -> list[Ask]:
        """Whom to ask now, longest overdue first, no more at a time than allowed."""
        room = self._limit - sum(p.pending for p in self.peers)
        due = sorted((p for p in self.peers if p.due(now.monotonic)), key=lambda p: (p.next_ns, p.index))
        asks = []
        for peer in due[: max(room, 0)]:
            assert peer.address is not None
            peer.asked(now.monotonic)
            self._counters.requests += 1
            asks.append(Ask(peer.index, peer.address))
        return asks

    def lookups(self, now: Instant) -> list[Resolve]:
        """Names to look up now."""
        due = [p for p in self.peers if self._wants_lookup(p) and now.monotonic >= p.resolve_ns]
        for peer in due:
            self._resolving.add(peer.index)
            peer.looked_up = True
        return [Resolve(p.index, p.server) for p in due]

    def _wants_lookup(self, peer: Peer) -> bool:
        return not peer.numeric and peer.index not in self._resolving

    def ask_idle(self, now: Instant) -> None:
        """Ask everybody who has been left alone long enough for a retry."""
        for peer in self.peers:
            if peer.may_ask(now.monotonic) and peer.idle(now.monotonic):
                peer.next_ns = min(peer.next_ns, now.monotonic)

    def ask_canary(self, now: Instant) -> None:
        """In an outage: ask the server that was left alone the longest.

        When everybody is silent it is our own line, and one server a cycle tells when it is
        back. Each is still left alone for 64 s: no more than the normal plan.
        """
        ready = [p for p in self.peers if p.may_ask(now.monotonic) and p.idle(now.monotonic, PUBLIC_INTERVAL_S)]
        if ready:
            longest = min(ready, key=lambda p: p.asked_ns or 0)
            longest.next_ns = min(longest.next_ns, now.monotonic)

    def set_minimum_interval(self, seconds: float, now: Instant) -> None:
        """Ask public servers no more often than this; those overdue by a shorter one are asked now."""
        for peer in self.peers:
            shorter = seconds < peer.minimum_interval_s
            peer.minimum_interval_s = seconds
            if shorter and peer.idle(now.monotonic, PUBLIC_INTERVAL_S):
                peer.next_ns = min(peer.next_ns, now.monotonic)

    def busy(self, now: Instant) -> bool:
        """Requests are outstanding or waiting for their turn."""
        return any(p.pending or p.due(now.monotonic) for p in self.peers)

    def unsettled(self, wait_for_names: bool) -> int:
        """Servers of which a first poll may still bring something."""
        return sum(self._open(p, wait_for_names) for p in self.peers)

    def _open(self, peer: Peer, wait_for_names: bool) -> bool:
        if peer.address is None:
            named = peer.index in self._resolving or (self._wants_lookup(peer) and not peer.looked_up)
            return wait_for_names and named
        return not peer.dead and not peer.settled

    def outage(self) -> bool:
        """Every server's last poll failed; unknown, and so False, while first answers are outstanding."""
        polled = [p for p in self.peers if not p.first_poll]
        if not polled or any(p.ok for p in polled):
            return False
        return not any(p.first_poll and p.pending for p in self.peers)

    def suspicious(self) -> bool:
        """Several servers in a row that used to answer did not."""
        return self._silent >= min(SUSPICIOUS_MISSES, len(self.peers)) > 0

    def clear(self) -> None:
        """Forget all samples."""
        for peer in self.peers:
            peer.clear()

    def next_ns(self) -> list[int]:
        """When something will be due, CLOCK_MONOTONIC."""
        times = [p.resolve_ns for p in self.peers if self._wants_lookup(p)]
        if sum(p.pending for p in self.peers) < self._limit:
            times += [t for p in self.peers if (t := p.wake_ns()) is not None]
        return times

    def _note(self, text: str, warning: bool = False) -> None:
        self._notes.append(Note(text, warning))


def _peer(index: int, server: Server, grid: Grid, samples: int) -> Peer:
    numeric = is_address(server.address)
    addresses = (Address.of(server.address, server.port),) if numeric else ()
    lan = server.lan or any(address.loopback for address in addresses)
    peer = Peer(index, server, lan, numeric, grid, samples)
    peer.addresses = addresses
    return peer
