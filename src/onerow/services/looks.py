"""What one look of the monitor has seen, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

CheckOutcome = Literal["clean", "findings", "failed"]


@dataclass(frozen=True, slots=True)
class TableLook:
    """The check of a table. The numbers of a check that failed say nothing.

    Attributes:
        at_s: when, seconds since 1970 (UTC).
        own: whether this look made the check; otherwise another monitor did, not long ago.
        duplicate_keys: keys with more than one row.
        findings: other findings: row checks, rows that the ledger does not explain.
    """

    table: str
    outcome: CheckOutcome
    at_s: float
    duplicate_keys: int = 0
    findings: int = 0
    own: bool = True


@dataclass(frozen=True, slots=True)
class StagingLook:
    """What waits to be merged into a table; ``oldest_s`` is the age of the part that waits longest, 0 for none."""

    table: str
    parts: int = 0
    rows: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LocksLook:
    """Locks of a table that are held; ``oldest_s`` is how long the oldest is, 0 for none."""

    table: str
    held: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything. What could not be looked at is missing.

    Attributes:
        at_s: when, seconds since 1970 (UTC), by this machine's clock; for people.
        incidents: open incidents by level.
        undelivered: messages that wait, by receiver.
    """

    at_s: float
    tables: tuple[TableLook, ...] = ()
    staging: tuple[StagingLook, ...] = ()
    locks: tuple[LocksLook, ...] = ()
    incidents: Mapping[str, int] = field(default_factory=dict)
    undelivered: Mapping[str, int] = field(default_factory=dict)
