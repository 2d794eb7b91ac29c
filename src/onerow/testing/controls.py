"""Negative controls: the system with one protection switched off, or with a mistake of the incident's fix.

A simulation that finds nothing proves nothing until it finds these. Each control names the invariants that
it must break; the unmodified system must survive the same seeds in the same circumstances. This is the
only place where a protection can be switched off: production code has no such switches.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onerow.core import leases as core
from onerow.core.plans import Committed, Refused, unmerged
from onerow.services.consolidator import Consolidator
from onerow.services.leases import Leases, Unlocked
from onerow.testing.bigquery_model import BigQueryModel, Reading, TableLocks, reading_of
from onerow.testing.faults import FaultPlan
from onerow.testing.memory_tables import layout_of
from onerow.testing.memory_warehouse import MemoryPrepared, MemoryWarehouse, RollbackError
from onerow.testing.processes import SimulatedLocks
from onerow.testing.scenario import VERSIONS
from onerow.testing.world import Kit, World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onerow.core.partitions import Scope
    from onerow.core.parts import PartManifest
    from onerow.core.plans import MergePlan, Outcome
    from onerow.core.results import ConsolidationResult
    from onerow.ports.clock import Cancellation
    from onerow.ports.lockstore import Entry
    from onerow.ports.warehouse import Prepared
    from onerow.services.group import Request
    from onerow.services.leases import _Grant
    from onerow.testing.bigquery_model import Job
    from onerow.testing.memory_tables import Key, Layout, Row, Transaction
    from onerow.testing.scenario import Scenario
    from onerow.testing.scheduler import Process, Scheduler
    from onerow.testing.world import Report

# --- circumstances ---------------------------------------------------------------------------


def with_foreign_writer(seed: int, scenario: Scenario, plan: FaultPlan) -> tuple[Scenario, FaultPlan]:
    """Let somebody who does not use onerow insert a key twice."""
    chance = random.Random(f"foreign:{seed}")
    staged = [row for staging in scenario.stagings for row in staging.rows]
    row = (*chance.choice(staged), None)[:6]
    at_us = chance.randrange(1, 2_000_000)
    return replace(scenario, foreign=((at_us, (row, row)),)), plan


def healthy_with_long_merges(_seed: int, scenario: Scenario, plan: FaultPlan) -> tuple[Scenario, FaultPlan]:
    """Let nothing fail, and merges take up to a minute."""
    calm = replace(scenario, force_releases=(), jobs=tuple(replace(job, use_lock=True) for job in scenario.jobs))
    return calm, FaultPlan(long_merges=0.5, latency=plan.latency)


def healthy_with_pauses(seed: int, scenario: Scenario, plan: FaultPlan) -> tuple[Scenario, FaultPlan]:
    """Let processes stand still, and nothing else fail."""
    calm, _ = healthy_with_long_merges(seed, scenario, plan)
    return calm, FaultPlan(pause=0.02, long_merges=0.3)


def without_locks(_seed: int, scenario: Scenario, plan: FaultPlan) -> tuple[Scenario, FaultPlan]:
    """Let nobody take a lock."""
    return replace(scenario, jobs=tuple(replace(job, use_lock=False) for job in scenario.jobs)), plan


def as_drawn(_seed: int, scenario: Scenario, plan: FaultPlan) -> tuple[Scenario, FaultPlan]:
    """Change nothing."""
    return scenario, plan


# --- protections switched off -----------------------------------------------------------------


class GuardOff(MemoryWarehouse):
    """Changes no guard row: two merges that insert the same new key both commit."""

    def _guard(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        super()._guard(transaction, prepared)
        transaction.guards.clear()


class TokenOff(MemoryWarehouse):
    """Compares no token with the fence."""

    def _token(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Nothing."""


class ClaimOff(BigQueryModel):
    """Whole scripts: changes the guard row, but claims nothing before the transaction."""

    def _claim(self, job: Job, table: str) -> None:
        del job
        self._locks.setdefault(table, TableLocks())

    def _is_claimed_by_another(self, job: Job, seen: Job | None) -> bool:
        del job, seen
        return False


class ScriptGuardOff(ClaimOff):
    """Whole scripts: claims nothing and changes no guard row."""

    def _guard(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        super()._guard(transaction, prepared)
        transaction.guards.clear()


class ScriptTokenOff(BigQueryModel):
    """Whole scripts: compares no token with the fence."""

    def _token(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Nothing."""


class LedgerOff(MemoryWarehouse):
    """Does not ask the ledger what is left to do."""

    def _todo(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Nothing."""


class VerificationOff(MemoryWarehouse):
    """Verifies nothing."""

    def _verify(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        """Nothing."""


class ContentsUnlooked(VerificationOff):
    """Versions mode: numbers what is staged without a look at the contents that the table has."""

    def _merge(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        layout = layout_of(prepared.plan.spec)
        super()._merge(transaction, prepared)
        for task in prepared.plan.tasks:
            done = {layout.content(row) for row in transaction.inserted}
            rows = [found.row for content, found in prepared.candidates[task.partition].items() if content not in done]
            for row in rows:
                taken = [old for _, old in transaction.view(task.partition) if layout.key(old) == layout.key(row)]
                transaction.inserted.append((*row, max(map(layout.version_of, taken)) + 1))
            counts = transaction.counts[task.partition]
            transaction.counts[task.partition] = replace(
                counts, inserted=counts.inserted + len(rows), unchanged=counts.unchanged - len(rows)
            )


class NumberedFromOne(VerificationOff):
    """Versions mode: numbers the new contents of a key without a look at the versions that it has."""

    def _merge(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        super()._merge(transaction, prepared)
        layout = layout_of(prepared.plan.spec)
        given: Counter[Key] = Counter()
        for place, row in enumerate(transaction.inserted):
            given[layout.key(row)] += 1
            transaction.inserted[place] = (*row[: layout.width], given[layout.key(row)])


class ListingCleanUp(Consolidator):
    """Failure 11: lists the batch's parts a second time, and removes what it finds."""

    def _clean_up(self, request: Request, done: Sequence[PartManifest]) -> int:
        del done
        return super()._clean_up(request, self._parts.parts(request.spec.name, request.batch))


# --- the incident's fix, mistake by mistake ---------------------------------------------------


class ExpiredHolder(TokenOff):
    """Failure 1: nothing at the warehouse stops a holder whose lease has run out."""

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Apply without a question."""
        del cancellation
        return super().apply(prepared, Unlocked())


class CarelessRelease(Leases):
    """Failure 2: frees the lease, whoever holds it."""

    def _release(self, scope: Scope, grant: _Grant) -> None:
        del scope
        entry = self._store.read(grant.key)
        if entry.value is not None:
            freed = core.released(core.record_from_json(entry.value))
            self._store.swap(grant.key, expected=entry.version, value=freed.to_json())


@dataclass(slots=True)
class LocalClockLocks(SimulatedLocks):
    """Failure 3: the reader's own clock says what time it is, up to two minutes off."""

    def _local(self, entry: Entry) -> Entry:
        skew_us = random.Random(f"skew:{self.process.name}").randint(-120, 120) * 1_000_000
        return replace(entry, now_us=entry.now_us + skew_us)

    def read(self, key: str) -> Entry:
        """Read, with the time of the reader."""
        return self._local(SimulatedLocks.read(self, key))

    def swap(self, key: str, *, expected: str, value: Mapping[str, Any] | None) -> Entry | None:
        """Swap, with the time of the writer."""
        entry = SimulatedLocks.swap(self, key, expected=expected, value=value)
        return None if entry is None else self._local(entry)


@dataclass(slots=True)
class NoBackground:
    """Failure 4: nothing runs beside the work, so nothing is renewed."""

    scheduler: Scheduler
    process: Process

    def every(self, seconds: float, work: Callable[[], bool], *, name: str) -> NoBackground:
        """Start nothing."""
        del seconds, work, name
        return self

    def stop(self) -> None:
        """Stop nothing."""


class UnrunCheckPasses(MemoryWarehouse):
    """Failure 6: a check that could not run counts as passed."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._chance = random.Random("unrun")

    def _verify(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        could_run = self._chance.random() >= 0.3
        if could_run:
            super()._verify(transaction, prepared)


class CheckAfterCommit(VerificationOff):
    """Failure 7: looks for duplicates when everybody can see them."""

    def apply(self, prepared: Prepared, cancellation: Cancellation) -> Outcome:
        """Apply, then look."""
        outcome = super().apply(prepared, cancellation)
        if isinstance(outcome, Committed) and isinstance(prepared, MemoryPrepared):
            look = self.database.begin(prepared.plan.spec.name, "look")
            look.counts = dict(outcome.counts)
            try:
                MemoryWarehouse._verify(self, look, prepared)  # noqa: SLF001 -- its own class's
            except RollbackError as found:
                return found.outcome
        return outcome


class LastMergeWins(MemoryWarehouse):
    """Failure 9: the row that is merged last stays, newer or not."""

    def _is_newer(self, staged: Row, existing: Row, layout: Layout) -> bool:
        return layout.order(staged) != layout.order(existing)


class OneDateOnly(Consolidator):
    """Failure 12: merges the first date of a batch and takes the batch for done."""

    def consolidate(self, request: Request) -> ConsolidationResult:
        """Consolidate one partition only."""
        parts = self._parts.parts(request.spec.name, request.batch)
        dates = [name for name in unmerged(parts, frozenset(), partitioned=True) if name is not None]
        return super().consolidate(replace(request, partitions=tuple(dates[:1])) if dates else request)


class NoLedger(LedgerOff):
    """Failure 13: nothing records what was merged, so a crash before the clean-up leaves a riddle."""

    def _record(self, transaction: Transaction, prepared: MemoryPrepared) -> None:
        super()._record(transaction, prepared)
        transaction.ledger.clear()

    def _finish(self, transaction: Transaction, plan: MergePlan) -> Outcome:
        outcome = super()._finish(transaction, plan)
        believed = isinstance(outcome, Refused) and "does not name it" in outcome.error.message
        return Committed(transaction.counts) if believed else outcome


@dataclass(frozen=True, slots=True)
class Control:
    """A protection switched off.

    Attributes:
        says: what is wrong with it.
        expects: the invariants of which at least one must break; none: nothing may break.
        failure: number of the failure of the incident's fix that it reproduces, 0 for none.
    """

    says: str
    expects: frozenset[str]
    kit: Kit = field(default_factory=Kit)
    failure: int = 0

    @property
    def unmodified(self) -> Kit:
        """The real system in the same circumstances."""
        kit = self.kit
        real = BigQueryModel if kit.reading is not None else MemoryWarehouse
        return Kit(shape=kit.shape, spec=kit.spec, heal=kit.heal, warehouse=real, reading=kit.reading)


def _foreign(**parts: Any) -> Kit:
    return Kit(shape=with_foreign_writer, heal=False, **parts)


def _worst(_seed: int) -> Reading:
    """The reading under which a transaction is protected least."""
    return Reading(at_begin=True, cancels_late=False)


def _best(_seed: int) -> Reading:
    return Reading(at_begin=False, cancels_late=True)


CONTROLS: Mapping[str, Control] = {
    "scripts": Control(
        "BigQuery's rules, nothing switched off", frozenset(), Kit(warehouse=BigQueryModel, reading=reading_of)
    ),
    "scripts-guard": Control(
        "BigQuery's rules: no guard row is claimed or changed",
        frozenset({"I1"}),
        Kit(warehouse=ScriptGuardOff, reading=reading_of),
    ),
    "scripts-token": Control(
        "BigQuery's rules: no token is compared with the fence",
        frozenset({"I4"}),
        Kit(warehouse=ScriptTokenOff, reading=reading_of),
    ),
    "scripts-claim": Control(
        "BigQuery's rules in the worst reading: nothing is claimed before the transaction",
        frozenset({"I1"}),
        Kit(warehouse=ClaimOff, reading=_worst),
    ),
    "scripts-claim-not-needed": Control(
        "BigQuery's rules in the best reading: nothing is claimed before the transaction",
        frozenset(),
        Kit(warehouse=ClaimOff, reading=_best),
    ),
    "guard": Control("no guard row is changed", frozenset({"I1"}), Kit(warehouse=GuardOff)),
    "versions-guard": Control(
        "no guard row is changed, and versions are numbered",
        frozenset({"I1"}),
        Kit(warehouse=GuardOff, spec=VERSIONS),
    ),
    "versions-contents": Control(
        "nobody looks which contents are there", frozenset({"I6"}), Kit(warehouse=ContentsUnlooked, spec=VERSIONS)
    ),
    "versions-numbers": Control(
        "nobody looks which numbers are given", frozenset({"I1"}), Kit(warehouse=NumberedFromOne, spec=VERSIONS)
    ),
    "versions-verification": Control(
        "nothing is verified, and somebody inserts a version twice",
        frozenset({"I5"}),
        _foreign(warehouse=VerificationOff, spec=VERSIONS),
    ),
    "token": Control("no token is compared with the fence", frozenset({"I4"}), Kit(warehouse=TokenOff)),
    "ledger": Control("the ledger is not asked", frozenset({"I6"}), Kit(warehouse=LedgerOff)),
    "verification": Control(
        "nothing is verified, and somebody inserts duplicates",
        frozenset({"I5"}),
        _foreign(warehouse=VerificationOff),
    ),
    "lock": Control("nobody takes a lock", frozenset(), Kit(shape=without_locks)),
    "expired-holder": Control("an expired holder commits", frozenset({"I4"}), Kit(warehouse=ExpiredHolder), failure=1),
    "careless-release": Control(
        "release frees somebody else's lock",
        frozenset({"lease"}),
        Kit(leases=CarelessRelease, shape=healthy_with_pauses),
        failure=2,
    ),
    "local-clocks": Control(
        "local clocks decide expiry",
        frozenset({"lease", "efficiency"}),
        Kit(locks=LocalClockLocks, shape=healthy_with_long_merges),
        failure=3,
    ),
    "no-renewal": Control(
        "no lease is renewed",
        frozenset({"efficiency"}),
        Kit(background=NoBackground, shape=healthy_with_long_merges),
        failure=4,
    ),
    "unrun-check": Control(
        "a check that could not run counts as passed",
        frozenset({"I5"}),
        _foreign(warehouse=UnrunCheckPasses),
        failure=6,
    ),
    "check-after-commit": Control(
        "the check comes after the commit", frozenset({"I5"}), _foreign(warehouse=CheckAfterCommit), failure=7
    ),
    "last-merge-wins": Control(
        "the last merge wins, not the newest row", frozenset({"I3"}), Kit(warehouse=LastMergeWins), failure=9
    ),
    "clean-up-lists-again": Control(
        "clean-up lists the parts again", frozenset({"I7"}), Kit(consolidator=ListingCleanUp), failure=11
    ),
    "one-date": Control(
        "rows of other dates are ignored", frozenset({"I8"}), Kit(consolidator=OneDateOnly), failure=12
    ),
    "no-ledger": Control("nothing records what was merged", frozenset({"I6"}), Kit(warehouse=NoLedger), failure=13),
}


def first_break(control: Control, seeds: Sequence[int]) -> Report | None:
    """Return the first run in which the control breaks what it should; None if it never does."""
    for seed in seeds:
        report = World(seed, control.kit).run()
        if any(violation.invariant in control.expects for violation in report.violations):
            return report
    return None
