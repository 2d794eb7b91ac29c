"""What a warehouse in memory holds, and transactions on it with the isolation of the worst engine.

Snapshots are taken when a transaction begins and stay old. Inserted rows, fence rows and ledger rows are
appended and conflict with nothing. Two transactions that change the same row of the target, or the same
guard row, conflict: the first to commit wins. Nothing else stops a transaction.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onerow.core.partitions import encode_partition

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from onerow.core.plans import MergeCounts
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import HistoryEntry, LedgerEntry

Row = tuple[Any, ...]
Key = tuple[Any, ...]


class ConflictError(Exception):
    """The transaction lost against one that committed first; nothing of it was kept."""


class LinkLostError(Exception):
    """The connection broke: what was sent may arrive later, or never; for ``deliver`` and ``switch``."""


def stay(point: str) -> None:
    """Let nobody else run: the switch outside the simulation."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of a spec stand in a row.

    Attributes:
        width: how many columns are declared; they come first.
        versions: whether one more follows, the number of the version.
    """

    identity: tuple[int, ...]
    comparison: tuple[int, ...]
    partition: int | None
    width: int
    versions: bool

    def row_key(self, row: Row) -> Key:
        """Return what no two rows share: the key, and in versions mode its version."""
        return (*self.key(row), row[self.width]) if self.versions else self.key(row)

    def staged_key(self, row: Row) -> Key:
        """Return what staged rows are gathered by: of a key the newest counts, in versions mode each content."""
        return self.content(row) if self.versions else self.key(row)

    def content(self, row: Row) -> Key:
        """Return all declared columns, NULL equal to NULL and NaN to NaN."""
        return tuple([comparable(value) for value in row[: self.width]])

    def version_of(self, row: Row) -> int:
        """Return the number of a version; 0 where somebody has given none."""
        version: int | None = row[self.width]
        return version or 0

    def key(self, row: Row) -> Key:
        """Return what identifies the row: partition and business key."""
        return tuple([row[place] for place in self.identity])

    def order(self, row: Row) -> tuple[Any, ...]:
        """Return what the row is compared by: greater is newer, NULL lowest."""
        return tuple([comparable(row[place]) for place in self.comparison])

    def partition_of(self, row: Row) -> str | None:
        """Return the row's partition as canonical text."""
        return None if self.partition is None else encode_partition(row[self.partition])


_LAYOUTS: dict[int, tuple[TableSpec, Layout]] = {}


def layout_of(spec: TableSpec) -> Layout:
    """Return the layout of rows in the declared order of ``spec``."""
    known = _LAYOUTS.get(id(spec))  # to hash a spec costs more than to lay it out
    if known is not None and known[0] is spec:
        return known[1]
    places = {name: place for place, name in enumerate(spec.column_names)}
    layout = Layout(
        identity=tuple(places[name] for name in spec.identity),
        comparison=tuple(places[name] for name in spec.comparison),
        partition=None if spec.partition is None else places[spec.partition],
        width=len(spec.columns),
        versions=spec.mode == "versions",
    )
    if len(_LAYOUTS) >= 1_000:
        _LAYOUTS.clear()
    _LAYOUTS[id(spec)] = (spec, layout)
    return layout


def comparable(value: Any) -> tuple[Any, ...]:
    """Return ``value`` in a form that compares as the rules say: NULL lowest, NaN highest."""
    if value is None:
        return (0,)
    if isinstance(value, float) and math.isnan(value):
        return (2,)
    return (1, value)


@dataclass(frozen=True, slots=True)
class RemovedRow:
    """A row that was moved aside, by which run, when, why, and the batch it came from if that can be told."""

    row: Row
    run: str
    removed_at: dt.datetime
    reason: str
    batch: str | None


@dataclass(frozen=True, slots=True)
class TableState:
    """One committed state of a table and its control rows. Immutable: a commit makes a new one.

    Attributes:
        rows: rows by an internal number; nothing keeps two of them from having one key.
        changed: the commit that last changed a row, for rows that were ever changed.
        guards: how often each guard row was changed, and by which commit last.
        fences: fence rows as they were appended: partition and token.
        removed: rows that were moved aside.
    """

    spec: TableSpec
    lock_store: str
    commit: int = 0
    next_row: int = 0
    rows: Mapping[int, Row] = field(default_factory=dict)
    changed: Mapping[int, int] = field(default_factory=dict)
    guards: Mapping[str | None, tuple[int, int]] = field(default_factory=dict)
    fences: tuple[tuple[str | None, int], ...] = ()
    ledger: tuple[LedgerEntry, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    removed: tuple[RemovedRow, ...] = ()

    def fence(self, partition: str | None) -> int:
        """Return the highest token that has committed for ``partition``, 0 if none has."""
        return max((token for name, token in self.fences if name == partition), default=0)

    def merged(self) -> set[tuple[str, str | None]]:
        """Return what the ledger names."""
        return {(entry.part_id, entry.partition) for entry in self.ledger}

    def explained(self, partition: str | None) -> int:
        """Return how many rows of ``partition`` were inserted, as the history says."""
        return sum(entry.rows_inserted for entry in self.history if entry.partition == partition)

    def only_batch(self, partition: str | None) -> str | None:
        """Return the one batch that the ledger names for ``partition``; None if it names several or none."""
        batches = {entry.batch for entry in self.ledger if entry.partition == partition}
        return batches.pop() if len(batches) == 1 else None


@dataclass(slots=True)
class Transaction:
    """What a transaction has seen and means to write.

    Attributes:
        before: the snapshot, taken when it began.
        guards: the guard rows it changes.
        set_aside: rows it moves aside; ``taken_back``: rows it takes from there.
        interrupted: somebody asked it to stop at once.
        unchecked: it was written by somebody who does not use onerow.
    """

    before: TableState
    label: str
    guards: set[str | None] = field(default_factory=set)
    inserted: list[Row] = field(default_factory=list)
    updated: dict[int, Row] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    fences: list[tuple[str | None, int]] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)
    set_aside: list[RemovedRow] = field(default_factory=list)
    taken_back: list[RemovedRow] = field(default_factory=list)
    counts: dict[str | None, MergeCounts] = field(default_factory=dict)
    interrupted: bool = False
    unchecked: bool = False

    def view(self, partition: str | None) -> Iterator[tuple[int, Row]]:
        """Return the rows of a partition as this transaction sees them; new ones have the number -1."""
        layout = layout_of(self.before.spec)
        for number, row in self.before.rows.items():
            if number not in self.deleted and layout.partition_of(row) == partition:
                yield number, self.updated.get(number, row)
        for row in self.inserted:
            if layout.partition_of(row) == partition:
                yield -1, row


class MemoryDatabase:
    """Tables by name; several warehouses may stand on one database."""

    def __init__(self) -> None:
        self.tables: dict[str, TableState] = {}
        self.commit_hooks: list[Callable[[Transaction, TableState, TableState], None]] = []
        self._lock = threading.RLock()

    def begin(self, table: str, label: str) -> Transaction:
        """Begin a transaction: take the snapshot.

        Raises:
            KeyError: there is no such table.
        """
        return Transaction(self.tables[table], label)

    def commit(self, transaction: Transaction) -> None:
        """Make everything of a transaction visible, or nothing.

        Raises:
            ConflictError: a row it changes was changed by a transaction that has committed since it began.
        """
        with self._lock:
            before, name = transaction.before, transaction.before.spec.name
            now = self.tables[name]
            for guard in transaction.guards:
                if now.guards.get(guard, (0, 0))[1] > before.commit:
                    raise ConflictError(f"the guard row of {guard or name!r} was changed meanwhile")
            for number in (*transaction.updated, *transaction.deleted):
                if now.changed.get(number, 0) > before.commit:
                    raise ConflictError("a row of the target was changed meanwhile")
            after = _applied(now, transaction)
            self.tables[name] = after
            for hook in self.commit_hooks:
                hook(transaction, now, after)


def _applied(now: TableState, transaction: Transaction) -> TableState:
    commit = now.commit + 1
    rows, changed, guards = dict(now.rows), dict(now.changed), now.guards
    rows.update(transaction.updated)
    for number in transaction.deleted:
        rows.pop(number, None)
    changed.update(dict.fromkeys((*transaction.updated, *transaction.deleted), commit))
    for place, row in enumerate(transaction.inserted):
        rows[now.next_row + place] = row
    if transaction.guards:
        guards = dict(guards)
        for guard in transaction.guards:
            guards[guard] = (guards.get(guard, (0, 0))[0] + 1, commit)
    return replace(
        now,
        commit=commit,
        next_row=now.next_row + len(transaction.inserted),
        rows=rows,
        changed=changed,
        guards=guards,
        fences=(*now.fences, *transaction.fences),
        ledger=(*now.ledger, *transaction.ledger),
        history=(*now.history, *transaction.history),
        removed=(
            *(one for one in now.removed if not any(one is other for other in transaction.taken_back)),
            *transaction.set_aside,
        ),
    )


@dataclass(slots=True)
class Candidate:
    """What is staged for one key, or one content: the newest row, how many rows are identical to it, how many older."""

    row: Row
    same: int = 1
    older: int = 0


def put_candidate(candidates: dict[Key, Candidate], row: Row, layout: Layout) -> None:
    """Take one more staged row into account."""
    key = layout.staged_key(row)
    candidate = candidates.get(key)
    if candidate is None:
        candidates[key] = Candidate(row)
    elif layout.order(row) == layout.order(candidate.row):
        candidate.same += 1
    elif layout.order(row) > layout.order(candidate.row):
        candidates[key] = Candidate(row, older=candidate.same + candidate.older)
    else:
        candidate.older += 1


def duplicates_in(rows: Sequence[Row], layout: Layout) -> dict[Key, int]:
    """Return the keys that have several rows, with their number of rows; in versions mode, keys with their version."""
    seen: dict[Key, int] = {}
    for row in rows:
        key = layout.row_key(row)
        seen[key] = seen.get(key, 0) + 1
    return {key: count for key, count in seen.items() if count > 1}


def key_text(spec: TableSpec, key: Key) -> str:
    """Return a key as people read it, with its version if it has one."""
    pairs = zip(spec.row_identity, key, strict=False)
    return ", ".join(f"{name}={'NULL' if value is None else value}" for name, value in pairs)
