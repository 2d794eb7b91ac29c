"""What the page shows, as plain data. Times are UTC in ISO 8601, ages are seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from onerow.services.locks import LockState
    from onerow.services.overview.figures import Figures
    from onerow.services.runs import RunEntry

Seen = TypeVar("Seen")

Level = Literal["well", "warning", "unknown", "critical"]
CheckState = Literal["never", "failed", "old", "duplicates", "findings", "clean"]
LEVELS: tuple[Level, ...] = ("critical", "unknown", "warning", "well")
"""From the gravest on. Not knowing is graver than a warning: what is hidden may be anything."""


def plain(value: Any) -> Any:
    """Return ``value`` as JSON-able data, by its own ``to_json`` where it has one."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


class _Plain:
    """A dataclass whose fields are its JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able data."""
        return {item.name: plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]  # mixed into dataclasses only


@dataclass(frozen=True, slots=True)
class Limits:
    """What is long, as the monitor is told too. Seconds.

    Attributes:
        check_every_s: how often tables are checked; a check that is several times older says nothing of now.
        since_s: how far back consolidations are counted.
        lock_wait_s, consolidation_s: longer ones are a warning.
        lock_held_s: a lock that one holder keeps longer is a reason to look.
        staged_s: so is a part that waits longer.
    """

    check_every_s: float = 300.0
    since_s: float = 604_800.0
    lock_wait_s: float = 120.0
    consolidation_s: float = 60.0
    lock_held_s: float = 600.0
    staged_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Section(_Plain, Generic[Seen]):
    """One thing that was looked at.

    Attributes:
        value: what was seen; None if it was never seen.
        as_of: when that was.
        error: why it could not be seen the last time, None if it could; ``value`` is older then.
    """

    value: Seen | None
    as_of: str = ""
    error: str | None = None
    error_kind: str | None = None


@dataclass(frozen=True, slots=True)
class PartitionDuplicates(_Plain):
    """How many keys of a partition stand more than once."""

    partition: str | None
    keys: int


@dataclass(frozen=True, slots=True)
class Checked(_Plain):
    """What the last check of a table has found.

    Attributes:
        state: ``never`` checked; ``failed``: the last check could not run; ``old``: nothing was found, but too long ago
            to say anything of now; else what was found.
        checked_at: "" if it was never checked.
        since: the first partition that was looked at; None: all were.
        partitions: how many were looked at.
        by_partition: those with duplicates, the latest first.
        findings: lines for people.
    """

    table: str
    state: CheckState
    checked_at: str = ""
    age_s: float = 0.0
    since: str | None = None
    rows: int = 0
    partitions: int = 0
    duplicate_keys: int = 0
    extra_rows: int = 0
    by_partition: tuple[PartitionDuplicates, ...] = ()
    findings: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class IncidentSeen(_Plain):
    """One incident: one kind of finding in one table.

    Attributes:
        what: what is wrong, one sentence.
        of: what its members are: ``partition``, ``batch`` or ``check``.
        members: the first that it is about; ``more_members`` are left out.
        command: what to type to look closer.
        resolved_at: when it was over, None while it is open.
        undelivered: receivers that could not be told yet, each with the reason.
    """

    fingerprint: str
    kind: str
    level: str
    open: bool
    table: str
    what: str
    of: str
    members: tuple[str, ...]
    more_members: int
    command: str
    since: str
    resolved_at: str | None
    undelivered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockSeen:
    """A lock that is held, or that a person has taken away not long ago.

    Attributes:
        since: when it was acquired; by this process's clock, for people. "" if nobody holds it.
        too_long: it is held for longer than the configuration calls usual.
    """

    lock: LockState
    since: str
    too_long: bool

    def to_json(self) -> dict[str, Any]:
        """Return the lock as `onerow locks list --output json` has it, and what is added here."""
        return {**self.lock.to_json(), "since": self.since, "too_long": self.too_long}


@dataclass(frozen=True, slots=True)
class BatchSeen(_Plain):
    """A batch and how far it is.

    Attributes:
        state: of its parts: ``staged``, ``partly_merged``, ``merged``, ``discarded``; ``open``: registered, nothing
            staged yet.
        registered: what the coordinator's record says, "" where nobody has registered it.
        expected: what is missing, in words; "" if nothing is, or nobody has said what is expected.
        late: it was found incomplete at its deadline, or when it was sealed.
        last_error: why the coordinator's last consolidation of it failed.
        claimed_by: the coordinator that consolidates it now, "" for none.
    """

    table: str
    batch: str
    state: str
    parts: int = 0
    parts_merged: int = 0
    parts_waiting: int = 0
    rows: int = 0
    rows_waiting: int = 0
    first_staged_at: str | None = None
    last_staged_at: str | None = None
    oldest_waiting_at: str | None = None
    registered: str = ""
    expected: str = ""
    deadline: str = ""
    late: bool = False
    last_error: str | None = None
    claimed_by: str = ""


@dataclass(frozen=True, slots=True)
class Backlog(_Plain):
    """What waits in staging for a table.

    Attributes:
        oldest_age_s: None if nothing waits.
    """

    table: str
    batches: int
    parts: int
    rows: int
    oldest_at: str | None
    oldest_age_s: float | None
    too_old: bool


@dataclass(frozen=True, slots=True)
class QuarantineSeen(_Plain):
    """Rows of one source that were put aside."""

    quarantine_id: str
    table: str
    batch: str
    worker: str
    source: str
    rows: int
    put_aside_at: str


@dataclass(frozen=True, slots=True)
class Reason(_Plain):
    """Why not all is well.

    Attributes:
        section: the part of the page that tells more.
    """

    level: Level
    text: str
    section: str


@dataclass(frozen=True, slots=True)
class Verdict(_Plain):
    """Whether all is well, and if not, why: the gravest reason first."""

    level: Level
    headline: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview(_Plain):
    """The whole page.

    Attributes:
        taken_at: when it was put together.
        tables: those that are configured.
        figures: of the last days, over all consolidations; ``runs`` are the latest of them, newest first.
    """

    taken_at: str
    verdict: Verdict
    tables: tuple[str, ...]
    checks: Section[tuple[Checked, ...]]
    incidents: Section[tuple[IncidentSeen, ...]]
    locks: Section[tuple[LockSeen, ...]]
    batches: Section[tuple[BatchSeen, ...]]
    backlog: Section[tuple[Backlog, ...]]
    quarantine: Section[tuple[QuarantineSeen, ...]]
    figures: Section[Figures]
    runs: Section[tuple[RunEntry, ...]]

    @property
    def blind(self) -> bool:
        """Whether nothing at all could be looked at now."""
        sections = (self.checks, self.incidents, self.locks, self.batches, self.quarantine, self.runs)
        return all(section.error is not None for section in sections)
