"""The records of batches in the register: read, changed by compare-and-swap, told as events, and indexed.

The index (``active-batch:``) has a mark for each batch for which something is to be done, so that a look does not read
every finished batch. A mark is written before its record becomes active and removed after it has come to rest; where a
process dies in between, the look at all records, now and then, puts it right.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.core.batchnotes import news
from onerow.core.batchrecords import MICROSECONDS, RESTING, BatchRecord, record_from_json
from onerow.errors import BatchNotFoundError, LockStoreError
from onerow.services.events import Fact, emit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from onerow.errors import OnerowError
    from onerow.ports.clock import Clock, Ids
    from onerow.ports.lockstore import Entry, LockStore

BATCH_PREFIX: Final = "batch:"
ACTIVE_PREFIX: Final = "active-batch:"

CHANGE_TRIES: Final = 30
PAUSE_S: Final = 0.02
MARK_TRIES: Final = 5
LONELY_US: Final = 60 * MICROSECONDS
"""A mark without a record is removed after so long: until then its record may be on its way."""

TELL_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Name:
    """A batch of a table. A table's name has no slash, so that its key is nobody else's."""

    table: str
    batch: str

    def __str__(self) -> str:
        return f"{self.table}/{self.batch}"


class BatchRegister:
    """Reads and changes records of batches. Safe to use from several threads.

    Args:
        store: the register.
        clock: to wait between tries.
        ids: chance for that, and what tells one mark from another.
        on_due: called when this process has made a batch due.
    """

    def __init__(
        self, store: LockStore, *, clock: Clock, ids: Ids, on_due: Callable[[], None] | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self.on_due = on_due or (lambda: None)
        self._told: dict[str, float] = {}

    def entry(self, name: Name) -> Entry:
        """Return what the register holds of a batch."""
        return self._store.read(f"{BATCH_PREFIX}{name}")

    def read(self, name: Name) -> tuple[BatchRecord | None, int]:
        """Return a record, None if there is none, and the store's time."""
        entry = self.entry(name)
        return _record(entry), entry.now_us

    def entries(self, table: str | None = None) -> Sequence[Entry]:
        """Return what the register holds of all batches, of one table or of all."""
        return self._store.entries(BATCH_PREFIX if table is None else f"{BATCH_PREFIX}{table}/")

    def readable(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, BatchRecord]]:
        """Return the records that entries hold; one that is damaged is told and left alone."""
        for entry in entries:
            try:
                record = _record(entry)
            except LockStoreError as error:
                self.tell(f"the entry {entry.key!r} cannot be read", error)
            else:
                if record is not None:
                    yield entry, record

    def change(
        self, name: Name, decide: Callable[[BatchRecord | None, int], BatchRecord]
    ) -> tuple[BatchRecord | None, BatchRecord, int]:
        """Change a record as ``decide`` says, which is asked again when somebody else was faster.

        Returns:
            The record before and after, and the store's time.

        Raises:
            LockStoreError: the store does not answer, or the record changes all the time.
            Whatever ``decide`` raises; nothing was changed then.
        """
        for tried in range(CHANGE_TRIES):
            entry = self.entry(name)
            before = _record(entry)
            after = decide(before, entry.now_us)
            if after == before or self.write(name, entry, before, after) is not None:
                return before, after, entry.now_us
            self._clock.sleep_s(PAUSE_S * min(tried + 1, 10) * self._ids.jitter())
        raise LockStoreError(
            f"The record of batch {name} changed {CHANGE_TRIES} times while it was being changed.",
            hint="Nothing was changed by this request; repeat it.",
        )

    def write(self, name: Name, entry: Entry, before: BatchRecord | None, after: BatchRecord) -> Entry | None:
        """Write a record over what ``entry`` says; None if somebody else was faster.

        A swap whose reply is lost is read back. One that is not there may still arrive, which does no harm: it expects
        what was there, and says what was right to say then.
        """
        wakes = after.state not in RESTING and (before is None or before.state in RESTING)
        if wakes:
            self._mark(name)
        try:
            written = self._store.swap(entry.key, expected=entry.version, value=after.to_json())
        except LockStoreError:
            written = self.entry(name)
            if _record(written) != after:
                raise
        if written is None:
            return None
        self._tell_change(before, after)
        if wakes:  # somebody may have taken the mark away who had seen the record at rest
            with suppress(LockStoreError):  # then the look at all records finds it
                self.index(name, after)
        return written

    def forget(self, entry: Entry) -> None:
        """Remove a record, unless it has changed meanwhile."""
        self._store.swap(entry.key, expected=entry.version, value=None)

    # --- the index -------------------------------------------------------------------------

    def active(self) -> Iterator[tuple[Name, Entry]]:
        """Return the batches that the index names, each with its mark."""
        for mark in self._store.entries(ACTIVE_PREFIX):
            table, _, batch = mark.key.removeprefix(ACTIVE_PREFIX).partition("/")
            yield Name(table, batch), mark

    def index(self, name: Name, record: BatchRecord) -> None:
        """See to it that the index names an active batch."""
        if record.state not in RESTING and self._store.read(f"{ACTIVE_PREFIX}{name}").value is None:
            self._mark(name)

    def drop_mark(self, name: Name, mark: Entry) -> None:
        """Remove the mark of a batch that is at rest, or was never written."""
        record, now_us = self.read(name)
        if record is None and now_us - (mark.value or {}).get("at_us", 0) < LONELY_US:
            return
        if record is not None and record.state not in RESTING:
            return
        self._store.swap(mark.key, expected=mark.version, value=None)
        record, _ = self.read(name)
        if record is not None:
            self.index(name, record)  # it may have woken up in between

    def _mark(self, name: Name) -> None:
        key = f"{ACTIVE_PREFIX}{name}"
        for _ in range(MARK_TRIES):
            entry = self._store.read(key)
            value = {"at_us": entry.now_us, "by": self._ids.new_id("m")}  # never the same twice: see drop_mark
            if self._store.swap(key, expected=entry.version, value=value) is not None:
                return

    # --- telling ---------------------------------------------------------------------------

    def tell(self, what: str, error: OnerowError, name: Name | None = None) -> None:
        """Tell that something failed that is tried again, and the same again after a while only."""
        text, now_s = f"{what}: {error.message}", self._clock.monotonic_s()
        self._told = {said: at_s for said, at_s in self._told.items() if now_s - at_s < TELL_AGAIN_S}
        if text in self._told:
            return
        self._told[text] = now_s
        emit(
            "onerow.coordinator_failed",
            table=name.table if name else None,
            batch=name.batch if name else None,
            kind=error.kind,
            error=text,
        )

    def _tell_change(self, before: BatchRecord | None, after: BatchRecord) -> None:
        facts: dict[str, Fact] = {
            "table": after.table,
            "batch": after.batch,
            "status": after.state,
            "part_count": after.seen.parts,
            "rows_staged": after.seen.rows,
        }
        for event in news(before, after):
            emit(event, **{**facts, **_more_facts(event, after)})
        if after.state == "due":
            self.on_due()


def not_found(name: Name) -> BatchNotFoundError:
    """Return the error that tells that nobody knows of a batch."""
    return BatchNotFoundError(
        f"No batch {name.batch!r} of table {name.table!r} is registered.",
        hint="Open it, or report a part of it. What was staged without the coordinator is shown by `onerow batches`.",
    )


def _record(entry: Entry) -> BatchRecord | None:
    return None if entry.value is None else record_from_json(entry.value)


def _more_facts(event: str, record: BatchRecord) -> dict[str, Fact]:
    """Return the fields that an event has beside those that all have."""
    last, given_up = record.last, record.cancelled
    match event:
        case "onerow.batch_opened":
            return {"expected": str(record.expected), "by": record.opened_by}
        case "onerow.batch_incomplete":
            return {
                "missing_parts": record.missing_parts,
                "missing_workers": record.missing_workers,
                "on_deadline": record.on_deadline,
            }
        case "onerow.batch_cancelled" if given_up is not None:
            return {"by": given_up.by, "reason": given_up.reason}
        case "onerow.batch_consolidated" | "onerow.batch_failed" if last is not None:
            ended: dict[str, Fact] = {
                "consolidation": last.consolidation,
                "holder": last.holder,
                "result": last.status,
                "elapsed_s": last.elapsed_s,
            }
            if last.success:
                return ended
            retry_s = round((record.retry_us - record.changed_us) / MICROSECONDS, 3)
            return {**ended, "kind": last.error_kind, "error": last.error, "tries": record.tries, "retry_s": retry_s}
        case _:
            return {}
