"""Batches that are registered with the coordinator: what a record says, and what becomes of it. Pure decisions.

::

    open ──────────▶ due ◀───▶ claimed ──▶ done        due: complete, sealed, at its deadline, asked for, late
      │               ▲           │          │
      ├─▶ incomplete ─┤           ▼          │         a late part: done or incomplete ──▶ due again
      │               └──────── failed       │         failed: tried again after a while, the reason is kept
      └─▶ cancelled                ▲─────────┘

The record holds no truth about parts: staging and the ledger do, and ``Seen`` is the last look at them. It says what
was expected, what is to be done next and who does it, so that any coordinator can go on where another one died.

Each function looks at a record and says what to write. Whoever calls writes with the version that it has read, so that
of two who decide at once only one succeeds. All times in a record are microseconds of the lock store's own clock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from onerow.errors import BatchConflictError, LockStoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_FORMAT: Final = 1
MICROSECONDS: Final = 1_000_000
MAX_EXPECTED: Final = 1_000_000
MAX_ERROR_CHARS: Final = 2_000
FIRST_RETRY_US: Final = MICROSECONDS
LONGEST_RETRY_US: Final = 300 * MICROSECONDS
FIRST_LATE_LOOK_US: Final = 60 * MICROSECONDS

State = Literal["open", "due", "claimed", "failed", "incomplete", "done", "cancelled"]
OnDeadline = Literal["consolidate", "leave"]
Why = Literal["", "complete", "sealed", "deadline", "asked", "late"]

STATES: Final[tuple[State, ...]] = get_args(State)
RESTING: Final[frozenset[State]] = frozenset({"incomplete", "done", "cancelled"})
"""Nothing is to be done for these until something happens."""

FINISHED: Final[frozenset[State]] = frozenset({"done", "cancelled"})


@dataclass(frozen=True, slots=True)
class Expected:
    """What the one who opened a batch expects, as it was said; None: nothing was said of it.

    Attributes:
        parts: how many parts make the batch complete.
        workers: how many different workers must have handed in at least one part.
        deadline_s: how long to wait for them, from the opening on.
        on_deadline: what becomes of what is there then, if it is incomplete.
    """

    parts: int | None = None
    workers: int | None = None
    deadline_s: float | None = None
    on_deadline: OnDeadline | None = None

    def __str__(self) -> str:
        said = [f"{name} {value}" for name, value in asdict(self).items() if value is not None]
        return ", ".join(said) or "nothing"


@dataclass(frozen=True, slots=True)
class Seen:
    """A look at the parts of a batch, those that were given up left out.

    Attributes:
        parts: how many there are or were, merged or not.
        workers: by how many different workers.
        waiting: how many of the parts are not merged into all of their partitions.
        rows: rows of all parts.
    """

    parts: int = 0
    workers: int = 0
    waiting: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """Who consolidates the batch now. It keeps others from doing the same work; it protects nothing.

    Attributes:
        owner: identity of this one claim.
        holder: who that is, for people.
    """

    owner: str
    holder: str
    claimed_us: int
    expires_us: int
    duration_us: int


@dataclass(frozen=True, slots=True)
class Round:
    """What came of the last consolidation of the batch."""

    consolidation: str
    status: str
    success: bool
    holder: str
    finished_us: int
    elapsed_s: float = 0.0
    error: str | None = None
    error_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Who has cancelled the batch, and why."""

    by: str
    reason: str
    at_us: int


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What the register holds of a batch.

    Attributes:
        registered: somebody has opened it; False: it is known by the report of a part only, and nothing is expected.
        expected: as it was said when it was opened.
        deadline_us, on_deadline: what follows from that and the settings of then.
        sealed: nobody hands in anything more.
        incomplete_us: when it was found incomplete at its deadline or when it was sealed; None: it never was.
        why: why it is due, or was.
        rounds: consolidations that have ended.
        tries: of these, how many have failed since the last that did not.
        retry_us: a failed batch is tried again then.
        late_look_us: a done batch is looked at again then, for parts that nobody has reported.
        keys: idempotency keys with the fingerprints of their requests, the latest last.
    """

    table: str
    batch: str
    state: State
    opened_us: int
    changed_us: int
    deadline_us: int
    on_deadline: OnDeadline
    opened_by: str = ""
    registered: bool = True
    expected: Expected = Expected()
    sealed: bool = False
    seen: Seen = Seen()
    incomplete_us: int | None = None
    why: Why = ""
    due_us: int = 0
    claim: Claim | None = None
    rounds: int = 0
    tries: int = 0
    retry_us: int = 0
    last: Round | None = None
    cancelled: Cancelled | None = None
    finished_us: int = 0
    late_look_us: int = 0
    keys: tuple[tuple[str, str], ...] = ()

    @property
    def expects(self) -> bool:
        """Whether anything is expected that can be complete."""
        return self.expected.parts is not None or self.expected.workers is not None

    @property
    def complete(self) -> bool:
        """Whether everything that is expected is there."""
        return self.expects and not self.missing_parts and not self.missing_workers

    @property
    def missing_parts(self) -> int:
        """Parts that are expected and are not there."""
        return max((self.expected.parts or 0) - self.seen.parts, 0)

    @property
    def missing_workers(self) -> int:
        """Workers that are expected and have handed in nothing."""
        return max((self.expected.workers or 0) - self.seen.workers, 0)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return {"format": RECORD_FORMAT, **asdict(self), "keys": [list(pair) for pair in self.keys]}


def record_from_json(data: Mapping[str, Any]) -> BatchRecord:
    """Return the record that ``data`` holds.

    Raises:
        LockStoreError: it holds none that this version can read.
    """
    fields = dict(data)
    try:
        if fields.pop("format") != RECORD_FORMAT:
            raise LockStoreError(
                f"A batch record has format {data['format']!r}; this version reads {RECORD_FORMAT}.",
                hint="It was written by another version of onerow; use that one or upgrade.",
            )
        _check_state(fields["state"], fields["claim"])
        return BatchRecord(
            **{
                **fields,
                "expected": Expected(**fields["expected"]),
                "seen": Seen(**fields["seen"]),
                "claim": None if fields["claim"] is None else Claim(**fields["claim"]),
                "last": None if fields["last"] is None else Round(**fields["last"]),
                "cancelled": None if fields["cancelled"] is None else Cancelled(**fields["cancelled"]),
                "keys": tuple((str(key), str(print_)) for key, print_ in fields["keys"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LockStoreError(
            f"The record of a batch is damaged: {type(error).__name__}: {error}.",
            hint="No part is lost: `onerow batches list` shows what waits, `onerow consolidate` merges it.",
        ) from error


def _check_state(state: object, claim: object) -> None:
    if state not in STATES or (state == "claimed") != (claim is not None):
        raise ValueError(f"its state is {state!r} and its claim {claim!r}")


# --- what people and programs ask for -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where the one who opens a batch says nothing."""

    deadline_us: int
    on_deadline: OnDeadline


def opened(
    record: BatchRecord | None, *, table: str, batch: str, expected: Expected, defaults: Defaults, by: str, now_us: int
) -> BatchRecord:
    """Return the record of a batch that somebody opens; the same expectations again change nothing.

    A batch that is known by reports only is given the expectations now, and goes on waiting if they are not met.

    Raises:
        BatchConflictError: it was opened with other expectations.
        UsageError: an expectation is none.
    """
    if max(expected.parts or 0, expected.workers or 0) > MAX_EXPECTED:
        raise UsageError(f"A batch expects {MAX_EXPECTED:,} parts or workers at most.")
    for name, value in (("parts", expected.parts), ("workers", expected.workers), ("deadline", expected.deadline_s)):
        if value is not None and value <= 0:
            raise UsageError(f"The expected {name} of a batch is more than 0, not {value:g}.")
    if record is not None and record.registered:
        if record.expected != expected:
            raise BatchConflictError(
                f"Batch {batch!r} of table {table!r} is open already and expects {record.expected}; this request "
                f"expects {expected}.",
                hint="Nothing was changed. Repeat the first request, or take another batch name.",
            )
        return record
    wait_us = defaults.deadline_us if expected.deadline_s is None else round(expected.deadline_s * MICROSECONDS)
    fresh = BatchRecord(
        table=table,
        batch=batch,
        state="open",
        opened_us=now_us,
        changed_us=now_us,
        deadline_us=now_us + wait_us,
        on_deadline=expected.on_deadline or defaults.on_deadline,
        opened_by=by,
        expected=expected,
    )
    if record is None:
        return fresh
    known = replace(
        record,
        registered=True,
        expected=expected,
        opened_us=now_us,
        opened_by=by,
        deadline_us=fresh.deadline_us,
        on_deadline=fresh.on_deadline,
        incomplete_us=None,
        changed_us=now_us,
    )
    if known.state in {"done", "incomplete"} and known.expects and not (known.sealed or known.complete):
        return replace(known, state="open", finished_us=0)
    return observed(known, known.seen, now_us)


def found(*, table: str, batch: str, defaults: Defaults, by: str, now_us: int) -> BatchRecord:
    """Return the record of a batch that nobody has opened, of which a part was reported: nothing is expected."""
    record = opened(None, table=table, batch=batch, expected=Expected(), defaults=defaults, by=by, now_us=now_us)
    return replace(record, registered=False)


def reported(record: BatchRecord, seen: Seen, now_us: int) -> BatchRecord:
    """Return the record after a part was reported and looked for.

    Raises:
        BatchConflictError: the batch is cancelled.
    """
    _refuse_cancelled(record, "The part is staged and stays there, but nobody consolidates it.")
    return observed(record, seen, now_us)


def sealed(record: BatchRecord, seen: Seen, now_us: int) -> BatchRecord:
    """Return the record of a batch to which nothing is added any more: what is there is consolidated.

    Raises:
        BatchConflictError: the batch is cancelled.
    """
    _refuse_cancelled(record, "Its parts stay in staging.")
    if record.sealed:
        return observed(record, seen, now_us)
    closed = replace(record, sealed=True, seen=seen, changed_us=now_us)
    if closed.state not in {"open", "incomplete"}:
        return observed(closed, seen, now_us)
    return _at_the_end_of_waiting(closed, now_us, why="sealed")


def asked(record: BatchRecord, seen: Seen, now_us: int) -> BatchRecord:
    """Return the record of a batch that is to be consolidated now, with what is there.

    Nothing changes where a consolidation is due or runs: at its end it is seen whether anything waits still. Nothing
    changes either where everything is merged.

    Raises:
        BatchConflictError: the batch is cancelled.
    """
    _refuse_cancelled(
        record, "`onerow consolidate` merges its parts all the same, `onerow batches discard` gives them up."
    )
    looked = replace(record, seen=seen)
    if record.state in {"due", "claimed"} or (record.state == "done" and not seen.waiting):
        return looked
    return _due(looked, "asked", now_us)


def cancelled(record: BatchRecord, *, by: str, reason: str, now_us: int) -> BatchRecord:
    """Return the record of a batch that is not to be consolidated; its staging stays as it is.

    Raises:
        UsageError: there is no reason.
        BatchConflictError: it is done, or being consolidated right now.
    """
    if not reason.strip():
        raise UsageError("To cancel a batch needs a reason; it is kept in the record.")
    if record.state == "cancelled":
        return record
    if record.state == "done":
        raise BatchConflictError(
            f"Batch {record.batch!r} of table {record.table!r} is done: all of its parts are merged.",
            hint="Nothing was changed; there is nothing left to cancel.",
        )
    if record.claim is not None and now_us < record.claim.expires_us:
        raise BatchConflictError(
            f"Batch {record.batch!r} of table {record.table!r} is being consolidated right now by "
            f"{record.claim.holder}; a merge that runs is not torn off.",
            hint="Nothing was changed. Look again when it has ended; what is not merged by then can be cancelled.",
        )
    return replace(
        record,
        state="cancelled",
        cancelled=Cancelled(by, reason.strip(), now_us),
        claim=None,
        changed_us=now_us,
        finished_us=now_us,
    )


def _refuse_cancelled(record: BatchRecord, hint: str) -> None:
    if record.cancelled is not None:
        raise BatchConflictError(
            f"Batch {record.batch!r} of table {record.table!r} was cancelled by {record.cancelled.by or 'somebody'}: "
            f"{record.cancelled.reason}",
            hint=hint,
        )


# --- what a look at staging, the clock and a consolidation make of it -----------------------------


def observed(record: BatchRecord, seen: Seen, now_us: int) -> BatchRecord:
    """Return the record after a look at staging, at ``now_us``."""
    looked = record if record.seen == seen else replace(record, seen=seen, changed_us=now_us)
    match record.state:
        case "open" if looked.complete:
            return _due(looked, "complete", now_us)
        case "open" if looked.sealed or now_us >= record.deadline_us:
            return _at_the_end_of_waiting(looked, now_us, why="sealed" if looked.sealed else "deadline")
        case "incomplete" if seen.waiting and looked.complete:
            return _due(looked, "complete", now_us)
        case "incomplete" if seen.waiting and (looked.sealed or _merges_at_deadline(looked)):
            return _due(looked, "late", now_us)
        case "done" if seen.waiting:
            return _due(looked, "late", now_us)
        case "done" if now_us >= record.late_look_us:
            return replace(looked, late_look_us=now_us + max(FIRST_LATE_LOOK_US, now_us - record.finished_us))
        case _:
            return looked


def _merges_at_deadline(record: BatchRecord) -> bool:
    """Whether what is there at the deadline is consolidated: always, where nothing was expected."""
    return record.on_deadline == "consolidate" or not record.expects


def _at_the_end_of_waiting(record: BatchRecord, now_us: int, *, why: Literal["sealed", "deadline"]) -> BatchRecord:
    """Return the record of a batch for which nobody waits any longer."""
    if ((record.expects and not record.complete) or not record.seen.parts) and record.incomplete_us is None:
        record = replace(record, incomplete_us=now_us)
    if record.seen.parts and (why == "sealed" or _merges_at_deadline(record)):
        return _due(record, why, now_us)
    return replace(record, state="incomplete", changed_us=now_us)


def _due(record: BatchRecord, why: Why, now_us: int) -> BatchRecord:
    record = replace(record, claim=None, retry_us=0, finished_us=0)
    return replace(record, state="due", why=why, due_us=now_us, changed_us=now_us)


def claimable(record: BatchRecord, now_us: int, *, unchanged_us: int) -> bool:
    """Say whether the batch is to be consolidated by whoever comes first.

    Args:
        record: what the register holds.
        now_us: the store's clock when it was read.
        unchanged_us: for how long, by the caller's own monotonic clock, it has seen the record unchanged: who is at
            work renews the claim, whatever became of the store's clock meanwhile.
    """
    match record.state:
        case "due":
            return True
        case "failed":
            return now_us >= record.retry_us or unchanged_us >= record.retry_us - record.changed_us
        case "claimed" if record.claim is not None:
            return now_us >= record.claim.expires_us or unchanged_us >= record.claim.duration_us
        case _:
            return False


def claimed(record: BatchRecord, *, owner: str, holder: str, duration_us: int, now_us: int) -> BatchRecord:
    """Return the record of a batch that ``owner`` consolidates from now on."""
    claim = Claim(owner, holder, now_us, now_us + duration_us, duration_us)
    return replace(record, state="claimed", claim=claim, changed_us=now_us)


def renewed(record: BatchRecord, owner: str, now_us: int) -> BatchRecord | None:
    """Return the record with the claim's end moved on; None: ``owner`` has it no longer."""
    if record.claim is None or record.claim.owner != owner:
        return None
    claim = replace(record.claim, expires_us=now_us + record.claim.duration_us)
    return replace(record, claim=claim, changed_us=now_us)


def given_back(record: BatchRecord, owner: str, now_us: int) -> BatchRecord:
    """Return the record of a batch whose consolidation was given up on the way, for no fault of its own."""
    if record.claim is None or record.claim.owner != owner:
        return record
    return replace(record, state="due", claim=None, changed_us=now_us)


def finished(record: BatchRecord, owner: str, ended: Round, seen: Seen, now_us: int) -> BatchRecord:
    """Return the record after a consolidation by ``owner``; unchanged if it is somebody else's by now.

    Args:
        record: what the register holds.
        owner: who has claimed it.
        ended: what came of it.
        seen: a look at staging and the ledger after it: a part that came meanwhile starts another round.
        now_us: the store's clock.
    """
    if record.claim is None or record.claim.owner != owner:
        return record
    error = ended.error if ended.error is None else ended.error[:MAX_ERROR_CHARS]
    after = replace(
        record,
        claim=None,
        seen=seen,
        last=replace(ended, error=error, finished_us=now_us),
        rounds=record.rounds + 1,
        tries=0 if ended.success else record.tries + 1,
        changed_us=now_us,
    )
    if not ended.success:
        wait_us = min(FIRST_RETRY_US * 2 ** min(record.tries, 20), LONGEST_RETRY_US)
        return replace(after, state="failed", retry_us=now_us + wait_us)
    if seen.waiting:
        return _due(after, "late", now_us)
    if not (after.complete or after.sealed or now_us >= after.deadline_us):
        return replace(after, state="open")  # asked for before it was complete: the rest is waited for
    if not seen.parts or not (after.complete or after.sealed or _merges_at_deadline(after)):
        return _at_the_end_of_waiting(after, now_us, why="deadline")
    if after.expects and not after.complete and after.incomplete_us is None:
        after = replace(after, incomplete_us=now_us)  # its deadline has come while it was due or had failed
    return replace(after, state="done", finished_us=now_us, late_look_us=now_us + FIRST_LATE_LOOK_US)
