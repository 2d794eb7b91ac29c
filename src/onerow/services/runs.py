"""The journal of consolidations: what came of each, in the lock store's register.

The ledger in the warehouse names what has committed. The journal has also what did not: lock waits that were too long,
failed verifications, how long everything took. It is for people and monitors; nothing is decided by it, and a
consolidation whose entry cannot be written is as good as any other.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from onerow.core.results import ConsolidationResult, PartitionResult
from onerow.errors import LockStoreError, OnerowError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.ports.lockstore import Entry, LockStore

RUN_PREFIX: Final = "run:"
PRUNED_KEY: Final = "journal:pruned"
RUN_FORMAT: Final = 1

MAX_PARTITIONS: Final = 300
"""Partitions that an entry keeps, those that failed first: an entry has to stay well below what a register takes."""

MAX_ERROR_CHARS: Final = 1_000
KEEP_S: Final = 14 * 86_400.0
PRUNE_EVERY_US: Final = 86_400 * 1_000_000
MAX_PRUNED: Final = 500
MAX_DAYS_ASKED: Final = 31
_WELL: Final = frozenset({"committed", "already_merged", "nothing_staged"})


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A consolidation that has ended.

    Attributes:
        result: what came of it; of very many partitions only the first, those that failed before all others.
        partitions_omitted: how many are left out there.
        started_at, finished_at: by the lock store's clock.
        elapsed_s: from its start to its end, waiting included.
        holder: who ran it.
        via: ``coordinator`` or ``cli``.
    """

    result: ConsolidationResult
    started_at: dt.datetime
    finished_at: dt.datetime
    elapsed_s: float
    holder: str = ""
    via: str = ""
    partitions_omitted: int = 0

    @property
    def lock_wait_s(self) -> float:
        """The longest wait for a lock."""
        return max((partition.lock_wait_s for partition in self.result.partitions), default=0.0)

    @property
    def verify_s(self) -> float:
        """What verification took, over all partitions."""
        return sum(partition.verify_s for partition in self.result.partitions)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON-able data."""
        return {
            "format": RUN_FORMAT,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "elapsed_s": round(self.elapsed_s, 6),
            "holder": self.holder,
            "via": self.via,
            "partitions_omitted": self.partitions_omitted,
            "result": self.result.to_json(),
        }


def entry_from_json(data: Mapping[str, Any]) -> RunEntry:
    """Return the entry that ``data`` holds.

    Raises:
        LockStoreError: it holds none that this version can read.
    """
    try:
        if data["format"] != RUN_FORMAT:
            raise LockStoreError(
                f"An entry of the journal has format {data['format']!r}; this version reads {RUN_FORMAT}."
            )
        result = dict(data["result"])
        partitions = tuple(PartitionResult(**partition) for partition in result.pop("partitions"))
        return RunEntry(
            result=ConsolidationResult(**result, partitions=partitions),
            started_at=dt.datetime.fromisoformat(data["started_at"]),
            finished_at=dt.datetime.fromisoformat(data["finished_at"]),
            elapsed_s=float(data["elapsed_s"]),
            holder=str(data["holder"]),
            via=str(data["via"]),
            partitions_omitted=int(data["partitions_omitted"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LockStoreError(f"An entry of the journal is damaged: {type(error).__name__}: {error}.") from error


class RunJournal:
    """Writes and reads the journal in the register of ``store``."""

    def __init__(self, store: LockStore, *, keep_s: float = KEEP_S) -> None:
        self._store = store
        self._keep_s = keep_s

    def record(
        self, result: ConsolidationResult, *, elapsed_s: float = 0.0, holder: str = "", via: str = "cli"
    ) -> bool:
        """Write an entry, and once a day remove those that are too old.

        Returns:
            Whether that was possible. If not, it is told as an event; the consolidation is not the worse for it.
        """
        try:
            now_us = self._write(result, elapsed_s=elapsed_s, holder=holder, via=via)
            self._prune_once_a_day(now_us)
        except OnerowError as error:
            emit(
                "onerow.run_not_recorded",
                table=result.table,
                batch=result.batch,
                consolidation=result.consolidation,
                error=error.message,
            )
            return False
        return True

    def list(
        self, table: str | None = None, *, since: dt.datetime | None = None, limit: int | None = None
    ) -> list[RunEntry]:
        """Return entries, the latest started first.

        Args:
            table: only this one; with ``since`` or ``limit`` only the days that are asked for are read.
            since: only what was started then or later.
            limit: at most so many.

        Raises:
            LockStoreError: the register cannot be read.
        """
        found: list[RunEntry] = []
        for entries in self._pages(table, since):
            found += [entry_from_json(entry.value) for entry in entries if entry.value is not None]
            found = [run for run in found if since is None or run.started_at >= since]
            if limit is not None and len(found) >= limit and table is not None:
                break
        found.sort(key=lambda run: (run.started_at, run.result.consolidation), reverse=True)
        return found[:limit]

    def find(self, consolidation: str) -> RunEntry | None:
        """Return the entry of a consolidation; None if the journal has none."""
        for entry in self._store.entries(RUN_PREFIX):
            if entry.key.endswith(f"-{consolidation}") and entry.value is not None:
                return entry_from_json(entry.value)
        return None

    def prune(self, *, older_than_s: float | None = None, limit: int = MAX_PRUNED) -> int:
        """Remove entries older than that, ``keep_s`` if nothing is said; at most ``limit`` at once.

        Returns:
            How many were removed.
        """
        entries = self._store.entries(RUN_PREFIX)
        if not entries:
            return 0
        keep_s = self._keep_s if older_than_s is None else older_than_s
        oldest = _stamp(_moment(entries[0].now_us) - dt.timedelta(seconds=keep_s))
        old = [entry for entry in entries if _stamp_of(entry.key) < oldest][:limit]
        return sum(self._store.swap(entry.key, expected=entry.version, value=None) is not None for entry in old)

    # --- inside ----------------------------------------------------------------------------

    def _write(self, result: ConsolidationResult, *, elapsed_s: float, holder: str, via: str) -> int:
        now_us = self._store.read(PRUNED_KEY).now_us
        finished = _moment(now_us)
        started = finished - dt.timedelta(seconds=max(elapsed_s, 0.0))
        kept, omitted = _kept(result)
        entry = RunEntry(kept, started, finished, elapsed_s, holder, via, omitted)
        key = f"{RUN_PREFIX}{result.table}/{_stamp(started)}-{result.consolidation}"
        try:
            self._store.swap(key, expected="", value=entry.to_json())
        except LockStoreError:
            if self._store.read(key).value is None:  # else only the reply was lost
                raise
        return now_us

    def _prune_once_a_day(self, now_us: int) -> None:
        marker = self._store.read(PRUNED_KEY)
        pruned_us = (marker.value or {}).get("at_us", 0)
        if 0 <= now_us - pruned_us < PRUNE_EVERY_US:
            return
        if self._store.swap(PRUNED_KEY, expected=marker.version, value={"at_us": now_us}) is not None:
            self.prune()

    def _pages(self, table: str | None, since: dt.datetime | None) -> Iterable[Sequence[Entry]]:
        """Return the entries day by day, the latest first, where that reads less than all of them."""
        if table is None:
            yield self._store.entries(RUN_PREFIX)
            return
        prefix = f"{RUN_PREFIX}{table}/"
        if since is None:
            yield self._store.entries(prefix)
            return
        today = _moment(self._store.read(PRUNED_KEY).now_us).date()
        days = (today - since.astimezone(dt.UTC).date()).days
        if days > MAX_DAYS_ASKED:
            yield self._store.entries(prefix)
            return
        for back in range(-1, days + 1):  # from tomorrow on: the clock may have been set back
            yield self._store.entries(f"{prefix}{today - dt.timedelta(days=back):%Y%m%d}")


def _kept(result: ConsolidationResult) -> tuple[ConsolidationResult, int]:
    """Return the result as an entry keeps it, and how many partitions that leaves out."""
    order = sorted(result.partitions, key=lambda partition: partition.status in _WELL)
    partitions = tuple(
        replace(partition, error=None if partition.error is None else partition.error[:MAX_ERROR_CHARS])
        for partition in order[:MAX_PARTITIONS]
    )
    error = None if result.error is None else result.error[:MAX_ERROR_CHARS]
    return replace(result, partitions=partitions, error=error), len(order) - len(partitions)


def _moment(us: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=us)


def _stamp(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y%m%dT%H%M%S.%fZ}"


def _stamp_of(key: str) -> str:
    return key.rsplit("/", 1)[-1].split("-", 1)[0]
