"""The monitor without clock and sockets: events in, actions and publications out.

Whoever owns the clock and the sockets calls `tick` to learn what is to be done now, tells
what came of it (through `pool`, `local` and `kernel`), asks `publication` for something
to publish, and sleeps until `next_ns` or the next event. Nothing in here waits.

A publication is due at the beginning of every cycle whatever happens, after every round of
requests, and at once when the verdict changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Ntp
from pipeline.ntp import frequency, rows
from pipeline.ntp.evaluation import Evaluation, evaluate
from pipeline.ntp.peer import Drift
from pipeline.ntp.plan import SECOND, WITNESS_INTERVAL_S, Grid, RetryChain
from pipeline.ntp.pool import SERVERS, Ask, Pool, Resolve
from pipeline.ntp.reading import Absence, KernelState, Reading
from pipeline.ntp.report import Counters, Note, Report, Teller, essence, kernel_line
from pipeline.ntp.select import Outcome
from pipeline.ntp.verdict import STEP_NS, Basis, Judge, View, basis_of_reading
from pipeline.ntp.wire import PHI, Instant, Limits
from pipeline.ntp.words import counted
from pipeline.records import NtpQuality, NtpRecord, NtpState

KERNEL = "kernel"
SUSPEND_NS = SECOND
LATE_NS = SECOND
STARTING_CYCLES = 3
# A daemon's answer from further back than this belongs to a daemon that hangs.
READING_CYCLES = 3


@dataclass(frozen=True, slots=True)
class AskLocal:
    """Ask a local source, away from the loop; `kernel` is asked in place."""

    source: str


Action = Ask | Resolve | AskLocal


class Engine:
    """The servers, the plan and the verdict. One instance per monitor; times are `Instant`s."""

    def __init__(self, config: Ntp, now: Instant, carried: Basis | None = None, steps: int = 0) -> None:
        samples = config.samples if config.mode == "advanced" else 1
        self.config = config
        self.counters = Counters()
        self.notes: list[Note] = []
        self.limits = _limits(config)
        self.starting = True
        self._grid = Grid(now.monotonic, round(config.publish_interval_s * SECOND), samples)
        self.pool = Pool(config, self._grid, now, self.counters, self.notes)
        self._judge = Judge(config, carried)
        self._chain = RetryChain(config.retry_delays_s[: config.max_retries])
        self._local: dict[str, Reading | Absence] = {}
        self._local_due: list[str] = []
        self._kernel: KernelState | None = None
        self._last = now
        self._cycle_ns = now.monotonic
        self._heartbeat_ns: int | None = None
        self._round_open = False
        self._step_count = steps
        self._agreeing: frozenset[int] = frozenset()
        self._fitted: float | None = None
        self._good = False
        self._disturbed = False  # something happened that is judged at once
        self._shown: tuple[object, ...] = ()
        self._teller = Teller()

    # Events that do not concern a server

    def local(self, source: str, answer: Reading | Absence, now: Instant) -> None:
        """What a local daemon said."""
        self._disturbed = True
        before, self._local[source] = self._local.get(source), answer
        if isinstance(answer, Reading) is not isinstance(before, Reading):
            if isinstance(answer, Reading):
                self._note(f"{source}: synchronised to {answer.reference}")
            elif before is not None or answer.reason != "absent":
                self._note(f"{source}: {answer.reason}", warning=before is not None)
        witness = self._daemon(now) is not None and not self._servers_first()
        self.pool.set_minimum_interval(WITNESS_INTERVAL_S if witness else 0.0, now)

    def kernel(self, state: KernelState | None) -> None:
        """What the kernel thinks of its clock."""
        self._kernel = state

    def local_complete(self) -> bool:
        """Every local source has answered or been found absent."""
        return all(source in self._local for source in self.config.sources if source != SERVERS)

    # What to do

    def tick(self, now: Instant) -> list[Action]:
        """Look at the clocks, and at what has come due."""
        self._look(now)
        if now.monotonic >= self._cycle_ns:
            self._begin_cycle(now)
        if self._chain.take(now.monotonic):
            self.counters.retry_rounds += 1
            self.pool.ask_idle(now)
        actions: list[Action] = [AskLocal(source) for source in self._local_due]
        self._local_due = []
        actions += self.pool.lookups(now)
        asks = self.pool.requests(now)
        self._round_open |= bool(asks)
        return actions + list(asks)

    def _look(self, now: Instant) -> None:
        """Has the host's clock been stepped, or the host been asleep, since we last looked?"""
        last, self._last = self._last, now
        asleep_ns = (now.boottime - now.monotonic) - (last.boottime - last.monotonic)
        step_ns = (now.realtime - now.monotonic) - (last.realtime - last.monotonic)
        if asleep_ns > SUSPEND_NS:
            self._note(f"host was suspended for {asleep_ns / 1e9:.0f} s; measuring anew", warning=True)
            self._disturbed = True
            self._judge.forget()
            self._measure_anew(now)
        elif abs(step_ns) > STEP_NS:
            self._disturbed = True
            self._step_count += 1
            self._note(f"host clock was stepped by {step_ns / 1e9:+.6f} s", warning=True)
            self._local_due = self._local_sources()

    def _measure_anew(self, now: Instant) -> None:
        self._local.clear()
        self._local_due = self._local_sources()
        self.pool.clear()
        self.pool.ask_idle(now)

    def _local_sources(self) -> list[str]:
        return [KERNEL, *(s for s in self.config.sources if s != SERVERS)]

    def _begin_cycle(self, now: Instant) -> None:
        self._heartbeat_ns = self._cycle_ns
        self._cycle_ns = self._grid.next_cycle(now.monotonic)
        self._local_due = self._local_sources()
        self.counters.cycles += 1
        self._fitted = frequency.fit([tuple(p.history) for p in self.pool.peers if p.index in self._agreeing])
        if self.counters.cycles > STARTING_CYCLES:
            self.starting = False
        if self.pool.outage():
            self.pool.ask_canary(now)

    def next_ns(self) -> int:
        """CLOCK_MONOTONIC at which `tick` has something to do, if nothing happens before."""
        times = [self._cycle_ns, *self.pool.next_ns()]
        if self._chain.next_ns is not None:
            times.append(self._chain.next_ns)
        return min(times)

    # What to publish

    def publication(self, now: Instant) -> Report | None:
        """Judge what is known; a report when it is time for one or the verdict has changed."""
        if self._can_wait(now):
            return None
        record, evaluation = self._judged(now)
        self._good = record.state == NtpState.SYNCED
        self._disturbed = False
        round_over = self._round_open and not self.pool.busy(now)
        if round_over:
            self._round_open = False
            self._conclude(record, now)
        shown = essence(record)
        if shown == self._shown and not round_over and self._heartbeat_ns is None:
            return None
        self._shown = shown
        # At a cycle's beginning the last round's answers are in, even if the next one's are awaited already.
        settled = self._heartbeat_ns is not None or not self.pool.busy(now)
        self._count_publication(now, record)
        report = self._compile(record, evaluation)
        in_doubt = self.pool.outage() or self._judge.in_leap
        self.notes += self._teller.notes(report, settled=settled, votes_count=not in_doubt)
        return report

    def _can_wait(self, now: Instant) -> bool:
        """With a good verdict out, each answer of a round need not be weighed on its own."""
        quiet = self._good and not self._disturbed and self._heartbeat_ns is None
        return quiet and self._round_open and self.pool.busy(now)

    def report(self, now: Instant) -> Report:
        """The verdict of this moment with everything that goes with it."""
        return self._compile(*self._judged(now))

    def _judged(self, now: Instant) -> tuple[NtpRecord, Evaluation]:
        drift = self._drift(now)
        evaluation = evaluate(self.pool.peers, self.config, now, drift)
        self._agreeing = evaluation.selection.truechimers
        record = self._judge.judge(now, self._view(evaluation, now, drift))
        if self._judge.leap_passed:
            self._judge.leap_passed = False
            self._note("the leap second is over; measuring anew")
            self._teller.leap_over()
            self._measure_anew(now)
        return record, evaluation

    def _compile(self, record: NtpRecord, evaluation: Evaluation) -> Report:
        shown = rows.build(self.pool.peers, evaluation.estimates, evaluation.selection, evaluation.thresholds)
        return Report(record, shown, self.counters.as_dict(), self._local_lines(record), self._judge.why)

    def _view(self, evaluation: Evaluation, now: Instant, drift: Drift) -> View:
        outage = self.pool.outage()
        basis = None if outage else evaluation.basis(now, self.pool.peers)
        if basis is not None and basis.age_s(now) > max(self.config.holdover_s, 2 * self.config.publish_interval_s):
            basis = None
        return View(
            servers=basis,
            daemon=self._daemon(now),
            servers_first=self._servers_first(),
            contradiction=not outage and evaluation.selection.outcome is Outcome.NO_MAJORITY,
            starting=self.starting,
            kernel_synchronised=self._kernel is not None and self._kernel.synchronised,
            kernel_leap=0 if self._kernel is None else self._kernel.leap,
            lack=self._lack(outage, evaluation),
            drift=drift,
            step_count=self._step_count,
            truechimers=0 if outage else len(evaluation.selection.truechimers),
            falsetickers=0 if outage else len(evaluation.selection.falsetickers),
        )

    def _lack(self, outage: bool, evaluation: Evaluation) -> str:
        """What stands against a majority, with the reasons of those that have no vote."""
        if not len(self.pool):
            answers = [(s, self._local.get(s)) for s in self.config.sources]
            absent = ", ".join(f"{s}: {a.reason}" for s, a in answers if isinstance(a, Absence))
            if absent:
                return f"no usable time source ({absent})"
            asked = [s for s in self.config.sources if s != SERVERS]
            return "no time source has answered yet" if asked else "no time source is configured"
        lack = "no server answers" if outage else evaluation.lack
        refused = counted(p.reason if outage else evaluation.refusal(p) for p in self.pool.peers)
        return f"{lack} ({refused})" if lack and refused else lack

    def _daemon(self, now: Instant) -> Basis | None:
        """The first healthy local daemon, in the order of the configuration."""
        for source in self.config.sources:
            answer = self._local.get(source)
            if isinstance(answer, Reading):
                basis = basis_of_reading(answer)
                if basis.age_s(now) <= READING_CYCLES * self.config.publish_interval_s:
                    return basis
        return None

    def _servers_first(self) -> bool:
        return self.config.sources[:1] == (SERVERS,)

    def _drift(self, now: Instant) -> Drift:
        """A disciplined kernel knows its oscillator best; else the servers' samples may tell."""
        kernel = self._kernel
        if kernel is not None and (kernel.synchronised or self._daemon(now) is not None):
            return Drift(kernel.frequency, PHI)
        return Drift() if self._fitted is None else Drift(self._fitted, PHI)

    def _conclude(self, record: NtpRecord, now: Instant) -> None:
        """A round is over: go on with the plan, or ask again soon."""
        good = bool(record.valid) and record.state != NtpState.HOLDOVER
        if good and not self.pool.suspicious():
            self._chain.succeeded()
        elif self._chain.exhausted:
            self.starting = False
        else:
            self._chain.start(now.monotonic)

    def _count_publication(self, now: Instant, record: NtpRecord) -> None:
        counters = self.counters
        counters.publications += 1
        if self._heartbeat_ns is not None:
            counters.late_publications += now.monotonic - self._heartbeat_ns > LATE_NS
            counters.relaxed_cycles += record.quality == NtpQuality.RELAXED
            if counters.cycles > 1:  # the first begins with nothing
                counters.starved_cycles += not record.valid or record.state == NtpState.HOLDOVER
            self._heartbeat_ns = None

    # What to tell

    def _local_lines(self, record: NtpRecord) -> dict[str, str]:
        lines = {}
        for source in self.config.sources:
            answer = self._local.get(source)
            if answer is None:
                continue
            if isinstance(answer, Reading):
                lines[source] = f"{-answer.theta_s * 1e3:+.3f} ms +- {answer.bound_s * 1e3:.3f} ms, {answer.reference}"
            else:
                lines[source] = answer.reason
        if self._kernel is not None:
            lines[KERNEL] = kernel_line(self._kernel, record)
        return lines

    def _note(self, text: str, warning: bool = False) -> None:
        self.notes.append(Note(text, warning))


def _limits(config: Ntp) -> Limits:
    """Samples are kept if they meet the weakest thresholds in use; the vote applies its own."""
    loosest = config.relaxed if config.fallback else config.strict
    return Limits(
        max_delay_s=max(config.strict.max_delay_ms, loosest.max_delay_ms) / 1e3,
        max_distance_s=max(config.strict.max_distance_ms, loosest.max_distance_ms) / 1e3,
        allow_local_reference=config.allow_local_reference,
    )
