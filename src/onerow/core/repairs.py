"""Repair: what is done about keys that stand more than once, and work under guard and token that is no merge."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from onerow.core.kinds import ValueRefusedError
from onerow.core.partitions import Scope, canonical_partition, encode_partition
from onerow.core.values import convert_value
from onerow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onerow.core.spec import TableSpec

Cause = Literal["identical", "race", "foreign", "unknown"]
"""What made a key stand twice, as far as can be told: ``identical``: the rows are copies of each other;
``race``: they were written within a second of each other, as two merges do that run at once; ``foreign``:
the ledger explains fewer rows than the partition has, so somebody else wrote them; or nobody knows."""

RACE_S: Final = 1.0

Action = Literal["dedupe", "restore", "guarded"]


def infer_cause(*, identical: bool, spread_s: float | None, unexplained: bool) -> Cause:
    """Return the likeliest cause for one key.

    Args:
        identical: whether all its rows agree in every column.
        spread_s: seconds between the oldest and the newest by the first order column that is a timestamp;
            None if the table has none or one of them is NULL.
        unexplained: whether its partition has more rows than the ledger explains.
    """
    if spread_s is not None and spread_s <= RACE_S and not identical:
        return "race"
    if unexplained:
        return "foreign"
    if identical:
        return "identical"
    return "unknown"


def removal_reason(cause: Cause, words: str) -> str:
    """Return what is written beside a row that is moved aside: the likeliest cause, and the person's words."""
    return f"{cause}: {words}" if words else cause


def repair_reason(batch: str) -> str:
    """Return the words of a repair that a consolidation does by itself."""
    return f"repaired while consolidating batch {batch}"


def explained_change(*, rows: int, explained: int, moved: int) -> int:
    """Return what a repair puts into the history as ``rows_inserted``, so that the ledger explains the rest.

    Of the rows moved aside those count first that the ledger never explained: they only go. The others were
    inserted by somebody who is in the ledger, and are taken back.

    Args:
        rows: rows of the partition before.
        explained: how many of them the history says were inserted.
        moved: rows moved aside.
    """
    return min(0, max(rows - explained, 0) - moved)


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """One key that stands more than once.

    Attributes:
        key: the identity's columns and values, as text; None is NULL.
        kept: the table's id column of the newest row, as text; None if it declares none.
        removed: the ids of the others.
    """

    partition: str | None
    key: Mapping[str, str | None]
    rows: int
    cause: Cause
    kept: str | None = None
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionRepair:
    """What is to be done in one partition.

    Attributes:
        keys: how many keys stand more than once.
        extra_rows: rows beyond one per key; so many will be moved aside.
        fingerprint: of the rows concerned, in the engine's own words; the plan is refused if it changed.
        causes: number of keys by cause.
        renumbered: in versions mode, rows whose number another content of their key has; they get numbers above the
            highest.
    """

    partition: str | None
    keys: int
    extra_rows: int
    fingerprint: str
    causes: Mapping[Cause, int]
    renumbered: int = 0


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair of a table would do. Looking costs no lock.

    Attributes:
        partitions: those that need it, sorted.
        groups: the first keys, for people.
        rounding: keys, not duplicates, whose decimals differ by less than one and round to one integer: what a
            key that was cast to an integer would have folded together. They are told and left alone.
    """

    table: str
    partitions: tuple[PartitionRepair, ...]
    groups: tuple[DuplicateGroup, ...]
    rounding: int = 0

    @property
    def keys(self) -> int:
        """Keys that stand more than once."""
        return sum(one.keys for one in self.partitions)

    @property
    def extra_rows(self) -> int:
        """Rows that would be moved aside."""
        return sum(one.extra_rows for one in self.partitions)

    @property
    def renumbered(self) -> int:
        """Rows that would get another version."""
        return sum(one.renumbered for one in self.partitions)

    @property
    def identity(self) -> str:
        """A short name of exactly this plan: another one as soon as the duplicates of the table are others."""
        lines = [
            f"{self.table!r} {one.partition!r} {one.keys} {one.extra_rows} {one.fingerprint}" for one in self.partitions
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What would change places. Looking costs no lock.

    Attributes:
        key: the identity's columns and values, as text; None is NULL.
        run: which has removed the row that would come back.
        back: the table's id column of that row, as text; None if the table declares none.
        current: the same of the row that would go, one for each row that the table has of the key.
        removed_at: when it was removed, UTC; ``reason``: why.
    """

    table: str
    partition: str | None
    key: Mapping[str, str | None]
    run: str
    back: str | None
    current: tuple[str | None, ...]
    removed_at: dt.datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Intervention:
    """A transaction under guard and token that merges no parts.

    Attributes:
        run: identity; with ``attempt`` it identifies the transaction in the history.
        token: the fencing token of the lease; None where no lock is taken.
        lock_store: identity of the lock store the token comes from; None without a lock.
    """

    spec: TableSpec
    partition: str | None
    run: str
    attempt: int
    holder: str
    action: Action
    reason: str
    token: int | None = None
    lock_store: str | None = None

    @property
    def scope(self) -> Scope:
        """The scope that it works in."""
        return Scope(self.spec.name, self.partition)


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair or a restore has done in one partition; ``renumbered`` as planned."""

    partition: str | None
    keys: int
    rows_removed: int
    rows_restored: int = 0
    renumbered: int = 0


def key_texts(spec: TableSpec, values: Iterable[Any]) -> dict[str, str | None]:
    """Return the identity of a row as text, as it is named everywhere; ``typed_key`` reads it back."""
    return {
        name: None if value is None else encode_partition(value)
        for name, value in zip(spec.identity, values, strict=True)
    }


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def refuse_versions(spec: TableSpec) -> None:
    """Refuse to restore into a table in versions mode.

    Raises:
        UsageError: only copies of a content are removed there, of which one has stayed.
    """
    if spec.mode == "versions":
        raise UsageError(
            f"The table {spec.name!r} is in versions mode, where a repair removes only copies of a content. "
            "One of each has stayed, so there is nothing to bring back."
        )


def typed_key(spec: TableSpec, partition: str | None, key: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the identity of a row from the texts of its business key, as values of the columns' types.

    Args:
        spec: the table.
        partition: canonical text of the partition the row is in.
        key: the key's columns and values as text, None for NULL; the partition column may be left out.

    Returns:
        Column names and values in the order of the identity: str, int, bool, Decimal, date or aware datetime.

    Raises:
        UsageError: a column is missing, is none of the key's, or a text is no value of its column.
    """
    texts = dict(key)
    if spec.partition is not None:
        given = texts.setdefault(spec.partition, partition)
        if given is None or canonical_partition(given, spec) != partition:
            raise UsageError(f"The key names {spec.partition} {given!r}; the partition is {partition!r}.")
    wrong = [name for name in texts if name not in spec.identity]
    missing = [name for name in spec.identity if name not in texts]
    if wrong or missing:
        told = f"{wrong[0]!r} is no column of it" if wrong else f"{missing[0]!r} is missing"
        raise UsageError(f"A key of {spec.name!r} is made of {', '.join(spec.identity)}; {told}.")
    return {name: _typed(spec, name, texts[name]) for name in spec.identity}


def _typed(spec: TableSpec, name: str, text: str | None) -> Any:
    if text is None:
        return None
    column_type = spec.by_name[name].type
    try:
        value = convert_value(text, column_type, text_mode=True)
    except ValueRefusedError as error:
        raise UsageError(f"The key column {name!r}: {text!r} {error}.") from error
    if column_type.kind == "date":
        return _EPOCH.date() + dt.timedelta(days=value)
    if column_type.kind == "timestamp":
        return _EPOCH + dt.timedelta(microseconds=value)
    return value
