"""The coordinator's operations on batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from onerow.core.batchrecords import MAX_EXPECTED, OnDeadline, State
from onerow.faces.http.names import BatchName, TableName
from onerow.faces.http.security import Caller, Role, require

if TYPE_CHECKING:
    from onerow.services.batchstatus import BatchStatus
    from onerow.services.coordinator import Coordinator

router = APIRouter(tags=["batches"])

BATCH_PATH = "/v1/tables/{table:name}/batches/{batch:name}"
YEAR_S = 365 * 86_400.0


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Any text that names this request. The same key again does nothing again and answers how the batch "
        "is now; the same key with another request is refused. The last 32 keys of a batch are remembered.",
    ),
]
Reader = Annotated[Caller, Depends(require(Role.READ))]
Writer = Annotated[Caller, Depends(require(Role.WRITE))]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Opening(_Body):
    """What is expected of a batch. What is left out is not waited for."""

    expected_parts: int | None = Field(default=None, ge=1, le=MAX_EXPECTED, description="Complete with so many parts.")
    expected_workers: int | None = Field(
        default=None, ge=1, le=MAX_EXPECTED, description="Complete with parts of so many different workers."
    )
    deadline_s: float | None = Field(
        default=None, gt=0, le=YEAR_S, description="Seconds to wait from now on; else `deadline` of the configuration."
    )
    on_deadline: OnDeadline | None = Field(
        default=None,
        description="What becomes of a batch that is incomplete then: consolidated with what is there, or left. It is "
        "reported in both cases. Else `on_deadline` of the configuration.",
    )


class Report(_Body):
    """A part that was staged."""

    part_id: Text = Field(min_length=1, max_length=200)


class Cancelling(_Body):
    """Why a batch is not to be consolidated."""

    reason: Text = Field(min_length=1, max_length=1000)


class Part(BaseModel):
    """A part of a batch: staged, retired (merged; its data is kept a while), purged or discarded."""

    part_id: str
    worker: str
    rows: int
    partitions: list[str]
    state: Literal["staged", "retired", "purged", "discarded"]
    staged_at: str


class Batch(BaseModel):
    """A registered batch. Times are UTC by the lock store's clock; spans are seconds."""

    table: str
    batch: str
    state: State = Field(
        description="open: waits for parts. due: consolidated next. claimed: being consolidated. failed: tried again "
        "after retry_in_s. incomplete: at its deadline, and left. done. cancelled."
    )
    registered: bool = Field(description="Somebody has opened it; else it is known by the report of a part.")
    sealed: bool = Field(description="Nothing more is handed in.")
    complete: bool = Field(description="Everything that was expected is there.")
    expected_parts: int | None
    expected_workers: int | None
    missing_parts: int
    missing_workers: int
    parts: int = Field(description="Parts at the last look, merged or not, without those that were given up.")
    workers: int
    parts_waiting: int = Field(description="Of the parts, those that were not merged.")
    rows: int
    opened_at: str
    opened_by: str
    changed_at: str
    deadline_at: str
    deadline_in_s: float
    on_deadline: OnDeadline
    incomplete_at: str | None = Field(description="When parts or workers were found missing.")
    why: Literal["", "complete", "sealed", "deadline", "asked", "late"] = Field(description="Why it is or was due.")
    rounds: int = Field(description="Consolidations that have ended.")
    tries: int = Field(description="Of these the latest, that have failed.")
    retry_in_s: float | None
    claimed_by: str | None
    claimed_for_s: float | None
    consolidation: str | None = Field(description="Identity of the last consolidation, as in the ledger and the logs.")
    result: str | None = Field(description="The last consolidation's status.")
    error: str | None = Field(description="Why it failed; kept until one goes well.")
    error_kind: str | None
    elapsed_s: float | None
    finished_at: str | None
    cancelled_by: str | None
    cancelled_reason: str | None


class BatchWithParts(Batch):
    """A registered batch and its parts, at most 1,000."""

    details: list[Part]


class Batches(BaseModel):
    """Registered batches, the latest changed first."""

    batches: list[Batch]


def _coordinator(request: Request) -> Coordinator:
    found: Coordinator = request.app.state.coordinator
    return found


def _told(status: BatchStatus) -> Batch:
    return Batch.model_validate(status.to_json())


@router.put(
    BATCH_PATH, status_code=201, responses={200: {"model": Batch, "description": "The batch was known before"}}
)
def open_batch(
    *,
    table: TableName,
    batch: BatchName,
    request: Request,
    response: Response,
    caller: Writer,
    opening: Opening | None = None,
    key: Key = None,
) -> Batch:
    """Open a batch.

    It is consolidated without being asked when everything that is expected is staged; when it is sealed; or at its
    deadline. Again with the same expectations it is the same batch; with others it is refused (409) and both are named.
    A batch that is known by the report of a part is given the expectations now.
    """
    said = opening or Opening()
    status = _coordinator(request).open(
        table, batch, **said.model_dump(), by=caller.name, idempotency_key=key
    )
    if not status.created:
        response.status_code = 200
    return _told(status)


@router.get(BATCH_PATH)
def show_batch(*, table: TableName, batch: BatchName, request: Request, _: Reader) -> BatchWithParts:
    """Say how a batch is, and which parts it has."""
    status = _coordinator(request).status(table, batch, with_parts=True)
    return BatchWithParts.model_validate(status.to_json())


@router.post(f"{BATCH_PATH}/parts")
def report_part(
    *, table: TableName, batch: BatchName, report: Report, request: Request, caller: Writer, key: Key = None
) -> Batch:
    """Say that a part is staged, so that the batch is looked at now.

    Staging is the truth about which parts exist: a part that is not there is refused (409), and one that is never
    reported is found by looking. A part of a batch that nobody has opened opens it, expecting nothing. One that comes
    after the batch was consolidated has it consolidated again.
    """
    status = _coordinator(request).report(table, batch, report.part_id, by=caller.name, idempotency_key=key)
    return _told(status)


@router.post(f"{BATCH_PATH}/seal", status_code=202)
def seal_batch(*, table: TableName, batch: BatchName, request: Request, caller: Writer, key: Key = None) -> Batch:
    """Say that nothing more is handed in: what is there is consolidated, and what is missing is reported."""
    return _told(_coordinator(request).seal(table, batch, by=caller.name, idempotency_key=key))


@router.post(f"{BATCH_PATH}/consolidate", status_code=202)
def consolidate_batch(
    *, table: TableName, batch: BatchName, request: Request, caller: Writer, key: Key = None
) -> Batch:
    """Have what is there consolidated now, complete or not; a batch that has failed is tried again at once.

    What is expected and not there yet is waited for all the same. The answer does not wait for the end: look at the
    batch.
    """
    return _told(_coordinator(request).consolidate(table, batch, by=caller.name, idempotency_key=key))


@router.post(f"{BATCH_PATH}/cancel")
def cancel_batch(
    *, table: TableName, batch: BatchName, cancelling: Cancelling, request: Request, caller: Writer, key: Key = None
) -> Batch:
    """Have a batch left alone. What is staged of it stays; `onerow batches discard` gives it up.

    Refused (409) while it is being consolidated, and when it is done.
    """
    status = _coordinator(request).cancel(
        table, batch, reason=cancelling.reason, by=caller.name, idempotency_key=key
    )
    return _told(status)


@router.get("/v1/batches")
def list_batches(
    *,
    request: Request,
    _: Reader,
    table: Annotated[str | None, Query(max_length=200, description="Only of this table.")] = None,
    state: Annotated[State | None, Query(description="Only in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> Batches:
    """List the registered batches, the latest changed first."""
    found = _coordinator(request).list(table, state=state, limit=limit)
    return Batches(batches=[_told(status) for status in found])
