"""What is due: batches that are complete, deadlines, failed rounds, claims of coordinators that are gone.

- **A claim in the record**, renewed while the work is done, keeps two coordinators from consolidating the same batch
  at once. It saves work; what makes the result right is in the consolidation's own transaction.
- **The index** (``services.registry``) names the batches for which something is to be done, so that a look does not
  read every finished one. Now and then all records are looked at, also done ones, for parts that nobody has reported.

There are no threads here: whoever calls ``tick`` does the work that it returns (``services.crew``, or a simulation).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.core import batchrecords as core
from onerow.core.batchrecords import MICROSECONDS, RESTING, BatchRecord, Round, Seen
from onerow.core.results import status_of
from onerow.errors import BatchNotFoundError, LockStoreError, OnerowError
from onerow.services.coordinator import CoordinatorSettings, look
from onerow.services.events import emit
from onerow.services.registry import Name, not_found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.ports.clock import Background, Clock, Ids
    from onerow.ports.lockstore import Entry
    from onerow.services.coordinator import Lend
    from onerow.services.registry import BatchRegister
    from onerow.services.store import Store

FINISH_TRIES: Final = 6
LOOKING_SHARE: Final = 10.0
"""After a look at a batch's parts so many times its duration pass before the next, however often is looked at all."""

STOPPED: Final = "the coordinator was told to stop"


@dataclass(frozen=True, slots=True)
class Work:
    """A batch that was claimed and is to be consolidated by whoever called ``tick``."""

    name: Name
    owner: str


class Dispatcher:
    """Finds what is due and does it. One thread looks, several may work.

    Args:
        records: the register's records of batches.
        lend: gives a store to one thread for a moment, to look at staging.
        lend_for_work: gives one for a consolidation, which takes long.
        holder: who this is, for people.
    """

    def __init__(
        self,
        *,
        records: BatchRegister,
        lend: Lend,
        lend_for_work: Lend,
        clock: Clock,
        ids: Ids,
        background: Background,
        holder: str,
        settings: CoordinatorSettings | None = None,
    ) -> None:
        self.settings = settings or CoordinatorSettings()
        self._records = records
        self._lend = lend
        self._lend_for_work = lend_for_work
        self._clock = clock
        self._ids = ids
        self._background = background
        self._holder = holder
        self._all_seen_s: float | None = None
        self._seen: dict[str, tuple[str, float]] = {}
        self._not_before: dict[Name, float] = {}
        self._working: list[Store] = []
        self._stopped = False
        self._given_up = False

    def tick(self, free: int = 1) -> Sequence[Work]:
        """Look once at what is due: batches that are complete, deadlines, claims of coordinators that are gone.

        Args:
            free: how many consolidations the caller can do now; so many batches are claimed at most.

        Returns:
            What was claimed. The caller does each by ``work``; what it does not do is due again when the claim ends.
        """
        due: list[tuple[Entry, BatchRecord]] = []
        known, self._seen = self._seen, {}
        try:
            for entry, record in self._to_look_at():
                claimable = self._claimable(entry, record, known)
                if claimable is not None:
                    due.append(claimable)
        except OnerowError as error:
            self._seen = {**known, **self._seen}
            self._records.tell("the register cannot be read", error)
        due.sort(key=lambda pair: pair[1].due_us)
        work: list[Work] = []
        for entry, record in due:
            if len(work) >= free or self._stopped:
                break
            claimed = self._claim(entry, record)
            if claimed is not None:
                work.append(claimed)
        return work

    def work(self, work: Work) -> None:
        """Consolidate a batch that was claimed, and write what came of it into its record and the journal.

        Failures are kept in the record and tried again later; nothing is raised for them.
        """
        keeper = self._background.every(self.settings.claim_s / 3, lambda: self._renew(work), name="onerow-claim")
        try:
            ended, seen = self._consolidate(work.name)
        finally:
            keeper.stop()
        self._finish(work, ended, seen)

    def give_back(self, work: Work) -> None:
        """Give back what was claimed and not begun, so that another coordinator takes it at once."""
        try:
            self._records.change(work.name, lambda record, now_us: _given_back(record, work, now_us))
        except OnerowError as error:  # then the claim ends by itself
            self._records.tell("a claim cannot be given back", error, work.name)

    def stop(self) -> None:
        """Claim nothing any more; what is being done goes on."""
        self._stopped = True

    def abandon(self) -> None:
        """Have running consolidations stop before their next commit and give their batches and leases back."""
        self._stopped = self._given_up = True
        for store in list(self._working):
            store.ports.leases.abandon(STOPPED)

    # --- inside: looking -------------------------------------------------------------------

    def _to_look_at(self) -> Iterator[tuple[Entry, BatchRecord]]:
        """Return the records for which something may be to be done."""
        now_s = self._clock.monotonic_s()
        if self._all_seen_s is None or now_s - self._all_seen_s >= self.settings.look_at_all_s:
            for entry, record in self._records.readable(self._records.entries()):
                if not self._pruned(entry, record):
                    self._records.index(Name(record.table, record.batch), record)
                    yield entry, record
            self._all_seen_s = now_s
            return
        for name, mark in self._records.active():
            for entry, record in self._records.readable([self._records.entry(name)]):
                if record.state not in RESTING:
                    yield entry, record
                    break
            else:
                try:
                    self._records.drop_mark(name, mark)
                except LockStoreError as error:  # a damaged record must not keep the others from being looked at
                    self._records.tell(f"the mark of batch {name.batch!r} cannot be removed", error, name)

    def _pruned(self, entry: Entry, record: BatchRecord) -> bool:
        age_us = entry.now_us - record.finished_us
        if record.state not in core.FINISHED or age_us < self.settings.keep_batches_s * MICROSECONDS:
            return False
        self._records.forget(entry)
        return True

    def _claimable(
        self, entry: Entry, record: BatchRecord, known: Mapping[str, tuple[str, float]]
    ) -> tuple[Entry, BatchRecord] | None:
        """Look at a batch's parts where that may change anything; return it if it is to be claimed."""
        name = Name(record.table, record.batch)
        try:
            late = record.state == "done" and entry.now_us >= record.late_look_us
            if late or (record.state in {"open", "incomplete"} and self._may_look(name)):
                seen = self._look(name)
                after = core.observed(record, seen, entry.now_us)
                if after is not record:
                    written = self._records.write(name, entry, record, after)
                    if written is None:  # somebody else was faster; the next look sees what became of it
                        return None
                    entry, record = written, after
        except OnerowError as error:
            self._records.tell(f"batch {name.batch!r} cannot be looked at", error, name)
            return None
        now_s = self._clock.monotonic_s()
        version, since_s = known.get(entry.key, ("", now_s))
        self._seen[entry.key] = (entry.version, since_s if version == entry.version else now_s)
        unchanged_us = round((now_s - self._seen[entry.key][1]) * MICROSECONDS)
        return (entry, record) if core.claimable(record, entry.now_us, unchanged_us=unchanged_us) else None

    def _look(self, name: Name) -> Seen:
        begun_s = self._clock.monotonic_s()
        with self._lend() as store:
            seen, _ = look(store, name)
        now_s = self._clock.monotonic_s()
        self._not_before[name] = now_s + LOOKING_SHARE * (now_s - begun_s)
        return seen

    def _may_look(self, name: Name) -> bool:
        """Say whether a batch's turn to be looked at has come: what takes long to look at is looked at less often."""
        now_s = self._clock.monotonic_s()
        self._not_before = {known: until_s for known, until_s in self._not_before.items() if until_s > now_s}
        return name not in self._not_before

    def _claim(self, entry: Entry, record: BatchRecord) -> Work | None:
        name = Name(record.table, record.batch)
        owner = self._ids.new_id("k")
        try:
            now = self._records.entry(name)  # it is a while ago that it was looked at; the claim runs from now on
            if now.version != entry.version:
                return None
            claimed = core.claimed(
                record,
                owner=owner,
                holder=self._holder,
                duration_us=round(self.settings.claim_s * MICROSECONDS),
                now_us=now.now_us,
            )
            return None if self._records.write(name, now, record, claimed) is None else Work(name, owner)
        except OnerowError as error:
            self._records.tell(f"batch {name.batch!r} cannot be claimed", error, name)
            return None

    # --- inside: working -------------------------------------------------------------------

    def _consolidate(self, name: Name) -> tuple[Round, Seen]:
        begun_s = self._clock.monotonic_s()

        def ended(status: str, error: OnerowError | None = None) -> Round:
            return Round(
                consolidation="",
                status=status,
                success=error is None,
                holder=self._holder,
                finished_us=0,
                elapsed_s=round(self._clock.monotonic_s() - begun_s, 3),
                error=None if error is None else str(error),
                error_kind=None if error is None else error.kind,
            )

        try:
            with self._lend_for_work() as store:
                self._working.append(store)
                try:
                    if self._given_up:
                        store.ports.leases.abandon(STOPPED)
                    result = store.consolidate(name.table, name.batch, max_wait_s=self.settings.max_wait_s)
                    elapsed_s = self._clock.monotonic_s() - begun_s
                    store.runs.record(result, elapsed_s=elapsed_s, holder=self._holder, via="coordinator")
                    seen, _ = look(store, name)
                    if seen.waiting:  # it came meanwhile, or could not be retired
                        seen, _ = look(store, name, ask_ledger=True)
                finally:
                    self._working.remove(store)
        except BatchNotFoundError:
            return ended("nothing_staged"), Seen()
        except OnerowError as error:
            return ended(status_of(error), error), Seen()
        return (
            Round(
                consolidation=result.consolidation,
                status=result.status,
                success=result.success,
                holder=self._holder,
                finished_us=0,
                elapsed_s=round(elapsed_s, 3),
                error=result.error,
                error_kind=result.error_kind,
            ),
            seen,
        )

    def _finish(self, work: Work, ended: Round, seen: Seen) -> None:
        """Write what came of the work; if the register does not answer, another coordinator finds it in the ledger."""
        given_up = self._given_up and ended.error_kind == "abandoned"

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            if given_up or record is None:
                return _given_back(record, work, now_us)
            looked = seen if ended.success else record.seen
            return core.finished(record, work.owner, ended, looked, now_us)

        for tried in range(FINISH_TRIES):
            try:
                self._records.change(work.name, decide)
            except BatchNotFoundError:
                return  # somebody has removed the record by hand; the ledger has what was merged
            except LockStoreError as error:
                self._records.tell("what came of a consolidation cannot be written", error, work.name)
                self._clock.sleep_s(0.1 * 2**tried)
            else:
                break
        if given_up:
            emit("onerow.batch_abandoned", table=work.name.table, batch=work.name.batch, reason=STOPPED)

    def _renew(self, work: Work) -> bool:
        """Renew a claim; False when it is somebody else's."""
        kept = [True]

        def decide(record: BatchRecord | None, now_us: int) -> BatchRecord:
            renewed = None if record is None else core.renewed(record, work.owner, now_us)
            if renewed is None:
                kept[0] = False
                raise not_found(work.name)
            return renewed

        with suppress(LockStoreError, BatchNotFoundError):  # the next period tries again; or there is nothing to keep
            self._records.change(work.name, decide)
        return kept[0]


def _given_back(record: BatchRecord | None, work: Work, now_us: int) -> BatchRecord:
    if record is None:
        raise not_found(work.name)
    return core.given_back(record, work.owner, now_us)
