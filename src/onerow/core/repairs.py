"""Repair: what is done about keys that stand more than once, and work under guard and token that is no merge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from onerow.core.partitions import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """

    partition: str | None
    keys: int
    extra_rows: int
    fingerprint: str
    causes: Mapping[Cause, int]


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
    """What a repair or a restore has done in one partition."""

    partition: str | None
    keys: int
    rows_removed: int
    rows_restored: int = 0
    details: Mapping[str, int] = field(default_factory=dict)
