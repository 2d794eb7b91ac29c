"""A part store in memory: the reference of the port."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onerow.core.partitions import encode_partition
from onerow.core.parts import PartManifest, Quarantined, StagedPart, derive_part_id
from onerow.core.quarantine import QuarantineDigest
from onerow.errors import PartCorruptError, PartGoneError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

    from onerow.core.parts import BadRow
    from onerow.core.spec import TableSpec

    IsMerged = Callable[[str, str, str, tuple[str | None, ...]], bool]

Row = tuple[Any, ...]
STAGED_AT = dt.datetime(2026, 1, 11, tzinfo=dt.UTC).isoformat()


@dataclass(slots=True)
class _Kept:
    """A part in the store. ``rows`` is None once its data is gone."""

    manifest: PartManifest
    rows: tuple[Row, ...] | None
    retired_s: float = 0.0
    discarded: tuple[str, str] = ("", "")


@dataclass(slots=True)
class MemoryPartWriter:
    """One part on its way in."""

    store: MemoryParts
    spec: TableSpec
    batch: str
    worker: str
    columns: tuple[str, ...]
    _rows: list[Row] = field(default_factory=list)
    _aside: list[BadRow] = field(default_factory=list)
    _source: str = ""
    _published: StagedPart | None = None

    def put_aside(self, rows: Sequence[BadRow], *, source: str) -> None:
        """Take rows that break the contract."""
        self._aside += rows
        self._source = source

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows."""
        names = list(self.columns)
        self._rows += [tuple(row[name] for name in names) for row in rows.to_pylist()]

    def publish(self) -> StagedPart:
        """Make the part exist."""
        if self._published is None:
            aside = self.store.put_aside(
                self._aside, table=self.spec.name, batch=self.batch, worker=self.worker, source=self._source
            )
            staged = self.store.put(
                self.spec, batch=self.batch, worker=self.worker, columns=self.columns, rows=self._rows
            )
            self._published = replace(staged, rows_quarantined=len(self._aside), quarantine_id=aside)
        return self._published

    def abandon(self) -> None:
        """Forget everything that was written."""
        self._rows, self._aside = [], []


class MemoryParts:
    """Parts in memory; rows are tuples of Python values in the order of the part's columns.

    Safe to use from several threads: every method is one step.

    Args:
        monotonic_s: the clock that retention is measured by.
        is_merged: asks the ledger whether a part, by table, batch, identity and partitions, is merged. It is
            asked when a part is staged again whose data is gone already.
    """

    def __init__(self, *, monotonic_s: Callable[[], float] = lambda: 0.0, is_merged: IsMerged | None = None) -> None:
        self._monotonic_s = monotonic_s
        self.is_merged: IsMerged = is_merged or (lambda table, batch, part_id, partitions: False)  # noqa: ARG005
        self._kept: dict[str, _Kept] = {}
        self._puts = 0
        self._quarantine: dict[str, tuple[Quarantined, tuple[BadRow, ...]]] = {}
        self._lock = threading.Lock()

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> MemoryPartWriter:
        """Begin a part."""
        return MemoryPartWriter(self, spec, batch, worker, tuple(columns))

    def put(
        self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str], rows: Sequence[Row]
    ) -> StagedPart:
        """Stage ``rows`` as one part in one step; the same rows again find the part that is there."""
        manifest = _manifest(spec, batch, worker, tuple(columns), rows)
        receipt = StagedPart(
            status="staged",
            part_id=manifest.part_id,
            table=spec.name,
            batch=batch,
            worker=worker,
            rows=manifest.rows,
            partitions=manifest.partitions,
            size_bytes=manifest.size_bytes,
        )
        if not rows:
            return replace(receipt, status="empty", part_id="")
        with self._lock:
            kept = self._kept.get(manifest.part_id)
            if kept is not None and kept.rows is not None:
                return replace(receipt, status="already_staged")
            names = manifest.partition_names(partitioned=spec.partition is not None)
            if kept is not None and self.is_merged(spec.name, batch, manifest.part_id, names):
                return replace(receipt, status="already_merged")
            self._puts += 1  # data that comes later is other data: what was said of the former says nothing of it
            manifest = replace(manifest, data=f"{manifest.data}.{self._puts}")
            self._kept[manifest.part_id] = _Kept(manifest, tuple(rows))
            return receipt

    def batches(self, table: str) -> Sequence[str]:
        """Return the batches of ``table``, sorted."""
        with self._lock:
            return sorted({kept.manifest.batch for kept in self._kept.values() if kept.manifest.table == table})

    def parts(self, table: str, batch: str) -> Sequence[PartManifest]:
        """Return the batch's parts in every state, sorted by identity."""
        with self._lock:
            found = [
                kept.manifest
                for kept in self._kept.values()
                if kept.manifest.batch == batch and kept.manifest.table == table
            ]
        return sorted(found, key=lambda manifest: manifest.part_id)

    def rows(self, manifest: PartManifest) -> tuple[Row, ...]:
        """Return the rows of a part, for a warehouse that merges it.

        Raises:
            PartGoneError: its data is not there.
            PartCorruptError: its data is not what the manifest promises.
        """
        with self._lock:
            kept = self._kept.get(manifest.part_id)
        if kept is None or kept.rows is None:
            raise PartGoneError(f"The data of part {manifest.part_id} is not there.")
        if len(kept.rows) != manifest.rows or _digest(manifest.columns, kept.rows) != manifest.content_digest:
            raise PartCorruptError(f"The data of part {manifest.part_id} is not what its manifest promises.")
        return kept.rows

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Mark parts as merged, by identity."""
        changed = 0
        with self._lock:
            for kept in self._of(parts):
                if kept.manifest.state == "staged":
                    kept.manifest = replace(kept.manifest, state="retired")
                    kept.retired_s = self._monotonic_s()
                    changed += 1
        return changed

    def retired(self, table: str, *, older_than_s: float) -> Sequence[PartManifest]:
        """Return the parts that were retired at least so long ago and still have data."""
        with self._lock:
            found = [
                kept.manifest
                for kept in self._kept.values()
                if kept.manifest.table == table
                and kept.manifest.state == "retired"
                and self._monotonic_s() - kept.retired_s >= older_than_s
            ]
        return sorted(found, key=lambda manifest: manifest.part_id)

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Remove the data of retired parts, by identity."""
        changed = 0
        with self._lock:
            for kept in self._of(parts):
                if kept.manifest.state == "retired":
                    kept.manifest = replace(kept.manifest, state="purged")
                    kept.rows = None
                    changed += 1
        return changed

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give up parts that were never merged, by identity."""
        changed = 0
        with self._lock:
            for kept in self._of(parts):
                if kept.manifest.state == "staged":
                    kept.manifest = replace(kept.manifest, state="discarded")
                    kept.rows, kept.discarded = None, (reason, by)
                    changed += 1
        return changed

    def put_aside(self, rows: Sequence[BadRow], *, table: str, batch: str, worker: str, source: str) -> str:
        """Keep bad rows; return the identity of their entry, "" if there are none."""
        if not rows:
            return ""
        digest = QuarantineDigest(table=table, batch=batch, worker=worker)
        digest.update(rows)
        entry = Quarantined(digest.quarantine_id(), table, batch, worker, source, digest.rows, STAGED_AT)
        with self._lock:
            self._quarantine.setdefault(entry.quarantine_id, (entry, tuple(rows)))
        return entry.quarantine_id

    def quarantined(self, table: str) -> Sequence[Quarantined]:
        """Return what was put aside for ``table``, by batch, worker and identity."""
        with self._lock:
            found = [entry for entry, _ in self._quarantine.values() if entry.table == table]
        return sorted(found, key=lambda entry: (entry.batch, entry.worker, entry.quarantine_id))

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position.

        Raises:
            UsageError: there is no such entry.
        """
        with self._lock:
            entry, rows = self._quarantine.get(quarantine_id, (None, ()))
        if entry is None or entry.table != table:
            raise UsageError(f"There is no quarantine entry {quarantine_id!r} of table {table!r}.")
        return iter(rows)

    def remains(self, *, older_than_s: float) -> Sequence[str]:  # noqa: ARG002
        """Return nothing: a writer's rows die with it."""
        return []

    def remove_remains(self, *, older_than_s: float) -> Sequence[str]:
        """Remove nothing, and return it."""
        return self.remains(older_than_s=older_than_s)

    def probe(self) -> Sequence[str]:
        """Return how much is kept."""
        return [f"{len(self._kept)} parts in memory"]

    # --- what tests do to it ---------------------------------------------------------------

    def lose_data(self, part_id: str) -> None:
        """Let a part's data vanish, as somebody's clean-up by hand would."""
        self._kept[part_id].rows = None

    def damage_data(self, part_id: str) -> None:
        """Let a part's data be another one than its manifest promises."""
        kept = self._kept[part_id]
        kept.rows = (kept.rows or ())[:-1]

    def _of(self, parts: Iterable[PartManifest]) -> Iterable[_Kept]:
        known = [(part, self._kept.get(part.part_id)) for part in parts]
        return [kept for part, kept in known if kept is not None and kept.manifest.data == part.data]


def _manifest(spec: TableSpec, batch: str, worker: str, columns: tuple[str, ...], rows: Sequence[Row]) -> PartManifest:
    typed = tuple((name, str(spec.by_name[name].type)) for name in columns)
    digest = _digest(typed, rows)
    if spec.partition is None:
        partitions = {"": len(rows)}
    else:
        place = columns.index(spec.partition)
        partitions = dict(Counter(encode_partition(row[place]) for row in rows))
    part_id = derive_part_id(table=spec.name, batch=batch, worker=worker, content_digest=digest)
    return PartManifest(
        part_id=part_id,
        table=spec.name,
        batch=batch,
        worker=worker,
        rows=len(rows),
        partitions=partitions,
        columns=typed,
        content_digest=digest,
        data=f"memory:{part_id}",
        data_digest="",
        size_bytes=sum(len(repr(row)) for row in rows),
        staged_at=STAGED_AT,
    )


def _digest(columns: tuple[tuple[str, str], ...], rows: Iterable[Row]) -> str:
    state = hashlib.sha256(repr(columns).encode())
    for row in rows:
        state.update(repr(row).encode("utf-8", "backslashreplace"))
    return state.hexdigest()
