"""The worker's one operation: rows in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from onerow.core.names import check_name
from onerow.faces.http.deliveries import CODECS, FORMATS, Addressed, Deliveries, wrapping_of
from onerow.faces.http.names import NAME, BatchName, TableName
from onerow.faces.http.refusals import BusyError
from onerow.faces.http.security import Caller, Role, require

if TYPE_CHECKING:
    from onerow.faces.http.reporting import Reporter

router = APIRouter(tags=["rows"])

ROWS_PATH: Final = "/v1/tables/{table:name}/batches/{batch:name}/rows"

BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Rows, of any size up to max_part_bytes. They are one part, staged whole or not at all.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS},
    },
    "parameters": [
        {
            "name": "Content-Encoding",
            "in": "header",
            "required": False,
            "description": "How the body is compressed, if it is.",
            "schema": {"type": "string", "enum": ["identity", *CODECS]},
        }
    ],
}


class Delivered(BaseModel):
    """What became of a delivery."""

    table: str
    batch: str
    worker: str
    status: Literal["staged", "already_staged", "already_merged", "empty"] = Field(
        description="staged now; the same rows of this worker wait or have waited already; or were merged already; or "
        "there were no good rows, and nothing was staged"
    )
    part_id: str | None = Field(
        description="derived from table, batch, worker and rows: the same delivery again names the same part; null if "
        "nothing was staged"
    )
    rows: int
    rows_quarantined: int = Field(description="bad rows that were put aside, where the table says so")
    quarantine: str | None = Field(description="the entry with the rows that were put aside")
    partitions: dict[str, int] = Field(description="rows of each partition; the one key is empty where there are none")
    repeated: bool = Field(description="whether the part was there before")
    reported: bool = Field(
        description="whether the coordinator knows already; if not, it is told later or finds the part itself"
    )


@router.post(
    ROWS_PATH,
    status_code=201,
    response_model=Delivered,
    responses={200: {"model": Delivered, "description": "The same part was there before, or there were no rows"}},
    openapi_extra=BODY,
)
async def hand_in(
    table: TableName,
    batch: BatchName,
    worker: Annotated[
        str,
        Query(
            description="Who hands the rows in. The same rows of the same worker again are the same part.",
            json_schema_extra=NAME,
        ),
    ],
    request: Request,
    response: Response,
    _: Annotated[Caller, Depends(require(Role.WRITE))],
) -> Delivered:
    """Stage the rows of the body as one part of a batch, and tell the coordinator.

    The answer comes when the part is durable. A delivery may be sent again at any time: the same rows in the same
    order are the same part, in whichever format, compression or chunks they come.
    """
    state = request.app.state
    if state.drain.begun:
        raise BusyError("The worker is stopping; nothing was kept.", hint="Send it again.", retry_after_s=5.0)
    address = Addressed(table, batch, check_name(worker, "worker"))
    encodings = ",".join(request.headers.getlist("content-encoding"))
    wrapping = wrapping_of(request.headers.get("content-type", ""), encodings)
    deliveries: Deliveries = state.deliveries
    part = await deliveries.take(request.stream(), wrapping, address)
    reporter: Reporter | None = state.reporter
    reported = False
    if reporter is not None and part.status in {"staged", "already_staged"}:
        reported = await reporter.report(table, batch, part.part_id)
    if part.status != "staged":
        response.status_code = 200
    return Delivered(
        table=table,
        batch=batch,
        worker=worker,
        status=part.status,
        part_id=None if part.status == "empty" else part.part_id,
        rows=part.rows,
        rows_quarantined=part.rows_quarantined,
        quarantine=part.quarantine_id or None,
        partitions=dict(part.partitions),
        repeated=part.status in {"already_staged", "already_merged"},
        reported=reported,
    )
