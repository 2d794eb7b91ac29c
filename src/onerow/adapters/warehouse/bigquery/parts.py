"""The part store in BigQuery: one table a part, made by a load job. See ``layout``.

A part's data is removed in steps, each of which may be the last one before a crash: the table is marked, then an empty
table is left that keeps the name and the manifest, then the data goes. Marking names the state that was read, so of two
who want different things one turns back. Only what was merged ever expires by itself: a retired table some time after
``keep_merged``, in case nobody collects it, and what is left of a purged one. A part that waits never does.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.bigquery import layout
from onerow.adapters.warehouse.bigquery.partwriter import BigQueryPartWriter
from onerow.adapters.warehouse.bigquery.quarantine import BigQueryQuarantine
from onerow.adapters.warehouse.bigquery.staged import StagedTables, each
from onerow.core.names import check_name
from onerow.errors import PartCorruptError, StagingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.core.parts import BadRow, PartManifest, PartState, Quarantined
    from onerow.core.spec import TableSpec
    from onerow.ports.clock import Clock

    IsMerged = Callable[[str, str, str, tuple[str | None, ...]], bool]

EXPIRES_AFTER_S: Final = 7 * 86_400.0
"""How long after ``keep_merged`` a merged part goes by itself. Larger than any clock may be wrong."""
GONE_FOR_S: Final = 86_400.0
"""How long the name of a purged part stays known."""
MAX_RACES: Final = 8
MAX_REASON_CHARS: Final = 2_000
STATES: Final = {"staged", "retired", "purged", "discarded"}


@dataclass(frozen=True, slots=True)
class _Found:
    """A revision of a part as a list of the dataset tells it.

    Attributes:
        table_id: the table to read the manifest from.
        has_data: whether the table with the rows is there.
    """

    place: layout.Place
    state: PartState
    table_id: str
    has_data: bool
    since_s: int


class BigQueryParts:
    """Parts in tables of their own; many processes may use it at once.

    Args:
        is_merged: asks the ledger whether a part, by table, batch, identity and partitions, is merged for all of
            them; asked when a part is staged again whose data is gone already.
        keep_merged_s: how long merged parts are wanted.
    """

    def __init__(
        self, client: BigQuery, *, clock: Clock, is_merged: IsMerged, keep_merged_s: float = 86_400.0
    ) -> None:
        self.client = client
        self.tables = StagedTables(client)
        self.is_merged = is_merged
        self.clock = clock
        self.quarantine = BigQueryQuarantine(self.tables, clock)
        self._keep_merged_s = keep_merged_s

    def writer(self, spec: TableSpec, *, batch: str, worker: str, columns: Sequence[str]) -> BigQueryPartWriter:
        """Begin a part.

        Raises:
            UsageError: the batch or the worker has no proper name, or a column is not declared.
        """
        unknown = [name for name in columns if name not in spec.by_name]
        if unknown:
            raise UsageError(f"Table {spec.name!r} has no column {unknown[0]!r}.")
        return BigQueryPartWriter(
            self,
            spec,
            batch=check_name(batch, "batch"),
            worker=check_name(worker, "worker"),
            columns=tuple(columns),
        )

    def now_s(self) -> int:
        """Return the wall clock's time, for labels."""
        return int(self.clock.utc_now().timestamp())

    # --- reading -------------------------------------------------------------------------

    def batches(self, table: str) -> Sequence[str]:
        """Return the batches of ``table`` that have manifests in any state, sorted."""
        one_of_each: dict[str, _Found] = {}
        for item in self.tables.listed(prefix=layout.PART, table=table):
            found = _found(item.table_id, item.labels)
            if found is not None:
                one_of_each.setdefault(item.labels[layout.BATCH], found)
        manifests = self._read(list(one_of_each.values()))
        return sorted({part.batch for part in manifests if part.table == table})

    def parts(self, table: str, batch: str) -> Sequence[PartManifest]:
        """Return the batch's parts in every state, sorted by identity."""
        manifests = self._read(self._chosen(table, batch))
        for part in manifests:
            if (part.table, part.batch) != (table, batch):
                raise PartCorruptError(
                    f"The manifest of part {part.part_id} is one of table {part.table!r}, batch {part.batch!r}: "
                    "a table of staging was changed by hand."
                )
        return manifests

    # --- after the merge -----------------------------------------------------------------

    def retire(self, parts: Iterable[PartManifest]) -> int:
        """Mark parts as merged, by identity. Returns how many were not. Idempotent."""
        return sum(each(self._retire, list(parts)))

    def retired(self, table: str, *, older_than_s: float) -> Sequence[PartManifest]:
        """Return the parts of ``table`` that were retired at least so long ago and still have data."""
        before_s = self.now_s() - older_than_s
        return self._read(
            [
                found
                for found in self._chosen(table)
                if found.state == "retired" and found.has_data and found.since_s <= before_s
            ]
        )

    def purge(self, parts: Iterable[PartManifest]) -> int:
        """Remove the data of retired parts, by identity. Returns how many had data. Idempotent."""
        return sum(each(self._purge, list(parts)))

    def discard(self, parts: Iterable[PartManifest], *, reason: str, by: str) -> int:
        """Give up parts that were never merged: their data goes, their names and the reason stay."""
        return sum(each(lambda part: self._discard(part, reason, by), list(parts)))

    # --- bad rows ------------------------------------------------------------------------

    def quarantined(self, table: str) -> Sequence[Quarantined]:
        """Return what was put aside for ``table``, by batch, worker and identity."""
        return self.quarantine.entries(table)

    def quarantined_rows(self, table: str, quarantine_id: str) -> Iterator[BadRow]:
        """Return the rows of one entry, by position.

        Raises:
            UsageError: there is no such entry.
            StagingError: it has not the rows that were put aside.
        """
        return self.quarantine.rows(table, quarantine_id)

    # --- what is left over ---------------------------------------------------------------

    def remains(self, *, older_than_s: float) -> Sequence[str]:
        """Return data that was given up, or that a later revision of its part has replaced."""
        return [f"table {self.tables.name(table_id)}" for table_id in self._remains(older_than_s)]

    def remove_remains(self, *, older_than_s: float) -> Sequence[str]:
        """Remove what ``remains`` returns, and return it."""
        found = self._remains(older_than_s)
        each(self._remove_remains, found)
        return [f"table {self.tables.name(table_id)}" for table_id in found]

    def probe(self) -> Sequence[str]:
        """Check that parts can be written: make a table and remove it again.

        Raises:
            StagingError, NotInstalledError: they cannot.
        """
        self.tables.probe()
        found = self.tables.listed(prefix=layout.PART)
        waiting = sum(1 for item in found if item.labels.get(layout.STATE) == "staged")
        names = self.client.names
        return [f"load jobs into tables of {names.project}.{names.control}, {waiting} parts wait there"]

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    # --- within --------------------------------------------------------------------------

    def _chosen(self, table: str, batch: str | None = None) -> list[_Found]:
        """Return the revision of each part that counts, sorted by identity."""
        revisions = _revisions(self.tables.listed(prefix=layout.PART, table=table, batch=batch))
        return [_counting(found) for _, found in sorted(revisions.items())]

    def _read(self, found: Sequence[_Found]) -> list[PartManifest]:
        """Return the manifests; a table that is gone between the list and the look has a successor or none."""

        def read(one: _Found) -> PartManifest | None:
            data = layout.data_table(one.place.part_id, one.place.revision)
            for table_id, state in ((one.table_id, one.state), (data + layout.GONE_SUFFIX, None)):
                table = self.tables.read(table_id)
                if table is not None:
                    return layout.read_manifest(
                        self.client, table, state=state or _state(table.labels, table_id), data=data
                    )
            return None

        return [part for part in each(read, found) if part is not None]

    def _retire(self, part: PartManifest) -> int:
        for _ in range(MAX_RACES):
            table = self.tables.read(part.data)
            if table is None or table.labels[layout.STATE] != "staged":
                return 0
            labels = {layout.STATE: "retired", layout.SINCE: str(self.now_s())}
            expires_at = self.clock.utc_now() + dt.timedelta(seconds=self._keep_merged_s + EXPIRES_AFTER_S)
            if self.tables.mark(table, labels, expires_at=expires_at):
                return 1
        raise _contended(part)

    def _purge(self, part: PartManifest) -> int:
        table = self.tables.read(part.data)
        if table is None or table.labels[layout.STATE] != "retired":
            return 0
        expires_at = self.clock.utc_now() + dt.timedelta(seconds=GONE_FOR_S)
        labels = {**table.labels, layout.KIND: layout.GONE, layout.STATE: "purged", layout.SINCE: str(self.now_s())}
        self.tables.leave(table, part.data + layout.GONE_SUFFIX, labels, expires_at=expires_at)
        return int(self.tables.remove(part.data))

    def _discard(self, part: PartManifest, reason: str, by: str) -> int:
        for _ in range(MAX_RACES):
            table = self.tables.read(part.data)
            if table is None or table.labels[layout.STATE] not in {"staged", "discarded"}:
                return 0
            marked = table.labels[layout.STATE] == "staged"
            if marked:
                labels = {layout.STATE: "discarded", layout.SINCE: str(self.now_s())}
                description = _with_reason(table.description, reason, by)
                if not self.tables.mark(table, labels, description=description):
                    continue
            self._remove_discarded(part.data)
            return int(marked)
        raise _contended(part)

    def _remove_discarded(self, data: str) -> None:
        table = self.tables.read(data)
        if table is not None:
            labels = {**table.labels, layout.KIND: layout.GONE}
            self.tables.leave(table, data + layout.GONE_SUFFIX, labels, expires_at=None)
            self.tables.remove(data)

    def _remains(self, older_than_s: float) -> list[str]:
        """Return the tables whose data nobody wants: crashed clean-up, and lost data that was staged again."""
        before_s = self.now_s() - older_than_s
        remains: list[str] = []
        for found in _revisions(self.tables.listed(prefix=layout.PART)).values():
            counting = _counting(found)
            remains += [
                layout.data_table(one.place.part_id, one.place.revision)
                for one in found
                if one.has_data
                and one.since_s <= before_s
                and (one.state in {"purged", "discarded"} or (one is not counting and one.place < counting.place))
            ]
        return sorted(remains)

    def _remove_remains(self, data: str) -> None:
        table = self.tables.read(data)
        if table is not None and table.labels[layout.STATE] == "discarded":
            self._remove_discarded(data)
        else:
            self.tables.remove(data)


def _revisions(items: Sequence[object]) -> Mapping[str, list[_Found]]:
    """Return what is known of each part: one entry a revision."""
    revisions: dict[str, dict[int, _Found]] = {}
    for item in items:
        found = _found(item.table_id, item.labels)  # type: ignore[attr-defined]  # a TableListItem
        if found is None:
            continue
        known = revisions.setdefault(found.place.part_id, {})
        other = known.get(found.place.revision)
        if other is not None:  # the data and what is left of it: removing it was not finished
            gone = other if other.table_id.endswith(layout.GONE_SUFFIX) else found
            found = _Found(gone.place, gone.state, gone.table_id, has_data=True, since_s=gone.since_s)
        known[found.place.revision] = found
    return {part_id: list(known.values()) for part_id, known in revisions.items()}


def _found(table_id: str, labels: Mapping[str, str]) -> _Found | None:
    place = layout.place_of(table_id)
    if place is None:
        return None
    since = labels.get(layout.SINCE, "")
    return _Found(
        place,
        _state(labels, table_id),
        table_id,
        has_data=not table_id.endswith(layout.GONE_SUFFIX),
        since_s=int(since) if since.isdecimal() else 0,
    )


def _state(labels: Mapping[str, str], table_id: str) -> PartState:
    state = labels.get(layout.STATE, "")
    if state not in STATES:
        raise PartCorruptError(
            f"The table {table_id} of staging has no state of ours in its labels.",
            hint="It was changed by hand. Nothing was merged or removed.",
        )
    return state  # type: ignore[return-value]  # just checked


def _counting(revisions: Sequence[_Found]) -> _Found:
    """Return the revision of a part that counts.

    Their rows are the same, since a part's identity is its content. So one that waits counts more than one that was
    merged or given up, whichever came later; among equals the later one.
    """
    rank = {"staged": 2, "retired": 1}
    return max(revisions, key=lambda found: (rank.get(found.state, 0), found.place))


def _with_reason(description: str, reason: str, by: str) -> str:
    """Return a manifest with the reason why its part was given up; what is no manifest stays as it is."""
    try:
        data = json.loads(description)
    except ValueError:
        return description
    if not isinstance(data, dict):
        return description
    data |= {"discarded_by": by, "reason": reason[:MAX_REASON_CHARS]}
    text = json.dumps(data, ensure_ascii=False)
    if len(text) <= layout.MAX_DESCRIPTION_CHARS:
        return text
    return json.dumps({**data, "partitions": None}, ensure_ascii=False)


def _contended(part: PartManifest) -> StagingError:
    return StagingError(
        f"The table of part {part.part_id} was changed by others {MAX_RACES} times while it was to be marked.",
        hint="Nothing was given up. Run it again when it is quieter.",
    )
