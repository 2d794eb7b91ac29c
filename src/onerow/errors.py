"""The errors of onerow, grouped by what the one who handles them does next.

Every error carries a stable ``kind`` for programs, an exit code for scripts, and a message
that says what happened, what was kept and what to do. Kinds are append-only: a test holds
the list, because other people's scripts compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FINDINGS = 3
EXIT_LOCK_TIMEOUT = 4
EXIT_FENCED = 5
EXIT_RETRIES = 6
EXIT_UNKNOWN = 7
EXIT_INTERRUPTED = 130

GRAVITY = (
    EXIT_UNKNOWN,
    EXIT_FINDINGS,
    EXIT_FAILED,
    EXIT_FENCED,
    EXIT_RETRIES,
    EXIT_LOCK_TIMEOUT,
    EXIT_USAGE,
    EXIT_DONE,
)
"""Exit codes from the gravest on: of several, a command exits with the gravest."""


def gravest(codes: Sequence[int]) -> int:
    """Return the gravest of ``codes``, 0 for none."""
    return min(codes, key=GRAVITY.index, default=EXIT_DONE)


class OnerowError(Exception):
    """Base of everything that onerow raises on purpose.

    Attributes:
        kind: stable code for programs.
        exit_code: what the command line exits with.
        hint: what to do next, one sentence, may be empty.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """What happened, without the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


# --- put right by the one who typed or configured ---------------------------------------


class UsageError(OnerowError):
    """The call makes no sense as it stands; nothing was done."""

    kind = "usage"
    exit_code = EXIT_USAGE


class ConfigurationError(OnerowError):
    """The configuration is missing, unreadable or contradicts itself; nothing was done."""

    kind = "configuration"
    exit_code = EXIT_USAGE


class NotInstalledError(ConfigurationError):
    """The warehouse lacks a table that ``onerow init`` creates."""

    kind = "not_installed"


class LockStoreMismatchError(ConfigurationError):
    """The table is consolidated under another lock store; two stores would be two locks."""

    kind = "lock_store_mismatch"


class HolderAliveError(UsageError):
    """A lock was to be taken away from a holder that renews it; nothing was done."""

    kind = "holder_alive"


class PlanOutdatedError(UsageError):
    """A plan that was shown no longer fits the data; nothing was changed."""

    kind = "plan_outdated"


class BatchConflictError(UsageError):
    """A request does not fit what has become of a registered batch; nothing was changed."""

    kind = "batch_conflict"


class PartNotStagedError(UsageError):
    """A part was reported that is not in staging; nothing was changed."""

    kind = "part_not_staged"


# --- put right in the data --------------------------------------------------------------


class DataError(OnerowError):
    """The data breaks a rule; trying again with the same data will fail again."""

    kind = "data"
    exit_code = EXIT_FINDINGS


class InputFileError(DataError):
    """A file cannot be read as what it is said to be; nothing was staged."""

    kind = "input_file"


class PartRefusedError(DataError):
    """A part breaks the row contract; nothing of it was staged.

    Attributes:
        problems: the first problems, as lines that name row, column and reason.
        problem_count: how many rows were found bad before reading stopped.
    """

    kind = "part_refused"

    def __init__(
        self, message: str, *, problems: Sequence[str] = (), problem_count: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)
        self.problem_count = problem_count

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {line}" for line in self.problems), self.hint]).strip()


class RowRefusedError(DataError):
    """The target table itself refuses a row (NOT NULL, CHECK, ...); the transaction was rolled back."""

    kind = "row_refused"


class PartMisfitError(DataError):
    """A part was staged under another declaration of its table; it was not merged."""

    kind = "part_misfit"


class DuplicatesError(DataError):
    """A business key stands more than once; the transaction was rolled back, staging is kept.

    Attributes:
        keys: the first such keys, as text.
        partitions: the partitions they stand in.
    """

    kind = "duplicates"

    def __init__(
        self, message: str, *, keys: Sequence[str] = (), partitions: Sequence[str | None] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.keys = tuple(keys)
        self.partitions = tuple(partitions)


# --- wait, or look who is in the way ----------------------------------------------------


class LockAcquisitionError(OnerowError):
    """The lease was not had within the longest wait; nothing was done."""

    kind = "lock_timeout"
    exit_code = EXIT_LOCK_TIMEOUT


class WarehouseBusyError(OnerowError):
    """Somebody else kept the warehouse for longer than we wait; nothing was done."""

    kind = "warehouse_busy"
    exit_code = EXIT_RETRIES


class ConflictError(OnerowError):
    """The transaction lost against another one; nothing was committed and it may be run again from the top."""

    kind = "conflict"
    exit_code = EXIT_RETRIES


class RetriesExhaustedError(OnerowError):
    """Every attempt within the budget ran into a conflict; nothing was committed."""

    kind = "retries_exhausted"
    exit_code = EXIT_RETRIES


# --- somebody else has taken over: do not repeat blindly --------------------------------


class FencedError(OnerowError):
    """This consolidation lost the right to commit; nothing of it was committed."""

    kind = "fenced"
    exit_code = EXIT_FENCED


class LeaseLostError(FencedError):
    """The lease could not be renewed in time, or somebody else holds it."""

    kind = "lease_lost"


class AbandonedError(FencedError):
    """The process was told to stop and gave this work up; whoever comes next does it."""

    kind = "abandoned"


class StaleLeaseError(FencedError):
    """A higher token has committed for this scope.

    Attributes:
        fence: the highest token that has committed.
    """

    kind = "stale_lease"

    def __init__(self, message: str, *, fence: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fence = fence


class OutcomeUnknownError(OnerowError):
    """Nobody can tell yet whether a transaction has committed; staging is kept."""

    kind = "outcome_unknown"
    exit_code = EXIT_UNKNOWN


# --- look at the system -----------------------------------------------------------------


class VerificationError(OnerowError):
    """The check inside the transaction failed or could not run; it was rolled back."""

    kind = "verification"


class WarehouseError(OnerowError):
    """The warehouse refused or failed for a reason that a retry does not cure."""

    kind = "warehouse"


class LockStoreError(OnerowError):
    """The lock store cannot be reached or does not answer sensibly."""

    kind = "lock_store"


class NotifierError(OnerowError):
    """A receiver of alerts did not take a message; it is kept and sent again.

    Attributes:
        refused: the receiver says that the message or the address will never do; a person has to look.
        retry_after_s: how long the receiver asks us to wait, 0 if it does not say.
    """

    kind = "notifier"

    def __init__(self, message: str, *, refused: bool = False, retry_after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refused = refused
        self.retry_after_s = retry_after_s


class StagingError(OnerowError):
    """Staging cannot be read or written."""

    kind = "staging"


class PartGoneError(StagingError):
    """A part's data is gone and the ledger does not name it: a loss that must be looked at."""

    kind = "part_gone"


class PartCorruptError(StagingError):
    """A part's data is not what its manifest promises; it was not merged."""

    kind = "part_corrupt"


class BatchNotFoundError(OnerowError):
    """No part of this batch was ever staged or merged.

    Attributes:
        near: batches whose names come near.
    """

    kind = "batch_not_found"

    def __init__(self, message: str, *, near: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.near = tuple(near)
