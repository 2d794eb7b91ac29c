"""What the page shows, as JSON, and taking a lock away."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from onerow.core.names import check_name
from onerow.faces.http import problems
from onerow.faces.http.dashboard.desk import AtDesk
from onerow.faces.http.security import Caller, Role, require
from onerow.services.overview.model import plain

router: Final = APIRouter(prefix="/v1", tags=["overview"])

Reader = Annotated[Caller, Depends(require(Role.READ))]
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]

MAX_REASON: Final = 500
MAX_TEXT: Final = 500


class ForceReleaseRequest(BaseModel):
    """Which lock is taken away, and why.

    Attributes:
        scope: TABLE/PARTITION, or TABLE where the table has no partitions.
        reason: kept in the audit.
        force: also while its holder gives signs of life.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    scope: str = Field(min_length=1, max_length=MAX_TEXT)
    reason: str = Field(max_length=MAX_REASON)
    force: bool = False


class ForceReleased(BaseModel):
    """What became of it.

    Attributes:
        holder: who held it, "" if it was free already.
        token: what the lock's record was raised to: the first step.
        fence: what the fence in the warehouse was raised to: the second step; null if that could not be done.
        fence_error: why not; asking again does it.
        message: both, in words.
    """

    scope: str
    holder: str
    token: int
    fence: int | None
    fence_error: str | None
    message: str


@router.get("/overview")
def overview(desk: AtDesk, _: Reader) -> Response:
    """Say whether all is well, and everything that the page shows."""
    seen = desk.overview()
    if seen.blind:
        why = seen.locks
        title = "Nothing could be looked at."
        return problems.problem(503, kind=why.error_kind or "error", title=title, detail=why.error or "")
    return JSONResponse(seen.to_json())


@router.get("/locks")
def locks(desk: AtDesk, _: Reader) -> dict[str, Any]:
    """Return the locks that are held, and those that were taken away within a day."""
    return _section(desk.overview().locks)


@router.get("/incidents")
def incidents(desk: AtDesk, _: Reader) -> dict[str, Any]:
    """Return the incidents, open ones first."""
    return _section(desk.overview().incidents)


@router.get("/consolidations/{consolidation:name}")
def consolidation(consolidation: str, desk: AtDesk, _: Reader) -> dict[str, Any]:
    """Return what became of one consolidation, partition by partition."""
    return desk.run(check_name(consolidation, "consolidation")).to_json()


@router.get("/duplicates")
def duplicates(
    desk: AtDesk,
    _: Reader,
    table: Annotated[str | None, Query(max_length=MAX_TEXT, description="Look at this table itself, now.")] = None,
    partition: Annotated[str | None, Query(max_length=MAX_TEXT, description="Only at this partition of it.")] = None,
) -> dict[str, Any]:
    """Without a table, say what the last checks have found; with one, look for its duplicated keys now."""
    if table is None:
        return _section(desk.overview().checks)
    look = desk.duplicates(table, partition)
    return {"looked_at": look.looked_at, **look.report.to_json()}


@router.post("/locks/force-release")
def force_release(asked: ForceReleaseRequest, desk: AtDesk, caller: Admin) -> ForceReleased:
    """Take a lock away from whoever holds it: raise the token in its record, then the fence in the warehouse."""
    done = desk.force_release(asked.scope, reason=asked.reason, force=asked.force, caller=caller)
    before = done.before
    taken = f"{before.holder} has lost the lock of {before.scope}." if before.holder else f"{before.scope} is free."
    if done.fence_error is None:
        words = f"{taken} The fence is at {done.fence}: what it had begun will not be committed."
    else:
        words = (
            f"Half done. {taken} But the second step could not be done, so a transaction that it had begun may still "
            f"be committed: {done.fence_error} Try again; it does the second step only."
        )
    return ForceReleased(
        scope=before.scope,
        holder=before.holder,
        token=done.token,
        fence=done.fence,
        fence_error=done.fence_error,
        message=words,
    )


class ConsolidateAgain(BaseModel):
    """Which batch is consolidated again, and why.

    Attributes:
        reason: kept in the log.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    table: str = Field(min_length=1, max_length=MAX_TEXT)
    batch: str = Field(min_length=1, max_length=MAX_TEXT)
    reason: str = Field(max_length=MAX_REASON)


class Asked(BaseModel):
    """What becomes of it.

    Attributes:
        state: of the batch: due, claimed, or done if nothing waits.
        message: the same in words.
    """

    table: str
    batch: str
    state: str
    message: str


@router.post("/batches/consolidate-again", status_code=202)
def consolidate_again(asked: ConsolidateAgain, desk: AtDesk, caller: Admin) -> Asked:
    """Have what waits of a batch merged, whatever is still missing; what was merged is not merged twice."""
    status = desk.consolidate_again(asked.table, asked.batch, reason=asked.reason, caller=caller)
    words = {
        "done": "Nothing waits: everything of it is merged.",
        "claimed": f"It is being consolidated now by {status.claimed_by}.",
    }
    message = words.get(status.state, "A coordinator consolidates it next; the state of the batch tells how it ends.")
    return Asked(table=status.table, batch=status.batch, state=status.state, message=message)


def _section(section: Any) -> dict[str, Any]:
    """Return one section; one that was never seen is an error, not an empty list."""
    found: dict[str, Any] = plain(section)
    return found
